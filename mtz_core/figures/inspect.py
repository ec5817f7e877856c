"""Looking into one zipped layer: the two neurons of a pair, what they became, and how dear every pair was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from mtz_core.figures.palette import MARKERS, Mode, palette
from mtz_core.figures.theme import empty_figure, template

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]
NOTHING = 1e-12  # costs that add up to less than this are rounding errors


@dataclass(frozen=True)
class Tiling:
    """How a vector of incoming weights is drawn: `count` tiles of `height` × `width`, or as bars."""

    kind: Literal["image", "tiles", "bars"]
    count: int
    height: int
    width: int


@dataclass(frozen=True)
class CellFacts:
    """What is known of neurons i and j: their difference and where it ranks (1 = cheapest) in its row and column."""

    difference: float
    rank_in_row: int
    rank_in_column: int
    rows: int
    columns: int
    pair: int | None
    """Position of (i, j) among the chosen pairs, cheapest first; `None` if it was not chosen."""
    partner_of_i: int | None
    partner_of_j: int | None


def compared_tasks(arrays: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return the pairs of tasks whose neurons were compared, from the names of a layer's arrays."""
    couples = []
    for name in arrays:
        parts = name.split("_")
        if parts[0] == "difference" and len(parts) == 3:
            couples.append((int(parts[1]), int(parts[2])))
    return sorted(couples)


@dataclass(frozen=True)
class LayerInfo:
    """Kernel of a layer (empty: fully connected), its input groups (see `LayerSummary.inputs`), and its bias."""

    kernel: tuple[int, ...] = ()
    inputs: Mapping[str, float] = field(default_factory=dict)
    bias: bool = True

    def split(self, weights: Floats) -> tuple[Floats, float | None]:
        """Return incoming weights (d,) without the bias, which is the last column, and the bias if there is one."""
        return (weights[:-1], float(weights[-1])) if self.bias else (weights, None)


def layer_info(started: Mapping[str, Any], layer: str, image: Sequence[int] | None = None) -> LayerInfo:
    """Return what a stored `Started` event tells of a layer; of an unknown one that it has a bias and nothing else.

    Args:
        started: the event's data.
        layer: the layer's name.
        image: shape (C, H, W) of the network's input, if known.
    """
    for structure in started.get("structures") or ():
        for item in structure["layers"]:
            if item["name"] == layer:
                kernel, inputs = tuple(item.get("kernel") or ()), dict(item.get("inputs") or {})
                widths = {group["name"]: group["width"] for group in structure["groups"]}
                owned = sum(per * widths.get(group, 0) for group, per in inputs.items())
                return LayerInfo(kernel, inputs, has_bias(item["columns"], kernel, owned, image))
    return LayerInfo()


def has_bias(columns: int, kernel: Sequence[int], owned: float, image: Sequence[int] | None) -> bool:
    """Tell from the number of incoming weights whether one of them is the bias.

    A layer with kernel K = k·k has a multiple of K, and one more with a bias. With K = 1 the weights that belong to
    no channel group (`owned` of them do) are raw inputs and the bias; the image's shape says how many raw inputs.

    >>> has_bias(145, (3, 3), 144, None), has_bias(144, (3, 3), 144, None)
    (True, False)
    >>> has_bias(785, (), 0, (1, 28, 28)), has_bias(300, (), 300, (1, 28, 28))
    (True, False)
    """
    size = math.prod(kernel)
    if size > 1:
        return columns % size == 1
    free = columns - round(owned)
    if free < 2:
        return free == 1
    return image is None or free not in (math.prod(image), image[0])


def thumbnail(image: Floats) -> NDArray[np.uint8]:
    """Scale an image (C, H, W) to bytes (H, W) or (H, W, 3), stretched to its own range."""
    low, high = float(image.min()), float(image.max())
    scaled = (255 * (image - low) / ((high - low) or 1.0)).astype(np.uint8)
    return np.ascontiguousarray(scaled.transpose(1, 2, 0)) if image.shape[0] == 3 else scaled[0]


def tiling(weights: int, kernel: Sequence[int], inputs: Mapping[str, float], image: Sequence[int] | None) -> Tiling:
    """Choose how `weights` incoming weights (without the bias) are drawn.

    Args:
        weights: how many there are.
        kernel: of a convolution, e.g. (5, 5); empty for a fully connected layer.
        inputs: input group → columns per channel (see `LayerSummary.inputs`).
        image: shape (C, H, W) of the network's input, if known.

    Returns:
        One image per input channel for a layer that sees the raw input, one kernel per input channel for a
        convolution, one map per channel behind a flattened convolution, otherwise bars.
    """
    if len(kernel) == 2 and weights and weights % math.prod(kernel) == 0:
        return Tiling("tiles", weights // math.prod(kernel), kernel[0], kernel[1])
    if not inputs and image is not None and len(image) == 3 and weights == math.prod(image):
        return Tiling("image", image[0], image[1], image[2])
    per = next(iter(inputs.values())) if len(inputs) == 1 else 1
    per = int(per) if per == int(per) else 1
    side = math.isqrt(per)
    if not kernel and side > 1 and side * side == per and weights % per == 0:
        return Tiling("tiles", weights // per, side, side)
    return Tiling("bars", weights, 1, 1)


def mosaic(weights: Floats, tiles: Tiling) -> Floats:
    """Arrange tiles in a grid a little taller than wide, as the panels are, with a missing (NaN) row or column between.

    >>> mosaic(np.arange(4.0), Tiling("tiles", 4, 1, 1))
    array([[ 0., nan,  1.],
           [nan, nan, nan],
           [ 2., nan,  3.]])
    """
    h, w = tiles.height, tiles.width
    across = math.ceil(math.sqrt(tiles.count * (h + 1) / (w + 1) / 1.4))
    down = math.ceil(tiles.count / across)
    grid = np.full((down * (h + 1) - 1, across * (w + 1) - 1), np.nan)
    for k, tile in enumerate(weights.reshape(tiles.count, h, w)):
        top, left = k // across * (h + 1), k % across * (w + 1)
        grid[top : top + h, left : left + w] = tile
    return grid


def cell_facts(difference: Floats, pairs: Integers, i: int, j: int) -> CellFacts:
    """Look up entry (i, j) of a difference matrix and of the chosen pairs (k, 2).

    Raises `IndexError` if the matrix has no such entry.
    """
    rows, columns = difference.shape
    if not (0 <= i < rows and 0 <= j < columns):
        raise IndexError(f"there is no cell ({i}, {j}) in a {rows} × {columns} matrix")
    value = float(difference[i, j])
    of_i = np.flatnonzero(pairs[:, 0] == i)
    of_j = np.flatnonzero(pairs[:, 1] == j)
    partner_of_i = int(pairs[of_i[0], 1]) if of_i.size else None
    return CellFacts(
        difference=value,
        rank_in_row=1 + int((difference[i] < value).sum()),
        rank_in_column=1 + int((difference[:, j] < value).sum()),
        rows=rows,
        columns=columns,
        pair=int(of_i[0]) if partner_of_i == j else None,
        partner_of_i=partner_of_i,
        partner_of_j=int(pairs[of_j[0], 0]) if of_j.size else None,
    )


def shared_by(arrays: Mapping[str, Any], couple: tuple[int, int]) -> Mapping[str, Any]:
    """Return a layer's arrays with only the merged neurons, and the shared inputs, that both tasks have a part in."""
    if "pairs" not in arrays or bool((arrays["pairs"] >= 0).all()):
        return arrays
    found = {name: arrays[name] for name in arrays if not name.startswith("difference")}
    rows = (found["pairs"][:, list(couple)] >= 0).all(axis=1)
    columns = np.logical_and.reduce([found[f"columns_{t}"] >= 0 for t in couple])
    found |= {"pairs": found["pairs"][rows], "costs": found["costs"][rows], "merged": found["merged"][rows][:, columns]}
    found |= {f"columns_{t}": found[f"columns_{t}"][columns] for t in couple}
    return found


def pair_rows(difference: Floats | None, pairs: Integers, costs: Floats, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return one record per chosen pair, dearest first: rank, a neuron per task, cost, sum so far, rank in its row.

    `difference` belongs to the first two columns of `pairs` (k, T); without it the ranks are left out.
    """
    names = [f"{name} neuron" if tasks.count(name) == 1 else f"{name} neuron ({t + 1})" for t, name in enumerate(tasks)]
    total = 0.0
    rows: list[dict[str, Any]] = []
    for k in dearest_first(costs):
        total += float(costs[k])
        row: dict[str, Any] = {"pair": len(rows) + 1}
        row |= {name: int(n) if n >= 0 else None for name, n in zip(names, pairs[k], strict=True)}
        row |= {"cost": float(costs[k]), "sum of costs": total}
        if difference is not None:
            facts = cell_facts(difference, pairs[:, :2], int(pairs[k, 0]), int(pairs[k, 1]))
            row |= {"rank in row": facts.rank_in_row, "rank in column": facts.rank_in_column}
        rows.append(row)
    return rows


def dearest_first(costs: Floats) -> Integers:
    """Return the numbers of pairs by their costs, the largest first.

    >>> dearest_first(np.array([0.1, 0.3, 0.2]))
    array([1, 2, 0])
    """
    return np.argsort(costs, kind="stable")[::-1]


def cost_rank(costs: Floats, pair: int) -> int:
    """Return which pair this is when they are counted from the dearest (1)."""
    return 1 + int(np.flatnonzero(dearest_first(costs) == pair)[0])


def half_cost_count(costs: Floats) -> int:
    """Return how many of the cheapest pairs make up half of the total cost.

    >>> half_cost_count(np.array([1.0, 1.0, 2.0, 4.0]))
    3
    """
    total = np.cumsum(np.sort(costs))
    return int(np.searchsorted(total, total[-1] / 2)) + 1 if costs.size else 0


def weight_figure(
    vectors: Sequence[Floats | None],
    titles: Sequence[str],
    tiles: Tiling,
    *,
    mode: Mode = "light",
    missing: str = "not merged",
) -> go.Figure:
    """Draw incoming weights side by side on one colour scale around zero; `None` is said in words.

    Args:
        vectors: each (d,), bias left out, over the same input columns.
        titles: one per vector.
        tiles: from `tiling`.
        missing: what to write where there is no vector.
    """
    if tiles.kind == "bars":
        return _weight_bars(vectors, titles, mode=mode, missing=missing)
    limit = largest(vectors)
    figure = make_subplots(rows=1, cols=len(vectors), subplot_titles=list(titles), horizontal_spacing=0.03)
    for c, (vector, title) in enumerate(zip(vectors, titles, strict=True), start=1):
        scale = c == len(vectors)
        figure.add_trace(_weight_map(vector, title, tiles, limit, scale=scale, mode=mode), row=1, col=c)
        if vector is None:
            _say_missing(figure, c, missing, mode)
        _frame_panel(figure, c, mode)
    figure.update_layout(template=template(mode), height=290, margin={"l": 4, "r": 4, "t": 34, "b": 44})
    figure.update_annotations(font_size=13)
    return figure


def largest(vectors: Sequence[Floats | None]) -> float:
    """Return the largest absolute weight, the end of a colour scale; 1 where all are zero or missing.

    >>> largest([np.array([0.5, -2.0]), None]), largest([None])
    (2.0, 1.0)
    """
    return max((float(np.abs(v).max()) for v in vectors if v is not None and v.size), default=1.0) or 1.0


def _weight_map(
    vector: Floats | None, title: str, tiles: Tiling, limit: float, *, scale: bool, mode: Mode
) -> go.Heatmap:
    """Draw one vector as tiles, coloured from `-limit` to `limit`; `scale` shows the colours below."""
    blank = np.zeros(tiles.count * tiles.height * tiles.width)
    grid = mosaic(blank if vector is None else vector, tiles)
    return go.Heatmap(
        z=np.full_like(grid, np.nan) if vector is None else grid,
        zmin=-limit,
        zmax=limit,
        colorscale=diverging(mode),
        showscale=scale,
        colorbar={
            "orientation": "h",
            "thickness": 10,
            "len": 0.7,
            "y": -0.02,
            "yanchor": "top",
            "outlinewidth": 0,
            "tickformat": ".2g",
            "nticks": 6,
            "tickfont": {"size": 12, "color": palette(mode).muted},
        },
        hovertemplate="weight %{z:.4f}<extra>" + title + "</extra>",
        hoverongaps=False,
    )


def _frame_panel(figure: go.Figure, column: int, mode: Mode) -> None:
    """Draw a frame around a panel, whose tiles are square and begin at the top."""
    x, y = _axes(column)
    figure.update_xaxes(visible=False, constrain="domain", row=1, col=column)
    figure.update_yaxes(visible=False, autorange="reversed", scaleanchor=x, constrain="domain", row=1, col=column)
    line = {"color": palette(mode).grid, "width": 1}
    figure.add_shape(type="rect", x0=0, x1=1, y0=0, y1=1, line=line, xref=f"{x} domain", yref=f"{y} domain")


def _say_missing(figure: go.Figure, panel: int, missing: str, mode: Mode) -> None:
    x, y = _axes(panel)
    figure.add_annotation(
        text=missing,
        showarrow=False,
        x=0.5,
        y=0.5,
        font={"color": palette(mode).muted},
        bgcolor=palette(mode).paper,
        xref=f"{x} domain",
        yref=f"{y} domain",
    )


def _axes(panel: int) -> tuple[str, str]:
    """Names of a panel's axes; the first panel's have no number."""
    number = "" if panel == 1 else str(panel)
    return f"x{number}", f"y{number}"


def _weight_bars(vectors: Sequence[Floats | None], titles: Sequence[str], *, mode: Mode, missing: str) -> go.Figure:
    colours = palette(mode)
    figure = make_subplots(
        rows=len(vectors), cols=1, shared_xaxes=True, subplot_titles=list(titles), vertical_spacing=0.09
    )
    limit = 1.08 * largest(vectors)
    for r, (vector, title) in enumerate(zip(vectors, titles, strict=True), start=1):
        if vector is None:
            figure.add_trace(go.Bar(x=[], y=[], showlegend=False), row=r, col=1)
            _say_missing(figure, r, missing, mode)
        else:
            figure.add_trace(
                go.Bar(
                    x=np.arange(vector.size),
                    y=vector,
                    marker={
                        "color": np.where(vector < 0, colours.tasks[1], colours.tasks[0]),
                        "line": {"width": 0},
                    },
                    showlegend=False,
                    hovertemplate="shared input %{x}: %{y:.4f}<extra>" + title + "</extra>",
                ),
                row=r,
                col=1,
            )
        figure.update_yaxes(range=[-limit, limit], nticks=3, zeroline=True, zerolinecolor=colours.muted, row=r, col=1)
    figure.update_xaxes(title="shared input neuron", row=len(vectors), col=1)
    figure.update_layout(template=template(mode), height=110 * len(vectors) + 50, bargap=0.1)
    figure.update_annotations(font_size=13)
    return figure


def diverging(mode: Mode) -> list[list[float | str]]:
    """Return a colour scale around zero, orange for negative and blue for positive, with the page's own middle."""
    colours = palette(mode)
    middle = "#F7F7F7" if mode == "light" else "#161C25"
    far = ("#7F2F00", "#06365A") if mode == "light" else ("#FFC79A", "#BFE3FF")
    return [[0.0, far[0]], [0.25, colours.tasks[1]], [0.5, middle], [0.75, colours.tasks[0]], [1.0, far[1]]]


def relative_losses(losses: Sequence[float], scales: Sequence[float]) -> list[float]:
    """Divide losses by the loss that weights of zero would make; NaN where that is zero."""
    return [loss / scale if scale > 0 else math.nan for loss, scale in zip(losses, scales, strict=True)]


def cost_curve(costs: Floats, *, selected: int | None = None, mode: Mode = "light") -> go.Figure:
    """Draw the chosen pairs' costs, cheapest first, above their sum so far; `selected` marks one pair."""
    if not costs.size:
        return empty_figure("No pair was chosen in this layer.", mode)
    colours = palette(mode)
    ordered = np.sort(costs)
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.14,
        subplot_titles=("cost of each pair", "sum of the cheapest pairs' costs"),
    )
    for row, values, colour in ((1, ordered, colours.tasks[0]), (2, np.cumsum(ordered), colours.tasks[1])):
        figure.add_trace(_cost_line(values, MARKERS[row - 1], colour), row=row, col=1)
        if selected is not None:
            figure.add_trace(_ring(selected + 1, float(values[selected]), colours.text), row=row, col=1)
        figure.update_yaxes(rangemode="tozero", nticks=4, row=row, col=1)
    if ordered.sum() > NOTHING:
        _mark_half(figure, ordered, colours.muted)
    else:
        figure.update_yaxes(range=[0, 1])
    figure.update_xaxes(title="pairs, cheapest first", row=2, col=1)
    figure.update_layout(template=template(mode), height=400)
    figure.update_annotations(font_size=13)
    return figure


def _cost_line(values: Floats, symbol: str, colour: str) -> go.Scatter:
    return go.Scatter(
        x=np.arange(1, values.size + 1),
        y=values,
        mode="lines+markers" if values.size < 40 else "lines",
        showlegend=False,
        line={"color": colour, "width": 2},
        marker={"symbol": symbol, "size": 6},
        hovertemplate="pair %{x}: %{y:.4g}<extra></extra>",
    )


def _ring(x: int, y: float, colour: str) -> go.Scatter:
    """Draw a ring around the selected pair."""
    return go.Scatter(
        x=[x],
        y=[y],
        mode="markers",
        showlegend=False,
        hoverinfo="skip",
        cliponaxis=False,
        marker={"symbol": "circle-open", "size": 14, "color": colour, "line": {"width": 2.5}},
    )


def _mark_half(figure: go.Figure, ordered: Floats, colour: str) -> None:
    """Draw in the lower panel after how many of the pairs half of the cost is reached, and say it."""
    half = half_cost_count(ordered)
    left = half > ordered.size / 2
    figure.add_vline(x=half, row=2, col=1, line={"color": colour, "width": 1.5, "dash": "dot"})
    figure.add_annotation(
        x=half,
        y=float(ordered.sum()),
        text=f"half of the cost: {half} of {ordered.size} pairs",
        showarrow=False,
        xanchor="right" if left else "left",
        xshift=-6 if left else 6,
        yanchor="top",
        font={"size": 12, "color": colour},
        row=2,
        col=1,
    )
