"""Draw something, or bring a picture, and see what all tasks answer, each parent beside the zipped network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st
from PIL import Image

from mtz_core.data.strokes import as_digit
from mtz_core.errors import MTZError, RunError
from mtz_core.figures.text import percent_text
from mtz_core.runs.live_answers import Asked
from pages.ui import frame, jobs, test_drive

if TYPE_CHECKING:
    from mtz_core.runs.records import RunRecord

_HERE = Path(__file__).parent
_pad = st.components.v2.component(
    "mtz_sketchpad",
    html=(_HERE / "sketchpad.html").read_text(encoding="utf-8"),
    css=(_HERE / "sketchpad.css").read_text(encoding="utf-8"),
    js=(_HERE / "sketchpad.js").read_text(encoding="utf-8"),
)
PAPER = 280
MOST_PROCESSES = 2
MOST_BYTES = 20 * 2**20
PICTURES = ("png", "jpg", "jpeg")


@st.cache_resource(show_spinner=False)
def _asked() -> dict[str, Asked]:
    """Processes that answer, by run: few, the one that was asked last at the end."""
    return {}


def area(record: RunRecord, tasks: Sequence[str]) -> None:
    """Draw the paper, the choice of a file, and the answers to what was asked last."""
    st.subheader("Try it", anchor=False)
    paper, given, said = st.columns([2, 2, 3], gap="large")
    with paper:
        st.markdown("Draw a digit, or whatever comes to mind.")
        drawn = _pad(key="sketchpad", on_ink_change=lambda: None, height=340)
    with given:
        file = st.file_uploader(
            "… or bring a picture", type=list(PICTURES), key="try-picture", max_upload_size=MOST_BYTES // 2**20,
            help="White on black, as the digits are, or whatever the networks were trained on. It is not kept.",
        )  # fmt: skip
    ink = drawn.ink if drawn is not None else None
    if ink:
        st.session_state["asked-of"] = (record.id, *_answered(record, _drawn, ink))
    elif file is not None and st.session_state.get("try-picture-seen") != file.file_id:
        st.session_state["try-picture-seen"] = file.file_id
        st.session_state["asked-of"] = (record.id, *_answered(record, bytes, file.getbuffer()))
    run, picture, answers = st.session_state.get("asked-of", (None, b"", None))
    with said:
        if run != record.id:
            st.caption("The answers of all tasks appear here.")
        elif isinstance(answers, str):
            st.error(frame.plain(answers), icon=":material/error:")
        else:
            _show(record, tasks, picture, answers)


def _answered(record: RunRecord, make: Any, given: Any) -> tuple[bytes, Any]:
    """The picture that was asked about, and the answers, or why there are none."""
    try:
        picture = make(given)
        with st.spinner("The networks look at it…"), jobs.place("inspect", told=False):
            return picture, _process(record.id).ask(picture)
    except MTZError as error:
        return b"", str(error)


def _drawn(ink: str) -> bytes:
    """The drawing as a PNG in the form of MNIST's digits. Raises `DataError` if it is empty, else `RunError`."""
    try:
        strokes = np.frombuffer(base64.b64decode(ink, validate=True), np.uint8).reshape(PAPER, PAPER)
    except (ValueError, TypeError) as error:
        raise RunError("what was drawn did not arrive; draw it again") from error
    out = io.BytesIO()
    Image.fromarray(as_digit(strokes)).save(out, "PNG")
    return out.getvalue()


def _process(run_id: str) -> Asked:
    known = _asked()
    found = known.pop(run_id, None) or Asked(frame.store().root, run_id)
    known[run_id] = found
    while len(known) > MOST_PROCESSES:
        known.pop(next(iter(known))).end()
    return found


def _show(record: RunRecord, tasks: Sequence[str], picture: bytes, answers: Sequence[Any]) -> None:
    source = base64.b64encode(picture).decode()
    st.html(f"<img class='asked' src='data:image/*;base64,{source}' alt='What was asked about' height='72'>")
    for t, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
        if answer is None:
            st.caption(f"{frame.plain(task)}: reads no pictures.")
            continue
        kept = test_drive.answers_of(str(record.path), record.attempt, t)
        names = [each.names for each in kept.outputs] if kept is not None else []
        for k, (own, theirs) in enumerate(zip(answer["parent"], answer["zipped"], strict=True)):
            name = f"{task}: {own['name']}" if "name" in own else task
            st.html(bars_html(name, own, theirs, names[k] if k < len(names) else ()))


def bars_html(name: str, parent: dict[str, Any], zipped: dict[str, Any], names: Sequence[str]) -> str:
    """Return one output's answers as rows of bars, the parent's above the zipped network's."""
    rows = _rows(parent, zipped, names)
    cells = "".join(
        f"<tr><th scope='row'>{html.escape(label)}</th>"
        + "".join(f"<td>{_bar(value, kind)}</td>" for value in pair)
        + "</tr>"
        for label, pair, kind in rows
    )
    return (
        f"<table class='answers'><caption>{html.escape(name)}</caption><thead><tr><td></td><th scope='col'>parent</th>"
        f"<th scope='col'>zipped</th></tr></thead><tbody>{cells}</tbody></table>"
    )


def _rows(
    parent: dict[str, Any], zipped: dict[str, Any], names: Sequence[str]
) -> list[tuple[str, tuple[float | None, float | None], str]]:
    def called(k: int) -> str:
        return names[k] if k < len(names) else str(k)

    kind = parent["kind"]
    if kind == "multiclass":
        sides = [{int(k): float(p) for k, p in side["best"]} for side in (parent, zipped)]
        best = sorted(set().union(*(list(side)[:3] for side in sides)), key=lambda k: -sides[1].get(k, 0.0))
        return [(called(k), (sides[0].get(k), sides[1].get(k)), kind) for k in best]
    pairs = zip(parent["values"], zipped["values"], strict=True)
    return [("yes" if kind == "binary" else called(k), pair, kind) for k, pair in enumerate(pairs)]


def _bar(value: float | None, kind: str) -> str:
    if value is None:
        return "<span class='number'>–</span>"
    if kind == "regression":
        return f"<span class='number'>{value:.2f}</span>".replace("-", "−")
    width = round(100 * min(max(value, 0.0), 1.0))
    return f"<span class='bar' style='width:{width}%'></span><span class='number'>{percent_text(value)}</span>"
