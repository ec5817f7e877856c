"""The drawing of a network on a page: layers as columns, what is shared and what is private as marks, and paths.

The numbers are those of `mtz_core.figures.drawing`; the component beside this file only places and moves them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from mtz_core.figures.drawing import Column, Drawing, drawing_to_json
from mtz_core.figures.palette import palette
from mtz_core.figures.text import count_text, percent_text
from pages.ui import frame
from pages.ui.marks import marked

_HERE = Path(__file__).parent
_diagram = st.components.v2.component(
    "mtz_diagram",
    html=(_HERE / "diagram.html").read_text(encoding="utf-8"),
    css=(_HERE / "diagram.css").read_text(encoding="utf-8"),
    js=(_HERE / "diagram.js").read_text(encoding="utf-8"),
)
LANES = {2: 74, 3: 62, 4: 54}
BELOW = 96  # pixels of the legend and of the sentence about a layer
BAR = 44
HEATS = {
    "harm": "by the error that sharing the layer adds, in points",
    "loss": "by predicted loss",
    "share": "by the part of the channels that is shared",
}


def diagram(
    drawing: Drawing,
    *,
    key: str,
    on_layer: Callable[[str], Any] | None,
    selected: str | None = None,
    sliders: Mapping[str, str] | None = None,
    frames: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Draw a network and call `on_layer(name)` when a layer is opened by a click or by Enter.

    Its height is known before it is drawn, so that nothing below it moves.

    Args:
        on_layer: `None` makes a drawing that can only be read.
        selected: name of the column that is marked.
        sliders: by column, key of the slider that is taken to instead.
        frames: a run to play: in order, the `column` that is merged, a word on `when`, and what is `said`.
    """
    shown = drawing_to_json(drawing)
    least, most, levels = _levels(drawing)
    for column, plain, level in zip(drawing.columns, shown["columns"], levels, strict=True):
        plain |= {"sharedChannels": [column.shared_channels(t) for t in range(len(drawing.tasks))], "level": level}
    names = [column.name for column in drawing.columns]
    high = height(drawing) + (BAR if frames else 0)

    def opened() -> None:
        chosen = st.session_state[key].layer
        if chosen and on_layer is not None and 0 <= int(chosen["column"]) < len(names):
            on_layer(names[int(chosen["column"])])

    _diagram(
        key=key,
        height=high,
        data={
            **{k: shown[k] for k in ("tasks", "columns", "joins", "paths", "unit")},
            "identity": f"{'|'.join(drawing.tasks)}|{'|'.join(names)}",
            "palette": _colours(),
            "height": high,
            "rail": _rail(drawing),
            "selected": None if selected is None else drawing.column(selected),
            "focus": None
            if sliders is None
            else [marked(sliders[name]) if name in sliders else None for name in names],
            "frames": None if frames is None else list(frames),
            "start": f"the parents: {count_text(drawing.parents)} parameters",
            "readonly": on_layer is None,
            "label": f"{len(drawing.tasks)} networks as one drawing: {', '.join(drawing.tasks)}",
            "hint": _hint(drawing),
            "legend": "Area: parameters."
            + ("" if least is None else f" Colour of what is shared: {HEATS[drawing.heat]}.")
            + (" Hatched: stays private." if any(w for c in drawing.columns for w in c.why) else ""),
            "low": least,
            "high": most,
        },
        on_layer_change=opened,
    )


def height(drawing: Drawing) -> int:
    """Return how many pixels high the drawing is."""
    tasks = len(drawing.tasks)
    longest = max(len(column.name) for column in drawing.columns)
    names = 30 if longest * 7 * len(drawing.columns) < 900 else min(118, 7 * longest + 12)
    return _rail(drawing) + (tasks + 1) * LANES.get(tasks, 44) + names + BELOW


def details(column: Column, drawing: Drawing) -> None:
    """Say all about one layer in a table: what it is in each network, and what is shared."""
    has = [t for t, name in enumerate(column.names) if name]
    st.dataframe(
        {
            "task": [drawing.tasks[t] for t in has],
            "layer": [column.names[t] for t in has],
            "channels": [column.widths[t] for t in has],
            "shared": [column.shared_channels(t) for t in has],
            "private": [column.private_channels(t) for t in has],
            "parameters": [column.parents[t] for t in has],
            "stored alone": [column.private[t] for t in has],
            "stays private because": [column.why[t] or "" for t in has],
        },
        hide_index=True,
        width="stretch",
    )
    together = (
        f"{column.shared:,} parameters are stored once." if column.shared else "No parameter is stored in common."
    )
    st.caption(f"{column.name}: {column.kind}. {together}")


def _rail(drawing: Drawing) -> int:
    """Pixels for paths: more where some leave the row of layers and join it again."""
    return (
        84
        if drawing.joins or any(abs(path.target - path.source) > 1 for path in drawing.paths if path.target >= 0)
        else 34
    )


def _hint(drawing: Drawing) -> str:
    now, before = drawing.total, drawing.parents
    size = (
        f"{count_text(now)} of {count_text(before)} parameters ({percent_text(now / before)}). " if now < before else ""
    )
    return f"{size}Point at a layer to read about it; Tab and arrow keys reach every one."


def _levels(drawing: Drawing) -> tuple[str | None, str | None, list[float | None]]:
    """The ends of the colour scale in words, and where on it every column stands."""
    known = [column.heat for column in drawing.columns if column.heat is not None]
    if not known:
        return None, None, [None] * len(drawing.columns)
    top = 1.0 if drawing.heat == "share" else max(0.0, *known) or 1.0
    levels = [None if c.heat is None else min(1.0, max(0.0, c.heat / top)) for c in drawing.columns]
    high = f"{top:.2g} points" if drawing.heat == "harm" else percent_text(top, 0 if drawing.heat == "share" else 1)
    return "0", high, levels


def _colours() -> dict[str, Any]:
    colours = palette(frame.theme())
    names = ("text", "muted", "paper", "surface", "accent", "shared", "tasks", "sequential")
    return {name: getattr(colours, name) for name in names}
