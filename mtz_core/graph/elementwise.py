"""Two activations combined number by number: channels that meet are tied, one that meets many goes along with them."""

from __future__ import annotations

import numpy as np

from mtz_core.graph import layout as lay
from mtz_core.graph.layout import COMMON, CONSTANT, UNKNOWN, Layout
from mtz_core.graph.record import Shape
from mtz_core.graph.ties import Ties

Activation = tuple[Layout, Shape]


def combined(ties: Ties, a: Activation, b: Activation, summands: bool) -> Layout | None:
    """Layout of an element-wise combination of two activations; `None`: not known.

    Channels that meet are tied. Where one activation has length one and the other's channels vary, one value
    meets many channels: a gate, a scale, a mean over channels. The result then has the many channels' identity. If
    there are several such values (one for every head), each stays with those that it meets: they form a block.
    """
    rank = max(len(a[1]), len(b[1]))
    a, b = (_of_rank(x, rank) for x in (a, b))
    if bool(lay.are_pairs(a[0]).any() or lay.are_pairs(b[0]).any()):
        return _paired(ties, a, b, summands)
    (one, mine), (two, theirs) = a, b
    spread = [m == 1 and n > 1 for m, n in zip(mine, two.shape, strict=True)]
    other = [m == 1 and n > 1 for m, n in zip(theirs, one.shape, strict=True)]
    if any(spread) and any(other):
        return None
    if any(spread) or any(other):
        few, many = (one, two) if any(spread) else (two, one)
        return many if _stays_with(ties, few, many) else None
    tie = ties.add if summands else ties.tie
    return lay.combine(_small(one, mine, two), _small(two, theirs, one), tie)


def _of_rank(activation: Activation, rank: int) -> Activation:
    """The same with axes of length one in front."""
    layout, shape = activation
    more = (1,) * (rank - len(shape))
    return layout.reshape(*more, *layout.shape), (*more, *shape)


def _small(layout: Layout, shape: Shape, other: Layout) -> Layout:
    """A value that is the same in all tasks fixes no channel where it is but one number beside the other's channels."""
    single = all(n == 1 or size == 1 for size, n in zip(shape, other.shape, strict=True))
    return np.where(layout == COMMON, CONSTANT, layout) if single and bool((other >= 0).all()) else layout


def _stays_with(ties: Ties, few: Layout, many: Layout) -> bool:
    """Whether values that each meet several channels can be told apart by these; they are then in one block."""
    if bool((many < 0).any()) or bool((few == UNKNOWN).any()):
        return False
    values = np.unique(few)
    if len(values) > 1:
        beside = np.broadcast_to(few, np.broadcast_shapes(few.shape, many.shape))
        met = np.broadcast_to(many, beside.shape)
        for value in values[values >= 0]:
            ties.block(values[values == value], met[beside == value])
    return True


def _paired(ties: Ties, a: Activation, b: Activation, summands: bool) -> Layout | None:
    """The same where one activation, or each, belongs to channels of two axes.

    Beside channels of one of these axes alone, the other axis counts places: its channels keep theirs.
    """
    tie = ties.add if summands else ties.tie
    (two_axes, _), (other, shape) = (a, b) if bool(lay.are_pairs(a[0]).any()) else (b, a)
    mine, theirs = lay.apart(two_axes), lay.apart(other)
    if mine is None:
        return None
    if theirs is not None:
        ordered = theirs if theirs[0].shape == mine[0].shape else theirs[::-1]
        if any(x.shape != y.shape for x, y in zip(mine, ordered, strict=True)):
            return None
        for one, two in zip(mine, ordered, strict=True):
            tie(*_channels(one, two))
        return two_axes
    if other.size == 1:
        alone = int(np.prod(shape)) == shape[0]
        return two_axes if bool((other == CONSTANT).all()) or alone else None
    for kept, left in (mine, mine[::-1]):
        if kept.shape == other.shape and bool((other >= 0).all() and (kept >= 0).all()):
            tie(kept, other)
            if left.size == 1:
                return kept
            if all(n == 1 or size == 1 for n, size in zip(left.shape, shape, strict=True)):
                return two_axes
            ties.pin(left)
            return kept
    return None


def _channels(a: Layout, b: Layout) -> tuple[Layout, Layout]:
    both = (a >= 0) & (b >= 0)
    return a[both], b[both]
