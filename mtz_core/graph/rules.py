"""How operations with settings of their own carry channels: functions that records of operations name.

Each reads the settings of one call, as numbers that are written in the network. Whatever is computed while the network
runs is not followed: the rule then returns `None`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from mtz_core.graph import layout as lay
from mtz_core.graph.layout import Layout
from mtz_core.graph.record import Call, Shape

Pieces = tuple[int, list[int], bool]
"""Axis, sizes, whether the axis disappears."""


# Orders of axes


def axes_of(call: Call) -> list[int] | None:
    """The axes that a permutation names, one by one or as a list."""
    given: list[Any] = [*call.args[1:], *call.kwargs.values()]
    listed = list(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else given
    return listed if all(isinstance(axis, int) for axis in listed) else None


def permuted(call: Call, rank: int) -> list[int] | None:
    """`permute(2, 0, 1)`: all axes in their new order."""
    axes = axes_of(call)
    return None if axes is None or len(axes) != rank else [axis % rank for axis in axes]


def exchanged(call: Call, rank: int) -> list[int] | None:
    """`transpose(1, 2)`: two axes are exchanged."""
    order, axes = list(range(rank)), axes_of(call)
    if axes is None or len(axes) != 2:
        return None
    one, two = axes[0] % rank, axes[1] % rank
    order[one], order[two] = two, one
    return order


def axis_moved(call: Call, rank: int) -> list[int] | None:
    """`movedim(1, 2)`: one axis moves to another position, the others keep their order."""
    start, end = call.setting("source", 1), call.setting("destination", 2)
    if not isinstance(start, int) or not isinstance(end, int):
        return None
    order = list(range(rank))
    order.insert(end % rank, order.pop(start % rank))
    return order


def in_order(order: Sequence[int] | None, source: Layout) -> Layout | None:
    """Layout after axes were permuted."""
    return source.transpose(order) if order else None


# Indices


def indexed(call: Call, rank: int) -> list[Any] | None:
    """`x[:, 0, None, ..., 1:]` as one part per axis, from the first on, and `None` for new axes."""
    index = call.args[1]
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (rank - len(parts) + 1 + parts.count(None))
    return parts if all(part is None or isinstance(part, int | slice) for part in parts) else None


def selected(call: Call, rank: int) -> list[Any] | None:
    """`select(dim, index)`."""
    axis, index = call.setting("dim", 1), call.setting("index", 2)
    if not isinstance(axis, int) or not isinstance(index, int):
        return None
    return [*[slice(None)] * (axis % rank), index]


def picked(parts: Sequence[Any] | None, source: Layout) -> Layout | None:
    """Layout after an index whose numbers are written."""
    if not parts:
        return None
    bounds = [x for part in parts if isinstance(part, slice) for x in (part.start, part.stop, part.step)]
    return None if any(isinstance(x, fx.Node) for x in bounds) else lay.slice_axis(source, parts)


# Pieces


def _along(axis: Any, shape: Shape) -> int | None:
    """An axis, counted from the first."""
    return axis % len(shape) if isinstance(axis, int) else None


def unbound(call: Call, shape: Shape) -> Pieces | None:
    """`unbind(1)`: one piece per position."""
    axis = _along(call.setting("dim", 1, 0), shape)
    return None if axis is None else (axis, [1] * shape[axis], True)


def chunked(call: Call, shape: Shape) -> Pieces | None:
    """`chunk(3, 1)`: so many pieces."""
    axis, count = _along(call.setting("dim", 2, 0), shape), call.setting("chunks", 1)
    if axis is None or not isinstance(count, int):
        return None
    return axis, _cut(shape[axis], -(-shape[axis] // count)), False


def split(call: Call, shape: Shape) -> Pieces | None:
    """`split(4, 1)` and `split([4, 2], 1)`: pieces of one size, or of given sizes."""
    axis = _along(call.setting("dim", 2, 0), shape)
    size = call.setting("split_size", 1, call.setting("split_size_or_sections", 1))
    if axis is None:
        return None
    if isinstance(size, list | tuple) and all(isinstance(s, int) for s in size):
        return axis, list(size), False
    return (axis, _cut(shape[axis], size), False) if isinstance(size, int) else None


def _cut(total: int, size: int) -> list[int]:
    return [min(size, total - first) for first in range(0, total, size)]


# Layouts


def shuffled(call: Call, source: Layout, before: Shape, after: Shape) -> Layout | None:
    """`nn.ChannelShuffle`: the channels of all groups in turn."""
    if source.shape[1] != before[1]:
        return source
    groups = int(call.setting("groups", 1))
    apart = source.reshape(source.shape[0], groups, before[1] // groups, *source.shape[2:])
    return apart.swapaxes(1, 2).reshape(source.shape)


def pixels(call: Call) -> int:
    """Channels that a pixel shuffle lays side by side: one for every place of a square."""
    factor = call.setting("upscale_factor", 1)
    return factor * factor if isinstance(factor, int) else 1


def pixels_shuffled(call: Call, source: Layout, before: Shape, after: Shape) -> Layout | None:
    """`nn.PixelShuffle`: of every square's channels, which were united, one stays."""
    if any(size != 1 for size in source.shape[2:]):
        return None
    return source if source.shape[1] == 1 else source[:, :: pixels(call)]


def pixels_unshuffled(call: Call, source: Layout, before: Shape, after: Shape) -> Layout | None:
    """`nn.PixelUnshuffle`: every channel as often as a square has places."""
    factor = call.setting("downscale_factor", 1)
    if any(size != 1 for size in source.shape[2:]) or not isinstance(factor, int):
        return None
    return source if source.shape[1] == 1 else source.repeat(factor * factor, axis=1)


def expanded(call: Call, source: Layout, before: Shape, after: Shape) -> Layout | None:
    """`expand`: values are repeated along axes of length one, and along new axes in front."""
    return source.reshape(*[1] * (len(after) - len(before)), *source.shape)


def padded(call: Call, source: Layout, before: Shape, after: Shape) -> Layout | None:
    """`F.pad`: a constant around; anything else only along axes on which no channel varies."""
    amounts = call.setting("pad", 1)
    mode, value = call.setting("mode", 2, "constant"), call.setting("value", 3)
    if not isinstance(amounts, Sequence):
        return None
    numbers = [int(a) for a in amounts if isinstance(a, int)]
    computed = len(numbers) < len(amounts)
    numbers += [0] * (len(amounts) - len(numbers))
    if computed or mode != "constant" or isinstance(value, fx.Node) or len(numbers) // 2 > source.ndim:
        varies = any(source.shape[source.ndim - 1 - k] > 1 for k in range(min(len(numbers) // 2, source.ndim)))
        return None if varies else source
    return lay.pad(source, before, numbers, lay.COMMON if value else lay.ZERO)


def rolled(call: Call, source: Layout, before: Shape, after: Shape) -> Layout | None:
    """`torch.roll`: values go round along axes."""
    shifts, axes = call.setting("shifts", 1), call.setting("dims", 2)
    shifts, axes = ((x,) if isinstance(x, int) else x for x in (shifts, axes))
    if not all(isinstance(x, Sequence) for x in (shifts, axes)) or any(
        isinstance(x, fx.Node) for x in (*shifts, *axes)
    ):
        return None
    rolled: Layout = np.roll(source, tuple(shifts), tuple(axes))
    return rolled


def flipped(call: Call, source: Layout, before: Shape, after: Shape) -> Layout | None:
    """`flip`: values in reverse order along axes."""
    given: list[Any] = [*call.args[1:], *call.kwargs.values()]
    axes = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
    return np.flip(source, tuple(axes)) if all(isinstance(x, int) for x in axes) else None


# Cells


def num_groups(call: Call, channels: int) -> int | None:
    """Group normalisation lets channels be permuted within its groups only."""
    count = call.setting("num_groups", 1)
    return count if isinstance(count, int) else None


def each_alone(call: Call, channels: int) -> int:
    """Normalisation over neighbouring channels lets none be permuted."""
    return channels


def normalised_axes(call: Call, rank: int) -> list[int] | None:
    """The last axes, as many as `normalized_shape` has."""
    shape = call.setting("normalized_shape", 1)
    return list(range(rank - len(shape), rank)) if isinstance(shape, list | tuple) else None


def one_axis(call: Call, rank: int) -> list[int] | None:
    """The axis that a softmax is taken over."""
    axis = 1 if type(call.called).__name__ == "Softmax2d" else call.setting("dim", 1)
    return [axis % rank] if isinstance(axis, int) else None


def norm_axis(call: Call, rank: int) -> list[int] | None:
    """The axis that `F.normalize` takes norms along."""
    axis = call.setting("dim", 2, 1)
    return [axis % rank] if isinstance(axis, int) else None


# The first two axes


def always(call: Call, rank: int) -> bool:
    """Every number is treated alike."""
    return True


def late_axis(call: Call, rank: int) -> bool:
    """The axis that matters is none of the first two."""
    axis = call.setting("dim", 1)
    return isinstance(axis, int) and axis % rank > 1


def late_shape(call: Call, rank: int) -> bool:
    """The last axes matter, and the first two are none of them."""
    shape = call.setting("normalized_shape", 1)
    return isinstance(shape, list | tuple) and len(shape) <= rank - 2


def last_axis(call: Call, rank: int) -> bool:
    """The last axis matters, and it is none of the first two."""
    return rank > 2
