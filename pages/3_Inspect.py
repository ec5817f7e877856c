"""Look into one layer of a run: all neuron pairs, the chosen ones, and what any two neurons have in common."""

from __future__ import annotations

import html
from functools import partial
from typing import Any

import streamlit as st

from mtz_core.figures import inspect as draw
from mtz_core.figures.names import task_labels
from mtz_core.figures.text import percent_text
from mtz_core.runs.undone import of_layers
from pages.ui import address, frame, inspect_glance, inspect_harm, inspect_origin, rival_run, what_if
from pages.ui.inspect_map import CHECKS as MAP
from pages.ui.inspect_map import NO_PAIRS, choose_view, chosen_cell, network_range, pooled_map, show_map
from pages.ui.inspect_pair import show_cell
from pages.ui.inspect_pairs import show_pairs
from pages.ui.inspect_stored import layer_summary
from pages.ui.run_diagram import show_layers

VIEWS = {"map": "Map and pair", "origin": "Where it comes from", "pairs": "All pairs", "harm": "Harm by layer"}
PARAMETERS = ("run", "view", "layer", "tasks", *MAP, "i", "j")


def choose_layer(run: Any, layers: list[str]) -> str:
    zipped = [event.data["layer"] for event in frame.store().events(run.id, kinds=["LayerZipped"])]
    worst = inspect_harm.layers_by_harm(run, layers)
    first = next((layer for layer in worst if layer in zipped), layers[0])
    return address.choice(st.selectbox, "Layer", layers, name="layer", default=first, what="layer", drop=("i", "j"))


def couples_of(arrays: Any, labels: list[str]) -> dict[str, tuple[int, int]]:
    """Return any two tasks whose neurons are compared, by the name of their choice."""
    return {f"{labels[t]} × {labels[u]}": (t, u) for t, u in draw.compared_tasks(arrays)}


def choose_tasks(arrays: Any, labels: list[str]) -> tuple[int, int]:
    """Return the two tasks whose neurons are compared; with two tasks there is nothing to choose."""
    couples = couples_of(arrays, labels)
    if len(couples) == 1:
        return next(iter(couples.values()))
    return couples[address.choice(st.selectbox, "Tasks", list(couples), name="tasks", what="tasks")]


@st.fragment(run_every=2.0)
def follow(run_id: str, seen: tuple[Any, ...]) -> None:
    """While the run is going on, rerun the page when there is something new to look at."""
    if state_of(run_id) != seen:
        st.rerun()
    st.caption("This run is going on. New layers appear here by themselves.")


def state_of(run_id: str) -> tuple[Any, ...]:
    last = frame.store().last_event(run_id, "LayerZipped")
    return str(frame.store().get(run_id).status), len(frame.store().layers(run_id)), None if last is None else last.seq


frame.page(
    "Inspect",
    lead="Look into a layer: how different any two neurons are, which became one, and what harm that does.",
)
with frame.problems():
    names = (*PARAMETERS, *rival_run.parameters(address.asked("run")))
    address.vet(dict.fromkeys(names, address.anything) | {"run": frame.check_run()})
    top = st.columns([2, 1, 1])
    with top[0]:
        run = frame.choose_run()
    if run is None:
        st.stop()
    if frame.is_live(run.status):
        follow(run.id, state_of(run.id))
    layers = frame.store().layers(run.id)
    labels = task_labels(run.summary["tasks"], run.summary["parents"])
    if run.spec.rival is not None:
        rival_run.look_into(run, labels)
        st.stop()
    if not layers:
        if frame.is_live(run.status):
            st.info(
                "The first layer is still being compared. It appears here when it is ready.",
                icon=":material/hourglass_top:",
            )
        else:
            st.info(
                "This run ended before its first layer was compared, so there is nothing to look into.",
                icon=":material/info:",
            )
            if run.message:
                st.caption(frame.plain(run.message))
        frame.link(
            frame.ZIP,
            "Watch this run" if frame.is_live(run.status) else "Go to Zip",
            icon=":material/compress:",
            run=run.id,
        )
        st.stop()
    address.vet({"layer": address.among(layers), "view": address.among(list(VIEWS)), "*": address.anything})
    with top[1]:
        layer = choose_layer(run, layers)
    arrays = frame.store().layer_arrays(run.id, layer)
    if not draw.compared_tasks(arrays):
        st.info(f"No differences were kept for {frame.plain(layer)}.", icon=":material/info:")
        st.stop()
    address.vet({"tasks": address.among(list(couples_of(arrays, labels))), "*": address.anything} | MAP)
    with top[2]:
        couple = choose_tasks(arrays, labels)
    what_if.show_family(run, labels)
    harm = of_layers(inspect_harm.known(run))
    show_layers(run, layers, layer, {name: each.points for name, each in harm.items()})
    inspect_glance.show_layers(run, layers, layer, couple)
    difference = arrays[f"difference_{couple[0]}_{couple[1]}"]
    rows, columns = map(address.index, difference.shape)
    address.vet({"i": rows, "j": columns, "*": address.anything})
    arrays = draw.shared_by(arrays, couple)
    pairs = arrays["pairs"][:, list(couple)] if "pairs" in arrays else NO_PAIRS
    summary = layer_summary(run, layer)
    if summary is not None and summary["scale"]:
        st.html(
            f"<p class='quiet'>{html.escape(layer)}: {len(pairs)} of {min(difference.shape)} neurons are shared; "
            f"their outputs change by {percent_text(summary['measured'] / summary['scale'], 1)} of their strength.</p>",
        )
    cell = chosen_cell(difference, pairs)
    view = address.choice(
        st.segmented_control, "View", list(VIEWS), name="view", what="the view", required=True,
        format_func=VIEWS.__getitem__, label_visibility="collapsed",
    )  # fmt: skip
    if view == "pairs":
        if "pairs" in arrays:
            show_pairs(run, layer, arrays, difference, couple, cell, labels)
        else:
            st.info("The pairs appear when the layer has been zipped.", icon=":material/hourglass_top:")
    elif view == "harm":
        inspect_harm.show_harm(run, labels)
    elif view == "origin":
        inspect_origin.show_origin(run, layer, difference, couple, cell, labels)
    else:
        scale, order, width, marked = choose_view(max(difference.shape))
        left, right = st.columns([11, 10], gap="large")
        with left:
            st.subheader("Functional difference", anchor=False)
            show_map(
                difference,
                pairs,
                cell,
                (f"{labels[couple[0]]} neuron", f"{labels[couple[1]]} neuron"),
                key=f"map-{run.id}-{layer}-{couple[0]}-{couple[1]}",
                scale=(
                    network_range(run.id, run.attempt, (layer,) if scale == "this layer" else tuple(layers), couple)
                ),
                order=order,
                width=width,
                marked=marked,
                pooled=partial(pooled_map, run.id, run.attempt, layer, couple, order, len(pairs)),
                file_name=f"{run.id}-{layer}-difference.npy",
            )
        with right:
            show_cell(run, layer, arrays, difference, pairs, couple, cell, labels)
