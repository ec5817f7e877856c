"""A clickable heatmap on a canvas: hover reads a cell, click or Enter chooses it, chosen pairs are drawn over it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from mtz_core.figures.pooling import Floats, Integers, Pooled, cheapest_in_block, pool_minimum, to_bytes

_HERE = Path(__file__).parent
_heatmap = st.components.v2.component(
    "mtz_heatmap",
    html=(_HERE / "heatmap.html").read_text(encoding="utf-8"),
    css=(_HERE / "heatmap.css").read_text(encoding="utf-8"),
    js=(_HERE / "heatmap.js").read_text(encoding="utf-8"),
)
LIMIT = 512
EXACT = 128 * 128  # so many values are also sent as numbers, to be read out exactly


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
    rows = np.arange(matrix.shape[0]) if rows is None else rows
    columns = np.arange(matrix.shape[1]) if columns is None else columns
    blocks = pool_minimum(matrix[np.ix_(rows, columns)], LIMIT) if pooled is None else pooled
    place_row = np.full(matrix.shape[0], -1)
    place_row[rows] = np.arange(rows.size)
    place_column = np.full(matrix.shape[1], -1)
    place_column[columns] = np.arange(columns.size)

    def place(i: int, j: int) -> list[int] | None:
        a, b = int(place_row[i]), int(place_column[j])
        return list(blocks.block(a, b)) if a >= 0 and b >= 0 else None

    marks = [] if pairs is None else [at for at in (place(int(i), int(j)) for i, j in pairs) if at is not None]

    def chosen() -> None:
        cell = st.session_state[key].cell
        if not cell or on_cell is None:
            return
        a, b = int(cell["i"]), int(cell["j"])
        if 0 <= a < blocks.values.shape[0] and 0 <= b < blocks.values.shape[1]:
            r, c = cheapest_in_block(matrix[np.ix_(rows, columns)], blocks, a, b)
            on_cell(int(rows[r]), int(columns[c]))

    _heatmap(
        key=key,
        data={
            "rows": blocks.values.shape[0],
            "columns": blocks.values.shape[1],
            "levels": base64.b64encode(to_bytes(blocks.values, *scale).tobytes()).decode(),
            "low": scale[0],
            "high": scale[1],
            "clipped": bool(np.nanmax(blocks.values) > scale[1] * (1 + 1e-9)),
            "pairs": marks,
            "selected": None if selected is None else place(*selected),
            "selectedValue": None if selected is None else _numbers(matrix[selected])[0],
            "names": list(names),
            "rowLabels": _labels(rows, blocks.row_edges, labels[0] if labels else None),
            "columnLabels": _labels(columns, blocks.column_edges, labels[1] if labels else None),
            "pooled": not blocks.exact,
            "values": _numbers(blocks.values) if blocks.exact and blocks.values.size <= EXACT else None,
            "mark": mark,
            "marked": marked,
            "readonly": on_cell is None,
        },
        on_cell_change=chosen,
    )


def _labels(order: Integers, edges: Integers, names: Sequence[str] | None) -> list[str]:
    """Name what each block holds: one neuron, or the first and the last."""
    say = (lambda k: str(k)) if names is None else (lambda k: names[k])
    return [say(order[a]) if b - a == 1 else f"{say(order[a])}…{say(order[b - 1])}" for a, b in pairwise(edges)]


def _numbers(values: Any) -> list[float | None]:
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in np.ravel(values)]
