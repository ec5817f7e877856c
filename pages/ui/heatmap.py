"""A clickable heatmap on a canvas: hover reads a cell, click or Enter chooses it, chosen pairs are drawn over it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from mtz_core.figures.pooling import Floats, Integers, Pooled, cheapest_in_tile, pool_minimum, to_bytes

_HERE = Path(__file__).parent
_heatmap = st.components.v2.component(
    "mtz_heatmap",
    html=(_HERE / "heatmap.html").read_text(encoding="utf-8"),
    css=(_HERE / "heatmap.css").read_text(encoding="utf-8"),
    js=(_HERE / "heatmap.js").read_text(encoding="utf-8"),
)
LIMIT = 512
EXACT = 128 * 128  # so many values are also sent as numbers, to be read out exactly


class View:
    """What is shown of a matrix (n, m): some rows and columns in some order, pooled to the tiles of the canvas."""

    def __init__(self, matrix: Floats, rows: Integers | None, columns: Integers | None, pooled: Pooled | None) -> None:
        self.rows = np.arange(matrix.shape[0]) if rows is None else rows
        self.columns = np.arange(matrix.shape[1]) if columns is None else columns
        self.matrix = matrix
        self.tiles = pool_minimum(self._shown(), LIMIT) if pooled is None else pooled
        self.shown_at = [np.full(size, -1) for size in matrix.shape]
        for shown, order in zip(self.shown_at, (self.rows, self.columns), strict=True):
            shown[order] = np.arange(order.size)

    def cell_of(self, i: int, j: int) -> list[int] | None:
        """Return the tile in which entry (i, j) lies; `None` where it is not shown."""
        a, b = int(self.shown_at[0][i]), int(self.shown_at[1][j])
        return list(self.tiles.tile(a, b)) if a >= 0 and b >= 0 else None

    def cell(self, a: int, b: int) -> tuple[int, int] | None:
        """Return the entry (i, j) that tile (a, b) shows; `None` where there is no such tile."""
        down, across = self.tiles.values.shape
        if not (0 <= a < down and 0 <= b < across):
            return None
        r, c = cheapest_in_tile(self._shown(), self.tiles, a, b)
        return int(self.rows[r]), int(self.columns[c])

    def _shown(self) -> Floats:
        return self.matrix[np.ix_(self.rows, self.columns)]


def heatmap(
    matrix: Floats,
    *,
    key: str,
    rows: Integers | None = None,
    columns: Integers | None = None,
    pairs: Integers | None = None,
    selected: tuple[int, int] | None = None,
    scale: tuple[float, float],
    names: tuple[str, str],
    labels: tuple[Sequence[str], Sequence[str]] | None = None,
    mark: str = "merged pair",
    marked: bool = True,
    pooled: Pooled | None = None,
    on_cell: Callable[[int, int], Any] | None,
) -> None:
    """Draw `matrix` (n, m), pooled by minimum where it is too large, and call `on_cell(i, j)` when a cell is chosen.

    Args:
        rows, columns: which entries are shown, in which order (default: all). `i`, `j`, `pairs` and `selected`
            always count in the matrix itself.
        pairs: (k, 2) cells to mark.
        scale: values of the first and the last colour.
        names: what a row and what a column is.
        labels: what to call each row and column of `matrix` (default: their numbers).
        mark: what the marked cells are.
        marked: whether they are drawn; `False` leaves them to the read-out.
        pooled: what `pool_minimum` makes of the entries shown, where the caller has it already.
        on_cell: `None` makes a map that can only be read.
    """
    view = View(matrix, rows, columns, pooled)
    marks = [view.cell_of(int(i), int(j)) for i, j in ([] if pairs is None else pairs)]

    def chosen() -> None:
        cell = st.session_state[key].cell
        if cell and on_cell is not None and (found := view.cell(int(cell["i"]), int(cell["j"]))) is not None:
            on_cell(*found)

    _heatmap(
        key=key,
        data={
            **_picture(view.tiles, scale),
            "pairs": [at for at in marks if at is not None],
            "selected": None if selected is None else view.cell_of(*selected),
            "selectedValue": None if selected is None else _numbers(matrix[selected])[0],
            "names": list(names),
            "rowLabels": _labels(view.rows, view.tiles.row_edges, labels[0] if labels else None),
            "columnLabels": _labels(view.columns, view.tiles.column_edges, labels[1] if labels else None),
            "mark": mark,
            "marked": marked,
            "readonly": on_cell is None,
        },
        on_cell_change=chosen,
    )


def _picture(tiles: Pooled, scale: tuple[float, float]) -> dict[str, Any]:
    """What the canvas paints: a byte per tile, and the values themselves where they are exact and few."""
    return {
        "rows": tiles.values.shape[0],
        "columns": tiles.values.shape[1],
        "levels": base64.b64encode(to_bytes(tiles.values, *scale).tobytes()).decode(),
        "low": scale[0],
        "high": scale[1],
        "clipped": bool(np.nanmax(tiles.values) > scale[1] * (1 + 1e-9)),
        "pooled": not tiles.exact,
        "values": _numbers(tiles.values) if tiles.exact and tiles.values.size <= EXACT else None,
    }


def _labels(order: Integers, edges: Integers, names: Sequence[str] | None) -> list[str]:
    """Name what each tile holds: one neuron, or the first and the last."""
    say = (lambda k: str(k)) if names is None else (lambda k: names[k])
    return [say(order[a]) if b - a == 1 else f"{say(order[a])}…{say(order[b - 1])}" for a, b in pairwise(edges)]


def _numbers(values: Any) -> list[float | None]:
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in np.ravel(values)]
