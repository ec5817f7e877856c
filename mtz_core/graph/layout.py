"""Which channel every position of an activation belongs to, and how operations move channels about.

A *layout* is an integer array with one axis per axis of the activation; an axis of length one stands for "the same all
along this axis", as the axis of the images does. Its entries are channel identifiers (≥ 0), or

- `COMMON`: a value that means the same in every task and belongs to no layer, such as the raw input,
- `ZERO`: a constant zero (padding),
- `UNKNOWN`: a value that no rule explains beside others that are known, or
- a *pair* (`pair`) of two identifiers: a value that belongs to a channel of one axis and a channel of another, such as
  the numbers of a matrix kᵀv, or hidden units that mix the places of every channel, or
- `CONSTANT`: a number of the network's own that no channel produced (a class token, a position embedding, an
  attention map). It takes on the identity of whatever it is combined with.

A feature map of C channels has layout shape (1, C, 1, 1); flattening it to C·H·W inputs repeats each identifier H·W
times; concatenation concatenates; windows that become images of their own, or channels that pass through the first
axis, are one reshape more. So every operation that moves values about without mixing them is the same
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
UNKNOWN = -3
CONSTANT = -4

Layout = NDArray[np.int64]

PAIRS = 1 << 44
"""From here on identifiers are pairs."""
_SECONDS, _LEAST = 1 << 22, 8


def pair(first: Layout, second: Layout) -> Layout:
    """Layout of values that belong to an identifier of each of two layouts, which are broadcast.

    >>> [x.tolist() for x in components(pair(np.array([[3], [4]]), np.array([[7, COMMON]])))]
    [[[3, 3], [4, 4]], [[7, -1], [7, -1]]]
    """
    paired: Layout = PAIRS + (first + _LEAST) * _SECONDS + (second + _LEAST)
    return paired


def are_pairs(layout: Layout) -> NDArray[np.bool_]:
    """Which identifiers are pairs."""
    return layout >= PAIRS


def components(layout: Layout) -> tuple[Layout, Layout]:
    """First and second identifiers of pairs."""
    first, second = np.divmod(layout - PAIRS, _SECONDS)
    return first - _LEAST, second - _LEAST


def apart(layout: Layout) -> tuple[Layout, Layout] | None:
    """Layouts of the first and the second identifiers, if all are pairs."""
    if not bool(are_pairs(layout).all()):
        return None
    first, second = components(layout)
    return compress(first), compress(second)


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
    """Write a layout out to the activation's full shape."""
    return np.broadcast_to(layout, tuple(shape))


def reshape(layout: Layout, before: Sequence[int], after: Sequence[int]) -> Layout:
    """Layout after the activation's shape changes from `before` to `after`."""
    return compress(expand(layout, before).reshape(tuple(after)))


def slice_axis(layout: Layout, index: Sequence[Any]) -> Layout:
    """Layout after `activation[*index]` with one slice or one number per axis, and `None` for new axes."""
    picked: list[Any] = []
    sizes = iter(layout.shape)
    for part in index:
        unvaried = 0 if isinstance(part, int) else slice(None)
        picked.append(part if part is None or next(sizes) > 1 else unvaried)
    sliced: Layout = layout[tuple(picked)]
    return sliced


def part(layout: Layout, axis: int, size: int, first: int, count: int) -> Layout:
    """Layout of `count` positions from `first` along `axis`, which has `size` positions in the activation."""
    if layout.shape[axis] != size:
        return layout
    taken: Layout = np.take(layout, np.arange(first, first + count), axis=axis)
    return taken


def pad(layout: Layout, shape: Sequence[int], amounts: Sequence[int], value: int = ZERO) -> Layout:
    """Layout after padding with a constant; `amounts` is torch's (last axis first) list of pairs.

    Padding along an axis on which nothing varies adds positions, not channels, and changes nothing.
    """
    widths = [(0, 0)] * layout.ndim
    for k in range(len(amounts) // 2):
        axis = layout.ndim - 1 - k
        if layout.shape[axis] > 1 or (shape[axis] == 1 and any(amounts[2 * k : 2 * k + 2])):
            widths[axis] = (int(amounts[2 * k]), int(amounts[2 * k + 1]))
    return np.pad(layout, widths, constant_values=value)


def concatenate(layouts: Sequence[Layout], shapes: Sequence[Sequence[int]], axis: int) -> Layout:
    """Layout of a concatenation along `axis` of activations with the given shapes."""
    shape = list(np.broadcast_shapes(*[tuple(1 if k == axis else n for k, n in enumerate(x.shape)) for x in layouts]))
    parts = []
    for layout, full in zip(layouts, shapes, strict=True):
        shape[axis] = full[axis]
        parts.append(np.broadcast_to(layout, tuple(shape)))
    return compress(np.concatenate(parts, axis=axis))


def combine(a: Layout, b: Layout, tie: Callable[[Layout, Layout], None]) -> Layout | None:
    """Layout of an element-wise combination of two activations.

    Channels that meet are tied (they must be paired alike from now on). A constant takes the other's identity.
    Returns `None` where a channel meets a value that is the same in all tasks, which would fix the channel, or
    that no rule explains.
    """
    try:
        a, b = np.broadcast_arrays(a, b)
    except ValueError:
        return None
    meet = (a >= 0) & (b >= 0)
    fixed = (COMMON, UNKNOWN)
    if bool((((a >= 0) & np.isin(b, fixed)) | ((b >= 0) & np.isin(a, fixed))).any()):
        return None
    if meet.any():
        tie(a[meet], b[meet])
    either = np.where(a >= 0, a, np.where(b >= 0, b, np.where(a == COMMON, a, b)))
    return np.where((a == UNKNOWN) | (b == UNKNOWN), UNKNOWN, either)
