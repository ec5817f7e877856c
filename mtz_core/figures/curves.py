"""Error while a network is zipped: layer by layer, step by step, against the parents' own on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import plotly.graph_objects as go

from mtz_core.figures.palette import MARKERS, Mode, palette
from mtz_core.figures.theme import empty_figure, template

STAGES = {
    "parents": "parents",
    "zipped": "after zipping",
    "retraining": "while retraining",
    "retrained": "after retraining",
    "ended": "finished network",
    "final": "finished network",
}
Shown = Literal["error", "accuracy", "points over the parent"]
SHOWN: tuple[Shown, ...] = get_args(Shown)
TITLES: dict[Shown, str] = {
    "error": "test error, %",
    "accuracy": "test accuracy, %",
    "points over the parent": "test error less the parent's, points",
}
RETRAINING_WIDTH = 0.8  # part of a layer's unit interval on the axis that its retraining steps fill


@dataclass(frozen=True)
class Measurement:
    """Errors in % of all tasks at one moment of a run (an `Evaluated` event); NaN where a task has no labels."""

    stage: str
    layer: str | None
    step: int
    errors: tuple[float, ...]
    images: tuple[int, ...] = ()

    @classmethod
    def from_event(cls, data: Mapping[str, Any]) -> Measurement:
        """Read a stored `Evaluated` event, where NaN is written as `None`."""
        errors = tuple(math.nan if error is None else float(error) for error in data["errors"])
        return cls(
            data["stage"], data.get("layer"), int(data.get("step") or 0), errors, tuple(data.get("images") or ())
        )


@dataclass(frozen=True)
class CurvePoint:
    """A point of a task's error curve: where, the error in %, when it was measured, and its size."""

    x: float
    error: float
    moment: str
    size: int


def positions(measurements: Sequence[Measurement], layers: Sequence[str], retrain_steps: int = 0) -> list[float]:
    """Lay measurements out on an axis on which every layer is one unit long.

    The parents stand at −1, layer k after zipping at k, its retraining steps between k and k + 0.8. Steps that
    follow the last layer (no layer of their own) and the finished network come behind it.
    """
    index = {name: k for k, name in enumerate(layers)}
    last = len(layers) - 1
    per_layer = max(1.0, retrain_steps / max(1, len(layers)))
    started: dict[str, int] = {}
    seen = 0
    found = []
    for m in measurements:
        if m.stage == "parents":
            x = -1.0
        elif m.stage in ("ended", "final"):
            x = last + 1.0
        elif m.layer is None:
            x = last + RETRAINING_WIDTH * min(1.0, m.step / max(1, retrain_steps))
        else:
            k = index.get(m.layer, last)
            if m.stage == "zipped":
                x = float(k)
            else:
                done = m.step - started.setdefault(m.layer, seen)
                x = k + RETRAINING_WIDTH * (1.0 if m.stage == "retrained" else min(1.0, max(0.0, done / per_layer)))
        if m.layer is not None and m.stage == "zipped":
            started[m.layer] = seen
        seen = max(seen, m.step)
        found.append(x)
    return found


def on_the_same(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Leave out what was measured on other inputs than the parents were: the end, on all test inputs."""
    first = next((m.images for m in measurements if m.stage == "parents"), ())
    ended = any(m.stage == "ended" for m in measurements)
    return [m for m in measurements if m.stage != "final" or not (ended or (first and m.images != first))]


def error_curves(
    measurements: Sequence[Measurement],
    *,
    layers: Sequence[str],
    tasks: Sequence[str],
    mode: Mode = "light",
    retrain_steps: int = 0,
    kept: Sequence[tuple[Measurement, float]] = (),
    shown: Shown = "error",
    height: int = 360,
    inputs: str = "images",
) -> go.Figure:
    """Draw each task's error over the layers and retraining steps; its parent's, on the same inputs, is a dashed line.

    Args:
        measurements: in the order in which they were made.
        layers: names in the order of zipping.
        tasks: one label per task.
        mode: colours.
        retrain_steps: of the whole run, which spreads a layer's steps over its part of the axis.
        kept: measurements of states that retraining kept, and after which part of its steps; they are ringed.
        shown: the error in %, 100 less the error, or points above the parent's.
        height: of the figure, in pixels.
        inputs: what the networks read, in a word.
    """
    measured = [m for m in on_the_same(measurements) if any(not math.isnan(e) for e in m.errors)]
    if not measured:
        return empty_figure("No error has been measured yet.", mode, height=height)
    colours = palette(mode)
    xs = positions(measured, layers, retrain_steps)
    parents = next((m.errors for m in measured if m.stage == "parents"), None)
    traces = []
    right = len(layers) + 0.3
    for t, task in enumerate(tasks):
        parent = math.nan if parents is None else parents[t]
        if not math.isnan(parent):
            traces.append(_parent_line(-1.25, right, _as_shown(parent, parent, shown), task, colours.task(t)))
        points = curve_points(measured, xs, t, inputs=inputs)
        points = [replace(point, error=_as_shown(point.error, parent, shown)) for point in points]
        traces.append(_error_curve(points, task, MARKERS[t % len(MARKERS)], colours.task(t)))
        rings = [
            (_start(m, layers) + RETRAINING_WIDTH * part, _as_shown(m.errors[t], parent, shown))
            for m, part in kept
            if not math.isnan(m.errors[t])
        ]
        if rings:
            traces.append(_rings(rings, task, colours.task(t), first=t == 0))
    xaxis = {
        "tickvals": list(range(-1, len(layers) + 1)),
        "ticktext": ["parents", *layers, "end"],
        "range": [-1.25, right],
        "title": {"text": "layers, in the order of zipping"},
        "tickangle": -45 if len(layers) > 8 else 0,
        "showgrid": False,
    }
    yaxis = {"title": {"text": TITLES[shown]}, "rangemode": "normal" if shown == "accuracy" else "tozero"}
    return go.Figure(data=traces, layout={"template": template(mode), "height": height, "xaxis": xaxis, "yaxis": yaxis})


def _as_shown(error: float, parent: float, shown: Shown) -> float:
    if shown == "accuracy":
        return 100.0 - error
    return error if shown == "error" else error - parent


def _start(m: Measurement, layers: Sequence[str]) -> float:
    """Where on the axis the retraining begins to which a measurement belongs."""
    return float(layers.index(m.layer)) if m.layer in layers else len(layers) - 1.0


def curve_points(
    measurements: Sequence[Measurement], xs: Sequence[float], task: int, *, inputs: str = "images"
) -> list[CurvePoint]:
    """Return the points of a task's curve at `xs`, without those that have no error."""
    return [
        CurvePoint(x, m.errors[task], _moment(m, task, inputs), 5 if m.stage == "retraining" else 10)
        for x, m in zip(xs, measurements, strict=True)
        if not math.isnan(m.errors[task])
    ]


def _parent_line(start: float, stop: float, error: float, task: str, colour: str) -> go.Scatter:
    return go.Scatter(
        x=[start, stop],
        y=[error, error],
        mode="lines",
        line={"color": colour, "width": 1.5, "dash": "dash"},
        hovertemplate=f"{error:.2f}<br>its parent<extra>{task}</extra>",
        showlegend=False,
    )


def _rings(points: Sequence[tuple[float, float]], task: str, colour: str, first: bool) -> go.Scatter:
    """Mark the states that retraining kept."""
    return go.Scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        name="state that is kept",
        legendgroup="kept",
        showlegend=first,
        mode="markers",
        marker={"symbol": "circle-open", "size": 18, "color": colour, "line": {"width": 2, "color": colour}},
        hovertemplate="%{y:.2f}<br>the state that is kept<extra>" + task + "</extra>",
    )


def _error_curve(points: Sequence[CurvePoint], task: str, symbol: str, colour: str) -> go.Scatter:
    return go.Scatter(
        x=[point.x for point in points],
        y=[point.error for point in points],
        name=task,
        mode="lines+markers",
        line={"color": colour, "width": 2.5},
        marker={"symbol": symbol, "size": [point.size for point in points], "color": colour, "opacity": 1},
        text=[point.moment for point in points],
        hovertemplate="%{y:.2f}<br>%{text}<extra>" + task + "</extra>",
    )


def loss_curves(
    steps: Sequence[int],
    losses: Sequence[Sequence[float]],
    *,
    tasks: Sequence[str],
    mode: Mode = "light",
    height: int = 260,
) -> go.Figure:
    """Draw the retraining loss of every task over steps: `losses[i][t]` of task t at `steps[i]`."""
    if not steps:
        return empty_figure("No retraining step has been taken yet.", mode, height=height)
    colours = palette(mode)
    traces = [
        go.Scatter(
            x=list(steps),
            y=[row[t] for row in losses],
            name=task,
            mode="lines+markers",
            line={"color": colours.task(t), "width": 2},
            marker={"symbol": MARKERS[t % len(MARKERS)], "size": 8, "maxdisplayed": 12, "color": colours.task(t)},
            hovertemplate="step %{x}: %{y:.4g}<extra>" + task + "</extra>",
        )
        for t, task in enumerate(tasks)
    ]
    layout = {
        "template": template(mode),
        "height": height,
        "xaxis": {"title": {"text": "retraining step"}},
        "yaxis": {"title": {"text": "batch loss"}, "rangemode": "tozero"},
    }
    return go.Figure(data=traces, layout=layout)


def _moment(m: Measurement, task: int, inputs: str) -> str:
    layer = f"{m.layer}, " if m.layer else ""
    step = f", step {m.step}" if m.stage in ("retraining", "retrained") else ""
    counted = f"<br>on {m.images[task]:,} {inputs}" if task < len(m.images) else ""
    return f"{layer}{STAGES.get(m.stage, m.stage)}{step}{counted}"
