"""Test drive: inputs beside the parents' and the zipped network's answers, those that flipped first."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st
from PIL import Image

from mtz_core.data.bundled import SETS, inputs_text
from mtz_core.data.words import as_word
from mtz_core.figures.confusion import confusion_figure
from mtz_core.figures.inputs import picture, sketch
from mtz_core.figures.text import points_text
from mtz_core.outputs import flips
from mtz_core.own.shown import shown_transform
from mtz_core.runs.answers import TaskAnswers, read_answers
from mtz_core.spec import TransformSpec
from pages.ui import address, frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mtz_core.outputs.flips import Difference, OutputAnswers
    from mtz_core.runs.records import RunRecord


@dataclass(frozen=True)
class Drawn:
    """What decides how a task's inputs are drawn: the name of its data, what they are, and how they were prepared.

    `became` is what the network is called that answers beside the parent.
    """

    data: str
    kind: str | None
    transform: TransformSpec | None
    became: str = "zipped"


SHOW = {"changed": "changed", "worse": "became wrong", "better": "became right", "all": "all kept"}
MARKS = {
    "worse": ("✗", "became wrong"),
    "better": ("✓", "became right"),
    "other": ("≠", "changed"),
    "same": ("=", "same"),
}


@st.cache_resource(show_spinner=False, max_entries=16)  # read, never changed: a copy each time would cost
def answers_of(folder: str, attempt: int, task: int) -> TaskAnswers | None:
    """A task's answers of a finished run."""
    from pathlib import Path

    return read_answers(Path(folder), task)


def differences(record: RunRecord) -> list[Difference | None]:
    """Of every task how much larger the zipped network's error is, with its interval; `None` where nobody can tell."""
    found: list[Difference | None] = []
    for task in range(len(record.summary["tasks"])):
        answers = answers_of(str(record.path), record.attempt, task)
        single = answers is not None and answers.judged and len(answers.outputs) == 1
        found.append(flips.difference(answers.outputs[0]) if answers is not None and single else None)
    return found


def interval_text(difference: Difference) -> str:
    """Say how sure a difference is.

    >>> interval_text(flips.Difference(1.88, -0.8, 4.5, 160))
    '95 % between −0.80 and +4.50'
    """
    return f"95 % between {points_text(difference.low)} and {points_text(difference.high)}"


def area(record: RunRecord, tasks: Sequence[str]) -> None:
    """Show what the networks answer, one task at a time."""
    task = 0
    if len(tasks) > 1:
        chosen = address.choice(
            st.segmented_control,
            "Task",
            list(tasks),
            name="of",
            what="the task",
            required=True,
            format_func=frame.plain,
        )
        task = list(tasks).index(chosen)
    with frame.problems():
        answers = answers_of(str(record.path), record.attempt, task)
    if answers is None:
        st.info(
            "This run was made by an earlier version, which kept no answers. Zip again to look at them.",
            icon=":material/info:",
        )
        return
    data = record.summary["tasks"][task]
    kinds = record.summary.get("inputs", [])
    kind = kinds[task] if task < len(kinds) else None
    inputs = inputs_text([data], [kind] if kind else [])
    output = answers.outputs[0]
    if len(answers.outputs) > 1:
        names = [each.name for each in answers.outputs]
        name = address.choice(
            st.segmented_control,
            "Output",
            names,
            name="output",
            what="the output",
            required=True,
            format_func=frame.plain,
        )
        output = answers.outputs[names.index(name)]
    verdicts = flips.verdicts(output)
    st.markdown(_summary(output, verdicts, inputs, answers.judged))
    became = "zipped" if record.spec.rival is None else "merged"
    how = Drawn(data, kind, shown_transform(record.spec.networks[task]), became)
    left, right = st.columns([3, 2], gap="large")
    with left:
        _gallery(answers, output, verdicts, how)
    with right:
        _table(output, how.became)


def _summary(output: OutputAnswers, verdicts: Sequence[str], inputs: str, judged: bool) -> str:
    counts = {name: verdicts.count(name) for name in MARKS}
    changed = len(verdicts) - counts["same"]
    which = f"test {inputs}" if judged else f"of the {inputs} that calibrated"
    said = f"**{changed:,} of {len(verdicts):,}** {which} are answered otherwise than by the parent"
    if output.truth is not None and changed:
        said += f": {counts['worse']:,} became wrong, {counts['better']:,} became right"
        said += f", {counts['other']:,} are as wrong as before" if counts["other"] else ""
    difference = flips.difference(output)
    if difference is not None:
        what = f"Error {points_text(difference.points)} points, {interval_text(difference)}"
        sure = "" if difference.clear else ": so few cannot tell it from no difference at all"
        said += f".  \n{what}{sure}"
    return f"{said}."


def _gallery(answers: TaskAnswers, output: OutputAnswers, verdicts: Sequence[str], drawn: Drawn) -> None:
    said = {name: [k for k, n in enumerate(answers.shown) if name in ("all", verdicts[n])] for name in SHOW}
    said["changed"] = [k for k, n in enumerate(answers.shown) if verdicts[n] != "same"]
    able = [name for name in SHOW if said[name]]
    if not able:
        st.caption("No inputs were kept to look at: they are too large.")
        return
    chosen = address.choice(
        st.segmented_control, "Show", able, name="show", default=able[0], required=True,
        format_func=lambda name: f"{SHOW[name]} ({len(said[name])})",
    )  # fmt: skip
    cells = [_cell(answers, output, k, verdicts, drawn) for k in said[chosen]]
    wide = "" if output.type.kind == "multiclass" and picture(answers.inputs[0], drawn.kind) is not None else " wide"
    st.html(f"<div class='samples drive{wide}'>{''.join(cells)}</div>")
    st.caption(f"Of each: the parent's answer → the {drawn.became} network's, and what is true where labels say it.")


def _cell(answers: TaskAnswers, output: OutputAnswers, k: int, verdicts: Sequence[str], how: Drawn) -> str:
    number = int(answers.shown[k])
    before, after = (html.escape(flips.answer_text(output, side, number)) for side in (output.parent, output.zipped))
    mark, word = MARKS[verdicts[number]]
    truth = None if output.truth is None else html.escape(flips.answer_text(output, output.truth, number))
    right = f"<small>is {truth}</small>" if truth is not None else ""
    said = (
        f"{mark} {html.escape(flips.change_text(output, number))}" if verdicts[number] != "same" else f"{mark} {after}"
    )
    look = {"worse": " wrong", "better": " right"}.get(verdicts[number], "")
    label = f"{word}: parent {before}, {how.became} {after}" + (f", it is {truth}" if truth is not None else "")
    drawn = drawing(answers.inputs[k], how, truth or before)
    return f"<figure class='sample{look}' aria-label='{label}'>{drawn}<figcaption>{said}{right}</figcaption></figure>"


def drawing(sample: Any, how: Drawn, alt: str) -> str:
    """Return an input as HTML, drawn as what it is: a picture, a curve, a word, a row of numbers."""
    shown = picture(sample, how.kind, how.transform)
    if shown is None:
        known = SETS.get(how.data)
        words = known is not None and known.inputs == "words"
        return sketch(sample, as_word(sample.astype(np.int64)) if words else None, how.kind)
    buffer = io.BytesIO()
    Image.fromarray(shown.pixels).save(buffer, format="PNG")
    source = base64.b64encode(buffer.getvalue()).decode()
    return f"<img src='data:image/png;base64,{source}' alt='{alt}' width='52' height='52'>"


def _table(output: OutputAnswers, became: str) -> None:
    if output.type.kind == "multilabel":
        st.subheader("Which attributes changed", anchor=False)
        rows = flips.attribute_changes(output)
        names = ("attribute", "became yes", "became no", "of")
        st.table(dict(zip(names, zip(*((a, yes, no, f"{n:,}") for a, n, yes, no in rows), strict=True), strict=True)),
                 hide_index=True)  # fmt: skip
        return
    counts = flips.confusion(output)
    if counts is None:
        return
    st.subheader("Which answers became which", anchor=False)
    frame.show(
        confusion_figure(counts, flips.classes(output), frame.theme(), became),
        "confusion",
        alt=f"Table of answers: the parent's down, the {became} network's across.",
        file_name="mtz-confusion",
    )
    st.caption(f"Down: the parent's answer; across: the {became} network's. On the diagonal nothing changed.")
