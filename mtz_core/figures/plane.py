"""Error against size: every run as a point, marked by its method, beside the networks before zipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import plotly.graph_objects as go

from mtz_core.figures.compare import RELATIVE, Measure, RunPoint, Size, coinciding
from mtz_core.figures.palette import Mode, Palette, palette
from mtz_core.figures.pareto import pareto_front
from mtz_core.figures.text import count_text, error_text, percent_text, points_text, times_text
from mtz_core.figures.theme import empty_figure, template

LABELLED = 12  # so many runs carry their share ratio as text in the picture
SYMBOLS = ("circle", "square", "triangle-up", "pentagon", "triangle-down", "hexagon", "cross", "x")
"""One per method; the parents have diamond and star."""
RIVAL_SYMBOLS = (
    *("x", "cross", "hourglass", "bowtie", "star-triangle-up", "star-square", "hexagram", "star-triangle-down"),
    *("octagon", "diamond-tall", "diamond-wide", "star-diamond"),
)
"""One per rival method; all rivals are grey, so that ours stand out."""


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
    chosen: str | None = None,
) -> go.Figure:
    """Draw every run as a point on error against size, the Pareto front, and the references.

    Args:
        points: of runs on the same networks, with tasks in the same order.
        labels: one per task.
        task: whose error; `None` takes the mean.
        size: in which unit.
        measure: "relative to the parents" is each task's error over its parent's.
        mode: colours.
        chosen: the run that is ringed.

    Each method is a trace with a symbol and a colour of its own, named after it; `customdata` holds the runs'
    identifiers. Rivals have symbols of their own and one colour, and beside them ours are called so. References: all
    parents kept side by side and, for one task, its parent alone.
    """
    points = [p for p in points if not math.isnan(p.value(measure, task))]
    if not points:
        return empty_figure("No run has an error to show here yet.", mode, height=480)
    colours = palette(mode)
    at = [(p.size(size), p.value(measure, task)) for p in points]
    together = coinciding(points, task, measure)
    figure = go.Figure(layout={"template": template(mode), "height": 480})
    figure.add_trace(_front(at, colours))
    for method, look in _looks(points, colours).items():
        these = [n for n, p in enumerate(points) if p.method == method]
        figure.add_trace(_runs(points, these, at, together, labels, look, colours))
    if {p.retraining == "none" for p in points if not p.rival} == {True, False}:
        figure.add_traces([_key("retrained", "circle", colours), _key("not retrained", "circle-open", colours)])
    for k, unzipped in enumerate(references(points[0], labels, task, measure)):
        place = (points[0].size(size, unzipped.total), unzipped.error)
        said = f"{count_text(unzipped.total)} parameters"
        if measure != RELATIVE:
            said += f", error {error_text(points[0].reference(task))}"
        figure.add_trace(_unzipped(unzipped, place, said, (colours.text, colours.muted)[k], colours.paper))
    for n in [n for n, p in enumerate(points) if p.id == chosen]:
        figure.add_trace(_ring(at[n], colours))
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


def _looks(points: Sequence[RunPoint], colours: Palette) -> dict[str, tuple[str, str]]:
    """Symbol and colour of every method: ours first, which lie below rivals where they coincide."""
    ours, rivals = (list(dict.fromkeys(p.method for p in points if bool(p.rival) == side)) for side in (False, True))
    looks = {method: (SYMBOLS[k % len(SYMBOLS)], colours.task(k)) for k, method in enumerate(ours)}
    # By name, so that a rival keeps its symbol while others arrive.
    return looks | {m: (RIVAL_SYMBOLS[k % len(RIVAL_SYMBOLS)], colours.shared) for k, m in enumerate(sorted(rivals))}


def _axis_title(measure: Measure, task: int | None, labels: Sequence[str]) -> str:
    who = "mean" if task is None else labels[task]
    if measure == RELATIVE:
        return f"{who} error relative to the parent's (1 = parent)"
    return f"{who} {measure}, {'%' if measure == 'test error' else 'points'}"


def _front(at: Sequence[tuple[float, float]], colours: Palette) -> go.Scatter:
    front = pareto_front([x for x, _ in at], [y for _, y in at])
    return go.Scatter(
        x=[at[k][0] for k in front],
        y=[at[k][1] for k in front],
        mode="lines",
        name="best trade-offs",
        line={"color": colours.muted, "width": 2, "dash": "dot", "shape": "hv"},
        hoverinfo="skip",
    )


def _runs(
    points: Sequence[RunPoint],
    these: Sequence[int],
    at: Sequence[tuple[float, float]],
    together: Sequence[Sequence[int]],
    labels: Sequence[str],
    look: tuple[str, str],
    colours: Palette,
) -> go.Scatter:
    """Draw the runs of one method, hollow where they were not retrained; `together` is what `coinciding` returns.

    A rival is never retrained, and is drawn whole.
    """
    symbol, colour = look
    said, first = _labels(points, at, together), points[these[0]]
    bare = [points[n].retraining == "none" and not first.rival for n in these]
    ours = "ours: " if not first.rival and any(p.rival for p in points) else ""
    return go.Scatter(
        x=[at[n][0] for n in these],
        y=[at[n][1] for n in these],
        mode="markers+text" if len(points) <= LABELLED or max(map(len, together)) > 1 else "markers",
        name=f"{ours}{first.method or 'run'}",
        customdata=[[points[n].id] for n in these],
        text=[said[n] for n in these],
        textposition="top right",
        textfont={"size": 12, "color": colours.muted},
        hovertext=[_describe_all([points[k] for k in together[n]], labels) for n in these],
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
        marker={
            "size": 13 if first.rival else 14,
            "symbol": [f"{symbol}-open" if plain else symbol for plain in bare],
            "color": colour,
            "line": {
                "width": 0.5 if first.rival else 2.5,
                "color": [colour if plain else colours.paper for plain in bare],
            },
        },
        unselected={"marker": {"opacity": 0.55}, "textfont": {"color": colours.muted}},
    )


def _ring(at: tuple[float, float], colours: Palette) -> go.Scatter:
    """Draw what marks the chosen run."""
    line = {"width": 2.5, "color": colours.accent}
    marker = {"size": 26, "symbol": "circle-open", "color": colours.accent, "line": line}
    return go.Scatter(
        x=[at[0]], y=[at[1]], mode="markers", name="chosen", showlegend=False, hoverinfo="skip", cliponaxis=False,
        marker=marker,
    )  # fmt: skip


def _key(name: str, symbol: str, colours: Palette) -> go.Scatter:
    """Say in the legend what a run's symbol means."""
    line = {"width": 2.5, "color": colours.shared}
    marker = {"size": 11, "symbol": symbol, "color": colours.shared, "line": line}
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


def _labels(
    points: Sequence[RunPoint], at: Sequence[tuple[float, float]], together: Sequence[Sequence[int]]
) -> list[str]:
    """Return what stands beside each point: its share ratio where runs are few, and how many lie here (said once).

    A share ratio is left out where it would be written over that of another point.
    """
    wide, high = (max(values) - min(0.0, *values) or 1.0 for values in zip(*at, strict=True))
    said: list[str] = []
    for k, group in enumerate(together):
        shares = {points[m].share for m in group}
        taken = [at[m] for m in range(k) if said[m]]
        free = all(abs(at[k][0] - x) > wide / 12 or abs(at[k][1] - y) > high / 20 for x, y in taken)
        brief = len(points) <= LABELLED and len(shares) == 1 and len(points[k].share) <= 6 and free
        count = f"{len(group)} runs" if len(group) > 1 else ""
        parts = (points[k].share if brief else "", count)
        said.append(", ".join(part for part in parts if part) if k == group[0] else "")
    return said


def _describe_all(points: Sequence[RunPoint], labels: Sequence[str]) -> str:
    """Describe the runs that coincide, at most four of them."""
    said = [_describe(p, labels) for p in points[:4]]
    if len(points) > 4:
        said.append(f"and {len(points) - 4} more here")
    return "<br>".join(said)


def _describe(p: RunPoint, labels: Sequence[str]) -> str:
    lines = [f"<b>{p.title}</b>", p.method, f"share {p.share} · {p.images:,} inputs", f"retraining: {p.retraining}"]
    lines.append(f"{count_text(p.total)} parameters, {percent_text(p.size('of all parents'))} of all parents")
    for label, error, own, ratio in zip(labels, p.errors, p.parent_errors, p.ratios, strict=True):
        times = "" if math.isnan(ratio) else f", {times_text(ratio)} its parent's"
        lines.append(f"{label}: {error_text(error)} ({points_text(error - own)}{times})")
    return "<br>".join(lines)
