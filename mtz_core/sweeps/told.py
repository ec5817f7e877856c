"""A sweep as text: its progress on a terminal, as lines of JSON, and the table of all points, also as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from mtz_core.errors import RunError
from mtz_core.runs.progress import LiveLine, duration, percent
from mtz_core.runs.records import RunStatus
from mtz_core.sweeps.events import Begun, Event, Moved, Result
from mtz_core.sweeps.plan import Sweep, value_text

WIDEST = 40
"""Characters of a cell of the table on a terminal."""


class SweepLine(LiveLine):
    """Shows events: how far the sweep is on one line that is written over, and a line for each point that ended."""

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Begun():
                self.print(begun_text(event))
            case Result() if not (event.taken and event.status is RunStatus.FINISHED):
                self.print(result_text(event))
            case Moved():
                self.show(moved_text(event))


def json_lines(stream: TextIO) -> Callable[[Event], None]:
    """Return a listener that writes a line of JSON for each event: `event` names it."""

    def tell(event: Event) -> None:
        fields = result_data(event) if isinstance(event, Result) else vars(event)
        stream.write(json.dumps({"event": type(event).__name__, **fields}, default=str) + "\n")
        stream.flush()

    return tell


def begun_text(event: Begun) -> str:
    """Say what is about to happen."""
    same = "" if event.different == event.points else f", {event.different:,} of them different"
    known = f"; {event.known:,} have finished before and are taken" if event.known else ""
    return f"{event.points:,} points{same}{known}; workers: {event.workers}"


def moved_text(event: Moved) -> str:
    """Say how far a sweep is.

    >>> moved_text(Moved(3, 1, 2, 0, 8, 0.5, 60.0))
    ' 50%  4 of 8 runs ended, 1 failed, 2 at work, about 1 min 0 s left'
    """
    parts = [f"{event.done + event.failed:,} of {event.different:,} runs ended"]
    parts += [f"{count:,} {what}" for count, what in ((event.failed, "failed"), (event.working, "at work")) if count]
    parts += [f"{event.elsewhere:,} at other processes"] if event.elsewhere else []
    if event.stopping:
        parts.append("stopping…")
    elif event.waits is not None:
        parts.append(event.waits)
    elif event.left is not None:
        parts.append(f"about {duration(event.left)} left")
    return f"{event.fraction:4.0%}  {', '.join(parts)}"


def result_text(event: Result) -> str:
    """Say how a point ended, on one line."""
    found = result_data(event)
    errors = " / ".join(percent(error) for error in found["errors"] or ())
    if event.status is not RunStatus.FINISHED:
        ended = f"{event.status}: {event.message or 'stopped'}"
    else:
        ended = f"errors {errors or '–'}, {duration(found['seconds'] or 0.0)}"
    note = f"; {event.message}" if event.message and event.status is RunStatus.FINISHED else ""
    return f"point {event.point.number} ({event.point.text}): {ended}{note}"


def result_data(event: Result) -> dict[str, Any]:
    """Return a point and what became of it as plain data; `size` is relative to the smallest parent, errors in %."""
    summary = event.record.summary if event.record is not None else {}
    counts = summary.get("counts") or {}
    finished = event.status is RunStatus.FINISHED
    return {
        "point": event.point.number,
        "fields": event.point.fields,
        "status": str(event.status),
        "run": event.record.id if event.record is not None else None,
        "taken": event.taken,
        "tasks": summary.get("tasks"),
        "errors": summary.get("errors") if finished else None,
        "parent_errors": summary.get("parent_errors") if finished else None,
        "parameters": counts.get("total") if finished else None,
        "size": counts.get("versus_smallest") if finished else None,
        "seconds": summary.get("seconds") if finished else None,
        "message": event.message,
    }


def results_table(sweep: Sweep, results: Sequence[Result]) -> str:
    """Return one line per point: what varies, errors of every task, size and seconds."""
    tasks = max((len(result_data(each)["errors"] or ()) for each in results), default=0)
    rows = [["point", *(_short(field) for field in sweep.varied), *(f"task {t + 1}" for t in range(tasks))]]
    rows[0] += ["size", "seconds", "run"]
    for each in results:
        found = result_data(each)
        errors = [percent(error) for error in found["errors"] or ()]
        size = "–" if found["size"] is None else f"{found['size']:.1%}"
        seconds = "–" if found["seconds"] is None else f"{found['seconds']:.1f}"
        end = found["run"] or "–" if each.status is RunStatus.FINISHED else f"{each.status} {found['run'] or ''}"
        values = [value_text(each.point.fields[field])[:WIDEST] for field in sweep.varied]
        rows.append([str(found["point"]), *values, *errors, *["–"] * (tasks - len(errors)), size, seconds, end])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def write_csv(path: Path, sweep: Sweep, results: Sequence[Result]) -> None:
    """Write the points with all that is known of them. Raises `RunError` if the file can't be written."""
    found = [result_data(each) for each in results]
    tasks = max((len(each["errors"] or ()) for each in found), default=0)
    per_task = [f"{name} {t + 1}" for name in ("error", "parent error") for t in range(tasks)]
    heading = ["point", *sweep.varied, "status", *per_task, "parameters", "size", "seconds", "run", "message"]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(heading)
            for each in found:
                errors = [
                    (each[name] or [])[t] if t < len(each[name] or ()) else None
                    for name in ("errors", "parent_errors")
                    for t in range(tasks)
                ]
                values = [_cell(each["fields"][field]) for field in sweep.varied]
                rest = [each[name] for name in ("parameters", "size", "seconds", "run", "message")]
                writer.writerow([each["point"], *values, each["status"], *errors, *rest])
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False, default=str)


def _short(field: str) -> str:
    return field.removeprefix("zip.")[:WIDEST]
