"""A run played again for a class: event by event, in slow motion, with a pause wherever somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from mtz_core.data.bundled import inputs_text
from mtz_core.figures.curves import error_curves
from mtz_core.figures.text import error_text, percent_text
from pages.ui import address, frame
from pages.ui.diagram import diagram
from pages.ui.run_diagram import drawing_of
from pages.ui.story import Story, tell

if TYPE_CHECKING:
    from mtz_core.runs.records import RunRecord, StoredEvent

MOMENTS = (
    "Started",
    "LayerCalibrated",
    "DifferenceComputed",
    "LayerZipped",
    "LayerCompensated",
    "Evaluated",
    "Finished",
)
"""Events at which a replay stops for a moment; `RetrainEnded` comes with the measurement that follows."""
PACES = {"slow": 3.0, "steady": 1.2, "quick": 0.4}
"""Seconds from one moment to the next."""


def moments(events: Sequence[StoredEvent]) -> list[int]:
    """Return the indices of the events at which a replay stops."""
    return [k for k, event in enumerate(events) if event.kind in MOMENTS]


def area(record: RunRecord, tasks: Sequence[str], events: Sequence[StoredEvent]) -> None:
    """Draw the controls and the run as it was at the moment that they show."""
    stops = moments(events)
    if len(stops) < 2:
        st.info("There is nothing to play: the run ended before its first layer.", icon=":material/info:")
        return
    playing = bool(st.session_state.get(f"playing-{record.id}"))
    pace = PACES.get(address.asked("pace") or "", PACES["steady"])
    st.fragment(_stage, run_every=pace if playing else None)(record, tasks, list(events), stops)


def _stage(record: RunRecord, tasks: Sequence[str], events: list[StoredEvent], stops: list[int]) -> None:
    at, playing = f"url-at-{record.id}", f"playing-{record.id}"
    if at not in st.session_state:
        wanted = address.asked("at") or ""
        st.session_state[at] = min(int(wanted), len(stops) - 1) if wanted.isdecimal() and len(wanted) < 9 else 0
        st.session_state[f"{at}-drawn"] = None
    if st.session_state.get(playing) and st.session_state[f"{at}-drawn"] == st.session_state[at]:
        _move(at, 1, len(stops))
        if st.session_state[at] == len(stops) - 1:
            st.session_state[playing] = False
            st.rerun()
    _controls(at, playing, len(stops))
    now = int(st.session_state[at])
    st.session_state[f"{at}-drawn"] = now
    shown = events[: stops[now] + 1]
    inputs = inputs_text(record.summary["tasks"], record.summary.get("inputs", ()))
    story, whole = tell(shown, tasks, inputs), tell(events, tasks, inputs)
    st.markdown(f"### {frame.plain(story.log[-1][1]) if story.log else 'Nothing has happened yet'}")
    st.caption(_standing(story))
    drawing = drawing_of(record, until=shown[-1].seq)
    if drawing is not None:
        diagram(drawing, key=f"replay-{record.id}", on_layer=None)
    figure = error_curves(
        story.measurements, layers=whole.layers, tasks=tasks, retrain_steps=whole.retrain_steps, kept=story.kept,
        inputs=story.inputs, mode=frame.theme(),
    )  # fmt: skip
    highest = max((error for m in whole.measurements for error in m.errors if error == error), default=1.0)
    figure.update_yaxes(range=[0.0, 1.05 * highest or 1.0])
    frame.show(figure, "replay-curves", alt=f"Test error of every task up to moment {now + 1} of {len(stops)}")


def _controls(at: str, playing: str, count: int) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", key="replay-controls"):
        st.button("Step back", icon=":material/skip_previous:", key="replay-back", on_click=_move, args=(at, -1, count))
        on = bool(st.session_state.get(playing))
        if st.button(
            "Pause" if on else "Play", icon=":material/pause:" if on else ":material/play_arrow:", type="primary",
            key="replay-play", on_click=_toggle, args=(at, playing, count),
        ):  # fmt: skip
            st.rerun()  # whether the picture moves by itself is decided outside of this fragment
        st.button("Step on", icon=":material/skip_next:", key="replay-on", on_click=_move, args=(at, 1, count))
        before = address.asked("pace")
        pace = address.choice(st.segmented_control, "Pace", list(PACES), name="pace", default="steady", required=True)
        if on and before != address.asked("pace") and pace:
            st.rerun()
    st.slider(
        "Moment", 1, count, int(st.session_state[at]) + 1, key=f"{at}-slider", on_change=_slide, args=(at,),
        format=f"%d of {count}",
    )  # fmt: skip


def _move(at: str, by: int, count: int) -> None:
    st.session_state[at] = min(max(int(st.session_state[at]) + by, 0), count - 1)
    st.session_state[f"{at}-slider"] = st.session_state[at] + 1


def _slide(at: str) -> None:
    st.session_state[at] = int(st.session_state[f"{at}-slider"]) - 1


def _toggle(at: str, playing: str, count: int) -> None:
    st.session_state[playing] = not st.session_state.get(playing)
    if st.session_state[playing] and st.session_state[at] == count - 1:
        _move(at, -count, count)


def _standing(story: Story) -> str:
    """Size and errors so far, in a line."""
    said = [] if not story.sizes else [f"{percent_text(story.sizes[-1].versus_all)} of the size of all parents"]
    if story.errors is not None:
        said += [f"error on {task} {error_text(e)}" for task, e in zip(story.tasks, story.errors, strict=False)]
    return frame.plain(" · ".join(said)) or "Before the first layer."
