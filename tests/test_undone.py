"""Harm that is measured after a run is that which a run measures itself, and pairs are undone by name."""

from __future__ import annotations

import pytest

from mtz_core.cli import main
from mtz_core.errors import RunError
from mtz_core.runs.measure import measure
from mtz_core.runs.store import RunStore
from mtz_core.runs.undone import of_layers, of_pair, undone
from mtz_core.runs.worker import execute
from mtz_core.spec import parse_run_spec


def test_harm_is_the_same_in_the_run_and_after_it(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    spec = {
        "networks": [{"parent": "lenet300-mnist-0"}, {"parent": "lenet300-fashion-0"}],
        "calibration": {"images": 60},
        "evaluation": {"images": 100, "live_images": 100},
        "zip": {"share": {"fc1": 20}, "relu_rounds": 0, "ridge": 0.01},
    }
    run = store.create(parse_run_spec(spec))
    execute(store, run.id)
    (own,) = of_layers(undone(store, run.id)).values()
    (again,) = measure(store, run.id)
    assert again.points == pytest.approx(own.points)
    assert again.divergences_after == pytest.approx(own.divergences_after, rel=1e-4, abs=1e-7)
    arrays = store.layer_arrays(run.id, "fc1")
    dearest = [tuple(pair) for pair in arrays["pairs"][::-1].tolist()]
    assert main(["harm", run.id, "--store", str(store.root), "--layer", "fc1", "--dearest", "2"]) == 0
    assert capsys.readouterr().out.count("undoing wins back") == 2
    for pair in dearest[:2]:
        found = of_pair(undone(store, run.id), "fc1", pair)
        assert found is not None
        assert abs(found.divergence) < own.divergence
    assert of_pair(undone(store, run.id), "fc1", dearest[2]) is None
    alone = next(n for n in range(300) if n not in arrays["pairs"][:, 0])
    with pytest.raises(RunError, match="not one shared neuron"):
        list(measure(store, run.id, "fc1", (alone, 0)))
    with pytest.raises(RunError, match="those that share: fc1"):
        list(measure(store, run.id, "fc2"))
