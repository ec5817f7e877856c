"""No pair dearer than necessary: the bottleneck assignment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.methods.kinds import Pairs, pairing_method
from mtz_core.methods.pairing.optimal import optimal


@pairing_method(
    "bottleneck",
    text="the dearest pair is as cheap as can be, and then the total",
    source="Burkard, Dell'Amico, Martello, *Assignment Problems*, SIAM 2009, §6.2; Gross, *The bottleneck assignment "
    "problem*, RAND 1959",
)
def bottleneck(costs: NDArray[Any], k: int, seed: int = 0) -> Pairs:
    """Among the choices of k disjoint pairs whose dearest is cheapest, one of least total cost.

    The least limit below which k pairs can be found is searched by halving; dearer entries then cost more than any
    k pairs below it, so that the optimal assignment takes none.
    """
    from scipy.sparse import csr_array  # slow to import, and a specification needs only the name
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if k == 0:
        return np.empty((0, 2), dtype=np.int64)
    limits = np.unique(costs)
    low, high = 0, len(limits) - 1
    while low < high:
        middle = (low + high) // 2
        paired = maximum_bipartite_matching(csr_array(costs <= limits[middle])) >= 0
        low, high = (low, middle) if paired.sum() >= k else (middle + 1, high)
    allowed = costs - limits[0]
    worst = float(limits[low] - limits[0])
    return optimal(np.where(costs <= limits[low], allowed, 2 * k * worst or 1.0), k, seed)
