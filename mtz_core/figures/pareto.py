"""Which runs are worth looking at: those that no other run beats in size and in error at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pareto_front(sizes: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Return the indices of the points that no other point dominates, by increasing size.

    A point dominates another if it is nowhere larger and somewhere smaller. Equal points dominate each other not:
    all of them are kept. A point with a missing coordinate (NaN) is never on the front.

    >>> pareto_front([1.0, 2.0, 3.0], [5.0, 4.0, 6.0])
    [0, 1]
    """
    size, error = np.asarray(sizes, dtype=float), np.asarray(errors, dtype=float)
    if size.shape != error.shape or size.ndim != 1:
        raise ValueError(f"{size.shape} sizes came with {error.shape} errors; one of each per point is needed")
    known = np.flatnonzero(~np.isnan(size) & ~np.isnan(error))
    front: list[int] = []
    best = np.inf  # least error among strictly smaller points
    for value in np.unique(size[known]):
        same = known[size[known] == value]
        least = error[same].min()
        if least < best:
            front += [int(k) for k in same[error[same] == least]]
            best = least
    return front
