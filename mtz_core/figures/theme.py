"""One look for all figures: a light and a dark plotly template on the colours of `mtz_core.figures.palette`."""

from __future__ import annotations

from functools import cache
from typing import Any

import plotly.graph_objects as go

from mtz_core.figures.palette import GLYPHS, MARKERS, PALETTES, PATTERNS, Mode, Palette, palette

__all__ = [
    "GLYPHS",
    "MARKERS",
    "PALETTES",
    "PATTERNS",
    "Mode",
    "Palette",
    "empty_figure",
    "hatch",
    "palette",
    "template",
]


@cache
def template(mode: Mode) -> go.layout.Template:
    """Return the plotly template of a mode: transparent background, quiet grid, the page's own font.

    It is made once: every figure takes a copy.
    """
    colours = palette(mode)
    axis: dict[str, Any] = {
        "gridcolor": colours.grid,
        "linecolor": colours.grid,
        "zeroline": False,
        "ticks": "",
        "automargin": True,
        "title": {"font": {"size": 14, "color": colours.muted}, "standoff": 10},
        "tickfont": {"size": 13, "color": colours.muted},
    }
    layout = go.Layout(
        font={"family": '"Source Sans", "Source Sans Pro", system-ui, sans-serif', "size": 14, "color": colours.text},
        title={"font": {"size": 16}, "x": 0.0, "xanchor": "left"},
        colorway=list(colours.tasks),
        colorscale={"sequential": _scale(colours.sequential)},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 8, "t": 36, "b": 8},
        xaxis=axis,
        yaxis=axis,
        legend={
            "orientation": "h",
            "x": 0.0,
            "y": 1.02,
            "xanchor": "left",
            "yanchor": "bottom",
            "font": {"size": 13},
            "bgcolor": "rgba(0,0,0,0)",
        },
        hoverlabel={
            "bgcolor": colours.surface,
            "bordercolor": colours.grid,
            "font": {"size": 13, "color": colours.text},
            "align": "left",
        },
        hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": colours.muted, "activecolor": colours.accent},
    )
    return go.layout.Template(layout=layout)


def hatch(shape: str, colour: str) -> dict[str, Any]:
    """Return the pattern of a bar: fine light strokes on its colour (`shape` is one of `PATTERNS`)."""
    return {"shape": shape, "bgcolor": colour, "fgcolor": "rgba(255,255,255,0.4)", "size": 7, "solidity": 0.18}


def empty_figure(message: str, mode: Mode, *, height: int = 240) -> go.Figure:
    """Return a figure that says in words why there is nothing to draw yet."""
    figure = go.Figure(layout={"template": template(mode), "height": height})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(text=message, showarrow=False, font={"size": 14, "color": palette(mode).muted})
    return figure


def _scale(colours: tuple[str, ...]) -> list[list[float | str]]:
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]
