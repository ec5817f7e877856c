"""The drawing of a run: what is planned, what is being merged, what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from mtz_core.errors import MTZError
from mtz_core.figures.drawing import Drawing, Slots, merged_layers, planned_drawing, run_drawing, slots_of, with_harm
from mtz_core.figures.names import task_labels
from mtz_core.structure.joint import joined
from mtz_core.structure.networks import structure_from_json
from mtz_core.structure.savings import Keeping
from mtz_core.structure.trunks import trunk_of
from pages.ui import address, frame
from pages.ui.diagram import diagram

if TYPE_CHECKING:
    from mtz_core.runs.records import RunRecord

Harm = Mapping[str, Sequence[float | None]]


def drawing_of(record: RunRecord, harm: Harm | None = None, until: int | None = None) -> Drawing | None:
    """Return the drawing of a run as far as it has come; `None` before its networks are known.

    `until`: as far as it had come with the event of this number. `harm`: by layer, by how many points each task's error
    rises because the layer is shared, where that was measured.
    """
    store = frame.store()
    started = store.last_event(record.id, "Started")
    if started is None:
        return None
    plan = _plan(record.id, record.attempt, started.seq)
    events = store.events(record.id, kinds=["LayerZipped", "LayerCalibrated"])
    events = [event for event in events if until is None or event.seq <= until]
    zipped = [event.data for event in events if event.kind == "LayerZipped"]
    slots = {event["layer"]: _slots(record.id, record.attempt, event["layer"]) for event in zipped}
    last = store.last_event(record.id)
    live = frame.is_live(record.status) or (until is not None and last is not None and until < last.seq)
    current = next((str(event.data["layer"]) for event in reversed(events) if event.kind == "LayerCalibrated"), None)
    drawing = run_drawing(plan, merged_layers(zipped, slots), current if live else None, over=not live)
    return with_harm(drawing, harm) if harm else drawing


def show_layers(record: RunRecord, layers: Sequence[str], layer: str, harm: Harm | None = None) -> None:
    """Draw what became of the network, with `layer` marked; opening one of `layers` moves the page's address to it."""
    drawing = drawing_of(record, harm)
    if drawing is None:
        return

    def opened(name: str) -> None:
        if name in layers:
            address.move(drop=("i", "j"), layer=name)  # they were neurons of the layer before
        else:
            st.toast(f"{name} shares nothing, so there is nothing to look into.", icon=":material/info:")

    diagram(drawing, key=f"drawing-{record.id}", on_layer=opened, selected=layer)


@st.cache_data(max_entries=8, show_spinner=False)
def _plan(run_id: str, attempt: int, seq: int) -> Drawing:
    """What the run set out to do; `attempt` and `seq` key the cache: a resumed run starts anew."""
    record, started = frame.store().get(run_id), frame.store().last_event(run_id, "Started")
    assert started is not None  # its number was given
    data = started.data
    joint = joined([structure_from_json(structure) for structure in data["structures"]])
    tasks = task_labels(record.summary["tasks"], record.summary["parents"])
    trunk = trunk_of(joint, data.get("trunk"))
    asked = record.spec.zip
    keeping = Keeping(asked.own_bias, asked.own_scale, asked.own_input_scale).beside(trunk)
    return planned_drawing(joint, tasks, data["shared"], keeping, "waiting")


@st.cache_data(max_entries=1024, show_spinner=False)
def _slots(run_id: str, attempt: int, layer: str) -> Slots:
    try:
        return slots_of(frame.store().layer_arrays(run_id, layer)["pairs"])
    except (MTZError, KeyError, OSError):
        return ()
