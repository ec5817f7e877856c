"""Bottleneck pairing against all choices of pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtz_core import pair_neurons
from mtz_core.methods.pairing import optimal


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000), rows=st.integers(1, 5), columns=st.integers(1, 5), coarse=st.booleans())
def test_the_dearest_pair_is_as_cheap_as_can_be_and_then_the_total(
    seed: int, rows: int, columns: int, coarse: bool
) -> None:
    """With small whole numbers many choices have the same dearest pair, or the same total."""
    rng = np.random.default_rng(seed)
    costs = rng.integers(-2, 4, (rows, columns)).astype(float) if coarse else rng.random((rows, columns))
    for k in range(1, min(rows, columns) + 1):
        choices = (
            costs[list(chosen), list(partners)]
            for chosen in itertools.combinations(range(rows), k)
            for partners in itertools.permutations(range(columns), k)
        )
        dearest, total = min((float(taken.max()), round(float(taken.sum()), 9)) for taken in choices)
        pairs = pair_neurons(costs, k, "bottleneck")
        taken = costs[pairs[:, 0], pairs[:, 1]]
        assert len(pairs) == len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == k
        assert taken.max() == dearest
        assert taken.sum() == pytest.approx(total)
    assert len(pair_neurons(costs, 0, "bottleneck")) == 0


def test_very_large_problems_keep_to_the_same_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the padded problem is too large, a full assignment is cut."""
    costs = np.random.default_rng(0).random((30, 40))
    exact = [pair_neurons(costs, k, "bottleneck") for k in (5, 20, 29)]
    monkeypatch.setattr(optimal, "LARGEST_PADDED", 10)
    for k, pairs in zip((5, 20, 29), exact, strict=True):
        cut = pair_neurons(costs, k, "bottleneck")
        assert costs[cut[:, 0], cut[:, 1]].max() == costs[pairs[:, 0], pairs[:, 1]].max()
