"""Pairing of two tasks: the request is checked, a registered method chooses, and the cheapest pairs come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from mtz_core.errors import NumericalError, SpecError
from mtz_core.methods.kinds import PAIRING, Pairs

if TYPE_CHECKING:
    from torch import Tensor


def pair_neurons(difference: Tensor | ArrayLike, k: int, method: str = "optimal", seed: int = 0) -> Pairs:
    """Choose k disjoint pairs of neurons, cheapest first.

    Args:
        difference: cost of merging neuron i of A with neuron j of B, (n_a, n_b), finite.
        k: number of pairs, 0 ≤ k ≤ min(n_a, n_b).
        method: name of a pairing method, see `mtz_core.methods`.
        seed: of methods that draw.

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
    costs = difference.detach().cpu().numpy() if hasattr(difference, "detach") else np.asarray(difference, dtype=float)
    if costs.ndim != 2:
        raise SpecError(f"a difference is a (neurons of A, neurons of B) matrix, got shape {costs.shape}")
    if not 0 <= k <= min(costs.shape):
        raise SpecError(f"{k} pairs were asked of {costs.shape[0]} and {costs.shape[1]} neurons; at most the smaller")
    if not np.isfinite(costs).all():
        raise NumericalError("a difference holds NaN or infinity; check the weights and the calibration data")
    pairs = PAIRING.find(method).rule(costs, k, seed)
    order = np.argsort(costs[pairs[:, 0], pairs[:, 1]], kind="stable")[:k]
    return pairs[order].astype(np.int64)
