"""A step of the lesson in the browser: texts beside a picture that answers at once, drawn by plain JavaScript."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from mtz_core.figures.palette import Mode, palette
from pages.ui.lesson.texts import ORDER, STEPS

_HERE = Path(__file__).parent
SCRIPTS = {
    "1": ("networks",),
    "2": ("scene", "bowl"),
    "3": ("scene", "bowls"),
    "4": ("nearest",),
    "5": ("pairing",),
    "6": ("sizes",),
    "7": ("layers",),
    "8": ("wrong",),
    "9": ("guess",),
    "end": ("end",),
}
"""The files of JavaScript that draw each step, after `base.js`."""


def script(step: str) -> str:
    """Return the JavaScript of a step: what all share, then its own."""
    return "\n".join((_HERE / f"{name}.js").read_text(encoding="utf-8") for name in ("base", *SCRIPTS[step]))


_components = {
    step: st.components.v2.component(
        f"mtz_lesson_{step}",
        html=(_HERE / "base.html").read_text(encoding="utf-8"),
        css=(_HERE / "base.css").read_text(encoding="utf-8"),
        js=script(step),
    )
    for step in ORDER
}


def stage(
    step: str,
    part: Mapping[str, Any],
    texts: Mapping[str, Any],
    facts: Mapping[str, str],
    *,
    mode: str,
    theme: Mode,
    hide: Sequence[str] = (),
    on_go: Callable[[str], None] | None = None,
    on_zip: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Draw a step.

    Args:
        part: numbers and pictures of the step.
        facts: what stands for the names in braces in its texts.
        mode: `read`, `present` (large, controls hidden) or `handout` (still, to be printed).
        hide: parts of the page, or controls by their names in the address, that are not shown.
        on_go, on_zip: called with the step that is asked for, and with what is to be zipped.
    """
    # A key pressed while the page still runs comes before its callback could find its value: it is read here instead.
    heard = _components[step](
        key=f"lesson-{step}",
        data={
            "step": step,
            "steps": len(STEPS),
            "order": list(ORDER),
            "titles": [texts["steps"][name]["title"] for name in ORDER],
            "part": part,
            "texts": texts["steps"][step],
            "common": texts["common"],
            "facts": dict(facts),
            "mode": mode,
            "hide": list(hide),
            "colours": colours(theme),
        },
        on_go_change=lambda: None,
        on_zip_change=lambda: None,
    )
    for name, listener in (("go", on_go), ("zip", on_zip)):
        value = getattr(heard, name, None)
        if value is not None and listener is not None:
            listener(value)
            st.rerun()


def colours(theme: Mode) -> dict[str, str]:
    """Return the page's colours by the names that `base.css` gives them."""
    c, light = palette(theme), theme == "light"
    return {
        "text": c.text,
        "muted": c.muted,
        "grid": c.grid,
        "paper": c.paper,
        "surface": c.surface,
        "accent": c.accent,
        "shared": c.shared,
        "good": c.good,
        "bad": c.bad,
        "a": c.task(0),
        "b": c.task(1),
        "a-text": c.accent if light else c.task(0),
        "b-text": c.bad if light else c.task(1),
        "link": "#00609C" if light else "#7CC4F2",
        "fill": "#0068A8",
        "edge": "#8792A0" if light else "#5A6878",
        "chosen": "#DCEBF7" if light else "#17405F",
        "lit": "#FFE9A8" if light else "#5A4A10",
        "glow": "#F2B600" if light else "#FFD84A",
        "star": "#F2B600",
        "ball": c.text,
        "ring": c.text,
        "heat": c.task(1) if light else "#8F4E00",
        "mark": "#FF5CA8",
        "minus": c.task(0),
        "plus": c.task(1),
        "nought": c.surface,
    }
