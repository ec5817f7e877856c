"""Two neurons of a layer: how different they are, their weights, what they became, and what they fire on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import streamlit as st

from mtz_core.data.bundled import SETS, inputs_text
from mtz_core.data.words import as_word
from mtz_core.figures import inspect as draw
from mtz_core.figures.inputs import picture, sketch
from mtz_core.figures.palette import GLYPHS
from mtz_core.own.shown import shown_transform
from pages.ui import frame, inspect_estimate, inspect_harm, what_if
from pages.ui.inspect_stored import calibration_images, image_shape, input_kind, run_started

WEIGHED = "How much the outputs of the two differ at best, times the harmonic mean of how much they matter."
COST = (
    "What merging added to the layer's loss. The functional difference, d in the method and in Learn, foretells it by "
    "the weights that pairing compares; the cost also counts the targets and scales that were settled afterwards, and "
    "is not weighed by how much the neurons matter. So both numbers differ."
)
MATTERS = (
    "How far a wrong output of the neuron changes its network's answer, found from the network's own predictions; "
    "the layer's mean is one."
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
    st.subheader(frame.plain(f"{labels[t]} {i} and {labels[u]} {j}"), anchor=False)
    if facts.pair is not None:
        st.badge(
            f"Merged: pair {draw.cost_rank(arrays['costs'], facts.pair)} of {len(pairs)}, from the dearest",
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
        if facts.pair is not None:
            st.metric("Cost of merging", f"{float(arrays['costs'][facts.pair]):.4g}", help=COST)
        st.metric(
            frame.plain(f"Rank for {labels[t]} {i}"),
            f"{facts.rank_in_row} of {facts.columns}",
            help="1 is the closest partner.",
        )
        st.metric(
            frame.plain(f"Rank for {labels[u]} {j}"),
            f"{facts.rank_in_column} of {facts.rows}",
            help="1 is the closest partner.",
        )
        if weighed:
            both = [float(arrays[f"matters_{x}"][n]) for x, n in ((t, i), (u, j))]
            st.metric("How much they matter", f"{both[0]:.2g} and {both[1]:.2g}", help=MATTERS)
    merged = None
    if facts.pair is not None:
        merged = [None if n < 0 else int(n) for n in arrays["pairs"][facts.pair]]
        inspect_estimate.show_estimate(run, layer, merged)
        inspect_harm.show_pair_harm(run, layer, merged, labels)
    if len(pairs):
        what_if.show_what_if(run, layer, merged, pairs[draw.dearest_first(arrays["costs"])], couple, cell)
    if facts.pair is None and len(pairs):
        partners = (
            (labels[t], i, labels[u], facts.partner_of_i),
            (labels[u], j, labels[t], facts.partner_of_j),
        )
        st.markdown(
            "  \n".join(
                frame.plain(f"{a} {x} ")
                + (f"was merged with {frame.plain(b)} {y}." if y is not None else "stays with its own task.")
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
        f" {private[0]} inputs of {frame.plain(labels[t])} and {private[1]} of {frame.plain(labels[u])} "
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
    first, second = (frame.plain(labels[task]) for task in couple)
    text = f" {first} uses the merged weights {a:.3g} times, {second} {b:.3g} times."
    if f"gains_{couple[0]}" not in arrays:
        return text
    one, other = (arrays[f"gains_{task}"][arrays[f"columns_{task}"]] for task in couple)
    least, most = np.percentile(other / one, [5, 95])
    return (
        f"{text} Inputs count differently for it, too, most of them {least:.2g} to {most:.2g} times what they do for "
        f"{first}. The merged weights are shown as the first network uses them."
    )


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
        data, kind = run.summary["tasks"][task], input_kind(run, task)
        how = (
            "fires most on"
            if values[keep[0]] > 0
            else f"never fires on the calibration {inputs_text([data], [kind or 'images'])}; it comes closest on"
        )
        st.markdown(f"**{GLYPHS[task % len(GLYPHS)]} {frame.plain(labels[task])} {neuron}** {how}")
        show_inputs(run, task, images, top[keep], values[keep])


def show_inputs(run: Any, task: int, images: Any, numbers: Any, values: Any) -> None:
    """Draw some calibration inputs of a task, each as what it is, with what a neuron puts out for it."""
    data, kind = run.summary["tasks"][task], input_kind(run, task)
    known, parts, how = SETS.get(data), set(), shown_transform(run.spec.networks[task])
    with st.container(horizontal=True, gap="small"):
        for place, (number, value) in enumerate(zip(numbers, values, strict=True), start=1):
            sample = images[number]
            drawn = picture(sample, kind, how)
            if drawn is not None:
                st.image(drawn.pixels, caption=f"{value:.3g}", width=56, alt=f"input {number}, place {place}")
                parts.add(drawn.part)
            else:
                spelled = as_word(sample.astype(np.int64)) if known is not None and known.inputs == "words" else None
                with st.container(width="content"):
                    st.html(sketch(sample, spelled, kind))
                    st.caption(f"{value:.3g}")
    if part := "; ".join(sorted(parts - {""})):
        st.caption(f"Shown: {part}.")
