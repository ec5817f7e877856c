"""A drawing brought into the form of MNIST's digits: as large, and with its weight in the middle (no torch)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtz_core.errors import DataError

SIDE, BOX = 28, 20
"""Pixels of a picture, and of the box that the strokes fill (LeCun et al. 1998)."""


def as_digit(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return strokes (H, W), 255 for ink, as a picture (28, 28).

    Their box is scaled, keeping its form, to 20 × 20 pixels, and moved so that the centre of mass is the picture's.
    Raises `DataError` if nothing is drawn.

    >>> as_digit(np.pad(np.full((40, 10), 255, np.uint8), 20)).shape
    (28, 28)
    """
    drawn = np.argwhere(ink > 0)
    if not len(drawn):
        raise DataError("nothing is drawn yet; draw something with the mouse, a finger or the arrow keys")
    (top, left), (bottom, right) = drawn.min(0), drawn.max(0) + 1
    strokes = Image.fromarray(ink[top:bottom, left:right])
    scale = BOX / max(strokes.size)
    size = tuple(max(1, round(scale * side)) for side in strokes.size)
    small = np.asarray(strokes.resize((size[0], size[1]), Image.Resampling.BOX), float)
    rows, columns = (np.arange(n) for n in small.shape)
    weight = small.sum()
    centre = (float(small.sum(1) @ rows) / weight, float(small.sum(0) @ columns) / weight)
    picture = np.zeros((SIDE, SIDE), np.uint8)
    y, x = (min(max(0, round((SIDE - 1) / 2 - c)), SIDE - n) for c, n in zip(centre, small.shape, strict=True))
    picture[y : y + small.shape[0], x : x + small.shape[1]] = small.round()
    return picture
