"""Attention and products of two activations: which channels are multiplied with which, and heads as blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtz_core.graph.layout import CONSTANT, Layout
from mtz_core.graph.ties import Ties


def attention(ties: Ties, layouts: Sequence[Layout], heads: int | None) -> Layout | None:
    """softmax(q kᵀ) v: q and k are multiplied channel by channel, the result has v's channels.

    With a number of `heads`, each layout has all heads' channels one after the other on its last axis.
    """
    if len(layouts) != 3:
        return None
    q, k, v = layouts
    if heads is not None:  # (1, heads · d): one block per head
        if any(x.shape[-1] % heads for x in (q, k, v)):
            return None
        q, k, v = (x.reshape(*x.shape[:-1], heads, -1).swapaxes(0, 1) for x in (q, k, v))
    if not _contract(ties, q, k):
        return None
    _share_blocks(ties, q, v)
    return layouts[2]


def product(ties: Ties, a: Layout, b: Layout, axes: int) -> Layout | None:
    """A matrix product of activations: `q @ kᵀ` gives an attention map, `map @ v` has v's channels.

    `axes` is the number of axes of the result, images excluded.
    """
    if a.ndim < 2 or b.ndim < 2:
        return None
    b = b.swapaxes(-1, -2)
    if a.shape[-1] > 1 and a.shape[-2] == 1 and b.shape[-2] == 1:
        if not _contract(ties, a, b):
            return None
        _apart(ties, a)
        return np.full((1,) * axes, CONSTANT, dtype=np.int64)
    if a.shape[-1] == 1 and b.shape[-1] == 1 and bool((a == CONSTANT).all()):
        _apart(ties, b)
        return b.swapaxes(-1, -2)
    return None


def _contract(ties: Ties, q: Layout, k: Layout) -> bool:
    """Tie what a product multiplies along the last axis of both."""
    if q.shape != k.shape or not bool((q >= 0).all() and (k >= 0).all()):
        return bool((q < 0).all() and (k < 0).all())
    ties.ids.tie(q, k)
    return True


def _share_blocks(ties: Ties, q: Layout, v: Layout) -> None:
    """Slices along the first axis (heads) of queries and of values are blocks with one number."""
    if q.ndim >= 2 and v.ndim >= 2 and q.shape[0] == v.shape[0] and q.shape[0] > 1:
        for mine, values in zip(q, v, strict=True):
            ties.blocks.extend(ties.blocks.block(mine), values)


def _apart(ties: Ties, layout: Layout) -> None:
    """Channels of different heads don't change places."""
    if layout.ndim >= 2 and layout.shape[0] > 1:
        for head in layout:
            ties.blocks.block(head)
