"""What networks that were brought answer to some of their inputs: asked once, kept beside them, drawn by their kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtz_core.data.imageset import array_set
from mtz_core.data.reading import Reading
from mtz_core.data.tasks import TaskData
from mtz_core.graph.propagation import channel_graph
from mtz_core.outputs.flips import OutputAnswers
from mtz_core.outputs.types import TaskType
from mtz_core.own.answering import some_answers
from mtz_core.own.registry import OwnNetwork, beside, forget, remember
from mtz_core.own.samples import ENDING, MOST_BYTES, Samples, keep, kept, wrong
from mtz_core.runs.store import RunStore
from mtz_core.spec import NetworkSpec
from mtz_core.zoo.structures import structures
from tests.pages import Open, shown

NAMES = ("ant", "bee", "cat")


def rule(weights: Any, x: Any) -> Any:
    """The answers of two layers, by hand."""
    hidden = np.maximum(x @ weights["0.weight"].T + weights["0.bias"], 0)
    return (hidden @ weights["2.weight"].T + weights["2.bias"]).argmax(1)


@pytest.mark.parametrize("labelled", [True, False])
def test_answers_are_the_networks_own_and_belong_to_the_inputs_that_are_shown(labelled: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(700, 5)).astype(np.float32)
    truth = rule(weights, x)
    given = np.where(np.arange(700) % 4 == 0, (truth + 1) % 3, truth)  # so every fourth answer is wrong
    data = TaskData(NAMES, array_set(x, given), array_set(x, given) if labelled else None, type="multiclass")
    found = some_answers(channel_graph(module, torch.from_numpy(x[:2])), data, (None, {}), Reading((5,)))
    (output,) = found.outputs
    assert (found.judged, len(found.inputs), len(output.parent), output.names) == (labelled, 120, 500, NAMES)
    missed = wrong(found.outputs, 500)
    for number, row in zip(found.shown, found.inputs, strict=True):
        (k,) = np.flatnonzero((x == row).all(1))
        assert output.parent[number, 0, 0] == truth[k]
        assert output.truth is None or output.truth[number, 0, 0] == given[k]
        assert missed[number] == (labelled and k % 4 == 0)
    assert missed[found.shown].sum() == (60 if labelled else 0), "half of those that are kept"


def answered(kind: str, inputs: Any, truth: list[int] | None) -> Samples:
    answers = np.array([0, 1, 2, 0]).reshape(-1, 1, 1)
    right = None if truth is None else np.array(truth).reshape(-1, 1, 1)
    output = OutputAnswers("", TaskType("multiclass"), NAMES, answers, answers, right)
    return Samples((output,), inputs, np.arange(4), truth is not None)


@pytest.fixture
def brought(store: RunStore) -> OwnNetwork:
    spec = NetworkSpec(parent="lenet5-mnist-0")
    spec = spec.model_copy(update={"data": "mnist"})
    network = OwnNetwork("mine-12345678", "mine", spec, structures()["lenet5-mnist-0"], 10, (1, 28, 28), 0.5, 9)
    remember(network)
    return network


def test_samples_come_back_from_their_file_and_go_with_their_network(brought: OwnNetwork) -> None:
    assert kept(brought.name) is None
    samples = answered("images", np.random.default_rng(0).random((4, 1, 6, 6), np.float32), [0, 1, 1, 0])
    keep(brought.name, samples)
    found = kept(brought.name)
    assert found is not None
    assert (found.judged, found.outputs[0].names, found.outputs[0].type) == (True, NAMES, TaskType("multiclass"))
    assert np.array_equal(found.inputs, samples.inputs)
    assert wrong(found.outputs, 4).tolist() == [False, False, True, False]
    path = beside(brought.name, ENDING)
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-30], b"\x80\x04N."):
        path.write_bytes(damaged)
        assert kept(brought.name) is None
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    assert kept(brought.name) is None
    forget(brought.name)
    assert not path.exists()


@pytest.mark.parametrize(
    ("kind", "shape", "drawn"),
    [
        ("images", (1, 28, 28), "<img src='data:image/png"),
        ("vectors", (90,), "<img src='data:image/svg+xml"),
        ("tokens", (7,), "<span class='word'>3 3 3"),
        ("volumes", (1, 6, 8, 8), "<img src='data:image/png"),
    ],
)
def test_inputs_are_drawn_as_what_they_are_with_what_is_true(
    visit: Open, brought: OwnNetwork, kind: str, shape: tuple[int, ...], drawn: str
) -> None:
    remember(replace(brought, inputs=kind, spec=brought.spec.model_copy(update={"data": "upload:" + "a" * 64})))
    keep(brought.name, answered(kind, np.full((4, *shape), 3, np.float32), [0, 1, 1, 0]))
    app = visit("pages/1_Networks.py", parents=[brought.name])
    grid = next(element.body for element in app.get("html") if "class='samples" in element.body)
    assert grid.count(drawn) == 4
    assert "✗ cat<small>is bee</small>" in grid
    assert "1 of 4 test" in shown(app)
    assert ("slice 4 of 6" in shown(app)) == (kind == "volumes")
    app = visit("pages/1_Networks.py", parents=[brought.name], wrong="true")
    assert next(e.body for e in app.get("html") if "class='samples" in e.body).count("<figure") == 1


def test_a_network_of_an_earlier_version_is_asked_at_a_click(visit: Open, brought: OwnNetwork) -> None:
    app = visit("pages/1_Networks.py", parents=[brought.name])
    app = app.button(key=f"ask-{brought.name}").click().run()
    assert not app.exception
    found = kept(brought.name)
    assert found is not None
    assert found.judged
    assert wrong(found.outputs, len(found.outputs[0].parent)).mean() < 0.05
    assert "answered wrong" in shown(app)
