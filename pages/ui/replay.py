"""A real run that Home plays: three bundled networks, merged layer by layer. Its numbers are the run's own events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from mtz_core.figures.drawing import Drawing, column_text, merged_layers, planned_drawing, run_drawing
from mtz_core.figures.names import task_labels
from mtz_core.figures.text import error_text, percent_text
from mtz_core.structure.joint import joined
from mtz_core.structure.savings import Keeping
from mtz_core.system.paths import ASSETS
from mtz_core.zoo.structures import structures
from pages.ui.diagram import diagram

REPLAY = ASSETS / "example" / "replay.json"


def replay(path: Path = REPLAY) -> dict[str, Any] | None:
    """Return the stored run, or `None` if there is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def replay_drawing(run: Mapping[str, Any]) -> Drawing:
    """Return what became of the networks in the run."""
    joint = joined([structures()[name] for name in run["parents"]])
    tasks = task_labels(run["tasks"], run["parents"])
    own = bool(run["compensate"])
    slots = {event["layer"]: tuple((tuple(who), n) for who, n in event["slots"]) for event in run["zipped"]}
    plan = planned_drawing(joint, tasks, run["shared"], Keeping.all(kept=own), "waiting")
    return run_drawing(plan, merged_layers(run["zipped"], slots), over=True)


def frames(run: Mapping[str, Any], drawing: Drawing) -> list[dict[str, Any]]:
    """Return the run's layers in their order: which column, and the network's size when it was merged."""
    found = []
    for event in run["zipped"]:
        number = drawing.column(event["layer"])
        if number is None:
            continue
        counts = event["counts"]
        size = (counts["shared"] + sum(counts["private"])) / sum(counts["parents"])
        said = column_text(drawing.columns[number], drawing)
        found.append({"column": number, "when": f"{percent_text(size)} of the parents", "said": said})
    return found


def play() -> bool:
    """Draw the run and let it play; return whether there is one."""
    run = replay()
    if run is None:
        return False
    drawing = replay_drawing(run)
    diagram(drawing, key="replay", on_layer=None, frames=frames(run, drawing))
    errors = "; ".join(
        f"{task} {error_text(before)} → {error_text(after)}"
        for task, before, after in zip(drawing.tasks, run["parent_errors"], run["errors"], strict=True)
    )
    st.caption(
        f"A real run, layer by layer: {', '.join(run['parents'])}, {run['images']} unlabelled images per task, "
        f"{run['retrained']}. Test error before and after: {errors}."
    )
    return True
