"""Making a large matrix small enough to draw, without losing its minima: they are the pairs worth merging."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

LEVELS = 255  # colours 0 … 254; the byte 255 says that a value is missing


@dataclass(frozen=True)
class Pooled:
    """Minima of tiles: `values` (r, c); tile a holds rows `row_edges[a]` up to, not including, `row_edges[a + 1]`."""

    values: Floats
    row_edges: Integers
    column_edges: Integers

    @property
    def exact(self) -> bool:
        """Whether every tile is one entry."""
        rows, columns = self.values.shape
        return bool(self.row_edges[-1] == rows and self.column_edges[-1] == columns)

    def tile(self, i: int, j: int) -> tuple[int, int]:
        """Return the tile that holds entry (i, j)."""
        return (
            int(np.searchsorted(self.row_edges, i, side="right")) - 1,
            int(np.searchsorted(self.column_edges, j, side="right")) - 1,
        )


def pool_minimum(matrix: Floats, limit: int = 512) -> Pooled:
    """Divide (n, m) into at most `limit` × `limit` nearly equal tiles and keep each tile's minimum.

    A missing entry (NaN) is ignored unless its whole tile is missing. Raises `ValueError` for an empty matrix.

    >>> pool_minimum(np.array([[4.0, 1.0], [3.0, 2.0]]), limit=1).values
    array([[1.]])
    """
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"cannot pool an array of shape {matrix.shape}; a matrix with at least one entry is needed")
    edges = [np.linspace(0, n, min(n, limit) + 1).round().astype(np.int64) for n in matrix.shape]
    rows = np.fmin.reduceat(matrix, edges[0][:-1], axis=0)
    return Pooled(np.fmin.reduceat(rows, edges[1][:-1], axis=1), edges[0], edges[1])


def cheapest_in_tile(matrix: Floats, pooled: Pooled, a: int, b: int) -> tuple[int, int]:
    """Return the (row, column) of the least entry of tile (a, b)."""
    top, left = int(pooled.row_edges[a]), int(pooled.column_edges[b])
    tile = matrix[top : int(pooled.row_edges[a + 1]), left : int(pooled.column_edges[b + 1])]
    flat = 0 if np.isnan(tile).all() else int(np.nanargmin(tile))
    i, j = divmod(flat, tile.shape[1])
    return top + i, left + j


def crop_window(size: int, centre: int, width: int) -> slice:
    """Return the `width` indices around `centre` that lie within [0, size)."""
    width = min(width, size)
    start = min(max(0, centre - width // 2), size - width)
    return slice(start, start + width)


def diagonal_order(size: int, chosen: Integers) -> Integers:
    """Return an order of `size` indices in which the chosen ones come first, as given, and the others follow."""
    rest = np.setdiff1d(np.arange(size), chosen)
    return np.concatenate([np.asarray(chosen, dtype=np.int64), rest])


def colour_range(*matrices: Floats, clip: float = 99.0) -> tuple[float, float]:
    """Return (low, high) for a colour scale: the least entry, and the `clip`-th percentile so that no outlier rules."""
    finite = [m[np.isfinite(m)] for m in matrices]
    finite = [m for m in finite if m.size]
    if not finite:
        return 0.0, 1.0
    low = min(float(m.min()) for m in finite)
    high = max(float(np.percentile(m, clip)) for m in finite)
    return (low, high) if high > low else (low, low + 1.0)


def to_bytes(values: Floats, low: float, high: float) -> NDArray[np.uint8]:
    """Quantise to colours 0 … 254 between `low` and `high` (clipped); missing values become 255."""
    level = np.clip((values - low) / (high - low), 0.0, 1.0) * (LEVELS - 1)
    return np.where(np.isfinite(values), np.rint(np.nan_to_num(level)), LEVELS).astype(np.uint8)
