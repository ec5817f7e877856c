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


def size_bars(counts: ParameterCounts, *, tasks: Sequence[str], mode: Mode = "light", height: int = 190) -> go.Figure:
    """Draw the parents together above the zipped network, split into shared and private numbers.

    A dotted line marks the smallest parent: the size of one network alone.
    """
    colours = palette(mode)
    figure = go.Figure(layout={"template": template(mode), "height": height, "barmode": "stack"})
    rows = ["zipped", "parents"]
    figure.add_trace(
        _bar("shared", [counts.shared, 0], rows, colours.shared, "", "stored once for all tasks", sum(counts.parents))
    )
    for t, task in enumerate(tasks):
        figure.add_trace(
            _bar(
                task,
                [counts.private[t], counts.parents[t]],
                rows,
                colours.task(t),
                PATTERNS[t % len(PATTERNS)],
                "of this task alone",
                sum(counts.parents),
            )
        )
    smallest = min(counts.parents)
    figure.add_vline(x=smallest, line={"color": colours.text, "width": 1.5, "dash": "dot"})
    figure.add_annotation(
        x=smallest, y=-0.62, text="one network", showarrow=False, xanchor="right", xshift=-4, font={"size": 12}
    )
    figure.update_xaxes(title="parameters", tickformat="~s", range=[0, 1.02 * sum(counts.parents)])
    figure.update_yaxes(showgrid=False, tickfont={"size": 14, "color": colours.text}, range=[-0.75, 1.45])
    figure.update_layout(bargap=0.35, legend={"traceorder": "normal"})
    return figure


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
    colours = palette(mode)
    figure = go.Figure(layout={"template": template(mode), "height": height, "barmode": "stack"})
    everything = max(1, sum(counts[0].parents))
    series = [("shared", [c.shared for c in counts], colours.shared, "")]
    series += [
        (task, [c.private[t] for c in counts], colours.task(t), PATTERNS[t % len(PATTERNS)])
        for t, task in enumerate(tasks)
    ]
    for name, values, colour, pattern in series:
        figure.add_trace(
            go.Bar(
                x=list(stages),
                y=values,
                name=name,
                marker={"color": colour, "pattern": hatch(pattern, colour)},
                customdata=[[count_text(v), percent_text(v / everything)] for v in values],
                hovertemplate="%{customdata[0]} parameters, %{customdata[1]} of all parents<extra>" + name + "</extra>",
            )
        )
    smallest = min(counts[0].parents)
    figure.add_hline(y=smallest, line={"color": colours.text, "width": 1.5, "dash": "dot"})
    figure.add_annotation(
        x=1, xref="x domain", xshift=4, y=smallest, text="one<br>network", showarrow=False, xanchor="left", align="left"
    )
    figure.update_xaxes(type="category", showgrid=False, tickangle=-45 if len(stages) > 9 else 0)
    figure.update_yaxes(title="parameters", tickformat="~s")
    figure.update_layout(bargap=0.3, legend={"traceorder": "normal"}, margin={"r": 68})
    return figure


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
