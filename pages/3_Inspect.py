"""Look into one layer of a run: all neuron pairs, the chosen ones, and what any two neurons have in common."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from mtz_core.data.bundled import SETS, inputs_text
from mtz_core.data.words import as_word
from mtz_core.figures import inspect as draw
from mtz_core.figures import pooling
from mtz_core.figures.inputs import is_picture, sketch
from mtz_core.figures.names import task_labels
from mtz_core.figures.palette import GLYPHS
from mtz_core.figures.text import percent_text
from pages.ui import address, frame
from pages.ui.heatmap import LIMIT, heatmap

WEIGHED = "How much the outputs of the two differ at best, times the harmonic mean of how much they matter."
MATTERS = (
    "How far a wrong output of the neuron changes its network's answer, found from the network's own predictions; "
    "the layer's mean is one."
)
NO_PAIRS = np.empty((0, 2), dtype=np.int64)


def choose_layer(run: Any, layers: list[str]) -> str:
    zipped = [event.data["layer"] for event in frame.store().events(run.id, kinds=["LayerZipped"])]
    first = next((layer for layer in layers if layer in zipped), layers[0])
    return address.choice(st.selectbox, "Layer", layers, name="layer", default=first, what="layer")


def choose_tasks(arrays: Any, labels: list[str]) -> tuple[int, int]:
    """Return the two tasks whose neurons are compared; with two tasks there is nothing to choose."""
    couples = {f"{labels[t]} × {labels[u]}": (t, u) for t, u in draw.compared_tasks(arrays)}
    if len(couples) == 1:
        return next(iter(couples.values()))
    return couples[address.choice(st.selectbox, "Tasks", list(couples), name="tasks", what="tasks")]


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
    if order == "pairs on the diagonal":
        return pooling.diagonal_order(n, pairs[:, 0]), pooling.diagonal_order(m, pairs[:, 1])
    return np.arange(n), np.arange(m)


def layer_summary(run: Any, layer: str) -> dict[str, Any] | None:
    """Return the `LayerZipped` event of a layer, once it was zipped."""
    events = frame.store().events(run.id, kinds=["LayerZipped"])
    return next((event.data for event in events if event.data["layer"] == layer), None)


def choose_view(size: int) -> tuple[str, str, int, bool]:
    """Return colour scale, order, width of the region (0: the whole layer), and whether pairs are marked."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        scale = address.choice(
            st.segmented_control, "Colour scale", ["this layer", "whole network"], name="scale", required=True
        )
        order = address.choice(
            st.segmented_control, "Order", ["as in the networks", "pairs on the diagonal"], name="order", required=True
        )
        widths = {"whole layer": 0, "64 × 64": 64, "16 × 16": 16}
        regions = [name for name, width in widths.items() if width < size]
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
    return scale, order, widths[region], marked


def chosen_cell(difference: Any, pairs: Any) -> tuple[int, int]:
    """Return the cell that the URL names, else the cheapest pair, else the least difference."""
    n, m = difference.shape
    i, j = address.asked_number("i", n, what="row"), address.asked_number("j", m, what="column")
    if i is not None and j is not None:
        return i, j
    if len(pairs):
        return int(pairs[0, 0]), int(pairs[0, 1])
    return divmod(int(np.nanargmin(difference)), m) if np.isfinite(difference).any() else (0, 0)


def look_at(i: int, j: int) -> None:
    st.query_params["i"], st.query_params["j"] = str(i), str(j)


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
        number(names[0], name="i", high=n - 1, default=i)
        number(names[1], name="j", high=m - 1, default=j)
        st.download_button(
            "All values (.npy)",
            data=lambda: _npy(difference),
            file_name=file_name,
            mime="application/octet-stream",
            icon=":material/download:",
            on_click="ignore",
        )


def show_cell(
    run: Any,
    layer: str,
    arrays: Any,
    difference: Any,
    pairs: Any,
    couple: tuple[int, int],
    cell: tuple[int, int],
    labels: list[str],
) -> None:
    """Everything about two neurons: difference, ranks, weights, merged weights, the images they fire on."""
    (t, u), (i, j) = couple, cell
    facts = draw.cell_facts(difference, pairs, i, j)
    st.subheader(f"{labels[t]} {i} and {labels[u]} {j}", anchor=False)
    if facts.pair is not None:
        st.badge(
            f"Merged: pair {draw.cost_rank(arrays['costs'], facts.pair)} of {len(pairs)}",
            icon=":material/link:",
            color="green",
        )
    elif len(pairs) or "merged" in arrays:
        st.badge("Not merged with each other", icon=":material/link_off:", color="gray")
    else:
        st.badge("Not paired yet", icon=":material/hourglass_top:", color="gray")
    with st.container(horizontal=True):
        weighed = f"matters_{t}" in arrays and f"matters_{u}" in arrays
        st.metric("Functional difference", f"{facts.difference:.4g}", help=WEIGHED if weighed else None)
        st.metric(
            f"Rank for {labels[t]} {i}", f"{facts.rank_in_row} of {facts.columns}", help="1 is the closest partner."
        )
        st.metric(
            f"Rank for {labels[u]} {j}", f"{facts.rank_in_column} of {facts.rows}", help="1 is the closest partner."
        )
        if weighed:
            both = [float(arrays[f"matters_{x}"][n]) for x, n in ((t, i), (u, j))]
            st.metric("How much they matter", f"{both[0]:.2g} and {both[1]:.2g}", help=MATTERS)
    if facts.pair is None and len(pairs):
        partners = (
            (labels[t], i, labels[u], facts.partner_of_i),
            (labels[u], j, labels[t], facts.partner_of_j),
        )
        st.markdown(
            "  \n".join(
                f"{a} {x} " + (f"was merged with {b} {y}." if y is not None else "stays with its own task.")
                for a, x, b, y in partners
            )
        )
    if f"weights_{t}" not in arrays:
        st.info("The weights appear when the layer has been zipped.", icon=":material/hourglass_top:")
        return
    show_weights(run, layer, arrays, facts.pair, couple, cell, labels)
    show_images(run, arrays, couple, cell, labels)


def show_weights(
    run: Any,
    layer: str,
    arrays: Any,
    pair: int | None,
    couple: tuple[int, int],
    cell: tuple[int, int],
    labels: list[str],
) -> None:
    """The incoming weights of both neurons and of the merged one over the inputs that all tasks share."""
    (t, u), (i, j) = couple, cell
    a = arrays[f"weights_{t}"][i][arrays[f"columns_{t}"]]
    b = arrays[f"weights_{u}"][j][arrays[f"columns_{u}"]]
    merged = None if pair is None else arrays["merged"][pair]
    image = image_shape(run.id, t)
    info = draw.layer_info(run_started(run.id), layer, image)
    last = arrays[f"weights_{t}"].shape[1] - 1
    apart = info.bias and last not in arrays[f"columns_{t}"]  # every task keeps its own bias
    if apart:
        info = replace(info, bias=False)
    (w_a, bias_a), (w_b, bias_b) = info.split(a), info.split(b)
    w_merged, bias_merged = (None, None) if merged is None else info.split(merged)
    if apart:
        bias_a, bias_b = float(arrays[f"weights_{t}"][i][-1]), float(arrays[f"weights_{u}"][j][-1])
    tiles = draw.tiling(w_a.size, info.kernel, info.inputs, image)
    figure = draw.weight_figure(
        [w_a, w_merged, w_b],
        [f"{labels[t]} {i}", "merged", f"{labels[u]} {j}"],
        tiles,
        mode=frame.theme(),
    )
    frame.show(
        figure,
        "weights",
        alt=f"Incoming weights of {labels[t]} neuron {i} and {labels[u]} neuron {j}"
        + (", and of the neuron they were merged into." if merged is not None else "; they were not merged."),
        file_name=f"{run.id}-{layer}-{i}-{j}-weights",
    )
    private = [arrays[f"weights_{x}"].shape[1] - arrays[f"columns_{x}"].size - int(apart) for x in couple]
    biases = "No bias" if bias_a is None else f"Bias: {bias_a:.3g} and {bias_b:.3g}"
    if apart:
        biases += ", before the merge; each task keeps its own"
    if bias_merged is not None:
        biases += f", merged {bias_merged:.3g}"
    what = {
        "image": "Each picture is the neuron's weights laid out as the input image.",
        "tiles": "Each tile is the neuron's weights from one shared input channel.",
        "bars": "One bar for each shared input neuron.",
    }[tiles.kind]
    own = (
        f" {private[0]} inputs of {labels[t]} and {private[1]} of {labels[u]} "
        "are not shared and keep their own weights."
        if any(private)
        else ""
    )
    factors = "" if pair is None else _factors(arrays, couple, cell, labels)
    st.caption(f"{what} {biases}.{factors}{own}")


def _factors(arrays: Any, couple: tuple[int, int], cell: tuple[int, int], labels: list[str]) -> str:
    """How many times the merged weights each task uses, where every task has a scale of its own."""
    if f"scales_{couple[0]}" not in arrays:
        return ""
    a, b = (float(arrays[f"scales_{task}"][neuron]) for task, neuron in zip(couple, cell, strict=True))
    return f" {labels[couple[0]]} uses the merged weights {a:.3g} times, {labels[couple[1]]} {b:.3g} times."


def show_images(run: Any, arrays: Any, couple: tuple[int, int], cell: tuple[int, int], labels: list[str]) -> None:
    """The calibration images on which each neuron fires most."""
    for task, neuron in zip(couple, cell, strict=True):
        images = calibration_images(run.id, task)
        if images is None or f"top_images_{task}" not in arrays:
            continue
        top, values = arrays[f"top_images_{task}"][neuron], arrays[f"top_values_{task}"][neuron]
        keep = [k for k in range(top.size) if 0 <= top[k] < len(images)][:5]
        if not keep:
            continue
        data = run.summary["tasks"][task]
        how = (
            "fires most on"
            if values[keep[0]] > 0
            else f"never fires on the calibration {inputs_text([data])}; it comes closest on"
        )
        st.markdown(f"**{GLYPHS[task % len(GLYPHS)]} {labels[task]} {neuron}** {how}")
        with st.container(horizontal=True, gap="small"):
            for k in keep:
                sample = images[top[k]]
                if is_picture(sample):
                    st.image(draw.thumbnail(sample), caption=f"{values[k]:.3g}", width=56)
                else:
                    known = SETS.get(data)
                    spelled = (
                        as_word(sample.astype(np.int64)) if known is not None and known.inputs == "words" else None
                    )
                    with st.container(width="content"):
                        st.html(sketch(sample, spelled))
                        st.caption(f"{values[k]:.3g}")


@st.cache_data(max_entries=8, show_spinner=False)
def _started(run_id: str) -> dict[str, Any] | None:
    event = frame.store().last_event(run_id, "Started")
    return None if event is None else event.data


def run_started(run_id: str) -> dict[str, Any]:
    return _started(run_id) or {}


def calibration_images(run_id: str, task: int) -> Any:
    """Return the stored calibration images of a task, or `None` where none were kept."""
    from mtz_core.errors import RunError

    try:
        return frame.store().images(run_id, task)
    except (RunError, OSError):
        return None


def image_shape(run_id: str, task: int) -> tuple[int, ...] | None:
    images = calibration_images(run_id, task)
    return None if images is None else tuple(images.shape[1:])


def show_pairs(
    run: Any,
    layer: str,
    arrays: Any,
    difference: Any,
    couple: tuple[int, int],
    cell: tuple[int, int],
    labels: list[str],
) -> None:
    """The layer's pairs as a table and as a curve of costs."""
    pairs, costs = arrays["pairs"], arrays["costs"]
    rows = draw.pair_rows(difference if pairs.shape[1] == 2 else None, pairs, costs, labels)
    neurons = pairs[np.argsort(costs, kind="stable")][:, list(couple)]
    key = f"pairs-{run.id}-{layer}"

    def pick() -> None:
        chosen = st.session_state[key].selection.rows
        if chosen and chosen[0] < len(neurons):
            look_at(*(int(neuron) for neuron in neurons[chosen[0]]))

    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Merged pairs", anchor=False)
        st.caption(f"{len(pairs)} pairs of {layer}, cheapest first. Tick a row to look at the pair above.")
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
    with right:
        st.subheader("What the pairs cost", anchor=False)
        selected = next((k for k, (i, j) in enumerate(neurons) if (i, j) == cell), None)
        frame.show(
            draw.cost_curve(costs, selected=selected, mode=frame.theme()),
            "costs",
            alt=f"Costs of the {len(pairs)} pairs of {layer}, sorted, and their running sum.",
            file_name=f"{run.id}-{layer}-costs",
        )


def show_errors(run: Any) -> None:
    """Predicted against measured loss of every layer that was zipped."""
    events = [event.data for event in frame.store().events(run.id, kinds=["LayerZipped"])]
    inputs = inputs_text(run.summary["tasks"])
    st.subheader("Predicted and measured loss of every layer", anchor=False)
    number = lambda data, name: math.nan if data[name] is None else float(data[name])  # noqa: E731
    frame.show(
        draw.error_bars(
            [data["layer"] for data in events],
            [number(data, "predicted") for data in events],
            [number(data, "measured") for data in events],
            [number(data, "scale") for data in events],
            measured_on=events[-1]["measured_on"] if events else "evaluation",
            inputs=inputs,
            mode=frame.theme(),
        ),
        "losses",
        alt=f"For every layer: the loss of its merged neurons, predicted from calibration {inputs} and measured.",
        file_name=f"{run.id}-losses",
    )
    st.caption(
        "Loss: how much the merged neurons' outputs differ from the parents', in percent of their own strength. "
        f"The prediction is cross-validated between two halves of the calibration {inputs}."
    )


def _npy(matrix: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(matrix), allow_pickle=False)
    return buffer.getvalue()


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
    lead="Look into a layer: how different any two neurons are, which became one, and what that cost.",
)
with frame.problems():
    top = st.columns([2, 1, 1])
    with top[0]:
        run = frame.choose_run()
    if run is None:
        st.stop()
    if frame.is_live(run.status):
        follow(run.id, state_of(run.id))
    layers = frame.store().layers(run.id)
    labels = task_labels(run.summary["tasks"], run.summary["parents"])
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
                st.caption(run.message)
        frame.link(
            frame.ZIP,
            "Watch this run" if frame.is_live(run.status) else "Go to Zip",
            icon=":material/compress:",
            run=run.id,
        )
        st.stop()
    with top[1]:
        layer = choose_layer(run, layers)
    arrays = frame.store().layer_arrays(run.id, layer)
    if not draw.compared_tasks(arrays):
        st.info(f"No differences were kept for {layer}.", icon=":material/info:")
        st.stop()
    with top[2]:
        couple = choose_tasks(arrays, labels)
    difference = arrays[f"difference_{couple[0]}_{couple[1]}"]
    arrays = draw.shared_by(arrays, couple)
    pairs = arrays["pairs"][:, list(couple)] if "pairs" in arrays else NO_PAIRS
    summary = layer_summary(run, layer)
    if summary is not None and summary["scale"]:
        st.markdown(
            f"<p class='quiet'>{layer}: {len(pairs)} of {min(difference.shape)} neurons are shared; "
            f"their outputs change by {percent_text(summary['measured'] / summary['scale'], 1)} of their strength.</p>",
            unsafe_allow_html=True,
        )
    scale, order, width, marked = choose_view(max(difference.shape))
    cell = chosen_cell(difference, pairs)
    left, right = st.columns([11, 10], gap="large")
    with left:
        st.subheader("Functional difference", anchor=False)
        show_map(
            difference,
            pairs,
            cell,
            (f"{labels[couple[0]]} neuron", f"{labels[couple[1]]} neuron"),
            key=f"map-{run.id}-{layer}-{couple[0]}-{couple[1]}",
            scale=(network_range(run.id, run.attempt, (layer,) if scale == "this layer" else tuple(layers), couple)),
            order=order,
            width=width,
            marked=marked,
            pooled=partial(pooled_map, run.id, run.attempt, layer, couple, order, len(pairs)),
            file_name=f"{run.id}-{layer}-difference.npy",
        )
    with right:
        show_cell(run, layer, arrays, difference, pairs, couple, cell, labels)
    st.divider()
    if "pairs" in arrays:
        show_pairs(run, layer, arrays, difference, couple, cell, labels)
    show_errors(run)
