"""Pairing: which neurons become one. The paper's greedy rule, the optimal assignment, and a random baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mtz_core.errors import NumericalError, SpecError

Pairs = NDArray[np.int64]
LARGEST_PADDED = 5000
"""Largest side of a padded assignment problem; beyond it time grows to minutes."""


def pair_neurons(difference: Tensor | ArrayLike, k: int, method: str = "optimal", seed: int = 0) -> Pairs:
    """Choose k disjoint pairs of neurons, cheapest first.

    Args:
        difference: cost of merging neuron i of A with neuron j of B, (n_a, n_b), finite.
        k: number of pairs, 0 ≤ k ≤ min(n_a, n_b).
        method: `"greedy"` takes the smallest entry whose row and column are still free, again and again (He, Zhou,
            Thiele 2018, Algorithm 1); `"optimal"` finds the k pairs of least total cost; `"random"` draws pairs
            (a baseline).
        seed: of the random method.

    Returns:
        (k, 2) indices: row of A, column of B.

    Raises:
        SpecError: unknown method, or k out of range.
        NumericalError: a cost is NaN or infinite.

    Example:
        >>> pair_neurons([[1.0, 2.0], [1.5, 9.0]], 2, "greedy").tolist()
        [[0, 0], [1, 1]]
        >>> pair_neurons([[1.0, 2.0], [1.5, 9.0]], 2, "optimal").tolist()
        [[1, 0], [0, 1]]
    """
    costs = difference.detach().cpu().numpy() if isinstance(difference, Tensor) else np.asarray(difference, dtype=float)
    if costs.ndim != 2:
        raise SpecError(f"a difference is a (neurons of A, neurons of B) matrix, got shape {costs.shape}")
    if not 0 <= k <= min(costs.shape):
        raise SpecError(f"{k} pairs were asked of {costs.shape[0]} and {costs.shape[1]} neurons; at most the smaller")
    if not np.isfinite(costs).all():
        raise NumericalError("a difference holds NaN or infinity; check the weights and the calibration data")
    if method == "greedy":
        rows, columns = _greedy(costs)
    elif method == "optimal":
        rows, columns = _least_total(costs, k)
    elif method == "random":
        rng = np.random.default_rng(seed)
        rows, columns = rng.permutation(costs.shape[0])[:k], rng.permutation(costs.shape[1])[:k]
    else:
        raise SpecError(f"pairing is {method!r}; choose 'optimal', 'greedy' or 'random'")
    order = np.argsort(costs[rows, columns], kind="stable")[:k]
    return np.stack([rows[order], columns[order]], axis=1).astype(np.int64)


def _least_total(costs: NDArray[Any], k: int) -> tuple[Pairs, Pairs]:
    """The k disjoint pairs of least total cost.

    Cutting a full assignment down to its k cheapest pairs is dearer, often dearer than the greedy rule. Instead the
    matrix is padded: n_a - k rows may take a padding column for nothing, n_b - k columns a padding row, and padding
    never meets padding, so that exactly k real pairs remain. Very large problems are cut after all, unless the greedy
    rule is cheaper.
    """
    n, m = costs.shape
    if k == min(n, m):
        rows, columns = linear_sum_assignment(costs)
        return rows.astype(np.int64), columns.astype(np.int64)
    if n + m - k > LARGEST_PADDED:
        candidates = []
        for rows, columns in (linear_sum_assignment(costs), _greedy(costs)):
            cheapest = np.argsort(costs[rows, columns], kind="stable")[:k]
            candidates.append((rows[cheapest].astype(np.int64), columns[cheapest].astype(np.int64)))
        return min(candidates, key=lambda pairs: float(costs[pairs].sum()))
    padded = np.zeros((n + m - k, n + m - k))
    padded[:n, :m] = costs
    padded[n:, m:] = np.inf
    rows, columns = linear_sum_assignment(padded)
    real = (rows < n) & (columns < m)
    return rows[real].astype(np.int64), columns[real].astype(np.int64)


def _greedy(costs: NDArray[Any]) -> tuple[Pairs, Pairs]:
    """Greedy pairs without sorting all entries.

    An entry that is the least of its row and of its column is taken by the greedy rule whatever else it takes, so
    all such entries are taken at once; what is left is a smaller matrix with the same property.
    """
    rows, columns = np.arange(costs.shape[0]), np.arange(costs.shape[1])
    taken: list[tuple[Pairs, Pairs]] = []
    rest = costs
    while rest.size:
        best_column, best_row = rest.argmin(axis=1), rest.argmin(axis=0)
        mutual = np.flatnonzero(best_row[best_column] == np.arange(rest.shape[0]))
        partner = best_column[mutual]
        taken.append((rows[mutual], columns[partner]))
        keep_rows = np.delete(np.arange(rest.shape[0]), mutual)
        keep_columns = np.delete(np.arange(rest.shape[1]), partner)
        rest = rest[np.ix_(keep_rows, keep_columns)]
        rows, columns = rows[keep_rows], columns[keep_columns]
    empty = np.empty(0, dtype=np.int64)
    if not taken:
        return empty, empty
    return np.concatenate([r for r, _ in taken]), np.concatenate([c for _, c in taken])


def total_cost(difference: Tensor, pairs: Pairs) -> Tensor:
    """Cost of every pair, (k,)."""
    index = torch.as_tensor(pairs, device=difference.device)
    return difference[index[:, 0], index[:, 1]]
