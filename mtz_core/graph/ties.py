"""What is known of channels while a graph is walked: which are tied, which form blocks, which stay private and why."""

from __future__ import annotations

import numpy as np

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
        flat = [self.root(int(x)) if x >= 0 else int(x) for x in ids.reshape(-1)]
        return np.array(flat, dtype=np.int64).reshape(ids.shape)


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


class Ties:
    """Channels that must be paired alike (`ids`), that are summands of one sum (`sums`), and that stay together.

    `blocks` are paired as wholes, and channels don't leave their `cells`; `frozen` says of channels why they stay
    private.
    """

    def __init__(self) -> None:
        self.ids, self.sums = UnionFind(), UnionFind()
        self.blocks, self.cells = Partition(), Partition()
        self.frozen: dict[int, str] = {}

    def fresh(self, count: int) -> Layout:
        """New channels."""
        self.sums.fresh(count)
        return self.ids.fresh(count)

    def add(self, a: Layout, b: Layout) -> None:
        """Tie channels that are added up."""
        self.ids.tie(a, b)
        self.sums.tie(a, b)

    def freeze(self, layout: Layout | None, reason: str) -> None:
        """Channels stay private; the first reason counts."""
        if layout is not None:
            for identifier in np.unique(layout[layout >= 0]):
                self.frozen.setdefault(int(identifier), reason)
