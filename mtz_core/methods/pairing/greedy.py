"""The paper's rule, without sorting all entries."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.methods.kinds import Pairs, pairing_method


@pairing_method(
    "greedy",
    text="the paper's rule, the cheapest pair whose neurons are both free, again and again",
    source="He, Zhou, Thiele, *Multi-Task Zipping via Layer-wise Neuron Sharing*, NeurIPS 2018, Algorithm 1",
    joins=True,
)
def greedy(costs: NDArray[Any], k: int, seed: int = 0) -> Pairs:
    """Greedy pairs of as many neurons as there are.

    An entry that is the least of its row and of its column is taken by the greedy rule whatever else it takes, so
    all such entries are taken at once; what is left is a smaller matrix with the same property. (The k cheapest of
    all pairs are the first k that the rule takes.)
    """
    rows, columns = np.arange(costs.shape[0]), np.arange(costs.shape[1])
    taken = [np.empty((0, 2), dtype=np.int64)]
    rest = costs
    while rest.size:
        best_column, best_row = rest.argmin(axis=1), rest.argmin(axis=0)
        mutual = np.flatnonzero(best_row[best_column] == np.arange(rest.shape[0]))
        partner = best_column[mutual]
        taken.append(np.stack([rows[mutual], columns[partner]], axis=1))
        keep_rows = np.delete(np.arange(rest.shape[0]), mutual)
        keep_columns = np.delete(np.arange(rest.shape[1]), partner)
        rest = rest[np.ix_(keep_rows, keep_columns)]
        rows, columns = rows[keep_rows], columns[keep_columns]
    return np.concatenate(taken)
