"""The pairs of a layer as a table and as curves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from mtz_core.figures import inspect as draw
from mtz_core.runs.undone import of_pair
from pages.ui import address, frame, inspect_harm
from pages.ui.inspect_harm import known


def show_pairs(
    run: Any,
    layer: str,
    arrays: Any,
    difference: Any,
    couple: tuple[int, int],
    cell: tuple[int, int],
    labels: list[str],
) -> None:
    """The layer's pairs as a table, and below it the curve of costs."""
    pairs, costs = arrays["pairs"], arrays["costs"]
    rows = draw.pair_rows(difference if pairs.shape[1] == 2 else None, pairs, costs, labels)
    order = draw.dearest_first(costs)
    found = [of_pair(known(run), layer, [None if n < 0 else int(n) for n in pairs[k]]) for k in order]
    worst = sorted(range(len(rows)), key=lambda k: -math.inf if (x := found[k]) is None else x.divergence, reverse=True)
    for row, each in zip(rows, found, strict=True) if any(found) else ():
        row |= {"harm, points": each and sum(each.points), "harm, nats": each and each.divergence}
    rows, order = [rows[k] for k in worst], order[worst]
    neurons = pairs[order][:, list(couple)]
    key = f"pairs-{run.id}-{layer}"

    def pick() -> None:
        chosen = st.session_state[key].selection.rows
        if chosen and chosen[0] < len(neurons):
            i, j = map(int, neurons[chosen[0]])
            address.move(view="map", i=i, j=j)

    st.subheader("Merged pairs", anchor=False)
    first = "those that were found to do most harm first, then " if any(found) else ""
    st.caption(
        f"{len(pairs)} pairs of {frame.plain(layer)}, {first}dearest first. Tick a row to see the pair on the map."
    )
    if rows:
        st.dataframe(
            pd.DataFrame(rows),
            hide_index=True,
            height=360,
            key=key,
            on_select=pick,
            selection_mode="single-row",
            column_config={
                "cost": st.column_config.NumberColumn(format="%.4g"),
                "sum of costs": st.column_config.NumberColumn(format="%.4g"),
            },
        )
        inspect_harm.offer_dearest(run, layer, len(rows), bool(any(found)))
    else:
        st.info("No neuron of this layer is shared.", icon=":material/info:")
    st.download_button(
        "Pairs (.csv)",
        data=lambda: pd.DataFrame(rows).to_csv(index=False).encode(),
        file_name=f"{run.id}-{layer}-pairs.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
        disabled=not rows,
    )
    _show_curve(run, layer, pairs[np.argsort(costs, kind="stable")][:, list(couple)], costs, cell)


def _show_curve(run: Any, layer: str, ascending: Any, costs: Any, cell: tuple[int, int]) -> None:
    """The costs of the pairs, cheapest first, with the chosen one marked."""
    st.subheader("What the pairs cost", anchor=False)
    selected = next((k for k, (i, j) in enumerate(ascending) if (i, j) == cell), None)
    frame.show(
        draw.cost_curve(costs, selected=selected, mode=frame.theme()),
        "costs",
        alt=f"Costs of the {len(costs)} pairs of {layer}, sorted, and their running sum.",
        file_name=f"{run.id}-{layer}-costs",
    )
