"""What Inspect reads of a run, kept for as long as it does not change."""

from __future__ import annotations

from typing import Any

import streamlit as st

from pages.ui import frame


def layer_summary(run: Any, layer: str) -> dict[str, Any] | None:
    """Return the `LayerZipped` event of a layer, once it was zipped."""
    events = frame.store().events(run.id, kinds=["LayerZipped"])
    return next((event.data for event in events if event.data["layer"] == layer), None)


@st.cache_data(max_entries=8, show_spinner=False)
def _started(run_id: str) -> dict[str, Any] | None:
    event = frame.store().last_event(run_id, "Started")
    return None if event is None else event.data


def run_started(run_id: str) -> dict[str, Any]:
    return _started(run_id) or {}


def calibration_images(run_id: str, task: int) -> Any:
    """Return the stored calibration images of a task, or `None` where none were kept."""
    from mtz_core.errors import RunError

    try:
        return frame.store().images(run_id, task)
    except (RunError, OSError):
        return None


def image_shape(run_id: str, task: int) -> tuple[int, ...] | None:
    images = calibration_images(run_id, task)
    return None if images is None else tuple(images.shape[1:])


def input_kind(run: Any, task: int) -> str | None:
    """What a task's inputs are (see `mtz_core.data.kinds`); `None` where an earlier version did not write it down."""
    kinds = run.summary.get("inputs", [])
    return kinds[task] if task < len(kinds) else None
