"""Letters A to J drawn from free fonts with random changes of shape; the same seed gives the same letters.

letter_fonts.toml says which Debian font packages belong to which split; no two splits share a design.
"""

from __future__ import annotations

import math
import subprocess
import tomllib
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


def installed_faces(split: str) -> list[Face]:
    """Faces with A to J of the split's packages, sorted; ends the program if a package is not installed."""
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
    for package in PACKAGES[split]:
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


def draw(letter: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One letter, 28×28, white on black: scaled, turned, sheared, shifted, with faint noise."""
    large = 112  # four times the final size
    left, top, right, bottom = font.getbbox(letter)
    glyph = Image.new("L", (large, large))
    centre = ((large - left - right) / 2, (large - top - bottom) / 2)
    ImageDraw.Draw(glyph).text(centre, letter, fill=255, font=font)

    height = max(bottom - top, right - left, 1)
    wanted = rng.uniform(48, 88)
    angle = math.radians(rng.normal(0, 11))
    shear = rng.normal(0, 0.18)
    aspect = math.exp(rng.normal(0, 0.14))
    dx, dy = rng.uniform(-10, 10, size=2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = turn @ np.array([[1, shear], [0, 1]]) @ np.diag([aspect, 1 / aspect]) * (wanted / height)
    back = np.linalg.inv(forward)  # PIL asks where each output pixel comes from
    middle = np.array([large / 2, large / 2])
    offset = middle - back @ (middle + np.array([dx, dy]))
    matrix = (back[0, 0], back[0, 1], offset[0], back[1, 0], back[1, 1], offset[1])
    moved = glyph.transform((large, large), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    small = np.asarray(moved.resize((28, 28), Image.Resampling.BOX), np.float64)

    small *= rng.uniform(0.65, 1.0)
    noise = rng.normal(0, rng.uniform(4, 22), size=small.shape)
    # quantised noise in half of the pixels keeps the archive small
    noise = np.where(rng.random(small.shape) < 0.35, np.round(noise / 8) * 8, 0)
    return np.clip(np.round(small + noise), 0, 255).astype(np.uint8)
