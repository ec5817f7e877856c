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
    below. `positions` has every network's layers in columns, so that those which correspond stand in one.
    """
    if not structures:
        return empty_figure("No network is chosen.", mode)
    colours = palette(mode)
    xs_of = [list(range(len(structure.layers))) for structure in structures] if positions is None else positions
    columns = 1 + max(max(xs) for xs in xs_of)
    crowded = columns > 6
    step = -(-columns // MOST_NAMES)
    names_below = 110 if crowded else 50  # pixels that the names under a row take; slanted ones take more
    bars = row_height - 50
    plot = len(structures) * bars + (len(structures) - 1) * names_below
    figure = make_subplots(rows=len(structures), cols=1, vertical_spacing=names_below / plot)
    highest = max(math.sqrt(layer.width) for s in structures for layer in s.layers)
    for t, (structure, task) in enumerate(zip(structures, tasks, strict=True)):
        own, layers, xs = None if shared is None else shared[t], structure.layers, list(xs_of[t])
        heights = [bar_heights(layer, own or {}) for layer in layers]
        hover = [_describe(layer, own) for layer in layers]
        if own is not None:
            bottoms = [bottom for bottom, _ in heights]
            figure.add_trace(_shared_bars(xs, bottoms, hover, colours.shared, legend=t == 0), row=t + 1, col=1)
        tops = [top for _, top in heights]
        figure.add_trace(
            _own_bars(xs, tops, hover, task, PATTERNS[t % len(PATTERNS)], colours.task(t)), row=t + 1, col=1
        )
        _write_widths(figure, t + 1, xs, layers, all_of_them=step == 1)
        _name_layers(figure, t + 1, xs, layers, step, crowded=crowded)
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


def bar_heights(layer: LayerSummary, shared: Mapping[str, int]) -> tuple[float, float]:
    """Return how high the shared part of a layer's bar is, and the rest; together the root of its width."""
    height = math.sqrt(layer.width)
    common = height * shared_neurons(layer, shared) / layer.width
    return common, height - common


def _shared_bars(
    xs: Sequence[int], heights: Sequence[float], hover: Sequence[str], colour: str, *, legend: bool
) -> go.Bar:
    return go.Bar(
        x=xs,
        y=heights,
        name="shared",
        legendgroup="shared",
        showlegend=legend,
        marker={"color": colour, "line": {"width": 0}},
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _own_bars(
    xs: Sequence[int], heights: Sequence[float], hover: Sequence[str], task: str, pattern: str, colour: str
) -> go.Bar:
    return go.Bar(
        x=xs,
        y=heights,
        name=task,
        marker={"color": colour, "pattern": hatch(pattern, colour), "line": {"width": 0}},
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _write_widths(
    figure: go.Figure, row: int, xs: Sequence[int], layers: Sequence[LayerSummary], *, all_of_them: bool
) -> None:
    """Write every layer's width above its bar; of equal ones that follow each other only the first, or they overlap."""
    for k, (x, layer) in enumerate(zip(xs, layers, strict=True)):
        if all_of_them or not k or layers[k - 1].width != layer.width:
            figure.add_annotation(
                x=x,
                y=math.sqrt(layer.width),
                text=f"{layer.width}",
                showarrow=False,
                yanchor="bottom",
                font={"size": 13},
                row=row,
                col=1,
            )


def _name_layers(
    figure: go.Figure, row: int, xs: Sequence[int], layers: Sequence[LayerSummary], step: int, *, crowded: bool
) -> None:
    """Write the name of the layer in every `step`-th column, and of the last, below its bar; slanted where crowded."""
    kinds = [f"<br><span style='font-size:12px'>{layer_label(layer)}</span>" for layer in layers]
    names = [layer.name + ("" if crowded else kind) for layer, kind in zip(layers, kinds, strict=True)]
    named = [k for k, x in enumerate(xs) if x % step == 0 or k == len(xs) - 1]
    figure.update_xaxes(
        tickvals=[xs[k] for k in named],
        ticktext=[names[k] for k in named],
        showgrid=False,
        tickangle=-45 if crowded else 0,
        row=row,
        col=1,
    )


def _describe(layer: LayerSummary, shared: Mapping[str, int] | None) -> str:
    said = (
        f"<b>{layer.name}</b>: {layer_label(layer)}<br>{layer.width} {_units(layer)}"
        f"<br>{layer.columns} weights each, {count_text(layer.width * layer.columns)} in all"
    )
    if shared is None:
        return said
    return said + (
        "<br>private: no layer corresponds" if layer.alone else f"<br>{shared_neurons(layer, shared)} shared"
    )


def _units(layer: LayerSummary) -> str:
    return "channels" if layer.kernel else "neurons"
