"""Before anything is merged: predicted error against the size of the network."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from mtz_core.figures.palette import Mode, palette
from mtz_core.figures.text import count_text
from mtz_core.figures.theme import template


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
    best = go.Scatter(
        x=list(sizes),
        y=list(errors),
        mode="lines+markers",
        name="best plans",
        line={"color": colours.accent, "width": 2},
        marker={"size": 6},
        customdata=[[count_text(round(size)), size / max(1, smallest)] for size in sizes],
        hovertemplate="%{customdata[0]} parameters (%{customdata[1]:.2f}×)<br>%{y:.2f} % change<extra></extra>",
    )
    sliders = go.Scatter(
        x=[chosen[0]],
        y=[chosen[1]],
        mode="markers",
        name="the sliders",
        marker={"size": 14, "symbol": "star", "color": colours.bad, "line": {"color": colours.paper, "width": 1}},
        hovertemplate=f"{count_text(round(chosen[0]))} parameters<br>%{{y:.2f}} % change<extra>the sliders</extra>",
    )
    layout = {
        "template": template(mode),
        "height": height,
        "xaxis": {"title": {"text": "parameters"}, "tickformat": "~s"},
        "yaxis": {"title": {"text": "answers predicted to change"}, "ticksuffix": " %", "rangemode": "tozero"},
    }
    return go.Figure(data=[best, sliders], layout=layout)
