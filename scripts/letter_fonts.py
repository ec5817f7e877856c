"""Letters A to J drawn from free fonts with random changes of shape; the same seed gives the same letters.

letter_fonts.toml says which Debian font packages belong to which split; no two splits share a design.
"""

from __future__ import annotations

import math
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LETTERS = "ABCDEFGHIJ"

PACKAGES: dict[str, list[str]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

# Of Noto, whose 268 files are scripts of the world, only the Latin faces; symbols and mathematics nowhere.
_UNWANTED = ("math", "symbol", "keyboard", "initials", "emoji", "ligature", "dingbat", "icons", "titling")


@dataclass(frozen=True)
class Face:
    """One font file: the Debian package it belongs to, its family, its path."""

    package: str
    family: str
    path: Path


def installed_faces(packages: Sequence[str]) -> list[Face]:
    """Faces with A to J of some packages, sorted; ends the program if a package is not installed."""
    listing = subprocess.run(
        ["fc-list", ":charset=" + " ".join(f"{ord(c):x}" for c in LETTERS), "file", "family"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    families = {}
    for line in listing.splitlines():
        path, _, family = line.partition(": ")
        families[path] = family.split(",")[0].strip()
    faces = []
    for package in packages:
        found = subprocess.run(["dpkg", "-L", f"fonts-{package}"], capture_output=True, text=True, check=False)
        if found.returncode:
            raise SystemExit(f"font package missing: apt-get install fonts-{package}")
        for path in sorted(found.stdout.split("\n")):
            family = families.get(path, "")
            latin = not family.startswith("Noto") or family in ("Noto Sans", "Noto Serif", "Noto Sans Mono")
            wanted = family and latin and not any(word in (family + path).lower() for word in _UNWANTED)
            if wanted and path.endswith((".ttf", ".otf")):
                faces.append(Face(package, family, Path(path)))
    return faces


def draw_letters(
    faces: list[Face], count: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.str_]]:
    """Images uint8 (count, 28, 28), labels (count,), and the font family of each image.

    Package, then face are drawn uniformly, so that a package of 40 weights counts no more than one of two.
    """
    rng = np.random.default_rng(seed)
    packages: dict[str, list[Face]] = {}
    for face in faces:
        packages.setdefault(face.package, []).append(face)
    names = sorted(packages)
    fonts = {face.path: ImageFont.truetype(str(face.path), 72) for face in faces}
    images = np.empty((count, 28, 28), np.uint8)
    labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
    families = []
    for i, label in enumerate(labels):
        group = packages[names[rng.integers(len(names))]]
        face = group[rng.integers(len(group))]
        families.append(face.family)
        images[i] = draw(LETTERS[label], fonts[face.path], rng)
    return images, labels, np.array(families)


@dataclass(frozen=True)
class Changes:
    """How far letters are changed at random: normal deviations, but for `size` and `shift`, which are uniform.

    `size` of the longer side and `shift` of the centre are in quarters of a pixel, `angle` in degrees.
    """

    size: tuple[float, float] = (48, 88)
    angle: float = 11
    shear: float = 0.18
    aspect: float = 0.14
    shift: float = 10


def draw(
    letter: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator, changes: Changes | None = None
) -> NDArray[np.uint8]:
    """One letter, 28×28, white on black: scaled, turned, sheared, shifted, with faint noise."""
    much = changes or Changes()
    size = rng.uniform(*much.size)
    angle = rng.normal(0, much.angle)
    shear = rng.normal(0, much.shear)
    aspect = math.exp(rng.normal(0, much.aspect))
    dx, dy = rng.uniform(-much.shift, much.shift, size=2)
    return printed(placed(letter, font, size, angle, (dx, dy), shear, aspect), rng)


def placed(
    letter: str,
    font: ImageFont.FreeTypeFont,
    size: float,
    angle: float,
    shift: tuple[float, float],
    shear: float = 0.0,
    aspect: float = 1.0,
) -> NDArray[np.float64]:
    """One letter, 28×28 in [0, 255]: `size` and `shift` (right, down) in quarters of a pixel, `angle` in degrees.

    Positive angles turn to the right; the middle of the letter's box comes to lie `shift` from the image's.
    """
    large = 112  # four times the final size
    left, top, right, bottom = font.getbbox(letter)
    glyph = Image.new("L", (large, large))
    centre = ((large - left - right) / 2, (large - top - bottom) / 2)
    ImageDraw.Draw(glyph).text(centre, letter, fill=255, font=font)

    turned = math.radians(angle)
    turn = np.array([[math.cos(turned), -math.sin(turned)], [math.sin(turned), math.cos(turned)]])
    scale = size / max(bottom - top, right - left, 1)
    forward = turn @ np.array([[1, shear], [0, 1]]) @ np.diag([aspect, 1 / aspect]) * scale
    back = np.linalg.inv(forward)  # PIL asks where each output pixel comes from
    middle = np.array([large / 2, large / 2])
    offset = middle - back @ (middle + np.array(shift))
    matrix = (back[0, 0], back[0, 1], offset[0], back[1, 0], back[1, 1], offset[1])
    moved = glyph.transform((large, large), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(moved.resize((28, 28), Image.Resampling.BOX), np.float64)


def printed(image: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The image with a brightness and faint noise of its own, as bytes."""
    small = image * rng.uniform(0.65, 1.0)
    noise = rng.normal(0, rng.uniform(4, 22), size=small.shape)
    # quantised noise in half of the pixels keeps the archive small
    noise = np.where(rng.random(small.shape) < 0.35, np.round(noise / 8) * 8, 0)
    return np.clip(np.round(small + noise), 0, 255).astype(np.uint8)
