"""The pairs of a layer as a table and as curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from mtz_core.figures import inspect as draw
from mtz_core.runs.estimated import Estimated, Neurons
from mtz_core.runs.undone import Undone, of_pair
from pages.ui import address, frame, inspect_estimate, inspect_harm
from pages.ui.inspect_harm import known

ESTIMATED = "estimated harm"
COSTS = ("cost", "sum of costs", "rank in row", "rank in column")
"""Columns that come after it: on a narrow screen the first ones are seen."""


def _first(guess: Estimated | None, measured: Undone | None) -> tuple[float, float]:
    """What pairs are sorted by: estimates, then what was measured; none comes last."""
    return (
        -math.inf if guess is None else guess.total,
        -math.inf if measured is None else measured.divergence,
    )


def _with_harm(
    rows: Sequence[dict[str, Any]], guesses: Sequence[Estimated | None], found: Sequence[Undone | None]
) -> list[dict[str, Any]]:
    """The rows of the table with what is estimated and what was measured of each pair."""
    made = []
    for row, guess, each in zip(rows, guesses, found, strict=True):
        row = dict(row)
        if any(guesses):
            costs = {name: row.pop(name) for name in list(row) if name in COSTS}
            row |= {ESTIMATED: guess and 1000 * guess.total, "±": guess and 1000 * guess.error, **costs}
        if any(found):
            row |= {"harm, points": each and sum(each.points), "harm, nats": each and each.divergence}
        made.append(row)
    return made


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
    named = [tuple(None if n < 0 else int(n) for n in pairs[k]) for k in order]
    found = [of_pair(known(run), layer, pair) for pair in named]
    estimates = inspect_estimate.known(run, layer)
    keys = [_first(estimates.get(pair), each) for pair, each in zip(named, found, strict=True)]
    worst = sorted(range(len(rows)), key=keys.__getitem__, reverse=True)
    rows = _with_harm(rows, [estimates.get(pair) for pair in named], found)
    rows, order = [rows[k] for k in worst], order[worst]
    named = [named[k] for k in worst]
    key = f"pairs-{run.id}-{layer}"

    def pick() -> None:
        chosen = st.session_state[key].selection.rows
        if chosen and chosen[0] < len(named):
            _look_at(named[chosen[0]], couple, labels)

    st.subheader("Merged pairs", anchor=False)
    first = "" if not any(found) else "those that were measured to do most harm first, then "
    if estimates:
        first = "those that are estimated to do most harm first, then " + first.replace("first", "next")
    st.caption(
        f"{len(pairs)} pairs of {frame.plain(layer)}, {first}dearest first. Tick a row to see the pair on the map."
    )
    if rows:
        inspect_estimate.show_estimates(run, layer, named, labels)
        if estimates and st.button("Look at this pair", icon=":material/search:", key="worst-pair"):
            _look_at(named[0], couple, labels)
            st.rerun()
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
                ESTIMATED: st.column_config.NumberColumn(format="%.2f", help=f"In {inspect_estimate.UNIT} per input."),
                "±": st.column_config.NumberColumn(format="%.2f", help="One standard error of the estimate."),
            },
        )
        inspect_estimate.offer_estimates(run, layer)
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


def _look_at(pair: Neurons, couple: tuple[int, int], labels: Sequence[str]) -> None:
    """Open the map at a pair; between two tasks that have it, where the chosen ones do not."""
    held = [t for t, n in enumerate(pair) if n is not None]
    t, u = couple if set(couple) <= set(held) else (held[0], held[-1])
    other = {} if (t, u) == couple else {"tasks": f"{labels[t]} × {labels[u]}"}
    address.move(view="map", i=pair[t], j=pair[u], **other)


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
