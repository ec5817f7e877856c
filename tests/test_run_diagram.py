"""The drawing of a stored run follows its events, and what Home plays is a run's own numbers."""

from __future__ import annotations

from mtz_core.runs.store import RunStore
from mtz_core.structure.sizes import ParameterCounts
from mtz_core.zoo.structures import structures
from pages.ui import replay
from pages.ui.run_diagram import drawing_of
from tests.pages import Open, shown
from tests.synthetic import LENET5, synthetic_run


def test_home_plays_a_runs_own_numbers(visit: Open) -> None:
    run = replay.replay()
    assert run is not None
    drawing = replay.replay_drawing(run)
    last = ParameterCounts(**{k: v if k == "shared" else tuple(v) for k, v in run["zipped"][-1]["counts"].items()})
    assert drawing.total == last.total
    assert drawing.parents == sum(structures()[name].parameters for name in run["parents"]) == sum(last.parents)
    played = replay.frames(run, drawing)
    assert [drawing.columns[frame["column"]].name for frame in played] == [event["layer"] for event in run["zipped"]]
    assert {frame["column"] for frame in played} == {k for k, column in enumerate(drawing.columns) if column.slots}
    for event in run["zipped"]:
        for tasks, count in event["slots"]:
            assert len(tasks) > 1
            assert count > 0
    text = shown(visit("Home.py"))
    assert all(f"{error:.2f}" in text for error in (*run["errors"], *run["parent_errors"]))


def test_a_stored_run_is_drawn_as_far_as_it_has_come(store: RunStore) -> None:
    states = {}
    for status in ("queued", "running", "cancelled", "finished"):
        record = synthetic_run(store, layers=LENET5, status=status)
        drawing = drawing_of(record)
        if drawing is None:
            assert status == "queued"
            continue
        zipped = [event.data for event in store.events(record.id, kinds=["LayerZipped"])]
        states[status] = [column.state for column in drawing.columns]
        assert drawing.total == zipped[-1]["counts"]["total"]
        for event in zipped:
            column = drawing.columns[drawing.column(event["layer"]) or 0]
            assert column.shared_channels(0) == len(store.layer_arrays(record.id, event["layer"])["pairs"])
            assert column.heat == event["predicted"] / event["scale"]
    assert states["finished"] == ["merged"] * 3 + ["apart"]
    assert "waiting" in states["running"] or "merging" in states["running"]
    assert set(states["cancelled"]) == {"merged", "apart"}


def test_measured_harm_takes_the_place_of_predicted_loss(store: RunStore) -> None:
    record = synthetic_run(store, layers=LENET5)
    drawing = drawing_of(record, {"conv1": (0.5, 1.5)})
    assert drawing is not None
    assert drawing.heat == "harm"
    assert [column.heat for column in drawing.columns] == [1.5, None, None, None]


def test_networks_opens_the_layer_of_the_address_and_names_one_that_is_not_there(visit: Open) -> None:
    parents = ["lenet5-mnist-0", "lenet5-fashion-0"]
    app = visit("pages/1_Networks.py", parents=parents, layer="conv2")
    table = next(frame.value for frame in app.dataframe if "stored alone" in frame.value)
    assert list(table["layer"]) == ["conv2", "conv2"]
    assert list(table["parameters"]) == [50 * (20 * 25 + 1)] * 2
    assert "“layer” = “conv9”, which is not one of conv1" in shown(
        visit("pages/1_Networks.py", parents=parents, layer="conv9")
    )
