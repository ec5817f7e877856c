"""Attention and products of two activations: which channels are multiplied with which, and heads as blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtz_core.graph import layout as lay
from mtz_core.graph.layout import CONSTANT, UNKNOWN, Layout
from mtz_core.graph.ties import Ties


def attention(ties: Ties, layouts: Sequence[Layout], heads: int | None) -> Layout | None:
    """softmax(q kᵀ) v: q and k are multiplied channel by channel, the result has v's channels.

    With a number of `heads`, each layout has all heads' channels one after the other on its last axis; else heads have
    an axis of their own, before the last two.
    """
    if heads is None:
        q, k, v = layouts
    elif any(x.shape[-1] % heads for x in layouts):
        return None
    else:
        q, k, v = (x.reshape(*x.shape[:-1], heads, -1).swapaxes(-3, -2) for x in layouts)
    weights = product(ties, q, k.swapaxes(-1, -2))
    mixed = None if weights is None else product(ties, weights, v)
    return mixed if heads is None or mixed is None else layouts[2]


def product(ties: Ties, a: Layout, b: Layout) -> Layout | None:
    """Layout of a matrix product of activations, (..., I, K) and (..., K, J); `None`: not known.

    Along K channels are multiplied with channels, and tied, or places with places. The result has what varies along I
    and along J, pairs of channels if both do. If neither does, it is a map of places on places: `q @ kᵀ`. The channels
    of every head, on the axes in front, are one block, and the map's numbers belong to it.
    """
    rank = max(a.ndim, b.ndim)
    a, b = (x.reshape(*[1] * (rank - x.ndim), *x.shape) for x in (a, b))
    left, right = _sides(a), _sides(b.swapaxes(-1, -2))
    if rank < 2 or left is None or right is None:
        return None
    (rows, inner), (columns, met) = left, right
    if not _contract(ties, inner, met):
        return None
    columns = columns.swapaxes(-1, -2)
    varied = rows.shape[-2] > 1, columns.shape[-1] > 1
    heads = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    apart = int(np.prod(heads)) > 1
    if all(varied):
        found = lay.pair(rows, columns)
    elif any(varied):
        found = rows if varied[0] else columns
    elif apart:
        found = ties.fresh(int(np.prod(heads))).reshape(*heads, 1, 1)
    else:
        found = np.full((1,) * rank, CONSTANT, dtype=np.int64)
    if apart:
        parts = [np.broadcast_to(x, (*heads, *x.shape[-2:])).reshape(-1, *x.shape[-2:]) for x in (a, b, found)]
        for head in zip(*parts, strict=True):
            ties.block(*head)
    return found


def _sides(x: Layout) -> tuple[Layout, Layout] | None:
    """What varies along the last axis but one (..., I, 1), and what varies along the last, turned, (..., K, 1)."""
    nothing = np.full((*x.shape[:-2], 1, 1), CONSTANT, dtype=np.int64)
    if bool((x == UNKNOWN).any()):
        return None
    if x.shape[-1] == 1:
        return x, nothing
    if x.shape[-2] == 1:
        return nothing, x.swapaxes(-1, -2)
    found = lay.apart(x)
    if found is None:
        return None
    one, two = found if found[0].shape[-1] == 1 else found[::-1]
    return (one, two.swapaxes(-1, -2)) if one.shape[-1] == 1 and two.shape[-2] == 1 else None


def _contract(ties: Ties, q: Layout, k: Layout) -> bool:
    """Tie what a product multiplies along an axis of both, (..., K, 1); whether that is channels, or that is places."""
    if q.shape[-2] != k.shape[-2]:
        return False
    if q.shape[-2] > 1:
        q, k = np.broadcast_arrays(q, k)
        if bool(((q >= 0) != (k >= 0)).any()):
            return False
        ties.tie(q[q >= 0], k[k >= 0])
    return True
