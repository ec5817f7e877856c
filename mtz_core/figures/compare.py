"""Many runs at once: error against size, with the parents and the unzipped networks to compare with.

Errors of tasks that count different things (wrong answers here, how far values are off there) have no mean. Each is
then taken relative to its own parent's error, and the mean over tasks is that of these ratios.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import plotly.graph_objects as go

from mtz_core.figures.palette import Mode, Palette, palette
from mtz_core.figures.pareto import pareto_front
from mtz_core.figures.text import count_text, error_text, percent_text, points_text, times_text
from mtz_core.figures.theme import empty_figure, template
from mtz_core.spec import ZipSpec

if TYPE_CHECKING:
    from mtz_core.runs.records import RunRecord
    from mtz_core.spec import RunSpec

LABELLED = 12  # so many runs carry their share ratio as text in the picture
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
    parents = tuple(str(name) for name in summary["parents"])
    return RunPoint(
        id=record.id,
        title=record.spec.title or " + ".join(parents),
        tasks=tuple(str(name) for name in summary["tasks"]),
        parents=parents,
        total=int(counts["shared"]) + sum(int(n) for n in counts["private"]),
        parent_sizes=tuple(int(n) for n in counts["parents"]),
        errors=_numbers(errors),
        parent_errors=_numbers(summary.get("parent_errors") or [None] * len(errors)),
        share=share_text(record.spec.zip.share),
        pairing=pairing_text(record.spec.zip),
        retraining=retraining_text(record.spec),
        seconds=float(summary.get("seconds") or 0.0),
        units=tuple(kind.error for kind in record.types),
    )


def share_text(share: float | Mapping[str, float | int] | Literal["auto"]) -> str:
    """Say a share in words: `80 %`, or layer by layer.

    >>> share_text({"fc1": 0.5, "fc2": 30})
    'fc1 50\\xa0%, fc2 30'
    """
    if isinstance(share, Mapping):
        parts = [f"{name} {s if isinstance(s, int) else percent_text(s)}" for name, s in share.items()]
        return ", ".join(parts) or "none"
    return "planned" if isinstance(share, str) else percent_text(share)


def pairing_text(spec: ZipSpec) -> str:
    """Say how neurons were paired, and by which metric unless it is the usual one.

    >>> pairing_text(ZipSpec(metric="euclidean"))
    'optimal, euclidean'
    """
    return spec.pairing if spec.metric == ZipSpec().metric else f"{spec.pairing}, {spec.metric}"


def retraining_text(spec: RunSpec) -> str:
    """Say in words how a run was retrained."""
    retrain = spec.zip.retrain
    return "none" if retrain is None else f"{retrain.steps} steps, {retrain.schedule}, {retrain.targets}"


def same_parents(points: Sequence[RunPoint]) -> dict[str, list[RunPoint]]:
    """Group points by their networks, whatever their order; only those within a group can be compared."""
    groups: dict[str, list[RunPoint]] = {}
    for point in points:
        groups.setdefault(" + ".join(sorted(point.parents)), []).append(point)
    return groups


def aligned(point: RunPoint, parents: Sequence[str]) -> RunPoint:
    """Return the point with its tasks in the order of `parents` (the same networks in another order)."""
    left = list(range(len(point.parents)))
    order = []
    for name in parents:
        k = next(k for k in left if point.parents[k] == name)
        left.remove(k)
        order.append(k)

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
    )


def table_rows(points: Sequence[RunPoint], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return one record per run, for a table or a CSV file: size, errors, their increase over the parents, and ratios.

    Where the tasks' errors count different things, the mean is that of the ratios alone.
    """
    rows, mixed = [], any(p.mixed for p in points)
    for p in points:
        row: dict[str, Any] = {"run": p.id, "title": p.title, "share": p.share, "pairing": p.pairing}
        row |= {"retraining": p.retraining, "parameters": p.total}
        row |= {"of all parents, %": 100 * p.size("of all parents")}
        row |= {"of the smallest parent, %": 100 * p.size("of smallest")}
        if not mixed:
            row |= {"mean error, %": p.value("test error", None)}
            row |= {"mean increase, points": p.value("increase over the parents", None)}
        row |= {"mean error relative to the parents": p.value(RELATIVE, None)}
        for t, label in enumerate(labels):
            row |= {f"{label} error, %": p.errors[t], f"{label} increase, points": p.errors[t] - p.parent_errors[t]}
            row |= {f"{label} error relative to the parent": p.ratios[t]}
        rows.append(row | {"seconds": p.seconds})
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


@dataclass(frozen=True)
class Reference:
    """Networks as they were before zipping, to compare runs with: stored numbers, value of the measure, symbol."""

    name: str
    total: int
    error: float
    symbol: str


def references(
    run: RunPoint, labels: Sequence[str], task: int | None, measure: Measure = "test error"
) -> list[Reference]:
    """Return all parents kept side by side and, for one task, its parent alone; none where no error is known.

    Their value is their error in %, 0 as an increase over themselves, and 1 relative to themselves.
    """
    alike = replace(run, errors=run.parent_errors)
    error = alike.value(measure, task)
    if math.isnan(error):
        return []
    count = len(run.parents)
    every = "both parents, unzipped" if count == 2 else f"all {count} parents, unzipped"
    found = [Reference(every, sum(run.parent_sizes), error, "diamond")]
    if task is not None:
        found.append(Reference(f"parent of {labels[task]} alone", run.parent_sizes[task], error, "star"))
    return found


def plane_figure(
    points: Sequence[RunPoint],
    *,
    labels: Sequence[str],
    task: int | None = None,
    size: Size = "of all parents",
    measure: Measure = "test error",
    mode: Mode = "light",
) -> go.Figure:
    """Draw every run as a point on error against size, the Pareto front, and the references.

    Args:
        points: of runs on the same networks, with tasks in the same order.
        labels: one per task.
        task: whose error; `None` takes the mean.

        measure: "relative to the parents" is each task's error over its parent's.

    `customdata` of the trace named `run` holds the run identifiers. References: all parents kept side by side
    and, for one task, its parent alone.
    """
    points = [p for p in points if not math.isnan(p.value(measure, task))]
    if not points:
        return empty_figure("No run has an error to show here yet.", mode, height=460)
    colours = palette(mode)
    x = [p.size(size) for p in points]
    y = [p.value(measure, task) for p in points]
    figure = go.Figure(layout={"template": template(mode), "height": 480})
    figure.add_trace(_front(x, y, colours))
    figure.add_trace(_runs(points, x, y, coinciding(points, task, measure), labels, colours))
    figure.add_traces([_key("retrained", "circle", colours), _key("not retrained", "circle-open", colours)])
    for k, unzipped in enumerate(references(points[0], labels, task, measure)):
        at = (points[0].size(size, unzipped.total), unzipped.error)
        said = f"{count_text(unzipped.total)} parameters"
        if measure != RELATIVE:
            said += f", error {error_text(points[0].reference(task))}"
        figure.add_trace(_unzipped(unzipped, at, said, colours.tasks[2 + k], colours.paper))
    figure.update_xaxes(
        title={"parameters": "parameters", "of all parents": "size relative to all parents"}.get(
            size, "size relative to the smallest parent"
        ),
        tickformat="~s" if size == "parameters" else ".0%",
        ticklabelstandoff=6,  # else the zeros of both axes overlap
        rangemode="tozero" if size == "of all parents" else "normal",
    )
    figure.update_yaxes(title=_axis_title(measure, task, labels), rangemode="tozero")
    figure.update_layout(clickmode="event+select", legend={"itemclick": False, "itemdoubleclick": False})
    return figure


def _axis_title(measure: Measure, task: int | None, labels: Sequence[str]) -> str:
    who = "mean" if task is None else labels[task]
    if measure == RELATIVE:
        return f"{who} error relative to the parent's (1 = parent)"
    return f"{who} {measure}, {'%' if measure == 'test error' else 'points'}"


def _front(x: Sequence[float], y: Sequence[float], colours: Palette) -> go.Scatter:
    front = pareto_front(x, y)
    return go.Scatter(
        x=[x[k] for k in front],
        y=[y[k] for k in front],
        mode="lines",
        name="best trade-offs",
        line={"color": colours.tasks[1], "width": 2, "dash": "dot", "shape": "hv"},
        hoverinfo="skip",
    )


def _runs(
    points: Sequence[RunPoint],
    x: Sequence[float],
    y: Sequence[float],
    together: Sequence[Sequence[int]],
    labels: Sequence[str],
    colours: Palette,
) -> go.Scatter:
    """Draw the runs at (x, y), hollow where they were not retrained; `together` is what `coinciding` returns."""
    bare = [p.retraining == "none" for p in points]
    return go.Scatter(
        x=x,
        y=y,
        mode="markers+text" if len(points) <= LABELLED or max(map(len, together)) > 1 else "markers",
        name="run",
        showlegend=False,
        customdata=[[p.id] for p in points],
        text=[_label(points, k, group) for k, group in enumerate(together)],
        textposition="top right",
        textfont={"size": 12, "color": colours.muted},
        hovertext=[_describe_all([points[k] for k in group], labels) for group in together],
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
        marker={
            "size": 14,
            "symbol": ["circle-open" if plain else "circle" for plain in bare],
            "color": colours.tasks[0],
            "line": {"width": 2.5, "color": [colours.tasks[0] if plain else colours.paper for plain in bare]},
        },
        unselected={"marker": {"opacity": 0.55}, "textfont": {"color": colours.muted}},
    )


def _key(name: str, symbol: str, colours: Palette) -> go.Scatter:
    """Say in the legend what a run's symbol means."""
    line = {"width": 2.5, "color": colours.tasks[0]}
    marker = {"size": 11, "symbol": symbol, "color": colours.tasks[0], "line": line}
    return go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker)


def _unzipped(networks: Reference, at: tuple[float, float], said: str, colour: str, edge: str) -> go.Scatter:
    return go.Scatter(
        x=[at[0]],
        y=[at[1]],
        mode="markers",
        name=networks.name,
        cliponaxis=False,
        marker={"size": 15, "symbol": networks.symbol, "color": colour, "line": {"width": 1.5, "color": edge}},
        hovertemplate=f"{networks.name}<br>{said}<extra></extra>",
    )


def _label(points: Sequence[RunPoint], k: int, together: Sequence[int]) -> str:
    """Return what stands beside point k: its share ratio where runs are few, and how many lie here (said once)."""
    if k != together[0]:
        return ""
    shares = {points[m].share for m in together}
    brief = len(points) <= LABELLED and len(shares) == 1 and len(points[k].share) <= 6
    share = points[k].share if brief else ""
    count = f"{len(together)} runs" if len(together) > 1 else ""
    return ", ".join(part for part in (share, count) if part)


def _describe_all(points: Sequence[RunPoint], labels: Sequence[str]) -> str:
    """Describe the runs that coincide, at most four of them."""
    said = [_describe(p, labels) for p in points[:4]]
    if len(points) > 4:
        said.append(f"and {len(points) - 4} more here")
    return "<br>".join(said)


def _describe(p: RunPoint, labels: Sequence[str]) -> str:
    lines = [f"<b>{p.title}</b>", f"share {p.share} · {p.pairing} pairing", f"retraining: {p.retraining}"]
    lines.append(f"{count_text(p.total)} parameters, {percent_text(p.size('of all parents'))} of all parents")
    for label, error, own, ratio in zip(labels, p.errors, p.parent_errors, p.ratios, strict=True):
        times = "" if math.isnan(ratio) else f", {times_text(ratio)} its parent's"
        lines.append(f"{label}: {error_text(error)} ({points_text(error - own)}{times})")
    return "<br>".join(lines)


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(math.nan if v is None else float(v) for v in values)
