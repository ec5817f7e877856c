"""Drawings of the lessons: bowls, the two distances, and the submatrices of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from mtz_core.figures.lessons import (
    Cell,
    Compromise,
    Floats,
    Part,
    Plane,
    WeightCounts,
    bowl,
    bowl_on_plane,
    bowls_on_line,
    layer_parts,
    window,
)
from mtz_core.figures.palette import MARKERS, PATTERNS, Mode, Palette, palette
from mtz_core.figures.text import count_text
from mtz_core.figures.theme import template


def bowls_figure(
    plane: Plane,
    w_i: Floats,
    w_j: Floats,
    H_a: Floats,
    H_b: Floats,
    best: Compromise | None,
    *,
    tasks: Sequence[str],
    mode: Mode = "light",
    points: int = 101,
) -> go.Figure:
    """Draw the contours of both bowls on the plane; with a compromise also the weighted sum, shaded, and its least."""
    colours = palette(mode)
    ends = (w_i, w_j) if best is None else (w_i, w_j, best.weights)
    u, v = window(plane, ends, H_a + H_b, points)
    heights = [bowl_on_plane(plane, w, H, u, v) for w, H in ((w_i, H_a), (w_j, H_b))]
    others = (bowl(w_j, w_i, H_a), bowl(w_i, w_j, H_b))
    figure = go.Figure(layout={"template": template(mode), "height": 440})
    if best is not None:
        total = best.alpha * heights[0] + (1 - best.alpha) * heights[1]
        top = best.alpha * others[0] + (1 - best.alpha) * others[1]
        figure.add_trace(_weighted_sum(u, v, total, (best.height, top), colours))
    for t, (height, other) in enumerate(zip(heights, others, strict=True)):
        name, colour, dash = f"loss of {tasks[t]}", colours.task(t), ("solid", "dash")[t % 2]
        figure.add_trace(_contours(u, v, height, other, name, colour, dash, read_out=best is None))
    for t, w in enumerate((w_i, w_j)):
        at = plane.coordinates(w)
        figure.add_trace(_point(at, f"neuron of {tasks[t]}", MARKERS[t], colours.task(t), colours.paper, 15))
    if best is not None:
        at = plane.coordinates(best.weights)
        figure.add_trace(_point(at, "best compromise w*", "star", colours.text, colours.paper, 18))
    figure.update_xaxes(title="towards the other neuron", showgrid=False, range=[u[0], u[-1]])
    figure.update_yaxes(title="across", showgrid=False, range=[v[0], v[-1]])
    return figure


def _weighted_sum(u: Floats, v: Floats, total: Floats, ends: tuple[float, float], colours: Palette) -> go.Heatmap:
    """Shade the sum of both bowls, whose colours go from `ends[0]` to `ends[1]`."""
    return go.Heatmap(
        x=u,
        y=v,
        z=total,
        name="weighted sum",
        zmin=ends[0],
        zmax=ends[1],
        zsmooth="best",
        colorscale=[[0.0, colours.accent], [1.0, colours.paper]],
        opacity=0.4,
        showscale=False,
        hovertemplate="weighted sum %{z:.4g}<extra></extra>",
    )


def _contours(
    u: Floats, v: Floats, height: Floats, other: float, name: str, colour: str, dash: str, *, read_out: bool
) -> go.Contour:
    """Draw a bowl as evenly spaced ellipses: contours at equal steps of the root of the loss.

    The fifth of them goes through the other neuron, whose loss in this bowl is `other`. `read_out`: losses are shown
    where the pointer is.
    """
    root = float(np.sqrt(other))
    return go.Contour(
        x=u,
        y=v,
        z=np.sqrt(height),
        name=name,
        showlegend=True,
        showscale=False,
        autocontour=False,
        contours={"coloring": "none", "start": root / 5, "end": 1.6 * root, "size": root / 5},
        line={"color": colour, "width": 1.8, "dash": dash},
        customdata=height,
        hoverinfo=None if read_out else "skip",
        hovertemplate=f"{name} %{{customdata:.4g}}<extra></extra>" if read_out else None,
    )


def line_figure(
    w_i: Floats,
    w_j: Floats,
    H_a: Floats,
    H_b: Floats,
    *,
    alpha: float,
    best: Compromise,
    tasks: Sequence[str],
    mode: Mode = "light",
) -> go.Figure:
    """Draw both weighted losses and their sum on the straight line from one neuron to the other.

    The functional difference, a horizontal line, is below the sum's least: the best compromise may leave the line.
    """
    colours = palette(mode)
    t = np.linspace(-0.15, 1.15, 131)
    loss_a, loss_b = bowls_on_line(w_i, w_j, H_a, H_b, t)
    figure = go.Figure(layout={"template": template(mode), "height": 340})
    curves = (
        (f"α · loss of {tasks[0]}", alpha * loss_a, colours.task(0), "solid"),
        (f"(1 − α) · loss of {tasks[1]}", (1 - alpha) * loss_b, colours.task(1), "dash"),
        ("sum", alpha * loss_a + (1 - alpha) * loss_b, colours.text, "solid"),
    )
    for k, (name, values, colour, dash) in enumerate(curves):
        figure.add_trace(
            go.Scatter(
                x=t,
                y=values,
                name=name,
                mode="lines",
                line={"color": colour, "dash": dash, "width": 3.5 if k == 2 else 2},
                hovertemplate="%{y:.4g}<extra>" + name + "</extra>",
            )
        )
    total = curves[2][1]
    k = int(np.argmin(total))
    figure.add_trace(
        _point((float(t[k]), float(total[k])), "least on the line", "diamond", colours.text, colours.paper, 13)
    )
    figure.add_hline(y=best.height, line={"color": colours.accent, "width": 2, "dash": "dot"})
    figure.add_annotation(
        x=0.5,
        y=best.height,
        text=f"best off the line: {best.height:.4g}",
        showarrow=False,
        yanchor="top",
        font={"color": colours.accent, "size": 13},
    )
    figure.update_xaxes(tickvals=[0, 0.5, 1], ticktext=[f"{tasks[0]}'s weights", "half-way", f"{tasks[1]}'s weights"])
    highest = float(max(total[0], total[-1]))
    figure.update_yaxes(title="loss", range=[-0.14 * highest, 1.05 * highest])
    return figure


def distances_figure(
    euclidean: Floats, functional: Floats, marked: Mapping[str, Cell], *, mode: Mode = "light", limit: int = 4000
) -> go.Figure:
    """Draw every pair by its two distances and name the marked ones; of many pairs an even sample is drawn."""
    colours = palette(mode)
    x, y = euclidean.ravel(), functional.ravel()
    keep = np.unique(np.linspace(0, x.size - 1, min(limit, x.size)).astype(int))
    i, j = np.divmod(keep, euclidean.shape[1])
    figure = go.Figure(layout={"template": template(mode), "height": 430})
    figure.add_trace(
        go.Scattergl(
            x=x[keep],
            y=y[keep],
            mode="markers",
            name="all pairs",
            showlegend=False,
            marker={"size": 4, "color": colours.muted, "opacity": 0.35},
            customdata=np.stack([i, j], axis=1),
            hovertemplate="%{customdata[0]} and %{customdata[1]}<br>"
            "Euclidean %{x:.3f}, functional %{y:.4f}<extra></extra>",
        )
    )
    for k, (name, cell) in enumerate(marked.items()):
        figure.add_trace(
            _point(
                (float(euclidean[cell]), float(functional[cell])), name, MARKERS[k], colours.task(k), colours.paper, 15
            )
        )
    figure.update_xaxes(title="Euclidean distance of the weights")
    figure.update_yaxes(title="functional difference", rangemode="tozero")
    return figure


def submatrices_figure(
    counts: WeightCounts, share_in: float, share_out: float, *, tasks: Sequence[str], mode: Mode = "light"
) -> go.Figure:
    """Draw the layer's weight matrix of both tasks, cut into submatrices: rows are neurons, columns are inputs.

    The shared one is drawn once, between the tasks; each task's own lie beside and below it.
    """
    colours = palette(mode)
    figure = go.Figure(layout={"template": template(mode), "height": 420})
    for part in layer_parts(counts, share_in, share_out):
        figure.add_trace(_rectangle(part, tasks, colours))
        if part.width > 0.2 and part.height > 0.09:
            _write_count(figure, part, colours)
    own = 1 - share_in
    if share_in > 0.05:
        figure.add_annotation(x=own + share_in / 2, y=1.0, text="shared inputs", showarrow=False, yanchor="bottom")
    if own > 0.12:
        for x, task in ((own / 2, tasks[0]), (own + share_in + own / 2, tasks[1])):
            figure.add_annotation(x=x, y=1.0, text=f"{task}'s own", showarrow=False, yanchor="bottom")
    figure.update_xaxes(visible=False, range=[-0.01, 1 + own + 0.01])
    figure.update_yaxes(visible=False, range=[-0.02, 1.09])
    return figure


def _rectangle(part: Part, tasks: Sequence[str], colours: Palette) -> go.Scatter:
    (x0, x1), (y0, y1) = part.x, part.y
    colour = colours.shared if part.task is None else colours.task(part.task)
    return go.Scatter(
        x=[x0, x1, x1, x0, x0],
        y=[y0, y0, y1, y1, y0],
        fill="toself",
        mode="lines",
        showlegend=False,
        line={"color": colours.paper, "width": 3},
        fillcolor=colour,
        hoveron="fills",
        text=f"{part.name}, {'once' if part.task is None else tasks[part.task]}",
        fillpattern={
            "shape": "" if part.task is None else PATTERNS[part.task],
            "solidity": 0.15,
            "fgcolor": "rgba(255,255,255,0.5)",
            "bgcolor": colour,
            "size": 9,
        },
        hoverinfo="text",
    )


def _write_count(figure: go.Figure, part: Part, colours: Palette) -> None:
    """Write what a part is, and how many numbers, into its middle."""
    name = part.name.replace(" → ", "→<br>" if part.width < 0.45 else " → ")
    figure.add_annotation(
        x=sum(part.x) / 2,
        y=sum(part.y) / 2,
        showarrow=False,
        font={"size": 13, "color": colours.text},
        bgcolor=colours.paper,
        borderpad=3,
        opacity=0.95,
        text=f"{name}<br>{count_text(part.count)}",
    )


def _point(at: tuple[float, float], name: str, symbol: str, colour: str, edge: str, size: int) -> go.Scatter:
    return go.Scatter(
        x=[at[0]],
        y=[at[1]],
        name=name,
        mode="markers",
        hovertemplate=name + "<extra></extra>",
        marker={"symbol": symbol, "size": size, "color": colour, "line": {"color": edge, "width": 2}},
    )
