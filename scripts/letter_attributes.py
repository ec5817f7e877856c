"""Letters with attributes of their fonts, and letters that are turned and shifted; the same seed gives the same ones.

Attributes are read from the fonts' own tables and outlines, so nobody has judged them by eye. attribute_fonts.toml
says which Debian font packages belong to which split; no two splits share a design.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import label

from mtz_core.data.bundled import ATTRIBUTES
from scripts.letter_fonts import LETTERS, PACKAGES, Changes, Face, draw, installed_faces, placed, printed

ATTRIBUTE_PACKAGES: dict[str, list[str]] = tomllib.loads(
    Path(__file__).with_name("attribute_fonts.toml").read_text(encoding="utf-8")
)
SLIGHT = Changes(angle=4, shear=0.02, aspect=0.02)
"""Shear would be taken for italics."""
MOST_TURN = 45.0
"""Degrees; a label of 1 is that much to the right."""
MOST_SHIFT = 5.0
"""Pixels; a label of 1 is that much to the right, or down."""


@dataclass(frozen=True)
class Style:
    """What a font's tables say of it."""

    serif: bool
    bold: bool
    light: bool
    italic: bool

    @property
    def order(self) -> tuple[bool, ...]:
        """By which styles are sorted."""
        return (self.serif, self.bold, self.light, self.italic)


def style_of(path: Path) -> Style | None:
    """Read a font's style from its tables; `None` if they do not say whether it has serifs.

    Serifs: PANOSE (serif style 2 to 10 with, 11 to 15 without), else the IBM family class (1 to 5 and 7 with, 8
    without). Bold: weight class 600 or more; light: 300 or less. Italic: so said in fsSelection (also oblique), or an
    italic angle.
    """
    from fontTools.ttLib import TTFont

    with TTFont(path, lazy=True) as font:
        os2, panose = font["OS/2"], font["OS/2"].panose
        family = os2.sFamilyClass >> 8
        if panose.bFamilyType == 2 and 2 <= panose.bSerifStyle <= 15:
            serif = panose.bSerifStyle <= 10
        elif family in (1, 2, 3, 4, 5, 7, 8):
            serif = family != 8
        else:
            return None
        italic = bool(os2.fsSelection & 0b10_0000_0001) or font["post"].italicAngle != 0
        return Style(serif, os2.usWeightClass >= 600, os2.usWeightClass <= 300, italic)


def is_closed(letter: str, font: ImageFont.FreeTypeFont) -> bool:
    """Whether a letter of a font encloses some of its background, as A and e do."""
    font = font.font_variant(size=288)  # the thinnest strokes are some pixels wide
    left, top, right, bottom = (int(n) for n in font.getbbox(letter))
    picture = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(picture).text((2 - left, 2 - top), letter, fill=255, font=font)
    regions, _ = label(np.asarray(picture) < 128)
    sizes = np.bincount(regions.flat)[2:]  # 0 is ink, 1 what surrounds it
    return bool((sizes > picture.width * picture.height / 200).any())


def styled_faces(packages: list[str]) -> dict[Face, Style]:
    """The faces of some packages whose tables say all that is asked, but for small capitals, of neither case."""
    faces = (face for face in installed_faces(packages) if "caps" not in face.family.lower())
    found = ((face, style_of(face.path)) for face in faces)
    return {face: style for face, style in found if style is not None}


@dataclass(frozen=True)
class Drawn:
    """Images uint8 (N, 28, 28), labels (N, K), and each image's family, face (its file's stem) and letter."""

    images: NDArray[np.uint8]
    labels: NDArray[np.generic]
    families: NDArray[np.str_]
    faces: NDArray[np.str_]
    letters: NDArray[np.str_]


def draw_attributes(split: str, count: int, seed: int) -> Drawn:
    """Letters A to J and a to j with `ATTRIBUTES`, labels 0 or 1.

    Style, then package, then face are drawn uniformly, so that no attribute is rare because few fonts have it.
    """
    rng = np.random.default_rng(seed)
    styled = styled_faces(ATTRIBUTE_PACKAGES[split])
    letters = LETTERS + LETTERS.lower()
    fonts = {face: ImageFont.truetype(str(face.path), 72) for face in styled}
    by_style: dict[Style, dict[str, list[Face]]] = {}
    for face, style in styled.items():
        by_style.setdefault(style, {}).setdefault(face.package, []).append(face)
    styles = sorted(by_style, key=lambda style: style.order)
    closed = {(face, letter): is_closed(letter, fonts[face]) for face in styled for letter in letters}
    images, labels, chosen, said = np.empty((count, 28, 28), np.uint8), [], [], []
    for i in range(count):
        style = styles[rng.integers(len(styles))]
        package = sorted(by_style[style])[rng.integers(len(by_style[style]))]
        face = by_style[style][package][rng.integers(len(by_style[style][package]))]
        letter = letters[rng.integers(len(letters))]
        images[i] = draw(letter, fonts[face], rng, SLIGHT)
        labels.append((*style.order, letter.isupper(), closed[face, letter]))
        chosen.append(face)
        said.append(letter)
    table = np.array(labels, np.uint8)
    assert table.shape == (count, len(ATTRIBUTES))
    return _drawn(images, table, chosen, said)


def draw_poses(split: str, count: int, seed: int) -> Drawn:
    """Letters A to J, turned and shifted; labels float32 (N, 3) in [-1, 1]: angle / 45°, right / 5 px, down / 5 px.

    Fonts are those of the letters data without italic ones, whose own slant would be taken for a turn.
    """
    rng = np.random.default_rng(seed)
    by_package: dict[str, list[Face]] = {}
    for face in installed_faces(PACKAGES[split]):
        if not is_italic(face.path):
            by_package.setdefault(face.package, []).append(face)
    fonts = {face: ImageFont.truetype(str(face.path), 72) for group in by_package.values() for face in group}
    names = sorted(by_package)
    labels = rng.uniform(-1, 1, (count, 3)).astype(np.float32)
    images, chosen, said = np.empty((count, 28, 28), np.uint8), [], []
    for i, (turn, right, down) in enumerate(labels.astype(np.float64)):
        group = by_package[names[rng.integers(len(names))]]
        face, letter = group[rng.integers(len(group))], LETTERS[rng.integers(len(LETTERS))]
        shift = (4 * MOST_SHIFT * right, 4 * MOST_SHIFT * down)
        images[i] = printed(placed(letter, fonts[face], rng.uniform(44, 64), MOST_TURN * turn, shift), rng)
        chosen.append(face)
        said.append(letter)
    return _drawn(images, labels, chosen, said)


def is_italic(path: Path) -> bool:
    """Whether a font's tables call it italic or oblique, or its family is a script by PANOSE."""
    from fontTools.ttLib import TTFont

    with TTFont(path, lazy=True) as font:
        os2 = font["OS/2"]
        slanted = bool(os2.fsSelection & 0b10_0000_0001) or font["post"].italicAngle != 0
        return slanted or os2.panose.bFamilyType == 3


def _drawn(images: NDArray[np.uint8], labels: NDArray[np.generic], faces: list[Face], letters: list[str]) -> Drawn:
    families = np.array([face.family for face in faces])
    return Drawn(images, labels, families, np.array([face.path.stem for face in faces]), np.array(letters))
