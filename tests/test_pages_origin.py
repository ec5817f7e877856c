"""Inspect's view of where a difference comes from: asked for on the page and on the command line, kept, drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mtz_core.cli import main
from mtz_core.figures import origin as draw
from mtz_core.figures.origin import Part
from mtz_core.runs.origins import keep_layers, keep_pair, pair_path, read_layers, read_pair
from mtz_core.runs.store import RunStore
from mtz_core.runs.worker import execute
from mtz_core.spec import parse_run_spec
from mtz_core.zipping.findings import BIAS, RAW, Parts, Stability
from tests.pages import Open, shown
from tests.synthetic import synthetic_findings, synthetic_run

INSPECT = "pages/3_Inspect.py"


def test_a_difference_is_asked_for_shown_at_once_again_and_told_on_the_command_line(
    visit: Open, store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {
        "networks": [{"parent": "lenet300-mnist-0"}, {"parent": "lenet300-fashion-0"}],
        "calibration": {"images": 60},
        "evaluation": {"images": 0, "harm": False},
        "zip": {"share": {"fc1": 20}, "relu_rounds": 0, "ridge": 0.01},
    }
    run = store.create(parse_run_spec(spec))
    execute(store, run.id)
    difference = store.layer_arrays(run.id, "fc1")["difference_0_1"]
    app = visit(INSPECT, run=run.id, layer="fc1", view="origin", i="4", j="7")
    app.button(key="find-origin").click().run()
    text = shown(app)
    assert "Neither half pairs" in text or "halves pair" in text
    found = read_pair(run_path := store.get(run.id).path, "fc1", (0, 1), (4, 7))
    assert found is not None
    assert found.difference == pytest.approx(float(difference[4, 7]), rel=1e-5)
    assert f"d = {found.difference:.4g} is the sum of all parts" in text
    assert "Found again" not in text
    assert main(["origin", run.id, "--store", str(store.root)]) == 0
    assert capsys.readouterr().out.count("effective rank") == 6
    assert [each.layer for each in read_layers(run_path) or ()] == ["fc1", "fc1", "fc2", "fc2", "fc3", "fc3"]
    assert main(["origin", run.id, "--store", str(store.root), "--layer", "fc1", "--neurons", "4", "300"]) == 2
    assert "neurons 0 to 299" in capsys.readouterr().err


def test_the_view_waits_for_the_end_of_a_run_and_says_why_nothing_can_be_found(visit: Open, store: RunStore) -> None:
    live = synthetic_run(store, status="failed", title="the first")
    assert "once the run is finished" in shown(visit(INSPECT, run=live.id, view="origin"))
    run = synthetic_run(store)
    app = visit(INSPECT, run=run.id, layer="fc1", view="origin")
    app.button(key="find-origin").click().run()
    assert "could not be found out" in shown(app)


def test_what_is_kept_is_drawn_and_names_are_no_markup(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store)
    found = synthetic_findings("fc2", (3, 5))
    keep_pair(run.path, found)
    keep_layers(run.path, found.likeness)
    text = shown(visit(INSPECT, run=run.id, layer="fc2", view="origin", i="3", j="5"))
    assert "Why digits 3 and clothes 5 differ" in text
    assert "**One of the halves pairs these two neurons.**" in text
    assert "Found again in the network as it was saved" in text  # these numbers are made up
    assert "CKA: linear centred kernel alignment" in text
    name = "[a](http://b)<img src=x>"
    told = replace(found, parts=replace(found.parts, groups=(name,)), stability=Stability(why=f"In {name}."))
    keep_pair(run.path, told)
    app = visit(INSPECT, run=run.id, layer="fc2", view="origin", i="3", j="5")
    assert r"In \[a\]\(http\://b\)\<img src\=x\>." in shown(app)
    figures = [each.proto.spec for each in app.get("plotly_chart")]
    assert any("&lt;img src=x" in spec for spec in figures)
    assert not any("<img" in spec for spec in figures)
    pair_path(run.path, "fc2", (0, 1), (3, 5)).write_bytes(b"no safetensors")
    assert "cannot be read" in shown(visit(INSPECT, run=run.id, layer="fc2", view="origin", i="3", j="5"))


def test_the_largest_parts_and_the_rest_add_up_to_the_difference() -> None:
    found = synthetic_findings("fc2", (3, 5), inputs=40)
    parts = draw.largest_parts(found.parts, ("digits", "clothes"), 6)
    sizes = [abs(part.value) for part in parts[:6]]
    assert sizes == sorted(np.abs(found.parts.values), reverse=True)[:6]
    assert sum(part.value for part in parts) == pytest.approx(found.difference)
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    assert parts[-1].name == "34 others"
    (bars,) = draw.parts_figure(parts).data
    np.testing.assert_allclose(bars.x, [100 * part.share for part in parts])


def test_weights_that_read_one_channel_are_summed_and_it_is_named() -> None:
    channels = np.array([[RAW, 5, 5], [RAW, 1, 2], [BIAS, 0, 0], [1, 3, 4]])
    values, channel = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), np.array([0, 0, 1, 2, 3, 3])
    parts = Parts(values, np.zeros((6, 2), dtype=np.int64), channel, channels, ("conv1", "conv2"))
    assert draw.largest_parts(parts, ("a", "b")) == [
        Part("conv2: a 3 · b 4", 48.0, 48 / 63),
        Part("bias", 8.0, 8 / 63),
        Part("input 1 · 2", 4.0, 4 / 63),
        Part("input 5", 3.0, 3 / 63),
    ]


@pytest.mark.parametrize("inputs", [24, 200])
def test_every_direction_is_in_the_figure(inputs: int) -> None:
    found = synthetic_findings("fc2", (3, 5), inputs=inputs).directions
    values, squares, parts = draw.directions_figure(found).data
    np.testing.assert_allclose(values.y, found.values)
    np.testing.assert_allclose(squares.y, found.squares)
    np.testing.assert_allclose(parts.y, 100 * found.parts / found.parts.sum())


def test_points_lie_where_each_neuron_stands_whosever_inputs_they_are() -> None:
    found = synthetic_findings("fc2", (3, 5))
    first, second = found.responses
    figure = draw.parents_figure(found.responses, ("digits", "clothes"), (3, 5))
    assert figure is not None
    np.testing.assert_allclose(figure.data[0].x, first.points[:, 0])
    np.testing.assert_allclose(figure.data[1].x, second.points[:, 2])  # neuron 3 on inputs of clothes
    np.testing.assert_allclose(figure.data[1].y, second.points[:, 0])
