"""What is shown of a rival's run: its method, size and answers, and what there is not of it, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from mtz_core.errors import MTZError
from mtz_core.figures.settings import rival_text, share_text
from mtz_core.figures.size import counts_from_event, size_bars
from mtz_core.figures.text import count_text, error_text, percent_text, points_text, sentence, times_text
from mtz_core.outputs.types import errors_text
from pages.ui import address, frame, test_drive

if TYPE_CHECKING:
    from mtz_core.runs.records import RunRecord
    from mtz_core.spec import RunSpec
    from mtz_core.structure.sizes import ParameterCounts

ANEW = "A rival merges all layers in one step, so the run begins anew if it is resumed."
WITHOUT_MAP = (
    "A rival pairs channels in a way of its own and merges all layers at once. It computes no functional differences: "
    "there is no map, no pair to look at, and no merge that could be undone alone. What exists is below: size, errors, "
    "and every answer beside the parent's."
)


def parameters(run: str | None) -> tuple[str, ...]:
    """Return what an address may say of a rival's run on Inspect; nothing for any other run."""
    try:
        rival = run is not None and frame.store().get(run).spec.rival is not None
    except MTZError:
        rival = False
    return ("of", "show", "output") if rival else ()


def told(spec: RunSpec) -> None:
    """Say that this is a rival's run, and on what."""
    if spec.rival is None:
        return
    share = share_text(spec.zip.share)
    said = f"{sentence(rival_text(spec.rival))} Share {share}, at most {spec.calibration.images:,} inputs of each task"
    st.info(
        frame.plain(f"{said}. Not a zip: merged by another author's method, without training, for comparison."),
        icon=":material/compare:",
    )


def size(counts: ParameterCounts | None, tasks: Sequence[str]) -> None:
    """Draw what all tasks share and what each has alone, beside the parents."""
    if counts is None:
        return
    st.subheader("Size", anchor=False)
    frame.show(
        size_bars(counts, tasks=tasks, mode=frame.theme(), name="merged"),
        "rival-size",
        alt=f"Size: {count_text(counts.shared)} parameters shared, {count_text(sum(counts.private))} private, of "
        f"{count_text(sum(counts.parents))}",
    )
    st.caption(
        "Counted as for a zip: a weight that went into several tasks is stored once. Unlike a zipped network, a merged "
        "one computes every channel for whatever task is asked."
    )


def files(spec: RunSpec) -> None:
    """Say why there is no network to download, and how to make it again."""
    assert spec.rival is not None
    st.subheader("Take it with you", anchor=False)
    st.caption(
        "Of a rival, sizes, errors and answers are kept; its network is not, and there is no file of it. In Python it "
        "is made again in the time that this run took."
    )
    settings = "".join(f", {name}={value!r}" for name, value in spec.rival.settings.items())
    with st.expander("Make it again in Python", icon=":material/code:"):
        st.code(
            "from mtz_core.baselines import merge_networks\n\n"
            f'result = merge_networks(parents, calibration, "{spec.rival.method}", share={spec.zip.share}{settings})\n'
            "answers = result.network(inputs, task=0)",
            language="python",
        )


def look_into(run: RunRecord, tasks: Sequence[str]) -> None:
    """What Inspect shows instead of layers: what the method has no map for, size, errors, answers."""
    known = {"of": address.among(tasks), "show": address.among(list(test_drive.SHOW)), "*": address.anything}
    address.vet(known)
    told(run.spec)
    counts = run.summary.get("counts")
    if str(run.status) != "finished" or not counts:
        st.info(
            "This run is going on. What it comes to appears here."
            if frame.is_live(run.status)
            else "This run did not finish, so there is nothing to look into.",
            icon=":material/hourglass_top:" if frame.is_live(run.status) else ":material/info:",
        )
        if run.message and not frame.is_live(run.status):
            st.caption(frame.plain(run.message))
        seen = "Watch this run" if frame.is_live(run.status) else "See what happened"
        frame.link(frame.ZIP, seen, icon=":material/timeline:", run=run.id)
        return
    st.caption(WITHOUT_MAP)
    found = counts_from_event(counts)
    _numbers(run, found, tasks)
    size(found, tasks)
    st.subheader("Answers", anchor=False)
    test_drive.area(run, tasks)
    with st.container(horizontal=True):
        frame.link(frame.ZIP, "How it went", icon=":material/timeline:", run=run.id)
        frame.link(frame.COMPARE, "Compare", icon=":material/compare_arrows:", run=run.id)


def _numbers(run: RunRecord, counts: ParameterCounts, tasks: Sequence[str]) -> None:
    errors = run.summary.get("errors") or [None] * len(tasks)
    parents = run.summary.get("parent_errors") or [None] * len(tasks)
    columns = st.container(key="run-numbers").columns(1 + len(tasks))
    columns[0].metric(
        "Size against all parents", percent_text(counts.versus_all),
        f"{count_text(counts.total)} · {times_text(counts.versus_smallest)} one network",
        delta_color="off", delta_arrow="off",
    )  # fmt: skip
    for column, task, error, parent in zip(columns[1:], tasks, errors, parents, strict=True):
        against = (
            None if error is None or parent is None else f"{points_text(error - parent)} points against its parent"
        )
        column.metric(f"Error on {frame.plain(task)}", error_text(error), against, delta_color="off", delta_arrow="off")
    if said := errors_text(run.types, tasks):
        st.caption(frame.plain(said))
