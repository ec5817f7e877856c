"""What is known of channels while a graph is walked: which are tied, which form blocks, which stay private and why."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mtz_core.graph import layout as lay
from mtz_core.graph.layout import Layout


class UnionFind:
    """Identifiers that are tied; the least identifier stands for all."""

    def __init__(self) -> None:
        self.parent: list[int] = []

    def fresh(self, count: int) -> Layout:
        """New identifiers, tied to none."""
        first = len(self.parent)
        self.parent.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def root(self, x: int) -> int:
        """The identifier that stands for x."""
        while self.parent[x] != x:
            self.parent[x] = self.parent[self.parent[x]]
            x = self.parent[x]
        return x

    def tie(self, a: Layout, b: Layout) -> None:
        """Tie identifiers at equal positions."""
        for pair in np.unique(np.stack([a.reshape(-1), b.reshape(-1)], axis=1), axis=0):
            low, high = sorted((self.root(int(pair[0])), self.root(int(pair[1]))))
            self.parent[high] = low

    def roots(self, ids: Layout) -> Layout:
        """`root` of every entry; values that are no channels stay."""
        distinct, where = np.unique(ids, return_inverse=True)
        found = [self.root(int(x)) if 0 <= x < lay.PAIRS else int(x) for x in distinct]
        return np.array(found, dtype=np.int64)[where].reshape(ids.shape)


class Partition:
    """Channels divided into blocks; a channel that gets two block numbers makes them one."""

    def __init__(self) -> None:
        self.numbers = UnionFind()
        self.of: dict[int, int] = {}

    def block(self, ids: Layout) -> int:
        """Put the channels into one new block."""
        number = int(self.numbers.fresh(1)[0])
        self.extend(number, ids)
        return number

    def extend(self, number: int, ids: Layout) -> None:
        """Put the channels into a block."""
        for x in np.unique(ids[ids >= 0]):
            known = self.of.setdefault(int(x), number)
            self.numbers.tie(np.array([known]), np.array([number]))

    def settle(self, ids: UnionFind) -> dict[int, int]:
        """Channel root → block, after channels were tied."""
        settled: dict[int, int] = {}
        for x, number in self.of.items():
            known = settled.setdefault(ids.root(x), number)
            self.numbers.tie(np.array([known]), np.array([number]))
        return {root: self.numbers.root(number) for root, number in settled.items()}


class Cells:
    """Sets of channels that may be permuted among themselves: those which are in the same sets may."""

    def __init__(self) -> None:
        self.count = 0
        self.of: dict[int, set[int]] = {}

    def cell(self, ids: Layout) -> None:
        """Note channels that don't leave each other."""
        for x in np.unique(ids[ids >= 0]):
            self.of.setdefault(int(x), set()).add(self.count)
        self.count += 1

    def settle(self, ids: UnionFind) -> dict[int, int]:
        """Channel root → cell, after channels were tied."""
        every: dict[int, set[int]] = {}
        for x, numbers in self.of.items():
            every.setdefault(ids.root(x), set()).update(numbers)
        distinct = {cells: k for k, cells in enumerate(dict.fromkeys(map(frozenset, every.values())))}
        return {root: distinct[frozenset(numbers)] for root, numbers in every.items()}


class Ties:
    """Channels that must be paired alike (`ids`), that are summands of one sum (`sums`), and that stay together.

    `blocks` are paired as wholes, and channels don't leave their `cells`. By root, after the walk: only channels with
    the same of `marks` are paired. `frozen` says of channels why they stay private.
    """

    def __init__(self) -> None:
        self.ids, self.sums = UnionFind(), UnionFind()
        self.blocks, self.cells = Partition(), Cells()
        self.marks: dict[int, int] = {}
        self.frozen: dict[int, str] = {}

    def fresh(self, count: int) -> Layout:
        """New channels."""
        self.sums.fresh(count)
        return self.ids.fresh(count)

    def tie(self, a: Layout, b: Layout) -> None:
        """Tie channels at equal positions; of pairs, the first with the first and the second with the second."""
        for one, two in _aligned(a, b):
            self.ids.tie(one, two)

    def add(self, a: Layout, b: Layout) -> None:
        """Tie channels that are added up."""
        for one, two in _aligned(a, b):
            self.ids.tie(one, two)
            self.sums.tie(one, two)

    def block(self, *layouts: Layout) -> None:
        """Put the channels into one block."""
        number = int(self.blocks.numbers.fresh(1)[0])
        for layout in layouts:
            for ids in _parts(layout):
                self.blocks.extend(number, ids)

    def cell(self, layout: Layout) -> None:
        """Channels that don't leave each other; beside several of an axis, the one channel of another axis is free."""
        parts = _parts(layout)
        for ids in parts:
            if len(parts) == 1 or len(np.unique(ids)) > 1:
                self.cells.cell(ids)

    def pin(self, layout: Layout) -> None:
        """Each of the channels keeps its number."""
        for x in np.unique(layout[layout >= 0]):
            self.cells.cell(np.array([x]))

    def freeze(self, layout: Layout | None, reason: str) -> None:
        """Channels stay private; the first reason counts."""
        if layout is not None:
            for part in _parts(layout):
                for identifier in np.unique(part[part >= 0]):
                    self.frozen.setdefault(int(identifier), reason)


def _parts(layout: Layout) -> list[Layout]:
    """The identifiers; of pairs, those of either kind."""
    pairs = lay.are_pairs(layout)
    if not pairs.any():
        return [layout]
    return [*([layout[~pairs]] if not pairs.all() else []), *lay.components(layout[pairs])]


def _aligned(a: Layout, b: Layout) -> Iterator[tuple[Layout, Layout]]:
    """Channels that are to be tied, at equal positions."""
    pairs = lay.are_pairs(a)
    if not pairs.any():
        yield a, b
        return
    yield a[~pairs], b[~pairs]
    for one, two in zip(lay.components(a[pairs]), lay.components(b[pairs]), strict=True):
        both = (one >= 0) & (two >= 0)
        yield one[both], two[both]
