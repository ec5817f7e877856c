"""Many runs at once: sizes, errors beside the parents', methods, and two runs beside one another.

Errors of tasks that count different things (wrong answers here, how far values are off there) have no mean. Each is
then taken relative to its own parent's error, and the mean over tasks is that of these ratios.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from mtz_core.figures.names import run_name
from mtz_core.figures.settings import how_text, pairing_text, retraining_text, share_text
from mtz_core.figures.text import count_text, error_text, percent_text, points_text
from mtz_core.spec import NetworkSpec

if TYPE_CHECKING:
    from mtz_core.runs.records import RunRecord

Size = Literal["parameters", "of all parents", "of smallest"]
Measure = Literal["test error", "increase over the parents", "relative to the parents"]
RELATIVE: Measure = "relative to the parents"


@dataclass(frozen=True)
class RunPoint:
    """One finished run: sizes in stored numbers, errors in % per task (NaN: unknown), and what these count."""

    id: str
    title: str
    tasks: tuple[str, ...]
    parents: tuple[str, ...]
    total: int
    parent_sizes: tuple[int, ...]
    errors: tuple[float, ...]
    parent_errors: tuple[float, ...]
    share: str
    pairing: str
    retraining: str
    seconds: float
    units: tuple[str, ...] = ()
    """What each task's error counts (see `TaskType.error`); empty where nobody wrote it down: then wrong answers."""
    method: str = ""
    """how networks were merged, in words: see `how_text`."""
    metric: str = ""
    compensated: bool | None = True
    """`None`: a rival, which knows no compensation."""
    images: int = 0
    """Inputs of each task on which networks were compared (at most: a task may have fewer)."""
    seed: int = 0
    tags: tuple[str, ...] = ()
    rival: str = ""
    """Name of the rival method that merged the networks; empty: they were zipped."""
    networks: tuple[str, ...] = ()
    """What tells the parents from all others, whatever they are called (see `identities`); empty: their names do."""

    @property
    def mixed(self) -> bool:
        """Whether the tasks' errors count different things, so that they have no mean."""
        return len(set(self.units)) > 1

    def size(self, unit: Size, total: float | None = None) -> float:
        """Return this run's size (or that of `total` numbers) in a unit."""
        value = self.total if total is None else total
        if unit == "of all parents":
            return value / max(1, sum(self.parent_sizes))
        return value / max(1, min(self.parent_sizes)) if unit == "of smallest" else float(value)

    def value(self, measure: Measure, task: int | None) -> float:
        """Return the error of a task in %, its increase in points, or its ratio to the parent's error (1: the same).

        `None` takes the mean over the tasks that have labels, of ratios over those that have one.
        """
        if measure == RELATIVE:
            return _mean(self.ratios) if task is None else self.ratios[task]
        errors = _mean(self.errors) if task is None else self.errors[task]
        return errors - self.reference(task) if measure == "increase over the parents" else errors

    @property
    def ratios(self) -> tuple[float, ...]:
        """Each task's error over its parent's; NaN where that is 0 or unknown."""
        pairs = zip(self.errors, self.parent_errors, strict=True)
        return tuple(error / parent if parent > 0 else math.nan for error, parent in pairs)

    def reference(self, task: int | None) -> float:
        """Return the parents' own error."""
        return _mean(self.parent_errors) if task is None else self.parent_errors[task]


def run_point(record: RunRecord) -> RunPoint | None:
    """Read a record's summary; `None` while it lacks its size or its errors."""
    summary = record.summary
    counts, errors = summary.get("counts"), summary.get("errors")
    if not counts or not errors:
        return None
    parents, rival = tuple(str(name) for name in summary["parents"]), record.spec.rival
    return RunPoint(
        id=record.id,
        title=run_name(record),
        tasks=tuple(str(name) for name in summary["tasks"]),
        parents=parents,
        total=int(counts["shared"]) + sum(int(n) for n in counts["private"]),
        parent_sizes=tuple(int(n) for n in counts["parents"]),
        errors=_numbers(errors),
        parent_errors=_numbers(summary.get("parent_errors") or [None] * len(errors)),
        share=share_text(record.spec.zip.share),
        pairing=pairing_text(record.spec.zip) if rival is None else "–",
        retraining=retraining_text(record.spec),
        seconds=float(summary.get("seconds") or 0.0),
        units=tuple(kind.error for kind in record.types),
        method=how_text(record.spec),
        metric=record.spec.zip.metric if rival is None else "–",
        compensated=record.spec.zip.compensate if rival is None else None,
        images=record.spec.calibration.images,
        seed=record.spec.zip.seed,
        tags=record.tags,
        rival="" if rival is None else rival.method,
        networks=identities(record),
    )


def identities(record: RunRecord) -> tuple[str, ...]:
    """Return what tells each of a run's parents from all others: weights, data and all else but what it is called.

    A bundled network as it comes is told by its name.
    """
    found = []
    for network in record.spec.networks:
        bare = network.model_copy(update={"name": None})
        plain = bare.parent is not None and bare == NetworkSpec(parent=bare.parent)
        found.append(str(bare.parent) if plain else hashlib.sha256(bare.model_dump_json().encode()).hexdigest())
    return tuple(found)


def same_parents(points: Sequence[RunPoint]) -> dict[str, list[RunPoint]]:
    """Group points by their networks, whatever their order; only those within a group can be compared.

    Groups are called by the names of their networks; where others are called the same, a few digits tell them apart.
    """
    groups: dict[tuple[str, ...], list[RunPoint]] = {}
    for point in points:
        groups.setdefault(tuple(sorted(point.networks or point.parents)), []).append(point)
    names = {key: " + ".join(sorted(found[0].parents)) for key, found in groups.items()}
    count = Counter(names.values())
    told = {
        key: name if count[name] == 1 else f"{name} · {hashlib.sha256(repr(key).encode()).hexdigest()[:6]}"
        for key, name in names.items()
    }
    return {told[key]: found for key, found in groups.items()}


def order_of(networks: Sequence[str], like: Sequence[str]) -> list[int]:
    """Return at which places of `networks` those of `like` stand; both hold the same ones.

    >>> order_of(["p", "q", "p"], ["q", "p", "p"])
    [1, 0, 2]
    """
    left = list(range(len(networks)))
    order = []
    for name in like:
        k = next(k for k in left if networks[k] == name)
        left.remove(k)
        order.append(k)
    return order


def aligned(point: RunPoint, like: RunPoint) -> RunPoint:
    """Return the point with its tasks in the order of another one (the same networks in another order)."""
    order = order_of(point.networks or point.parents, like.networks or like.parents)

    def pick(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(values[k] for k in order)

    return replace(
        point,
        tasks=pick(point.tasks),
        parents=pick(point.parents),
        parent_sizes=pick(point.parent_sizes),
        errors=pick(point.errors),
        parent_errors=pick(point.parent_errors),
        units=pick(point.units) if point.units else (),
        networks=pick(point.networks) if point.networks else (),
    )


def table_rows(points: Sequence[RunPoint], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return one record per run, for a table or a CSV file: settings, size, errors, their increase, and ratios.

    Numbers are rounded as they are shown: two digits behind the point. Where the tasks' errors count different things,
    the mean is that of the ratios alone.
    """
    rows, mixed = [], any(p.mixed for p in points)
    for p in points:
        row: dict[str, Any] = {"run": p.id, "title": p.title, "tags": ", ".join(p.tags), "method": p.method}
        row |= {"share": p.share, "retraining": p.retraining, "pairing": p.pairing, "metric": p.metric}
        row |= {"compensated": p.compensated, "images": p.images, "seed": p.seed, "parameters": p.total}
        row |= {"of all parents, %": 100 * p.size("of all parents")}
        row |= {"of the smallest parent, %": 100 * p.size("of smallest")}
        if not mixed:
            row |= {"mean error, %": p.value("test error", None)}
            row |= {"mean increase, points": p.value("increase over the parents", None)}
        row |= {"mean error relative to the parents": p.value(RELATIVE, None)}
        for t, label in enumerate(labels):
            row |= {f"{label} error, %": p.errors[t], f"{label} increase, points": p.errors[t] - p.parent_errors[t]}
            row |= {f"{label} error relative to the parent": p.ratios[t]}
        row |= {"seconds": p.seconds}
        rows.append({name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()})
    return rows


def shown_columns(rows: Sequence[dict[str, Any]], measure: Measure) -> list[str]:
    """Return the columns that a table shows beside the picture of a measure; a file has all of them.

    Tags are shown if a run has some.
    """
    ending = {"test error": "error, %", "increase over the parents": "increase, points"}.get(measure, "relative to the")
    always = ("title", "method", "share", "retraining", "images", "parameters", "of all parents, %")
    tagged = ("tags",) if any(row["tags"] for row in rows) else ()
    return [name for name in rows[0] if name in (*always, *tagged) or ending in name] if rows else []


def without_formulas(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows for a file that a spreadsheet opens: a text that it would take for a formula begins with `'`.

    Titles and tags are written by others.

    >>> without_formulas([{"title": "=1+1", "share": "80 %", "points": -0.5}])
    [{'title': "'=1+1", 'share': '80 %', 'points': -0.5}]
    """

    def text(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value

    return [{name: text(value) for name, value in row.items()} for row in rows]


def beside(left: RunPoint, right: RunPoint, labels: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return size and errors of two runs beside one another, and the second less the first, all in words."""

    def row(name: str, a: float, b: float, text: Callable[[float], str]) -> tuple[str, str, str, str]:
        return name, text(a), text(b), "0" if text(a) == text(b) else f"{'−' if b < a else '+'}{text(abs(b - a))}"

    rows = [row("parameters", left.total, right.total, count_text)]
    rows += [row("of all parents", left.size("of all parents"), right.size("of all parents"), percent_text)]
    for label, a, b in zip(labels, left.errors, right.errors, strict=True):
        rows.append((f"error, {label}", error_text(a), error_text(b), points_text(b - a)))
    return rows


def coinciding(points: Sequence[RunPoint], task: int | None, measure: Measure = "test error") -> list[list[int]]:
    """Return, for every point, the indices of all points of its size and its value of `measure`, itself included.

    Runs of equal size and error lie on one another in the picture, and only the last of them can be seen.
    """
    found: dict[tuple[int, float], list[int]] = {}
    keys = [(point.total, round(point.value(measure, task), 6)) for point in points]
    for k, key in enumerate(keys):
        found.setdefault(key, []).append(k)
    return [found[key] for key in keys]


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(math.nan if v is None else float(v) for v in values)
