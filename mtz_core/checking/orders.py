"""Orders in which a network's channels may stand: every channel in its cell, and all that share numbers alike.

A scale that all attention heads share has one number for a channel of every head. If channels are permuted within the
heads, it must be by one permutation in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mtz_core.checking.parameters import Met
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.layout import Layout
from mtz_core.graph.ties import UnionFind


def drawn_orders(graph: ChannelGraph, parameters: Iterable[Met], rng: np.random.Generator) -> list[Layout]:
    """For every group the channel that stands at each position; channels of frozen groups stay where they are."""
    free = _cells(graph)
    kin = _kin(parameters, sum(group.width for group in graph.groups), free)
    flat = np.arange(len(kin))
    for cells in _alike(kin, free):
        flat[cells] = cells[:, rng.permutation(cells.shape[1])]
    starts = [*graph.offsets, len(flat)]
    return [flat[a : a + group.width] - a for a, group in zip(starts[:-1], graph.groups, strict=True)]


def moved(parameter: Met, flat: Layout) -> Layout:
    """For every number of a parameter the one that takes its position when channel `flat[c]` stands where c stood."""
    positions: dict[frozenset[int], list[int]] = {}
    for position, channels in enumerate(parameter):
        positions.setdefault(channels, []).append(position)
    seen: dict[frozenset[int], int] = {}
    result = np.arange(len(parameter))
    for position, channels in enumerate(parameter):
        if not channels or min(channels) < 0:
            continue
        nth = seen.get(channels, 0)
        seen[channels] = nth + 1
        there = positions.get(frozenset(int(flat[c]) for c in channels), [])
        if nth < len(there):
            result[position] = there[nth]
    return result


def _cells(graph: ChannelGraph) -> list[Layout]:
    """Channels of the whole network that may be permuted among themselves."""
    found: list[Layout] = []
    for offset, group in zip(graph.offsets, graph.groups, strict=True):
        if group.frozen is None:
            own = np.zeros(group.width, np.int64) if group.cells is None else group.cells
            found += [offset + np.flatnonzero(own == cell) for cell in np.unique(own)]
    return found


def _kin(parameters: Iterable[Met], count: int, cells: Sequence[Layout]) -> Layout:
    """For every channel the least of those with which it shares numbers in this way or that; -1: with none.

    Numbers that all channels of a cell share say nothing of these channels' order.
    """
    owner = np.full(count, -1)
    for number, cell in enumerate(cells):
        owner[cell] = number
    sizes = np.bincount(owner[owner >= 0], minlength=len(cells))
    kin, shared = UnionFind(), np.zeros(count, dtype=bool)
    kin.fresh(count)
    for channels in {channels for parameter in parameters for channels in parameter}:
        mine = np.array(sorted(c for c in channels if c >= 0), dtype=np.int64)
        inside = np.bincount(owner[mine][owner[mine] >= 0], minlength=len(cells))
        if len(mine) > 1 and bool(((inside > 0) & (inside < sizes)).any()):
            kin.tie(mine, np.broadcast_to(mine[:1], mine.shape))
            shared[mine] = True
    return np.where(shared, kin.roots(np.arange(count)), -1)


def _alike(kin: Layout, cells: Sequence[Layout]) -> Iterable[Layout]:
    """Cells (number, width) that are permuted alike: each has one of the same kin at the same position.

    A cell whose channels have no kin is alone. Cells that share kin in any other manner stay as they are.
    """
    by_kin: dict[bytes, list[Layout]] = {}
    for cell in cells:
        own = cell[np.argsort(kin[cell], kind="stable")]
        if (kin[own] < 0).all():
            yield own[None]
        else:
            by_kin.setdefault(kin[own].tobytes(), []).append(own)
    inside = [int(x) for found in by_kin.values() for x in np.unique(kin[found[0]])]
    for found in by_kin.values():
        own = kin[found[0]]
        one_each = len(np.unique(own)) == len(own) and own.min() >= 0
        everywhere = all(np.count_nonzero(kin == x) == len(found) for x in own)
        if one_each and everywhere and all(inside.count(int(x)) == 1 for x in own):
            yield np.stack(found)
