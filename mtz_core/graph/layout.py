"""Which channel every position of an activation belongs to, and how operations move channels about.

A *layout* is an integer array with one axis per axis of the activation, batch excluded; an axis of length one stands
for "the same all along this axis". Its entries are channel identifiers (≥ 0), or

- `COMMON`: a value that means the same in every task and belongs to no layer, such as the raw input,
- `ZERO`: a constant zero (padding), or
- `CONSTANT`: a number of the network's own that no channel produced (a class token, a position embedding, an
  attention map). It takes on the identity of whatever it is combined with.

A feature map of C channels has layout shape (C, 1, 1); flattening it to C·H·W inputs repeats each identifier H·W
times; concatenation concatenates. So every operation that moves values about without mixing them is the same
operation on a small integer array, and needs no rule per architecture. `None` is the layout of values that no rule
explains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

COMMON = -1
ZERO = -2
CONSTANT = -4

Layout = NDArray[np.int64]


def feature_layout(channels: Sequence[int] | Layout, axes: int, axis: int) -> Layout:
    """Layout with `axes` axes whose identifiers vary along `axis` only."""
    shape = [1] * axes
    shape[axis] = len(channels)
    return np.asarray(channels, dtype=np.int64).reshape(shape)


def along(layout: Layout, axis: int) -> Layout | None:
    """Identifiers along `axis` if the layout varies along no other, else `None`."""
    axis %= layout.ndim
    if any(size != 1 for k, size in enumerate(layout.shape) if k != axis):
        return None
    return layout.reshape(-1)


def compress(full: Layout) -> Layout:
    """Shrink to one every axis along which nothing varies, constants aside."""
    for axis in range(full.ndim):
        if full.shape[axis] > 1:
            top = full.max(axis=axis, keepdims=True)  # `CONSTANT` is the least of all identifiers
            if bool(((full == top) | (full == CONSTANT)).all()):
                full = top
    return full


def expand(layout: Layout, shape: Sequence[int]) -> Layout:
    """Write a layout out to the activation's full shape (batch excluded)."""
    return np.broadcast_to(layout, tuple(shape))


def reshape(layout: Layout, before: Sequence[int], after: Sequence[int]) -> Layout:
    """Layout after the activation's shape (batch excluded) changes from `before` to `after`."""
    return compress(expand(layout, before).reshape(tuple(after)))


def slice_axis(layout: Layout, index: Sequence[Any]) -> Layout:
    """Layout after `activation[:, *index]` with one slice or one number per axis."""
    picked: list[Any] = []
    for size, part in zip(layout.shape, index, strict=False):
        unvaried = 0 if isinstance(part, int) else slice(None)
        picked.append(unvaried if size == 1 else part)
    sliced: Layout = layout[tuple(picked)]
    return sliced


def part(layout: Layout, axis: int, size: int, first: int, count: int) -> Layout:
    """Layout of `count` positions from `first` along `axis`, which has `size` positions in the activation."""
    if layout.shape[axis] != size:
        return layout
    taken: Layout = np.take(layout, np.arange(first, first + count), axis=axis)
    return taken


def pad(layout: Layout, shape: Sequence[int], amounts: Sequence[int]) -> Layout:
    """Layout after zero padding; `amounts` is torch's (last axis first) list of pairs.

    Padding along an axis on which nothing varies adds positions, not channels, and changes nothing.
    """
    widths = [(0, 0)] * layout.ndim
    for k in range(len(amounts) // 2):
        axis = layout.ndim - 1 - k
        if layout.shape[axis] > 1 or (shape[axis] == 1 and any(amounts[2 * k : 2 * k + 2])):
            widths[axis] = (int(amounts[2 * k]), int(amounts[2 * k + 1]))
    return np.pad(layout, widths, constant_values=ZERO)


def concatenate(layouts: Sequence[Layout], shapes: Sequence[Sequence[int]], axis: int) -> Layout:
    """Layout of a concatenation along `axis` (batch excluded) of activations with the given shapes."""
    shape = list(np.broadcast_shapes(*[tuple(1 if k == axis else n for k, n in enumerate(x.shape)) for x in layouts]))
    parts = []
    for layout, full in zip(layouts, shapes, strict=True):
        shape[axis] = full[axis]
        parts.append(np.broadcast_to(layout, tuple(shape)))
    return compress(np.concatenate(parts, axis=axis))


def combine(a: Layout, b: Layout, tie: Callable[[Layout, Layout], None]) -> Layout | None:
    """Layout of an element-wise combination of two activations.

    Channels that meet are tied (they must be paired alike from now on). A constant takes the other's identity.
    Returns `None` where a channel meets a value that is the same in all tasks: it would fix the channel's place.
    """
    try:
        a, b = np.broadcast_arrays(a, b)
    except ValueError:
        return None
    meet = (a >= 0) & (b >= 0)
    if bool((((a >= 0) & (b == COMMON)) | ((b >= 0) & (a == COMMON))).any()):
        return None
    if meet.any():
        tie(a[meet], b[meet])
    return np.where(a >= 0, a, np.where(b >= 0, b, np.where(a == COMMON, a, b)))
