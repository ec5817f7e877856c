"""Where a difference comes from: outputs set against each other, parts by input and by direction, layers compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtz_core.figures.palette import MARKERS, PATTERNS, Mode, palette
from mtz_core.figures.theme import empty_figure, hatch, template
from mtz_core.zipping.findings import BIAS, RAW, Directions, Floats, Likeness, Parts, Responses

DRAWN = 400
"""Points of one kind that are drawn."""
BARS = 160
"""Directions up to which each is a bar; of more the figure is lines."""
LARGEST = 12
"""Inputs that are drawn; all others are one bar."""


@dataclass(frozen=True)
class Part:
    """An input channel, or all that are left: its name, what it adds, and that as a share of the difference."""

    name: str
    value: float
    share: float


def largest_parts(parts: Parts, tasks: Sequence[str], count: int = LARGEST) -> list[Part]:
    """Return the input channels that add, or take away, most, largest first; at last the sum of all others.

    `tasks` are the two tasks' labels. The parts add up to the difference.
    """
    values = parts.by_channel()
    total = float(parts.values.sum()) or 1.0
    order = np.argsort(-np.abs(values), kind="stable")
    found = [
        Part(channel_name(parts, k, tasks), float(values[k]), float(values[k]) / total) for k in map(int, order[:count])
    ]
    if len(order) > count:
        left = float(values[order[count:]].sum())
        found.append(Part(f"{len(order) - count} others", left, left / total))
    return found


def channel_name(parts: Parts, number: int, tasks: Sequence[str]) -> str:
    """Return what an input channel is called: the layer that writes it, and its number in either task."""
    group, a, b = map(int, parts.channels[number])
    if group == BIAS:
        return "bias"
    if group == RAW:
        return f"input {a}" if a == b else f"input {a} · {b}"
    return f"{parts.groups[group]}: {tasks[0]} {a} · {tasks[1]} {b}"


def flattest_half(directions: Directions) -> tuple[float, float]:
    """Return what lies along that half of the directions in which the inputs vary least.

    That is the share of the change Δ, by its squared length, and the share of the difference.

    >>> flattest_half(Directions(np.array([3.0, 1.0]), np.array([1.0, 3.0]), np.array([1.5, 1.5]), 0.0))
    (0.75, 0.5)
    """
    first = (len(directions.values) + 1) // 2
    change, part = (float(x[first:].sum() / (x.sum() or 1.0)) for x in (directions.squares, directions.parts))
    return change, part


def before_and_after_figure(
    responses: Sequence[Responses], tasks: Sequence[str], neurons: Sequence[int], mode: Mode = "light"
) -> go.Figure:
    """Draw each neuron's outputs in the zipped network against those in its parent, on its own task's inputs."""
    titles = [f"{task} {neuron}" for task, neuron in zip(tasks, neurons, strict=True)]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.14)
    for t, (each, task) in enumerate(zip(responses, tasks, strict=True)):
        points = _some(each.points)
        figure.add_trace(_dots(points[:, 0], points[:, 1], t, task, mode), row=1, col=t + 1)
        _say(figure, t + 1, correlation_text(each.likeness[:1]), mode)
    figure.update_xaxes(title="in its parent")
    figure.update_yaxes(title="zipped", row=1, col=1)
    return _laid_out(figure, mode)


def parents_figure(
    responses: Sequence[Responses], tasks: Sequence[str], neurons: Sequence[int], mode: Mode = "light"
) -> go.Figure | None:
    """Draw both neurons against each other in their parents, on the same inputs; `None` where that can't be."""
    if all(each.why for each in responses):
        return None
    figure = make_subplots(rows=1, cols=1, subplot_titles=["both, same inputs"])
    for t, (each, task) in enumerate(zip(responses, tasks, strict=True)):
        if not each.why:
            points = _some(each.points)
            axes = (points[:, 0], points[:, 2]) if t == 0 else (points[:, 2], points[:, 0])
            figure.add_trace(_dots(*axes, t, f"of {task}", mode, legend=True), row=1, col=1)
    _say(figure, 1, correlation_text([each.likeness[1] for each in responses if not each.why]), mode)
    figure.update_xaxes(title=f"{tasks[0]} {neurons[0]}")
    figure.update_yaxes(title=f"{tasks[1]} {neurons[1]}")
    return _laid_out(figure, mode)


def correlation_text(values: Sequence[float]) -> str:
    """Say correlations; none is rounded up to one.

    >>> correlation_text([-0.001, 0.9964]), correlation_text([0.99999])
    ('r = 0.00 and 0.996', 'r > 0.999')
    """
    known = [_correlation(value) for value in values if not math.isnan(value)]
    text = " and ".join(known)
    return "one does not vary" if not known else f"r {text}" if text.startswith(">") else f"r = {text}"


def _correlation(value: float) -> str:
    if value < 0.9:
        return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
    return f"{value:.3f}" if value < 0.9995 else "> 0.999"


def _some(points: Floats) -> Floats:
    found: Floats = points[np.linspace(0, len(points) - 1, min(DRAWN, len(points))).astype(int)]
    return found


def _laid_out(figure: go.Figure, mode: Mode) -> go.Figure:
    figure.update_layout(template=template(mode), height=310, margin={"l": 8, "r": 8, "t": 30, "b": 70})
    figure.update_layout(legend={"y": -0.28, "yanchor": "top", "x": 1.0, "xanchor": "right"})
    figure.update_xaxes(nticks=4)
    figure.update_yaxes(nticks=5)
    figure.update_annotations(font_size=13)
    return figure


def _dots(x: Floats, y: Floats, t: int, name: str, mode: Mode, legend: bool = False) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        name=name,
        showlegend=legend,
        marker={"color": palette(mode).task(t), "symbol": MARKERS[t], "size": 5, "opacity": 0.45},
        hovertemplate="%{x:.3g} → %{y:.3g}<extra>" + name + "</extra>",
    )


def _say(figure: go.Figure, panel: int, text: str, mode: Mode) -> None:
    axis = "" if panel == 1 else str(panel)
    figure.add_annotation(
        text=text, showarrow=False, x=0.03, y=0.99, xref=f"x{axis} domain", yref=f"y{axis} domain", xanchor="left",
        yanchor="top", font={"color": palette(mode).text}, bgcolor=palette(mode).paper,
    )  # fmt: skip


def parts_figure(found: Sequence[Part], mode: Mode = "light") -> go.Figure:
    """Draw what the largest inputs add to a difference, in percent of it."""
    if not found:
        return empty_figure("The two neurons read no input that is shared.", mode)
    colours = palette(mode)
    names = [part.name if len(part.name) <= 34 else f"{part.name[:33]}…" for part in found]
    shares = [100 * part.share for part in found]
    figure = go.Figure(
        go.Bar(
            x=shares,
            y=[f"{k + 1}. {name}" if not name.endswith("others") else name for k, name in enumerate(names)],
            orientation="h",
            marker={"color": [colours.tasks[0] if share >= 0 else colours.tasks[1] for share in shares]},
            customdata=[[part.value] for part in found],
            hovertemplate="%{x:.1f} % of the difference<br>%{customdata[0]:.4g}<extra>%{y}</extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="% of the difference", zeroline=True, zerolinecolor=colours.muted)
    figure.update_layout(template=template(mode), height=26 * max(4, len(found)) + 80, bargap=0.25, margin={"t": 8})
    return figure


def directions_figure(directions: Directions, mode: Mode = "light") -> go.Figure:
    """Draw how much inputs vary along every direction, how far the neurons differ along it, and what comes of both."""
    colours, count = palette(mode), len(directions.values)
    whole = float(directions.parts.sum()) + directions.rest or 1.0
    titles = (
        "how much the inputs of both networks vary along it (λ)",
        "how far the two neurons differ along it (squared)",
        "both together: % of the difference",
    )
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.12, subplot_titles=titles)
    rows = (directions.values, directions.squares, 100 * directions.parts / whole)
    colour = (colours.shared, colours.tasks[1], colours.tasks[0])
    for row, (values, shade) in enumerate(zip(rows, colour, strict=True), start=1):
        figure.add_trace(_bars(values, shade), row=row, col=1)
        figure.update_yaxes(nticks=4, rangemode="tozero", row=row, col=1)
    positive = directions.values[directions.values > 0]
    if positive.size and positive.max() > 1e3 * positive.min():
        low = max(float(positive.min()), float(positive.max()) * 1e-12)
        figure.update_yaxes(
            type="log", dtick=3, exponentformat="power",
            range=[math.log10(low), math.log10(float(positive.max())) + 0.1], row=1, col=1,
        )  # fmt: skip
    figure.update_xaxes(title="directions, those along which inputs vary most first", row=3, col=1)
    figure.update_xaxes(range=[0.4, count + 0.6])
    figure.update_layout(template=template(mode), height=430, bargap=0.15)
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    return figure


def _bars(values: Floats, colour: str) -> Any:
    x = np.arange(1, len(values) + 1)
    told = "direction %{x}: %{y:.4g}<extra></extra>"
    if len(values) <= BARS:
        return go.Bar(
            x=x, y=values, marker={"color": colour, "line": {"width": 0}}, showlegend=False, hovertemplate=told
        )
    return go.Scatter(
        x=x, y=values, mode="lines", line={"color": colour, "width": 1, "shape": "hvh"}, fill="tozeroy",
        showlegend=False, hovertemplate=told,
    )  # fmt: skip


def spectrum_figure(found: Sequence[Likeness], tasks: Sequence[str], mode: Mode = "light") -> go.Figure:
    """Draw the eigenvalues of the Gram of a layer's inputs, as shares of their sum, of each task."""
    colours = palette(mode)
    figure = go.Figure()
    for t, (each, task) in enumerate(zip(found, tasks, strict=True)):
        values = each.spectrum / (each.spectrum.sum() or 1.0)
        kept = values > 1e-10
        figure.add_trace(
            go.Scatter(
                x=np.arange(1, len(values) + 1)[kept],
                y=values[kept],
                mode="lines+markers" if len(values) < 40 else "lines",
                name=task,
                line={"color": colours.task(t), "width": 2, "dash": ("solid", "dash")[t % 2]},
                marker={"symbol": MARKERS[t], "size": 6},
                hovertemplate="eigenvalue %{x}: %{y:.3g} of the sum<extra>" + task + "</extra>",
            )
        )
    figure.update_xaxes(type="log", title="eigenvalues of the inputs' Gram, the largest first", dtick=1)
    figure.update_yaxes(type="log", title="share of their sum", exponentformat="power", dtick=2)
    figure.update_layout(template=template(mode), height=280, margin={"t": 40}, legend={"x": 1.0, "xanchor": "right"})
    return figure


def layers_figure(found: Sequence[Likeness], tasks: Sequence[str], chosen: str, mode: Mode = "light") -> go.Figure:
    """Draw, by layer and task, how alike parent and zipped network are, and the effective rank of what is read.

    Args:
        found: every layer of every task, in order.
        tasks: labels of all tasks.
        chosen: the layer that is looked at, which is marked.
        mode: light or dark.
    """
    if not found:
        return empty_figure("No layer was compared.", mode)
    colours, names = palette(mode), list(dict.fromkeys(each.layer for each in found))
    titles = ("likeness of parent and zipped network (CKA)", "effective rank of the layer's inputs")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.16, subplot_titles=titles)
    for t, task in enumerate(tasks):
        own = [each for each in found if each.task == t]
        x = [each.layer for each in own]
        figure.add_trace(
            go.Scatter(
                x=x, y=[each.cka for each in own], mode="lines+markers", name=task,
                line={"color": colours.task(t), "width": 2}, marker={"symbol": MARKERS[t % len(MARKERS)], "size": 8},
                hovertemplate="CKA %{y:.4f}<extra>" + task + ", %{x}</extra>",
            ),
            row=1, col=1,
        )  # fmt: skip
        figure.add_trace(
            go.Bar(
                x=x, y=[each.effective for each in own], showlegend=False,
                customdata=[[min(each.rows, each.size)] for each in own],
                marker={"color": colours.task(t), "pattern": hatch(PATTERNS[t % len(PATTERNS)], colours.task(t))},
                hovertemplate="%{y:.1f} of %{customdata[0]}<extra>" + task + ", %{x}</extra>",
            ),
            row=2, col=1,
        )  # fmt: skip
    known = [each.cka for each in found if not math.isnan(each.cka)]
    low = min(known, default=0.0)
    figure.update_yaxes(range=[min(0.9, low) - 0.02 * (1 - min(0.9, low)) - 0.01, 1.01], nticks=5, row=1, col=1)
    figure.update_yaxes(rangemode="tozero", nticks=5, row=2, col=1)
    figure.update_xaxes(type="category", categoryarray=names, showgrid=False, tickangle=-45 if len(names) > 8 else 0)
    if chosen in names:
        figure.add_vrect(
            x0=names.index(chosen) - 0.5,
            x1=names.index(chosen) + 0.5,
            fillcolor=colours.muted,
            opacity=0.12,
            line_width=0,
        )
    figure.update_layout(template=template(mode), height=430, barmode="group", margin={"t": 60})
    figure.update_layout(legend={"x": 1.0, "xanchor": "right", "y": 1.07})
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    return figure
