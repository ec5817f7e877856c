"""From what was measured at a few shares to a curve over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtz_core.budget.choice import Curve

GRID = tuple(k / 20 for k in range(21))
"""Shares at which the cost of pairing is computed."""


COARSE = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
"""The same where any subset of the tasks may share, which is a longer search."""


MEASURED = (0.5, 1.0)
"""Shares at which the change of the outputs is measured."""


STEEPEST = 1.0


POWERS = (1.0, 3.0)
"""Least and largest exponent with which the outputs' change grows with the cost."""


def halving_power(whole: float, half: float) -> float:
    """Exponent p of a divergence ∝ u^p that falls from `whole` to `half` if u is halved; between 0 and `STEEPEST`."""
    return float(np.clip(np.log2(max(whole, 1e-12) / max(half, 1e-12)), 0.0, STEEPEST))


def changed_per_root(seen: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope through zero of changed answers over the square root of the divergence."""
    roots = np.sqrt([divergence for divergence, _ in seen])
    squares = float((roots * roots).sum())
    return float((roots * [changed for _, changed in seen]).sum() / squares) if squares > 0 else 0.0


def rising(seen: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Pairs of positive numbers of which both rise from one to the next, by the first; others are left out.

    >>> rising([(0.0, 0.0), (2.0, 1.0), (1.0, 0.5), (3.0, 0.9)])
    ((1.0, 0.5), (2.0, 1.0))
    """
    kept: list[tuple[float, float]] = []
    for x, y in sorted(seen):
        if x > (kept[-1][0] if kept else 0.0) and y > (kept[-1][1] if kept else 0.0):
            kept.append((x, y))
    return tuple(kept)


def curve(
    name: str,
    width: int,
    costs: NDArray[np.float64],
    damage: Sequence[float],
    grid: Sequence[float] = GRID,
) -> Curve:
    """A curve through the measured changes, by the cost of pairing in between.

    Between two measured shares the change is a power of the cost, E ∝ c^p; below the first it goes on with that power.
    """
    costs = np.maximum.accumulate(costs)
    at = [list(grid).index(share) for share in MEASURED]
    changes = np.maximum.accumulate(np.maximum(damage, 1e-12))
    errors = np.zeros(len(grid))
    for k, cost in enumerate(costs):
        if cost <= 0.0 or k == 0:
            continue
        i = max(1, next(i for i, j in enumerate(at) if j >= k))  # the last one measured is the last of all
        low, high = costs[at[i - 1]], costs[at[i]]
        power = np.log(changes[i] / changes[i - 1]) / np.log(high / low) if high > low > 0.0 else 1.0
        power = float(np.clip(power, *POWERS)) if k < at[0] else float(power)
        anchor = i - 1 if k < at[0] else i
        errors[k] = changes[anchor] * (cost / costs[at[anchor]]) ** power if costs[at[anchor]] > 0 else 0.0
    errors = np.maximum.accumulate(errors)
    counts = [round(share * width) for share in grid]
    kept = [k for k in range(len(grid)) if k == 0 or counts[k] > counts[k - 1]]
    measured = sorted({round(share * width) for share in MEASURED})
    return Curve(
        name,
        tuple(counts[k] for k in kept),
        tuple(float(errors[k]) for k in kept),
        tuple(measured),
    )
