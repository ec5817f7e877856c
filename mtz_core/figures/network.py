"""Drawing networks: layers as bars, side by side, with the part that is shared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtz_core.figures.palette import PATTERNS, Mode, palette
from mtz_core.figures.text import count_text
from mtz_core.figures.theme import empty_figure, hatch, template
from mtz_core.structure.networks import LayerSummary, NetworkStructure

MOST_NAMES = 18
"""Columns up to which every layer is named under its bar; the others are named where the pointer is."""


def layer_label(layer: LayerSummary) -> str:
    """Return what a layer is, in a word or two: `conv 5×5`, `dense`."""
    if layer.kernel:
        return f"conv {'×'.join(map(str, layer.kernel))}"
    return "dense"


def shared_neurons(layer: LayerSummary, shared: Mapping[str, int]) -> int:
    """Return how many neurons of a layer are shared, given shared channels per group of its network."""
    return 0 if layer.group is None or layer.alone else min(layer.width, shared.get(layer.group, 0))


def network_drawing(
    structures: Sequence[NetworkStructure],
    *,
    tasks: Sequence[str],
    shared: Sequence[Mapping[str, int]] | None = None,
    positions: Sequence[Sequence[int]] | None = None,
    mode: Mode = "light",
    row_height: int = 170,
) -> go.Figure:
    """Draw each network as a row of bars, one per weight layer in order of execution.

    A bar's height grows with the square root of the layer's width, so that 10 and 500 neurons fit one picture; its
    number is the width. With `shared` (per network: channel group → shared channels) the shared part is set apart
    below. `positions` places each network's layers, so that those which correspond stand in one column.
    """
    if not structures:
        return empty_figure("No network is chosen.", mode)
    colours = palette(mode)
    places = [list(range(len(structure.layers))) for structure in structures] if positions is None else positions
    columns = 1 + max(max(xs) for xs in places)
    crowded = columns > 6
    step = -(-columns // MOST_NAMES)
    names_below = 110 if crowded else 50  # pixels that the names under a row take; slanted ones take more
    bars = row_height - 50
    plot = len(structures) * bars + (len(structures) - 1) * names_below
    figure = make_subplots(rows=len(structures), cols=1, vertical_spacing=names_below / plot)
    highest = max(math.sqrt(layer.width) for s in structures for layer in s.layers)
    for t, (structure, task) in enumerate(zip(structures, tasks, strict=True)):
        layers = structure.layers
        xs = list(places[t])
        counts = [0 if shared is None else shared_neurons(layer, shared[t]) for layer in layers]
        heights = [math.sqrt(layer.width) for layer in layers]
        common = [h * c / layer.width for h, c, layer in zip(heights, counts, layers, strict=True)]
        hover = [
            f"<b>{layer.name}</b>: {layer_label(layer)}<br>{layer.width} {_units(layer)}"
            f"<br>{layer.columns} weights each, {count_text(layer.width * layer.columns)} in all"
            + _sharing(layer, c, shared is not None)
            for layer, c in zip(layers, counts, strict=True)
        ]
        if shared is not None:
            figure.add_trace(
                go.Bar(
                    x=xs,
                    y=common,
                    name="shared",
                    legendgroup="shared",
                    showlegend=t == 0,
                    marker={"color": colours.shared, "line": {"width": 0}},
                    hovertext=hover,
                    hovertemplate="%{hovertext}<extra></extra>",
                ),
                row=t + 1,
                col=1,
            )
        figure.add_trace(
            go.Bar(
                x=xs,
                y=[h - c for h, c in zip(heights, common, strict=True)],
                name=task,
                marker={
                    "color": colours.task(t),
                    "pattern": hatch(PATTERNS[t % len(PATTERNS)], colours.task(t)),
                    "line": {"width": 0},
                },
                hovertext=hover,
                hovertemplate="%{hovertext}<extra></extra>",
            ),
            row=t + 1,
            col=1,
        )
        for k, (x, layer, h) in enumerate(zip(xs, layers, heights, strict=True)):
            if step > 1 and k and layers[k - 1].width == layer.width:
                continue  # numbers that repeat would overlap
            figure.add_annotation(
                x=x, y=h, text=f"{layer.width}", showarrow=False, yanchor="bottom", font={"size": 13}, row=t + 1, col=1
            )
        kinds = [f"<br><span style='font-size:12px'>{layer_label(layer)}</span>" for layer in layers]
        names = [layer.name + ("" if crowded else kind) for layer, kind in zip(layers, kinds, strict=True)]
        named = [k for k, x in enumerate(xs) if x % step == 0 or k == len(xs) - 1]
        slant = -45 if crowded else 0
        ticks, texts = [xs[k] for k in named], [names[k] for k in named]
        figure.update_xaxes(tickvals=ticks, ticktext=texts, showgrid=False, tickangle=slant, row=t + 1, col=1)
        if positions is not None:
            figure.update_xaxes(range=[-0.5, columns - 0.5], row=t + 1, col=1)
        figure.update_yaxes(visible=False, range=[0, 1.22 * highest], row=t + 1, col=1)
    figure.update_layout(
        template=template(mode),
        height=plot + names_below + 44,
        barmode="stack",
        bargap=0.45,
        legend={"traceorder": "normal"},
        margin={"l": 64 if crowded else 8, "r": 8, "t": 44, "b": 8},  # slanted names begin left of their bar
    )
    return figure


def _sharing(layer: LayerSummary, count: int, told: bool) -> str:
    if not told:
        return ""
    return "<br>private: no layer corresponds" if layer.alone else f"<br>{count} shared"


def _units(layer: LayerSummary) -> str:
    return "channels" if layer.kernel else "neurons"
