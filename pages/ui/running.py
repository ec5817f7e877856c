"""A run as it happens, and what can be done with it afterwards."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from mtz_core.data.bundled import inputs_text
from mtz_core.figures.curves import SHOWN, Shown, error_curves, loss_curves
from mtz_core.figures.names import task_labels
from mtz_core.figures.size import size_by_layer
from mtz_core.figures.text import (
    bytes_text,
    count_text,
    duration_text,
    error_text,
    percent_text,
    points_text,
    times_text,
)
from mtz_core.outputs.types import errors_text
from mtz_core.spec import dump_run_spec
from mtz_core.structure.sizes import ParameterCounts
from pages.ui import address, frame, jobs, keeping, menu, rival_run, run_replay, setup, test_drive, try_it, visitor
from pages.ui.diagram import details, diagram
from pages.ui.query import query_of
from pages.ui.run_diagram import drawing_of
from pages.ui.story import Story, seconds_left, tell, thinned

if TYPE_CHECKING:
    from mtz_core.outputs.flips import Difference
    from mtz_core.runs.records import RunRecord, StoredEvent

BYTES = 4  # of a stored number
VIEWS = {"how": "How it went", "answers": "Test drive", "replay": "Replay"}


def show_run(run_id: str) -> None:
    """Show a run by its identifier: live while it works, with its results and files afterwards."""
    record = frame.store().get(run_id)
    tasks = task_labels(record.summary["tasks"], record.summary["parents"])
    if chose := [name for name in st.query_params if setup.is_input(name)]:
        address.move(drop=chose)  # what chose the run is in its specification now
    with frame.problems():
        address.vet(_checks(record, tasks))
    live, status, refusal = frame.is_live(record.status), frame.run_status(record), visitor.access().refusal(record)
    if not live:
        frame.follow_live_runs()
    head, actions = st.container(key="run-head").columns([3, 2], vertical_alignment="center")
    with head:
        st.title(frame.plain(frame.run_title(record)), anchor=False)
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            frame.status_chip(status)
            began = "asked for" if status == "waiting" else "started"
            st.caption(f"{began} {frame.run_age(record)} · run {record.id}", width="content")
            keeping.badges(record)
    with actions, st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center"):
        if live and refusal is None:
            _stop_button(run_id)
        elif live:
            st.caption(f":material/lock: {refusal}")
        else:
            if str(record.status) == "finished":
                frame.link(frame.INSPECT, "Inspect", icon=":material/grid_on:", run=record.id, **menu.within(record.id))
                frame.link(frame.COMPARE, "Compare", icon=":material/compare_arrows:", run=record.id)
            if (query := query_of(record.spec)) is not None:
                again = "Zip again" if record.spec.rival is None else "Zip these networks"
                frame.link(frame.ZIP, again, icon=":material/tune:", **query)
    _ending(record, refusal)
    if record.spec.rival is not None:
        rival_run.told(record.spec)
    view = _view(record) if str(record.status) == "finished" else "how"
    if view == "answers":
        test_drive.area(record, tasks)
        if pictured(record.summary) and record.spec.rival is None:
            try_it.area(record, tasks)
    elif view == "replay":
        run_replay.area(record, tasks, _events(record))
    if view != "how":
        _afterwards(record)
        keeping.area(record, refusal, leave=_leave)
        return

    # Only a live run is polled; when it ends, one rerun of the whole page shows what can be done with it.
    every = {"waiting": 2.0}.get(status, 1.0) if live else None  # many may wait, and little changes meanwhile
    st.fragment(_progress, run_every=every)(run_id, tasks, status)

    if not live:
        _afterwards(record)
        keeping.area(record, refusal, leave=_leave)


def _checks(record: RunRecord, tasks: Sequence[str]) -> dict[str, address.Check]:
    """What the address may say of how a run is shown, for `address.vet`; what is read from files only if asked for."""
    known = {"output": address.anything, "at": address.anything}
    if address.asked("output") is not None:
        answers = (test_drive.answers_of(str(record.path), record.attempt, t) for t in range(len(tasks)))
        known["output"] = address.among(list(dict.fromkeys(o.name for a in answers if a for o in a.outputs)))
    if address.asked("at") is not None:
        known["at"] = address.index(len(run_replay.moments(_events(record))))
    return known | {
        "run": address.anything, "view": address.among(_views(record)), "of": address.among(tasks),
        "show": address.among(list(test_drive.SHOW)), "curves": address.among(SHOWN),
        "pace": address.among(list(run_replay.PACES)),
    }  # fmt: skip


def _leave() -> None:
    """Go where a run that was deleted is not."""
    st.query_params.pop("run", None)
    st.switch_page(frame.HOME)


def pictured(summary: Mapping[str, Any]) -> bool:
    """Whether a run's networks read pictures, as far as it wrote down what they read."""
    kinds = summary.get("inputs") or []
    return any(kind == "images" for kind in kinds)


def _views(record: RunRecord) -> list[str]:
    """What can be shown of a run; a rival merges in one step, of which there is nothing to replay."""
    return [name for name in VIEWS if name != "replay" or record.spec.rival is None]


def _view(record: RunRecord) -> str:
    """Draw the choice of what is shown of a finished run."""
    return address.choice(
        st.segmented_control, "View", _views(record), name="view", what="the view", required=True,
        format_func=VIEWS.__getitem__, label_visibility="collapsed",
    )  # fmt: skip


def _stop_button(run_id: str) -> None:
    stopping = frame.store().cancel_requested(run_id)
    if st.button("Stopping…" if stopping else "Stop", icon=":material/stop:", disabled=stopping, key="stop"):
        with frame.problems():
            visitor.access().stop(run_id)
        st.rerun()


def _ending(record: RunRecord, refusal: str | None) -> None:
    """Say how the run ended, where it did not end well, and offer what helps."""
    safe = "Layers that were finished are safe." if record.spec.rival is None else rival_run.ANEW
    match str(record.status):
        case "lost":
            st.warning(
                "The process that worked on this run is gone (stopped from outside, or the computer was restarted). "
                f"{safe}",
                icon=":material/link_off:",
            )
        case "failed":
            st.error(
                frame.plain(record.message or "") or "The run failed and left no message.", icon=":material/error:"
            )
        case "cancelled":
            st.info(f"This run was stopped. {safe}", icon=":material/stop_circle:")
        case "paused":
            st.warning(
                "The process that works on this run gives no sign of life: it was stopped by a signal, or it hangs. "
                "Its place went to another job. When it goes on, so does the run; it can also be stopped and resumed.",
                icon=":material/pause_circle:",
            )
            return
        case "finished" if record.message:
            st.info(frame.plain(record.message), icon=":material/undo:")
            return
        case _:
            return
    if refusal is not None:
        st.caption(f":material/lock: {refusal}")
    elif st.button("Resume", icon=":material/resume:", type="primary", key="resume"):
        with frame.problems():
            jobs.resume(record.id)
        time.sleep(0.3)
        st.rerun()


def _progress(run_id: str, tasks: Sequence[str], seen: str) -> None:
    """Everything that changes while the run works."""
    jobs.move(now=False)
    record = frame.store().get(run_id)
    if frame.is_live(seen):
        frame.show_live_runs(record)
    story = tell(_events(record), tasks, inputs_text(record.summary["tasks"], record.summary.get("inputs", ())))
    if frame.run_status(record) != seen:
        st.rerun()  # status, buttons and files stand outside this fragment
    if frame.is_live(seen):
        _progress_bar(record, story)
    for warning in story.warnings:
        st.caption(f":material/info: {frame.plain(warning)}")
    if not story.log:
        return
    _numbers(story, test_drive.differences(record) if seen == "finished" else [])
    if record.spec.rival is not None:
        rival_run.size(story.sizes[-1] if story.sizes else None, tasks)
        _log(story)
        return
    _drawing(record)
    mode = frame.theme()
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("Error, layer by layer", anchor=False)
        shown = _shown(record)
        frame.show(
            error_curves(
                story.measurements,
                layers=story.layers,
                tasks=tasks,
                retrain_steps=story.retrain_steps,
                kept=story.kept,
                shown=shown,
                inputs=story.inputs,
                mode=mode,
            ),
            "error-curves",
            alt=_errors_in_words(story),
            file_name=f"mtz-error-{run_id}",
        )
        said = errors_text(record.types, tasks)
        st.caption(f"Dashed: each task's own parent. {story.counts_in_words()} {frame.plain(said)}".rstrip())
    with right:
        st.subheader("Size, layer by layer", anchor=False)
        stages, sizes = _size_stages(story)
        frame.show(
            size_by_layer(stages, sizes, tasks=tasks, mode=mode, height=360),
            "size-by-layer",
            alt=_size_in_words(sizes),
            file_name=f"mtz-size-{run_id}",
        )
    if story.steps:
        st.subheader("Retraining loss", anchor=False)
        steps, losses = thinned(story.steps, story.losses)
        frame.show(
            loss_curves(steps, losses, tasks=tasks, mode=mode),
            "loss-curves",
            alt=f"Retraining loss over {len(story.steps)} steps",
            file_name=f"mtz-loss-{run_id}",
        )
        if story.retrained:
            st.caption(frame.plain(story.retrained[-1]))
    _log(story)


def _shown(record: RunRecord) -> Shown:
    """Draw the choice of what the curves show; only wrong answers have a counterpart, right ones."""
    able = [s for s in SHOWN if s != "accuracy" or all(t.kind in ("multiclass", "binary") for t in record.types)]
    return address.choice(
        st.segmented_control, "Curves show", able, name="curves", required=True, label_visibility="collapsed"
    )  # type: ignore[return-value]  # one of them


def _drawing(record: RunRecord) -> None:
    """The network as it is merged; a layer that is opened is told about, with the way to Inspect."""
    drawing = drawing_of(record)
    if drawing is None:
        return
    key = f"layer-of-{record.id}"
    looked_at = drawing.column(st.session_state.get(key, ""))
    diagram(
        drawing,
        key=f"drawing-{record.id}",
        on_layer=lambda layer: st.session_state.update({key: layer}),
        selected=None if looked_at is None else drawing.columns[looked_at].name,
    )
    if looked_at is not None:
        column = drawing.columns[looked_at]
        details(column, drawing)
        if column.state == "merged":
            frame.link(
                frame.INSPECT, f"Inspect {column.name}", icon=":material/grid_on:", run=record.id, layer=column.name
            )


def _events(record: RunRecord) -> list[StoredEvent]:
    """Read only what is new since this session last looked."""
    key = ("events", record.id, getattr(record, "attempt", 1))
    known: list[StoredEvent] = st.session_state.get(key, [])  # type: ignore[call-overload]  # keys are tuples
    known = known + frame.store().events(record.id, after=known[-1].seq if known else 0)
    st.session_state[key] = known  # type: ignore[index]  # keys are tuples
    return known


def _progress_bar(record: RunRecord, story: Story) -> None:
    if frame.store().cancel_requested(record.id):
        kept = " and keeps the finished layers" if record.spec.rival is None else ""
        text = f"Stopping… the worker ends at its next step{kept}."
    elif record.waiting and (said := jobs.where(record.id)) is not None:
        text = said
    elif not story.log:
        text = "Starting… the worker loads the networks (a few seconds)."
    else:
        now = time.time()
        before, seen = st.session_state.get("time-left", {}).get(record.id, (None, now))
        left = seconds_left(story, now, before, now - seen)
        if left is not None:
            st.session_state["time-left"] = {record.id: (left, now)}
        remaining = f", about {duration_text(max(1.0, round(left)))} left" if left is not None else ""
        text = f"{frame.progress_text(record)} done{remaining} · {frame.plain(story.log[-1][1])}"
    st.progress(min(1.0, max(0.0, record.fraction)), text=text)


def _numbers(story: Story, differences: Sequence[Difference | None]) -> None:
    """The size and each task's error, in large type, with the interval of its difference where it is known."""
    columns = st.container(key="run-numbers").columns(1 + len(story.tasks))
    counts = story.sizes[-1] if story.sizes else None
    if counts is not None:
        columns[0].metric(
            "Size against all parents",
            percent_text(counts.versus_all),
            f"{count_text(counts.total)} · {times_text(counts.versus_smallest)} one network",
            delta_color="off",
            delta_arrow="off",
        )
    else:
        columns[0].metric("Size against all parents", "–")
    errors, parents = story.errors, story.parent_errors
    for t, (column, task) in enumerate(zip(columns[1:], story.tasks, strict=True)):
        error = errors[t] if errors else math.nan
        parent = parents[t] if parents else math.nan
        column.metric(
            f"Error on {frame.plain(task)}",
            error_text(error),
            None if math.isnan(error - parent) else f"{points_text(error - parent)} points against its parent",
            delta_color="off",
            delta_arrow="off",
        )
        sure = differences[t] if t < len(differences) else None
        if sure is not None:
            column.caption(test_drive.interval_text(sure) + ("" if sure.clear else ": not clear"))


def _size_stages(story: Story) -> tuple[list[str], list[ParameterCounts]]:
    if not story.sizes:
        return [], []
    parents = story.sizes[0].parents
    return ["parents", *story.stages], [ParameterCounts(0, parents, parents), *story.sizes]


def _errors_in_words(story: Story) -> str:
    if story.errors is None or story.parent_errors is None:
        return "Test error of every task, nothing measured yet"
    pairs = zip(story.tasks, story.errors, story.parent_errors, strict=False)
    return "Test error of every task. " + "; ".join(
        f"{task}: {error_text(e)}, its parent {error_text(p)}" for task, e, p in pairs
    )


def _size_in_words(sizes: Sequence[ParameterCounts]) -> str:
    if not sizes:
        return "Size of the network, nothing zipped yet"
    return f"Size of the network: {count_text(sizes[-1].total)} of {count_text(sum(sizes[0].parents))} parameters"


def _log(story: Story) -> None:
    # The box scrolls, so the keyboard must reach it; the role of a log would take the list's own away.
    lines = "".join(
        f"<li><time>{duration_text(seconds)}</time><span>{html.escape(text)}</span></li>"
        for seconds, text in reversed(story.log[-200:])
    )
    st.subheader("What happened", anchor=False)
    with st.container(height=240, border=True, key="log"):
        st.html(
            f"<div role='log' tabindex='0' aria-label='What happened, newest first'><ol class='log'>{lines}</ol></div>"
        )


def _afterwards(record: RunRecord) -> None:
    """Files of a run that is over."""
    finished = str(record.status) == "finished" and record.spec.rival is None
    if record.spec.rival is not None and str(record.status) == "finished":
        rival_run.files(record.spec)
    if finished:
        counts = record.summary.get("counts")
        st.subheader("Take it with you", anchor=False)
        with st.container(horizontal=True):
            size = f" ({bytes_text(BYTES * counts['total'])})" if counts and "total" in counts else ""
            _file(record.path / "zipped.safetensors", f"Zipped network{size}", f"{record.id}-zipped.safetensors")
            for t, task in enumerate(task_labels(record.summary["tasks"], record.summary["parents"])):
                _file(
                    record.path / f"extracted-{t}.safetensors",
                    f"Only {frame.plain(task)}",
                    f"{record.id}-{task}.safetensors",
                )
                _program(record, t, task)
            _specification(record)
        with st.expander("Load it in Python", icon=":material/code:"):
            st.code(_snippet(record), language="python")
    else:
        with st.container(horizontal=True):
            _specification(record)


def _file(path: Path, label: str, name: str) -> None:
    if path.is_file():
        st.download_button(
            label,
            data=path.read_bytes,
            file_name=name,
            mime="application/octet-stream",
            icon=":material/download:",
            on_click="ignore",
            key=f"download-{path.name}",
        )


def _program(record: RunRecord, number: int, task: str) -> None:
    """One task as a program of torch.export, which a process of its own makes when it is asked for."""
    if not (record.path / "zipped.safetensors").is_file():
        return

    st.download_button(
        f"{frame.plain(task)}: program (.pt2)",
        data=lambda: jobs.exported(record.id, "program", number),
        file_name=f"{record.id}-{task}.pt2",
        mime="application/octet-stream",
        icon=":material/deployed_code:",
        on_click="ignore",
        key=f"download-program-{number}",
        help="For torch.export.load, ExecuTorch or AOTInductor: it runs without this package.",
    )


def _specification(record: RunRecord) -> None:
    st.download_button(
        "Specification (YAML)",
        data=lambda: dump_run_spec(record.spec),
        file_name=f"{record.id}.yaml",
        mime="application/yaml",
        icon=":material/description:",
        on_click="ignore",
        key="download-spec",
    )


def _snippet(record: RunRecord) -> str:
    """Return Python lines that load the zipped network; the file is all that they need."""
    load = f"""from mtz_core import ZippedNetwork

network = ZippedNetwork.load("{record.id}-zipped.safetensors")
single = network.extract(0)  # the first task alone, as a plain module"""
    inputs = inputs_text(record.summary["tasks"], record.summary.get("inputs", ()))
    if record.spec.zip.trunk is None and record.spec.zip.macs is None:
        return f"{load}\nanswer = network({inputs}, task=0)"
    together = f"Together(network)({inputs})  # of all tasks to the same {inputs}; common layers run once"
    return f"from mtz_core.network.together import Together\n{load}\nanswers = {together}"
