"""The k disjoint pairs of least total cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.methods.kinds import Pairs, pairing_method
from mtz_core.methods.pairing.greedy import greedy

LARGEST_PADDED = 5000
"""Largest side of a padded assignment problem; beyond it time grows to minutes."""


@pairing_method(
    "optimal",
    text="the pairs of least total cost",
    source="Crouse, *On implementing 2D rectangular assignment algorithms*, IEEE TAES 2016, as in "
    "`scipy.optimize.linear_sum_assignment`",
    improves=True,
)
def optimal(costs: NDArray[Any], k: int, seed: int = 0) -> Pairs:
    """The k disjoint pairs of least total cost.

    Cutting a full assignment down to its k cheapest pairs is dearer, often dearer than the greedy rule. Instead the
    matrix is padded: n_a - k rows may take a padding column for nothing, n_b - k columns a padding row, and padding
    never meets padding, so that exactly k real pairs remain. Very large problems are cut after all, unless the greedy
    rule is cheaper.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and a specification needs only the name

    n, m = costs.shape
    if k == min(n, m):
        return np.stack(linear_sum_assignment(costs), axis=1)
    if n + m - k > LARGEST_PADDED:
        candidates = []
        for pairs in (np.stack(linear_sum_assignment(costs), axis=1), greedy(costs, k, seed)):
            cheapest = np.argsort(costs[pairs[:, 0], pairs[:, 1]], kind="stable")[:k]
            candidates.append(pairs[cheapest])
        return min(candidates, key=lambda pairs: float(costs[pairs[:, 0], pairs[:, 1]].sum()))
    padded = np.zeros((n + m - k, n + m - k))
    padded[:n, :m] = costs
    padded[n:, m:] = np.inf
    rows, columns = linear_sum_assignment(padded)
    real = (rows < n) & (columns < m)
    return np.stack([rows[real], columns[real]], axis=1)
