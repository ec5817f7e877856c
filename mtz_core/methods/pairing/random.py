"""Pairs that are drawn: what a rule has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.methods.kinds import Pairs, pairing_method


@pairing_method("random", text="pairs are drawn, and nothing is compared", source="a baseline", random=True)
def random(costs: NDArray[Any], k: int, seed: int = 0) -> Pairs:
    """The k pairs of two permutations that `seed` decides."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(costs.shape[0])[:k], rng.permutation(costs.shape[1])[:k]], axis=1)
