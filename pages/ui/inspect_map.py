"""The map of a layer: the differences of all pairs of neurons, with the pairs that were merged."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from mtz_core.figures import inspect as draw
from mtz_core.figures import pooling
from pages.ui import address, frame
from pages.ui.heatmap import LIMIT, heatmap

NO_PAIRS = np.empty((0, 2), dtype=np.int64)
SCALES, ORDERS = ("this layer", "whole network"), ("as in the networks", "pairs on the diagonal")
WIDTHS = {"whole layer": 0, "64 × 64": 64, "16 × 16": 16}
"""Of a region of the map; 0 is the whole layer."""
CHECKS = {name: address.among(tuple(able)) for name, able in (("scale", SCALES), ("order", ORDERS), ("region", WIDTHS))}
CHECKS |= {"marks": address.SWITCH}
"""What the URL may say of the map, for `address.vet`."""


@st.cache_data(max_entries=4, show_spinner=False)
def network_range(run_id: str, attempt: int, layers: tuple[str, ...], couple: tuple[int, int]) -> tuple[float, float]:
    """Return a colour range for all layers; `attempt` keys the cache, as a resumed run replaces its arrays."""
    name = f"difference_{couple[0]}_{couple[1]}"
    found = (frame.store().layer_arrays(run_id, layer) for layer in layers)
    return pooling.colour_range(*(arrays[name] for arrays in found if name in arrays))


@st.cache_data(max_entries=8, show_spinner=False)
def pooled_map(
    run_id: str, attempt: int, layer: str, couple: tuple[int, int], order: str, pairs: int
) -> pooling.Pooled:
    """Return a layer's whole map, pooled; `attempt` and the number of pairs key the cache: both can change."""
    arrays = frame.store().layer_arrays(run_id, layer)
    difference = arrays[f"difference_{couple[0]}_{couple[1]}"]
    chosen = draw.shared_by(arrays, couple)["pairs"][:, list(couple)] if pairs else NO_PAIRS
    rows, columns = orders(difference.shape, chosen, order)
    return pooling.pool_minimum(difference[np.ix_(rows, columns)], LIMIT)


def orders(shape: tuple[int, int], pairs: Any, order: str) -> tuple[Any, Any]:
    """Return the rows and the columns of a map in the order in which they are drawn."""
    n, m = shape
    if order == ORDERS[1]:
        return pooling.diagonal_order(n, pairs[:, 0]), pooling.diagonal_order(m, pairs[:, 1])
    return np.arange(n), np.arange(m)


def choose_view(size: int) -> tuple[str, str, int, bool]:
    """Return colour scale, order, width of the region (0: the whole layer), and whether pairs are marked."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        scale = address.choice(st.segmented_control, "Colour scale", list(SCALES), name="scale", required=True)
        order = address.choice(st.segmented_control, "Order", list(ORDERS), name="order", required=True)
        regions = [name for name, width in WIDTHS.items() if width < size]
        region = regions[0]
        if len(regions) > 1:
            region = address.choice(
                st.segmented_control,
                "Region",
                regions,
                name="region",
                required=True,
                help="A region is drawn around the chosen cell, every value exactly.",
            )
        marked = address.switch("Mark pairs", name="marks", help="A ring around every pair that was merged.")
    return scale, order, WIDTHS[region], marked


def chosen_cell(difference: Any, pairs: Any) -> tuple[int, int]:
    """Return the cell that the URL names, else the dearest pair, else the least difference; `pairs` cheapest first."""
    n, m = difference.shape
    i, j = address.asked_number("i", n, what="row"), address.asked_number("j", m, what="column")
    if i is not None and j is not None:
        return i, j
    if len(pairs):
        return int(pairs[-1, 0]), int(pairs[-1, 1])
    return divmod(int(np.nanargmin(difference)), m) if np.isfinite(difference).any() else (0, 0)


def look_at(i: int, j: int) -> None:
    address.move(i=i, j=j)


def show_map(
    difference: Any,
    pairs: Any,
    cell: tuple[int, int],
    names: tuple[str, str],
    *,
    key: str,
    scale: tuple[float, float],
    order: str,
    width: int,
    marked: bool,
    pooled: Callable[[], pooling.Pooled],
    file_name: str,
) -> None:
    """Draw the map, the numbers of the chosen cell, and the download; `pooled` gives the whole map in its order."""
    (n, m), (i, j) = difference.shape, cell
    rows, columns = orders((n, m), pairs, order)
    if width:
        rows = rows[pooling.crop_window(n, int(np.flatnonzero(rows == i)[0]), width)]
        columns = columns[pooling.crop_window(m, int(np.flatnonzero(columns == j)[0]), width)]
    elif max(n, m) > LIMIT:
        st.caption(f"{n} × {m} values are drawn in tiles; each shows its least value. A region shows every value.")
    heatmap(
        difference,
        key=key,
        rows=rows,
        columns=columns,
        pairs=pairs,
        pooled=None if width else pooled(),
        marked=marked,
        selected=cell,
        scale=scale,
        names=names,
        on_cell=look_at,
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        number = partial(address.number, st.number_input, low=0, step=1, width=170)
        number(frame.plain(names[0]), name="i", high=n - 1, default=i)
        number(frame.plain(names[1]), name="j", high=m - 1, default=j)
        st.download_button(
            "All values (.npy)",
            data=lambda: _npy(difference),
            file_name=file_name,
            mime="application/octet-stream",
            icon=":material/download:",
            on_click="ignore",
        )


def _npy(matrix: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(matrix), allow_pickle=False)
    return buffer.getvalue()
