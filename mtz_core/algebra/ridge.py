"""Choosing the ridge from two halves of the calibration set.

The loss that a merge has on the very samples that it was fitted to says little: with few samples it is close to
zero whatever happens elsewhere. So weights fitted to one half's moments are judged by the other half's. The ridge with
the least such loss is taken, and that loss is what the user is told to expect. The other way round it would be the same
within a few percent, for twice the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
START = 1e-2


def walk_downhill(values: Sequence[float], start: float, loss: Callable[[float], float]) -> float:
    """Return the value with the least loss, for a loss that falls, then rises along `values`.

    The search begins at `start` and looks one step past the best on either side.
    """
    known: dict[int, float] = {}

    def at(index: int) -> float:
        if index not in known:
            known[index] = loss(values[index])
        return known[index]

    best = values.index(start)
    for step in (-1, 1):
        while 0 <= best + step < len(values) and at(best + step) < at(best):
            best += step
    return values[best]
