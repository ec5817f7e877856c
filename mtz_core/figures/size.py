"""Size: what is stored once for all tasks, what is stored per task, and what the parents store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from mtz_core.figures.palette import PATTERNS, Mode, palette
from mtz_core.figures.text import count_text, percent_text
from mtz_core.figures.theme import empty_figure, hatch, template
from mtz_core.structure.sizes import ParameterCounts


def counts_from_event(data: Mapping[str, Any]) -> ParameterCounts:
    """Read counts as a run store writes them."""
    return ParameterCounts(int(data["shared"]), tuple(data["private"]), tuple(data["parents"]))


def size_bars(
    counts: ParameterCounts, *, tasks: Sequence[str], mode: Mode = "light", height: int = 190, name: str = "zipped"
) -> go.Figure:
    """Draw the parents together above the network that they became, `name`, split into shared and private numbers.

    A dotted line marks the smallest parent: the size of one network alone.
    """
    colours, everything, smallest = palette(mode), sum(counts.parents), min(counts.parents)
    rows = [name, "parents"]
    bars = [_bar("shared", [counts.shared, 0], rows, colours.shared, "", "stored once for all tasks", everything)]
    for t, task in enumerate(tasks):
        both, pattern = [counts.private[t], counts.parents[t]], PATTERNS[t % len(PATTERNS)]
        bars.append(_bar(task, both, rows, colours.task(t), pattern, "of this task alone", everything))
    # All of the layout at once: plotly takes several times as long to update a figure.
    layout = {
        "template": template(mode),
        "height": height,
        "barmode": "stack",
        "bargap": 0.35,
        "legend": {"traceorder": "normal"},
        "shapes": [_one_network("x", smallest, colours.text)],
        "annotations": [
            {
                "x": smallest, "y": -0.62, "text": "one network", "showarrow": False, "xanchor": "right", "xshift": -4,
                "font": {"size": 12},
            }
        ],
        "xaxis": {"title": {"text": "parameters"}, "tickformat": "~s", "range": [0, 1.02 * everything]},
        "yaxis": {"showgrid": False, "tickfont": {"size": 14, "color": colours.text}, "range": [-0.75, 1.45]},
    }  # fmt: skip
    return go.Figure(data=bars, layout=layout)


def _one_network(axis: str, size: float, colour: str) -> dict[str, Any]:
    """Return the dotted line at the size of one network on an `axis`, along all of the other, as plotly writes it."""
    other = "y" if axis == "x" else "x"
    return {
        "type": "line",
        f"{axis}0": size, f"{axis}1": size, f"{axis}ref": axis,
        f"{other}0": 0, f"{other}1": 1, f"{other}ref": f"{other} domain",
        "line": {"color": colour, "width": 1.5, "dash": "dot"},
    }  # fmt: skip


def size_by_layer(
    stages: Sequence[str],
    counts: Sequence[ParameterCounts],
    *,
    tasks: Sequence[str],
    mode: Mode = "light",
    height: int = 280,
) -> go.Figure:
    """Draw how the network shrinks: one stacked bar for the parents, then one after each zipped layer."""
    if not counts:
        return empty_figure("No layer has been zipped yet.", mode, height=height)
    colours, everything, smallest = palette(mode), max(1, sum(counts[0].parents)), min(counts[0].parents)
    series = [("shared", [c.shared for c in counts], colours.shared, "")]
    series += [
        (task, [c.private[t] for c in counts], colours.task(t), PATTERNS[t % len(PATTERNS)])
        for t, task in enumerate(tasks)
    ]
    bars = [
        go.Bar(
            x=list(stages),
            y=values,
            name=name,
            marker={"color": colour, "pattern": hatch(pattern, colour)},
            customdata=[[count_text(v), percent_text(v / everything)] for v in values],
            hovertemplate="%{customdata[0]} parameters, %{customdata[1]} of all parents<extra>" + name + "</extra>",
        )
        for name, values, colour, pattern in series
    ]
    layout = {
        "template": template(mode),
        "height": height,
        "barmode": "stack",
        "bargap": 0.3,
        "legend": {"traceorder": "normal"},
        "margin": {"r": 68},
        "shapes": [_one_network("y", smallest, colours.text)],
        "annotations": [
            {
                "x": 1, "xref": "x domain", "xshift": 4, "y": smallest, "text": "one<br>network", "showarrow": False,
                "xanchor": "left", "align": "left",
            }
        ],
        "xaxis": {"type": "category", "showgrid": False, "tickangle": -45 if len(stages) > 9 else 0},
        "yaxis": {"title": {"text": "parameters"}, "tickformat": "~s"},
    }  # fmt: skip
    return go.Figure(data=bars, layout=layout)


def _bar(
    name: str, values: list[int], rows: list[str], colour: str, pattern: str, what: str, everything: int
) -> go.Bar:
    return go.Bar(
        y=rows,
        x=values,
        name=name,
        orientation="h",
        marker={"color": colour, "pattern": hatch(pattern, colour)},
        customdata=[[count_text(v), percent_text(v / max(1, everything))] for v in values],
        hovertemplate="%{customdata[0]} parameters " + what + ", %{customdata[1]} of all parents<extra>%{y}</extra>",
    )
