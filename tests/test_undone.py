"""Harm that is measured after a run is that which a run measures itself, and pairs are undone by name."""

from __future__ import annotations

import pytest

from mtz_core.cli import main
from mtz_core.errors import RunError
from mtz_core.runs import inputs as inputs_module
from mtz_core.runs.estimated import estimated, of_layer
from mtz_core.runs.measure import estimate, measure
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
    _estimates_are_kept(store, run.id, dearest, capsys)
    alone = next(n for n in range(300) if n not in arrays["pairs"][:, 0])
    with pytest.raises(RunError, match="not one shared neuron"):
        list(measure(store, run.id, "fc1", (alone, 0)))
    with pytest.raises(RunError, match="those that share: fc1"):
        list(measure(store, run.id, "fc2"))


def _estimates_are_kept(
    store: RunStore, run: str, dearest: list[tuple[int, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["harm", run, "--store", str(store.root), "--layer", "fc1", "--estimate"]
    assert main([*command, "2"]) == 0
    assert capsys.readouterr().out.count("estimated to win back") == 2
    before = of_layer(estimated(store, run), "fc1")
    assert list(before) == dearest[:2]
    going = estimate(store, run, "fc1")
    left, each = next(going)
    going.close()  # as if it had been stopped
    assert left == 17
    assert each.neurons == {"fc1": (dearest[2],)}
    assert each.unseen == (True, True)
    assert each.images == (2000, 2000)
    assert of_layer(estimated(store, run), "fc1") == {**before, dearest[2]: each}
    assert main(command) == 0
    assert capsys.readouterr().out.count("estimated to win back") == 17
    assert list(of_layer(estimated(store, run), "fc1")) == dearest
    assert main(["harm", run, "--store", str(store.root), "--estimate"]) == 2
    assert "say which: --layer" in capsys.readouterr().err


def test_what_judges_pairs_neither_calibrates_nor_evaluates() -> None:
    spec = parse_run_spec({"networks": [{"parent": "lenet300-mnist-0"}] * 2, "calibration": {"images": 60}})
    given = inputs_module.gather(spec, unseen=10_000)
    rows = lambda x: {row.tobytes() for row in x.flatten(1).numpy()}  # noqa: E731
    assert given.evaluation is not None
    for t, (calibration, tested) in enumerate(zip(given.calibration, given.evaluation, strict=True)):
        assert tested is not None
        assert len(rows(given.unseen[t])) > 2000
        assert not rows(given.unseen[t]) & (rows(calibration) | rows(tested[0]))
