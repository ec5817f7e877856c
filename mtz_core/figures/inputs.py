"""A network's input where it is no picture: a curve for a sequence of values, a row for numbers of tokens."""

from __future__ import annotations

import html

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, MOST_TOKENS, MOST_POINTS = 120, 40, 24, 240


def is_picture(sample: NDArray[np.floating]) -> bool:
    """Whether an input (without the batch axis) is an image (C, H, W)."""
    return sample.ndim == 3


def sketch(sample: NDArray[np.floating], text: str | None = None) -> str:
    """Return an input that is no picture as HTML: `text` if there is one, tokens as a row, values as curves.

    Args:
        sample: (L,) numbers of tokens or values, or (channels, L) or (L, channels) of values.
        text: what the tokens spell.

    >>> sketch(np.array([3.0, 1.0, 4.0]))
    "<span class='word'>3 1 4</span>"
    """
    if text is not None:
        return f"<span class='word'>{html.escape(text)}</span>"
    flat = sample.reshape(-1)
    if sample.ndim == 1 and bool((flat == np.round(flat)).all()) and bool((flat >= 0).all()):
        more = " …" if len(flat) > MOST_TOKENS else ""
        return f"<span class='word'>{' '.join(str(int(x)) for x in flat[:MOST_TOKENS])}{more}</span>"
    curves = sample.reshape(-1, sample.shape[-1])[:3]
    low, high = float(curves.min()), float(curves.max())
    lines = "".join(_line(curve, low, high) for curve in curves)
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}' role='img' "
        f"aria-label='values from {low:.3g} to {high:.3g}'>{lines}</svg>"
    )


def _line(values: NDArray[np.floating], low: float, high: float) -> str:
    """One curve; of many points the least and the largest of every stretch, so that no peak is lost."""
    if len(values) > MOST_POINTS:
        parts = np.array_split(values, MOST_POINTS // 2)
        values = np.array([extreme for part in parts for extreme in (part.min(), part.max())])
    x = np.linspace(1, WIDTH - 1, len(values))
    y = HEIGHT - 2 - (HEIGHT - 4) * (values - low) / ((high - low) or 1.0)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return f"<polyline points='{points}' fill='none' stroke='currentColor' stroke-width='1'/>"
