"""Pairs of two tasks where some are not allowed: blocks of grouped convolutions and attention heads pair as wholes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mtz_core.pairing.assignment import pair_neurons
from mtz_core.pairing.slots import Table


def pair_two(costs: NDArray[np.floating], k: int, method: str, seed: int) -> Table:
    """At most k pairs (k, 2), cheapest first; entries that are infinite are never paired."""
    finite = np.isfinite(costs)
    if finite.all():
        return pair_neurons(costs, k, method, seed)
    unit = float(costs[finite].max(initial=0.0)) + 1.0
    pairs = pair_neurons(np.where(finite, costs, unit * 1e6), min(k, *costs.shape), method, seed)
    allowed: Table = pairs[finite[pairs[:, 0], pairs[:, 1]]]
    return allowed


def block_partners(costs: NDArray[np.floating], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> dict[int, int]:
    """Pair blocks of channels as wholes, at the least cost of pairing the channels within.

    Args:
        costs: (n, m); infinite entries are never paired.
        rows, columns: block number of every channel, (n,) and (m,).

    Returns:
        Block of a row's → block of a column's.
    """
    blocks_r, blocks_c = np.unique(rows), np.unique(columns)
    inner = np.zeros((len(blocks_r), len(blocks_c)))
    big = float(np.where(np.isfinite(costs), costs, 0.0).sum()) + 1.0
    for i, r in enumerate(blocks_r):
        for j, c in enumerate(blocks_c):
            block = np.where(np.isfinite(costs), costs, big)[np.ix_(rows == r, columns == c)]
            pairs = pair_neurons(block, min(block.shape))
            inner[i, j] = block[pairs[:, 0], pairs[:, 1]].sum()
    chosen = pair_neurons(inner, min(inner.shape))
    return {int(blocks_r[i]): int(blocks_c[j]) for i, j in chosen}


def within_blocks(
    costs: NDArray[np.floating], rows: NDArray[np.int64], columns: NDArray[np.int64], partner: Mapping[int, int]
) -> NDArray[np.floating]:
    """The costs, infinite where the column's block is not the partner of the row's."""
    wanted = np.array([partner.get(int(r), -2) for r in rows])
    return np.where(wanted[:, None] == columns[None, :], costs, np.inf)
