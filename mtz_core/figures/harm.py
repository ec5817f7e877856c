"""Which layer does the harm: what undoing each merge alone wins back, above the losses of the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtz_core.figures.inspect import relative_losses
from mtz_core.figures.names import task_labels
from mtz_core.figures.palette import PATTERNS, Mode, palette
from mtz_core.figures.theme import empty_figure, hatch, template
from mtz_core.runs.reader import RunReader
from mtz_core.runs.records import RunRecord
from mtz_core.runs.undone import Undone, of_layers, undone


def harm_by_layer(record: RunRecord) -> dict[str, dict[str, float]]:
    """Return for every layer and task, by its label, the points of error that undoing its merge alone wins back.

    Layers that write the same channels are undone together and have the same numbers. Empty where nothing was
    measured: in runs of before, with `evaluation.harm: false`, and in those that have not come so far.
    """
    labels = task_labels(record.summary["tasks"], record.summary["parents"])
    found = of_layers(undone(RunReader(record.path.parent), record.id))
    return {layer: dict(zip(labels, each.points, strict=False)) for layer, each in found.items()}


def worst_first(layers: Sequence[str], harm: Mapping[str, Undone], losses: Mapping[str, float]) -> list[str]:
    """Return layers by the points that undoing them wins back over all tasks; by `losses` where nothing is known.

    >>> worst_first(["a", "b"], {}, {"a": 0.1, "b": 0.2})
    ['b', 'a']
    """
    rank = {name: (sum(harm[name].points), harm[name].divergence) if name in harm else None for name in layers}
    known = sorted((n for n in layers if rank[n] is not None), key=lambda n: rank[n] or (0.0, 0.0), reverse=True)
    return known + sorted((n for n in layers if rank[n] is None), key=lambda n: -losses.get(n, 0.0))


def harm_figure(
    layers: Sequence[str],
    harm: Mapping[str, Undone],
    tasks: Sequence[str],
    losses: Mapping[str, tuple[float, float, float]],
    *,
    measured_on: str = "evaluation images",
    mode: Mode = "light",
) -> go.Figure:
    """Draw each layer's harm for every task, and below its predicted and measured loss.

    Args:
        layers: in the order in which they are drawn.
        harm: by layer, as far as it was measured.
        tasks: labels of the tasks.
        losses: of every layer predicted, measured, and that of a layer of zeros.
        measured_on: what the losses were measured on.
        mode: light or dark.
    """
    if not layers:
        return empty_figure("No layer has been zipped yet.", mode)
    colours = palette(mode)
    titles = ("undoing this merge alone wins back, points of error", "loss of the layer, % of its signal")
    rows = 2 if harm else 1
    figure = make_subplots(
        rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.2, subplot_titles=titles if harm else titles[1:]
    )
    for t, task in enumerate(tasks) if harm else ():
        points = [harm[name].points[t] if name in harm else np.nan for name in layers]
        partners = [_partners(name, harm) for name in layers]
        figure.add_trace(
            go.Bar(
                x=list(layers), y=points, name=task, legend="legend", customdata=partners,
                marker={"color": colours.task(t), "pattern": hatch(PATTERNS[t % len(PATTERNS)], colours.task(t))},
                hovertemplate="%{y:+.2f} points%{customdata}<extra>" + task + "</extra>",
            ),
            row=1, col=1,
        )  # fmt: skip
    scales = [losses[name][2] for name in layers]
    for k, (name, colour) in enumerate((("predicted", colours.shared), (f"measured on {measured_on}", colours.muted))):
        values = [losses[layer][k] for layer in layers]
        figure.add_trace(
            go.Bar(
                x=list(layers), y=[100 * v for v in relative_losses(values, scales)], name=name, legend="legend2",
                marker={"color": colour, "pattern": hatch(PATTERNS[0] if k else "", colour)},
                customdata=[[v] for v in values],
                hovertemplate="%{y:.2f} % of the signal<br>loss %{customdata[0]:.4g}<extra>" + name + "</extra>",
            ),
            row=rows, col=1,
        )  # fmt: skip
    beside = {"orientation": "h", "x": 1, "xanchor": "right", "yanchor": "bottom"}
    figure.update_layout(
        template=template(mode), height=460 if harm else 300, barmode="group", margin={"t": 60},
        bargap=0.6 if len(layers) < 4 else 0.25,
        legend={**beside, "y": 1.08}, legend2={**beside, "y": 0.44 if harm else 1.08},
    )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False, tickangle=-45 if len(layers) > 8 else 0)
    figure.update_yaxes(rangemode="tozero", row=rows, col=1)
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    return figure


def _partners(layer: str, harm: Mapping[str, Undone]) -> str:
    others = [name for name in harm[layer].layers if name != layer] if layer in harm else []
    return f"<br>together with {', '.join(others)}" if others else ""
