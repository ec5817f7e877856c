"""A network's input, drawn as what it is: pixels, a curve for a sequence of values, a row for numbers of tokens."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtz_core.figures.inspect import thumbnail
from mtz_core.spec import TransformSpec

WIDTH, HEIGHT, MOST_TOKENS, MOST_POINTS = 120, 40, 24, 240
STROKE = "#3d8fc9"
"""Of curves, legible on light and dark."""
MOST_CURVES = 3
"""Rows of values that are drawn as curves, one over the other; more are a heatmap."""
MOST_SIDE = 512
"""Rows or columns of a heatmap; of more, every so many are left out."""


@dataclass(frozen=True)
class Picture:
    """An input as pixels, uint8 (H, W) or (H, W, 3), and which part of it they are; empty: all of it."""

    pixels: NDArray[np.uint8]
    part: str


def picture(sample: NDArray[np.floating], kind: str | None = None, how: TransformSpec | None = None) -> Picture | None:
    """Return an input (without the batch axis) as pixels; `None` if a curve, or a row of numbers, says more.

    An image (C, H, W) with 1 or 3 channels is shown whole, of others the first, or the first three as colours; of a
    volume (C, D, H, W) the middle slice; a sequence of vectors (L, F) is a heatmap, one row for each. An image in
    colour has the colours that it had before it was prepared (`how`); else its values are stretched to their range.

    >>> picture(np.zeros((5, 8, 9))).part
    'channels 1, 2, 3 of 5 as red, green, blue'
    """
    if kind in ("tokens", "words") or sample.ndim < 2 or (sample.ndim == 2 and len(sample) <= MOST_CURVES):
        return None
    shown, part = sample, ""
    if how is not None and sample.ndim == 3 and len(sample) == 3 and {len(how.mean), len(how.std)} <= {1, 3}:
        return Picture(as_it_was(sample, how), "")
    if sample.ndim == 4:
        middle = sample.shape[1] // 2
        shown, part = sample[:1, middle], f"slice {middle + 1} of {sample.shape[1]}"
        part += f", channel 1 of {len(sample)}" if len(sample) > 1 else ""
    elif sample.ndim == 3 and len(sample) > 3:
        shown, part = sample[:3], f"channels 1, 2, 3 of {len(sample)} as red, green, blue"
    elif sample.ndim == 3 and len(sample) == 2:
        shown, part = sample[:1], "channel 1 of 2"
    elif sample.ndim == 2:
        rows, columns = (-(-n // MOST_SIDE) for n in sample.shape)
        shown, part = sample[None, ::rows, ::columns], f"{sample.shape[0]} rows of {sample.shape[1]} values"
    elif sample.ndim > 4:
        shown, part = sample.reshape(-1, *sample.shape[-2:])[:1], f"the first slice of shape {sample.shape}"
    return Picture(thumbnail(shown), part)


def as_it_was(image: NDArray[np.floating], how: TransformSpec) -> NDArray[np.uint8]:
    """Return an image (3, H, W) as bytes (H, W, 3), with its mean and standard deviation put back.

    >>> as_it_was(np.zeros((3, 1, 1)), TransformSpec(channels=3, mean=[1.0, 0.2, 0.0], std=[0.5])).tolist()
    [[[255, 51, 0]]]
    """
    mean, std = (np.reshape(np.array(values), (-1, 1, 1)) for values in (how.mean, how.std))
    values = np.clip(np.round(255 * (image * std + mean)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(values.transpose(1, 2, 0))


def sketch(sample: NDArray[np.floating], text: str | None = None, kind: str | None = None) -> str:
    """Return an input that is no picture as HTML: `text` if there is one, tokens as a row, values as curves.

    Args:
        sample: (L,) numbers of tokens or values, or (channels, L) of values.
        text: what the tokens spell.
        kind: what the input is (see `mtz_core.data.kinds`); without it, whole numbers are taken for tokens.

    >>> sketch(np.array([3.0, 1.0, 4.0]))
    "<span class='word'>3 1 4</span>"
    """
    if text is not None:
        return f"<span class='word'>{html.escape(text)}</span>"
    flat = sample.reshape(-1)
    whole = sample.ndim == 1 and bool((flat == np.round(flat)).all()) and bool((flat >= 0).all())
    if kind == "tokens" or (kind is None and whole):
        more = " …" if len(flat) > MOST_TOKENS else ""
        return f"<span class='word'>{' '.join(str(int(x)) for x in flat[:MOST_TOKENS])}{more}</span>"
    curves = sample.reshape(-1, sample.shape[-1])[:MOST_CURVES]
    low, high = float(curves.min()), float(curves.max())
    lines = "".join(_line(curve, low, high) for curve in curves)
    drawing = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'>"
        f"{lines}</svg>"
    )
    source = "data:image/svg+xml;base64," + base64.b64encode(drawing.encode()).decode()  # a page drops an svg as such
    return (
        f"<img src='{source}' width='{WIDTH}' height='{HEIGHT}' "
        f"alt='{sample.shape[-1]:,} values from {low:.3g} to {high:.3g}'>"
    )


def _line(values: NDArray[np.floating], low: float, high: float) -> str:
    """One curve; of many points the least and the largest of every stretch, so that no peak is lost."""
    if len(values) > MOST_POINTS:
        parts = np.array_split(values, MOST_POINTS // 2)
        values = np.array([extreme for part in parts for extreme in (part.min(), part.max())])
    x = np.linspace(1, WIDTH - 1, len(values))
    y = HEIGHT - 2 - (HEIGHT - 4) * (values - low) / ((high - low) or 1.0)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return f"<polyline points='{points}' fill='none' stroke='{STROKE}' stroke-width='1'/>"
