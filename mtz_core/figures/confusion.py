"""A table of answers: what the parent says down, what the network that it became says across."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from mtz_core.figures.palette import Mode, palette
from mtz_core.figures.theme import template

NUMBERED = 16
"""So many classes have their counts written into the cells."""


def confusion_figure(
    counts: NDArray[np.int64], names: Sequence[str], mode: Mode = "light", became: str = "zipped"
) -> go.Figure:
    """Draw how often the parent's answer (row) became each of the zipped network's (column).

    Colour is the share of the row; the diagonal, where nothing changed, is left pale so that changes stand out.

    Args:
        counts: (K, K), whole numbers.
        names: K or fewer; others are numbered.
        mode: colours.
        became: what the network in the columns is called.
    """
    size = len(counts)
    labels = [names[k] if k < len(names) else str(k) for k in range(size)]
    rows = counts.sum(1, keepdims=True)
    share = np.where(rows > 0, counts / np.maximum(rows, 1), 0.0)
    changed = share.copy()
    np.fill_diagonal(changed, 0.0)
    colours = palette(mode)
    text = [[f"{n:,}" if n else "" for n in row] for row in counts]
    figure = go.Figure(layout={"template": template(mode), "height": 150 + 26 * max(4, min(size, 24))})
    figure.add_trace(
        go.Heatmap(
            z=changed,
            x=labels,
            y=labels,
            text=text if size <= NUMBERED else None,
            texttemplate="%{text}" if size <= NUMBERED else None,
            customdata=np.stack([counts, 100 * share], -1),
            hovertemplate=f"parent %{{y}}, {became} %{{x}}<br>"
            "%{customdata[0]:,} inputs, %{customdata[1]:.1f} % of the row<extra></extra>",
            colorscale=[[0.0, colours.surface], [1.0, colours.bad]],
            zmin=0.0,
            zmax=max(0.02, float(changed.max(initial=0.0)) * 1.6),
            showscale=False,
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(title=f"{became} network", type="category", side="bottom", showgrid=False)
    figure.update_yaxes(title="parent", type="category", autorange="reversed", showgrid=False)
    return figure
