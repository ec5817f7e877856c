"""Where the difference of two neurons comes from: found on demand, kept with the run, and shown again at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from mtz_core.data.bundled import inputs_text
from mtz_core.figures import inspect as weights
from mtz_core.figures import origin as draw
from mtz_core.figures.palette import GLYPHS
from mtz_core.figures.text import percent_text
from mtz_core.runs.origins import layers_path, pair_path, read_layers, read_pair
from mtz_core.zipping.findings import BIAS, Likeness, PairFindings, Responses, Stability
from pages.ui import address, frame
from pages.ui.inspect_pair import show_inputs
from pages.ui.inspect_stored import calibration_images, image_shape, input_kind, run_started
from pages.ui.working import look_into

Couple = tuple[int, int]
OTHERWISE = 0.01
"""A difference that is found again otherwise by more than this is told of."""


@st.cache_resource(max_entries=8, show_spinner=False)
def _pair(folder: Any, layer: str, couple: Couple, cell: Couple, changed: float) -> PairFindings | None:
    """What is kept of a pair; `changed`, when its file was, keys the cache."""
    return read_pair(folder, layer, couple, cell)


@st.cache_resource(max_entries=8, show_spinner=False)
def _layers(folder: Any, changed: float) -> list[Likeness] | None:
    return read_layers(folder)


def show_origin(run: Any, layer: str, difference: Any, couple: Couple, cell: Couple, labels: list[str]) -> None:
    """Draw all that is known of where a difference comes from, or a button that finds it."""
    names = [f"{labels[task]} {neuron}" for task, neuron in zip(couple, cell, strict=True)]
    st.subheader(frame.plain(f"Why {names[0]} and {names[1]} differ"), anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        number = partial(address.number, st.number_input, low=0, step=1, width=170)
        for place, (name, task) in enumerate(zip("ij", couple, strict=True)):
            high = difference.shape[place] - 1
            number(frame.plain(f"{labels[task]} neuron"), name=name, high=high, default=cell[place])
    if str(run.status) != "finished":
        st.info("This can be found once the run is finished.", icon=":material/hourglass_top:")
        return
    with frame.problems():
        path = pair_path(run.path, layer, couple, cell)
        found = _pair(run.path, layer, couple, cell, path.stat().st_mtime) if path.exists() else None
    if found is None:
        st.markdown(
            "Not looked into yet. In seconds, of large networks in minutes, this finds what both neurons put out, "
            "which inputs make the difference, along which directions, and whether other calibration inputs would have "
            "paired the same neurons."
        )
        if st.button("Find out", icon=":material/search:", key="find-origin", type="primary"):
            asked = ["--layer", layer, "--tasks", *map(str, couple), "--neurons", *map(str, cell)]
            _find(run, asked)
    else:
        _show_pair(run, found, float(difference[cell]), labels)
    show_layers(run, layer, labels)


def _show_pair(run: Any, found: PairFindings, then: float, labels: list[str]) -> None:
    tasks = [labels[task] for task in found.tasks]
    if abs(found.difference - then) > OTHERWISE * max(abs(then), 1e-12):
        st.caption(
            f"Found again in the network as it was saved: {found.difference:.4g}; when the layer was paired it was "
            f"{then:.4g}. Retraining, or rules for pairs, lie between the two."
        )
    left, right = st.columns(2, gap="large")
    with left:
        _show_responses(run, found, tasks)
    with right:
        _show_parts(run, found, tasks)
    left, right = st.columns(2, gap="large")
    with left:
        _show_directions(run, found)
    with right:
        _show_stability(found)
        _show_spectrum(run, found, tasks)


def _show_responses(run: Any, found: PairFindings, tasks: list[str]) -> None:
    st.markdown("#### What both put out")
    both = draw.parents_figure(found.responses, tasks, found.neurons, frame.theme())
    places = st.columns([2, 1] if both is not None else 1)
    with places[0]:
        frame.show(
            draw.before_and_after_figure(found.responses, tasks, found.neurons, frame.theme()),
            "before-and-after",
            alt="Outputs of each neuron in the zipped network against those in its parent, on the same inputs.",
            file_name=f"{run.id}-{found.layer}-outputs",
        )
    if both is not None:
        with places[1]:
            frame.show(
                both,
                "parents",
                alt="Outputs of both neurons in their parents against each other, on the same inputs.",
                file_name=f"{run.id}-{found.layer}-parents",
            )
    whys = " ".join(dict.fromkeys(each.why for each in found.responses if each.why))
    most = max(each.images for each in found.responses)
    st.caption(
        f"Outputs before the activation function, at the same places of up to {most} calibration inputs of each task; "
        f"r is Pearson's correlation. {frame.plain(whys)}"
    )
    for side, each in enumerate(found.responses):
        _show_top(run, found, side, each, tasks[side])


def _show_top(run: Any, found: PairFindings, side: int, each: Responses, task: str) -> None:
    """The inputs that excite a neuron most, before and after."""
    number = found.tasks[side]
    images = calibration_images(run.id, number)
    if images is None:
        st.caption("The calibration inputs of this run were too large to be kept, so none are shown.")
        return
    neuron = frame.plain(f"{task} {found.neurons[side]}")
    for what, numbers, values in (
        ("in its parent", each.before, each.before_values),
        ("in the zipped network", each.after, each.after_values),
    ):
        kept = [k for k, n in enumerate(numbers) if 0 <= n < len(images)]
        common = len(set(each.before.tolist()) & set(each.after.tolist()))
        also = f" ({common} of {len(kept)} are the same)" if what.endswith("network") else ""
        st.markdown(f"{GLYPHS[number % len(GLYPHS)]} **{neuron}** {what} is excited most by{also}")
        show_inputs(run, number, images, numbers[kept], values[kept])


def _show_parts(run: Any, found: PairFindings, tasks: list[str]) -> None:
    st.markdown("#### Which inputs make the difference")
    largest = draw.largest_parts(found.parts, tasks)
    frame.show(
        draw.parts_figure(largest, frame.theme()),
        "parts",
        alt="What the input channels that matter most add to the difference, in percent of it.",
        file_name=f"{run.id}-{found.layer}-parts",
    )
    st.caption(
        f"d = {found.difference:.4g} is the sum of all parts. An input that varies together with others may take back "
        "what they add: its part is negative."
    )
    values, bias = found.parts.values, found.parts.channels[found.parts.channel][:, 0] == BIAS
    info = weights.layer_info(run_started(run.id), found.layer, image_shape(run.id, found.tasks[0]))
    tiles = weights.tiling(int((~bias).sum()), info.kernel, info.inputs, image_shape(run.id, found.tasks[0]))
    if tiles.kind == "bars":
        return  # the bars above say it
    frame.show(
        weights.weight_figure([values[~bias]], ["what every weight adds"], tiles, mode=frame.theme()),
        "parts-laid-out",
        alt="What every single weight adds to the difference, laid out as the layer reads its inputs.",
        file_name=f"{run.id}-{found.layer}-weights-parts",
    )


def _show_directions(run: Any, found: PairFindings) -> None:
    st.markdown("#### Along which directions")
    frame.show(
        draw.directions_figure(found.directions, frame.theme()),
        "directions",
        alt="For every direction of the inputs: how much inputs vary along it, how far the neurons differ, and both.",
        file_name=f"{run.id}-{found.layer}-directions",
    )
    size, count = len(found.parts.values), len(found.directions.values)
    if count < size:
        whole = found.difference or 1.0
        said = (
            f"Of {size:,} directions the leading {count} are shown; all others together make "
            f"{percent_text(found.directions.rest / whole, 1)} of the difference."
        )
    else:
        change, part = draw.flattest_half(found.directions)
        said = (
            "The half of the directions along which the inputs vary least holds "
            f"{percent_text(change)} of the change between the neurons, and makes {percent_text(part, 1)} of the "
            "difference."
        )
    st.caption(
        f"{said} A large change along directions in which the inputs hardly vary costs next to nothing. "
        "λ are the eigenvalues of M in the method, ridge included."
    )


def _show_spectrum(run: Any, found: PairFindings, tasks: list[str]) -> None:
    st.markdown("#### How many directions the inputs use")
    frame.show(
        draw.spectrum_figure(found.likeness, tasks, frame.theme()),
        "spectrum",
        alt="Eigenvalues of the Gram of the layer's inputs, for both tasks.",
        file_name=f"{run.id}-{found.layer}-spectrum",
    )
    told = "; ".join(
        f"{task} {each.effective:.1f} of {min(each.rows, each.size):,} (participation ratio {each.participation:.1f})"
        for task, each in zip(tasks, found.likeness, strict=True)
    )
    st.caption(
        frame.plain(
            f"Effective rank: {told}. It is exp of the entropy of the eigenvalues (Roy and Vetterli 2007), of "
            f"{found.likeness[0].rows:,} input rows, not centred."
        )
    )


def _show_stability(found: PairFindings) -> None:
    st.markdown("#### Would other inputs have paired them?")
    told = found.stability
    if told.why:
        st.caption(frame.plain(told.why))
        return
    st.table(stability_rows(told), hide_index=True)
    this = ("Neither half pairs", "One of the halves pairs", "Both halves pair")[sum(told.found)]
    st.caption(
        f"**{this} these two neurons.** The layer was paired again, by the same method, on each half of the "
        f"calibration inputs alone. Drawn at random, two pairings would have {told.chance:.1f} pairs in common."
    )


def stability_rows(told: Stability) -> dict[str, list[str]]:
    """Return the agreement of pairings as a table."""
    share = lambda number, whole: f"{number:,} of {whole:,} ({percent_text(number / max(1, whole))})"  # noqa: E731
    return {
        "pairings": [
            "the run's, found again by half 1",
            "the run's, found again by half 2",
            "half 1's, also in half 2",
        ],
        "pairs that agree": [
            share(told.again[0], told.pairs),
            share(told.again[1], told.pairs),
            share(told.common, told.halves[0]),
        ],
    }


def show_layers(run: Any, layer: str, labels: list[str]) -> None:
    """How alike parents and zipped network are at every layer, or a button that compares them."""
    st.markdown("#### The whole run: parents and zipped network, layer by layer")
    with frame.problems():
        path = layers_path(run.path)
        found = _layers(run.path, path.stat().st_mtime) if path.exists() else None
    if found is None:
        st.caption("Not compared yet.")
        if st.button("Compare all layers", icon=":material/stacked_line_chart:", key="find-layers"):
            _find(run, [])
        return
    frame.show(
        draw.layers_figure(found, labels, layer, frame.theme()),
        "layers",
        alt="For every layer and task: likeness of the outputs of parent and zipped network, and effective rank.",
        file_name=f"{run.id}-layers",
    )
    kinds = inputs_text(run.summary["tasks"], [input_kind(run, t) or "images" for t in range(len(labels))])
    st.caption(
        "CKA: linear centred kernel alignment (Kornblith et al. 2019) of a layer's outputs before the activation "
        f"function, without bias (Song et al. 2012), on up to {max(each.images for each in found)} calibration {kinds} "
        "of each task. 1: the same but for rotation and scale; 0: unrelated."
    )


def _find(run: Any, options: Sequence[str]) -> None:
    """Run `python -m mtz_core origin` and draw the page anew; whatever is clicked meanwhile ends it."""
    look_into(run, "origin", options, "Looking into it…", "This could not be found out.")
