"""Before anything is merged: predicted error against the share of a layer, and against the size of the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from mtz_core.figures.palette import Mode, palette
from mtz_core.figures.text import count_text
from mtz_core.figures.theme import template


def predicted_error(counts: Sequence[int], errors: Sequence[float], count: int) -> float:
    """Return the error at `count` shared channels, linear between the points of a curve.

    >>> predicted_error([0, 10], [0.0, 4.0], 5)
    2.0
    """
    return float(np.interp(count, counts, errors))


def share_curve(
    counts: Sequence[int],
    errors: Sequence[float],
    *,
    count: int,
    highest: float,
    mode: Mode = "light",
    height: int = 64,
) -> go.Figure:
    """Draw one layer's predicted error against its share, small, with a mark where the slider stands.

    `highest` is the top of the axis: the same for all layers, so that they can be compared.
    """
    colours = palette(mode)
    shares = [100.0 * c / max(1, counts[-1]) for c in counts]
    figure = go.Figure(layout={"template": template(mode), "height": height, "showlegend": False})
    figure.add_trace(
        go.Scatter(
            x=shares,
            y=list(errors),
            mode="lines",
            fill="tozeroy",
            line={"color": colours.accent, "width": 2},
            customdata=list(counts),
            hovertemplate="%{customdata} shared<br>%{y:.2f} % of answers change<extra></extra>",
        )
    )
    at = predicted_error(counts, errors, count)
    figure.add_trace(
        go.Scatter(
            x=[100.0 * count / max(1, counts[-1])],
            y=[at],
            mode="markers+text",
            text=[f"{at:.1f} %"],
            textposition="top left" if 2 * count > counts[-1] else "top right",
            textfont={"size": 13, "color": colours.text},
            marker={"size": 9, "color": colours.text, "line": {"color": colours.paper, "width": 1.5}},
            hoverinfo="skip",
            cliponaxis=False,
        )
    )
    figure.update_xaxes(range=[0, 100], showticklabels=False, showgrid=False, fixedrange=True)
    top = max(highest, 1e-9)
    figure.update_yaxes(range=[0, 1.35 * top], showticklabels=False, showgrid=False, fixedrange=True)
    figure.update_layout(margin={"l": 8, "r": 8, "t": 2, "b": 2})
    return figure


def frontier_figure(
    sizes: Sequence[float],
    errors: Sequence[float],
    *,
    chosen: tuple[float, float],
    smallest: int,
    mode: Mode = "light",
    height: int = 260,
) -> go.Figure:
    """Draw the best predicted error at every size, and where the sliders stand.

    Args:
        sizes: parameters of the best points, increasing.
        errors: answers that are predicted to change there, in %.
        chosen: size and predicted error of the shares as the sliders have them.
        smallest: parameters of the smallest parent, the unit in the hover text.
        mode: light or dark.
        height: in pixels.
    """
    colours = palette(mode)
    figure = go.Figure(layout={"template": template(mode), "height": height})
    figure.add_trace(
        go.Scatter(
            x=list(sizes),
            y=list(errors),
            mode="lines+markers",
            name="best plans",
            line={"color": colours.accent, "width": 2},
            marker={"size": 6},
            customdata=[[count_text(round(size)), size / max(1, smallest)] for size in sizes],
            hovertemplate="%{customdata[0]} parameters (%{customdata[1]:.2f}×)<br>%{y:.2f} % change<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[chosen[0]],
            y=[chosen[1]],
            mode="markers",
            name="the sliders",
            marker={"size": 14, "symbol": "star", "color": colours.bad, "line": {"color": colours.paper, "width": 1}},
            hovertemplate=f"{count_text(round(chosen[0]))} parameters<br>%{{y:.2f}} % change<extra>the sliders</extra>",
        )
    )
    figure.update_xaxes(title="parameters", tickformat="~s")
    figure.update_yaxes(title="answers predicted to change", ticksuffix=" %", rangemode="tozero")
    return figure
