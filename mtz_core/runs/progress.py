"""A run's progress and result as lines of text."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from mtz_core.budget.spread import range_text
from mtz_core.events import (
    Event,
    HarmMeasured,
    ImagesTried,
    LayerCompensated,
    LayerFinished,
    LayerZipped,
    LookedAhead,
    Measuring,
    Merged,
    Merging,
    OutputsWeighed,
    Planned,
    Planning,
    RetrainEnded,
    RetrainStep,
    Started,
)
from mtz_core.outputs.types import errors_text
from mtz_core.runs.records import RunRecord
from mtz_core.runs.turns import Standing

BAR = 24
CLEAR = "\r\x1b[K"
WIDTH = 118
"""Characters of a line that is written over."""


def duration(seconds: float) -> str:
    """Return seconds as people say them.

    >>> duration(7.2), duration(75), duration(3720)
    ('7 s', '1 min 15 s', '1 h 2 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def remaining(fraction: float, elapsed: float, began_at: float = 0.0) -> float | None:
    """Return the seconds that are left if work goes on at its pace, `None` while that can't be told.

    `elapsed` seconds took the work from `began_at` (not zero for a resumed run) to `fraction`.
    """
    done = fraction - began_at
    return None if done < 0.01 else elapsed * (1.0 - fraction) / done


def standing_text(standing: Standing) -> str:
    """Say where a job stands in the queue, and what it waits for."""
    if standing.paused:
        return "Paused: its process gave no sign of life, so its place went to another job. It goes on in its turn."
    if standing.short_of is not None:
        need, free = (f"{size // 2**20:,} MiB" for size in standing.short_of)
        return f"Next in the queue. It waits for memory: it needs about {need}, and {free} are free."
    when = f"it starts in about {duration(max(1.0, standing.seconds))}"
    if standing.before == 0:
        return f"Next in the queue; {when}."
    return f"Position {standing.before + 1} in the queue; {when}."


class LiveLine:
    """A line of a terminal that is written over, and lines that stay; where the stream is no terminal, only those."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.live = stream, stream.isatty()

    def show(self, text: str) -> None:
        """Write the line over."""
        if self.live:
            self._stream.write(f"{CLEAR}{text[:WIDTH]}")
            self._stream.flush()

    def print(self, text: str) -> None:
        """Write a line that stays."""
        self._stream.write(f"{CLEAR if self.live else ''}{text}\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the line."""
        self.show("")


class ProgressLine(LiveLine):
    """Shows events on one line that is written over, or, where the stream is no terminal, a line per layer."""

    def __init__(self, stream: TextIO, inputs: Callable[[], str] = lambda: "images") -> None:
        super().__init__(stream)
        self._inputs = inputs
        self._began, self._first, self._shown = time.monotonic(), 0.0, 0.0
        self._layers = 0
        self._fraction: float | None = None

    def __call__(self, event: Event) -> None:
        """Show one event."""
        now = time.monotonic()
        if self._fraction is None:
            self._first = event.fraction
        self._fraction = event.fraction
        if isinstance(event, Started):
            self._layers = len(event.layers)
            for warning in event.warnings:
                self.print(f"warning: {warning}")
        if isinstance(event, RetrainEnded):
            self.print(describe(event, self._inputs()))
            return
        left = remaining(event.fraction, now - self._began, self._first)
        eta = "" if left is None or event.fraction >= 1.0 else f", about {duration(left)} left"
        text = f"{event.fraction:4.0%}  {describe(event, self._inputs())}  ({duration(now - self._began)}{eta})"
        if self.live:
            if now - self._shown > 0.1 or not isinstance(event, RetrainStep):
                self.show(text)
                self._shown = now
        elif isinstance(event, Planned | Started | LayerZipped | LayerFinished | Merging | Merged):
            self.print(text)

    def announce(self, text: str) -> None:
        """Show what is done before the first event, as a bar where it is a part of a whole."""
        found = re.search(r"(\d+)%", text)
        done = int(found[1]) * BAR // 100 if found else 0
        bar = f"[{'#' * done}{'.' * (BAR - done)}] " if found else ""
        self.show(f"{bar}{text}")


def describe(event: Event, inputs: str = "images") -> str:
    """Return what an event says, in a few words; `inputs` is what the networks read."""
    layer = getattr(event, "layer", None)
    match event:
        case ImagesTried() if event.done == event.total:
            known = (
                "" if event.fall == math.inf else f", layers lose {100 * event.fall:.1f} % less than with half as many"
            )
            return f"{event.images:,} {inputs} per task: expected loss {event.loss:.3g}{known}"
        case ImagesTried():
            return f"trying {event.images:,} {inputs} per task, layer {event.done + 1} of {event.total}"
        case Planning():
            return f"planning: {event.group}, step {event.done + 1} of {event.total}"
        case Planned():
            predicted = f"{range_text(event.error, event.inputs)} of the {event.changed} predicted to change"
            return f"planned: {event.parameters:,} parameters, {predicted}"
        case Started():
            layers = f"{len(event.layers)} layers of " if event.layers else ""
            return f"{layers}{len(event.structures)} networks{on_inputs(event.images, inputs)}"
        case Merging():
            return merging_text(event.method, event.task)
        case Merged():
            return f"merged all layers by {event.method}: {event.counts.total:,} parameters"
        case LayerZipped():
            relative = event.predicted / event.scale if event.scale else 0.0
            return f"{layer}: {len(event.pairs)} neurons shared, relative loss {relative:.3f}"
        case LayerCompensated():
            relative = event.predicted / event.scale if event.scale else 0.0
            return f"{layer}: fitted to its parents, relative loss {relative:.3f}"
        case RetrainStep():
            return f"{layer or 'all layers'}: retraining, step {event.step}, loss {sum(event.losses):.3f}"
        case RetrainEnded():
            return event.text
        case OutputsWeighed():
            return f"network {event.task + 1}: how much each output matters, {event.part:.0%}"
        case LookedAhead():
            return f"{layer}: differences in {event.producer}"
        case Measuring():
            return f"zipped; measuring what undoing each of {event.merges} merges would win back"
        case HarmMeasured():
            won = (b - a for b, a in zip(event.errors_before, event.errors_after, strict=True))
            return f"{', '.join(event.layers)} undone: {' / '.join(f'{points:+.2f}' for points in won)} points won back"
        case LayerFinished():
            return f"{layer}: done"
    names = {"LayerCalibrated": "inputs measured", "DifferenceComputed": "neurons compared", "Evaluated": "evaluated"}
    what = names.get(type(event).__name__, type(event).__name__.lower())
    return what if layer is None else f"{layer}: {what}"


def merging_text(method: str, task: int | None) -> str:
    """Say what is done in a rival's run.

    >>> merging_text("permute", None), merging_text("permute", 0)
    ('merging all layers by permute', 'measuring what permute made, task 1')
    """
    return f"merging all layers by {method}" if task is None else f"measuring what {method} made, task {task + 1}"


def on_inputs(counts: Sequence[int], inputs: str) -> str:
    """Return on how many inputs per task a run calibrates.

    >>> on_inputs([500, 500], "images"), on_inputs([1000, 400], "words"), on_inputs([], "images")
    (', 500 images per task', ', 1,000 + 400 words', '')
    """
    if not counts:
        return ""
    return (
        f", {counts[0]:,} {inputs} per task"
        if len(set(counts)) == 1
        else f", {' + '.join(f'{n:,}' for n in counts)} {inputs}"
    )


def result(record: RunRecord) -> str:
    """Return a finished run's sizes and errors as a table."""
    summary = record.summary
    counts: Mapping[str, Any] | None = summary.get("counts")
    lines = []
    if counts:
        lines.append(
            f"{counts['total']:,} numbers instead of {sum(counts['parents']):,}: "
            f"{counts['versus_all']:.1%} of all parents together, {counts['versus_smallest']:.1%} of the smallest"
        )
    before: Sequence[float | None] | None = summary.get("parent_errors")
    after: Sequence[float | None] | None = summary.get("errors")
    if before and after:
        width = max(len(name) for name in summary["parents"])
        wide = max(10, *(len(task) for task in summary["tasks"]))
        lines.append(f"{'parent':{width}}  {'task':{wide}}  error before  after")
        for name, task, old, new in zip(summary["parents"], summary["tasks"], before, after, strict=True):
            lines.append(f"{name:{width}}  {task:{wide}}  {percent(old):>12}  {percent(new):>6}")
        if said := errors_text(record.types, summary["parents"]):
            lines.append(said)
    return "\n".join(lines)


def percent(value: float | None) -> str:
    """Return an error rate as text; `None` is one that nobody could measure."""
    return "–" if value is None else f"{value:.2f} %"


def table(records: Sequence[RunRecord]) -> str:
    """Return one line per run; its tags stand between brackets behind its title."""
    rows = [("RUN", "STATUS", "DONE", "CREATED", "TITLE")]
    for record in records:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.created))
        rival = "" if record.spec.rival is None else f"rival {record.spec.rival.method}: "
        title = record.title or rival + " + ".join(record.summary.get("parents", []))
        tagged = f"{title}  [{', '.join(record.tags)}]" if record.tags else title
        rows.append((record.id, str(record.status), f"{record.fraction:.0%}", created, tagged))
    return "\n".join(f"{a:22}  {b:9}  {c:>4}  {d:16}  {e}".rstrip() for a, b, c, d, e in rows)
