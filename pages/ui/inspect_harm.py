"""Which layer does the harm, and how much one pair does: measured by undoing merges for trial."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import streamlit as st

from mtz_core.data.bundled import inputs_text
from mtz_core.figures.harm import harm_figure, worst_first
from mtz_core.figures.text import error_text, points_text
from mtz_core.runs.undone import Undone, of_layers, of_pair, undone
from pages.ui import frame, jobs
from pages.ui.working import ended

DEAREST = 5
"""Pairs of a layer that are undone one at a time at one click."""


@st.cache_data(max_entries=16, show_spinner=False)
def _known(run_id: str, last: int, file: float) -> list[Undone]:
    """What was undone for trial; the last event and the file's age key the cache."""
    return undone(frame.store(), run_id)


def known(run: Any) -> list[Undone]:
    """Return everything that was undone for trial in a run."""
    last, file = frame.store().last_event(run.id), run.path / "undone.json"
    return _known(run.id, 0 if last is None else last.seq, file.stat().st_mtime if file.exists() else 0.0)


def layers_by_harm(run: Any, layers: Sequence[str]) -> list[str]:
    """Return layers, the one that does most harm first; in their own order where nothing was measured."""
    harm = of_layers(known(run))
    return worst_first(layers, harm, {}) if harm else list(layers)


def show_harm(run: Any, labels: list[str]) -> None:
    """The harm of every layer beside its predicted and measured loss, worst first."""
    events = {e.data["layer"]: e.data for e in frame.store().events(run.id, kinds=["LayerZipped"])}
    inputs = inputs_text(run.summary["tasks"], run.summary.get("inputs", ()))
    harm = of_layers(known(run))
    number = lambda data, name: math.nan if data[name] is None else float(data[name])  # noqa: E731
    losses = {
        layer: (number(data, "predicted"), number(data, "measured"), number(data, "scale"))
        for layer, data in events.items()
    }
    relative = {layer: measured / scale if scale else 0.0 for layer, (_, measured, scale) in losses.items()}
    st.subheader("Which layer does the harm", anchor=False)
    measured_on = next((data["measured_on"] for data in events.values()), "evaluation")
    frame.show(
        harm_figure(
            worst_first(list(losses), harm, relative),
            harm,
            labels,
            losses,
            measured_on=f"{measured_on} {inputs}",
            mode=frame.theme(),
        ),
        "harm",
        alt="For every layer: the error that undoing its merge alone wins back, and its predicted and measured loss.",
        file_name=f"{run.id}-harm",
    )
    if harm:
        some = next(iter(harm.values()))
        st.caption(frame.plain(_told(some, labels, inputs)))
    elif str(run.status) == "finished":
        st.caption("This run did not measure what undoing each merge would win back.")
        if st.button("Measure it", icon=":material/undo:", key="measure-harm"):
            _measured(run, [])
    st.caption(
        "Loss: how much the merged neurons' outputs differ from the parents', in percent of their own strength. "
        f"The prediction is cross-validated between two halves of the calibration {inputs}."
    )


def _told(some: Undone, labels: list[str], inputs: str) -> str:
    before = ", ".join(f"{label} {error_text(e)}" for label, e in zip(labels, some.errors_before, strict=False))
    judged = " / ".join(f"{n:,}" for n in dict.fromkeys(some.images))
    truth = "" if all(some.labelled) else " Where there are no labels, an answer that is not the parent's is an error."
    return (
        f"Harm: the layer's neurons go back to their own tasks, all other pairs stay, and the layers behind are fitted "
        f"anew. Compared with {before} on {judged} {inputs}: all merges, fitted on {some.calibration:,} calibration "
        f"{inputs} per task, without retraining. Harms of layers need not add up.{truth}"
    )


def show_pair_harm(run: Any, layer: str, neurons: Sequence[int | None], labels: list[str]) -> None:
    """What undoing one pair alone wins back, or a button that measures it."""
    found = of_pair(known(run), layer, neurons)
    if found is None:
        if str(run.status) == "finished" and st.button(
            "Measure this pair's harm",
            icon=":material/undo:",
            key="measure-pair",
            help="Undo this pair alone for trial, fit the layers behind anew, and measure. The run stays as it is.",
        ):
            _measured(run, ["--layer", layer, "--neurons", *("-" if n is None else str(n) for n in neurons)])
        return
    won = ", ".join(
        f"{frame.plain(label)} {points_text(points)}" for label, points in zip(labels, found.points, strict=False)
    )
    st.markdown(
        f"Undoing this pair alone wins back **{won}** points of error, and {found.divergence:.2g} nats of divergence "
        "from the parents per input."
    )


def offer_dearest(run: Any, layer: str, pairs: int, done: bool) -> None:
    """Draw a button that undoes the dearest pairs of a layer, one at a time: cost alone does not say which harm."""
    count = min(DEAREST, pairs)
    if str(run.status) != "finished" or done:
        return
    if st.button(
        f"Measure the harm of the {count} dearest",
        icon=":material/undo:",
        key="measure-dearest",
        help="Each pair alone is undone for trial. What a pair costs its layer says little about how much its "
        "undoing would win back; only measuring does.",
    ):
        _measured(run, ["--layer", layer, "--dearest", str(count)])


def _measured(run: Any, options: Sequence[str]) -> None:
    """Run `python -m mtz_core harm` and draw the page anew; whatever is clicked meanwhile ends it."""
    command = [sys.executable, "-m", "mtz_core", "harm", run.id, "--store", str(frame.store().root), *options]
    with frame.problems(), jobs.place("harm"):
        why = ended(command, "Undoing, and fitting the layers behind…")
    if why is not None:
        st.error(f"The harm could not be measured. {frame.plain(why)}", icon=":material/error:")
        return
    st.rerun()
