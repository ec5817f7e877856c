"""Drawing a smaller sample in which every class keeps its share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtz_core.errors import DataError


def stratified_sample(labels: ArrayLike, count: int, seed: int) -> NDArray[np.int64]:
    """Shuffled indices (count,) into `labels` (N,), without repetition, each class with its share.

    Class counts are the exact shares rounded by largest remainder. Raises DataError unless 0 ≤ count ≤ N.

    >>> (stratified_sample([0, 0, 1, 1], 2, seed=0) // 2).tolist()
    [0, 1]
    """
    y = np.asarray(labels)
    if y.ndim != 1:
        raise DataError(f"labels have shape {y.shape}, expected (N,)")
    if not 0 <= count <= y.size:
        raise DataError(f"cannot draw {count} of {y.size} images; ask for at most {y.size}")
    rng = np.random.default_rng(seed)
    classes, members = np.unique(y, return_counts=True)
    exact = members * count / max(y.size, 1)
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    drawn = [rng.permutation(np.flatnonzero(y == c))[:n] for c, n in zip(classes, quota, strict=True)]
    return rng.permutation(np.concatenate([np.empty(0, np.int64), *drawn]))
