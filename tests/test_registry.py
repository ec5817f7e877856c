"""Registries: what is added can be used by name, everywhere, and what is not there is refused with what there is."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mtz_core import ZipSpec, pair_neurons, zip_networks
from mtz_core.cli import main
from mtz_core.errors import SpecError
from mtz_core.methods.kinds import METRICS, PAIRING, pairing_method
from mtz_core.own.registered import VARIABLE
from mtz_core.pairing.folding import pair_tasks
from mtz_core.pairing.subsets import pair_subsets
from mtz_core.system.registry import Entry, Registry
from tests.networks import Perceptron, images, randomised
from tests.test_pairing import tasks_of


@pytest.fixture(autouse=True)
def _leave_no_method_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    for registry in (PAIRING, METRICS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def test_entries_come_by_name_and_never_twice() -> None:
    registry: Registry[Entry] = Registry("fruit")
    for name in ("pear", "apple"):
        registry.adding(lambda work, name=name: Entry(name, f"a {name}", "a tree"))(len)
    assert registry.names == [entry.name for entry in registry] == ["apple", "pear"]
    assert registry.told() == "apple: a apple; pear: a pear"
    assert registry.find("pear") == Entry("pear", "a pear", "a tree")
    with pytest.raises(SpecError, match="'plum' is no fruit; choose from 'apple', 'pear'"):
        registry.find("plum")
    with pytest.raises(SpecError, match="there is a fruit 'pear' already"):
        registry.adding(lambda work: Entry("pear", "", ""))(len)


@pytest.mark.parametrize(("field", "registry"), [("pairing", PAIRING), ("metric", METRICS)])
def test_the_specification_takes_what_is_registered_and_names_it(field: str, registry: Registry[Any]) -> None:
    for name in registry.names:
        assert getattr(ZipSpec(**{field: name}), field) == name  # type: ignore[arg-type]
    with pytest.raises(
        SpecError, match=rf"^{field}: 'best' is no .*{', '.join(map(repr, registry.names))} \(got 'best'\)"
    ):
        ZipSpec(**{field: "best"})  # type: ignore[arg-type]
    described = ZipSpec.model_json_schema()["properties"][field]
    assert described["enum"] == registry.names
    assert all(f"{entry.name}: {entry.text}" in described["description"] for entry in registry)


def in_order(costs: NDArray[Any], k: int, seed: int = 0) -> NDArray[np.int64]:
    """Neurons of equal index."""
    return np.stack([np.arange(min(costs.shape))] * 2, axis=1)


def test_a_method_without_flags_is_all_that_decides() -> None:
    """Two tasks and three, all of them or subsets: nothing is moved afterwards, and the cheapest slots are kept."""
    pairing_method("in order", text="equal index", source="here")(in_order)
    rng = np.random.default_rng(0)
    costs = {(t, u): rng.random((6, 6)) for t, u in itertools.combinations(range(3), 2)}
    cheapest = np.argsort(costs[0, 1].diagonal())[:4]
    assert pair_neurons(costs[0, 1], 4, "in order").tolist() == [[i, i] for i in cheapest]
    weights, grams = tasks_of(0, (6, 6, 6))
    slots, found = pair_tasks(weights, grams, 4, "in order")
    assert (slots == slots[:, :1]).all()
    assert (found.diff() >= 0).all()
    for full in (True, False):
        slots = pair_subsets(costs, [6] * 3, [1 / 3] * 3, 8, full, method="in order")
        assert ((slots >= 0).sum(1) - 1).sum() == 8
        held = np.where(slots >= 0, slots, slots.max(axis=1, keepdims=True))
        assert (held == held[:, :1]).all()


def test_the_example_of_the_how_to_runs() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "adding.md"
    (example,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    exec(example, {})
    assert pair_neurons(np.eye(3), 2, "in order").tolist() == [[0, 0], [1, 1]]


def test_a_random_method_of_ones_own_is_compared_by_nothing() -> None:
    pairing_method("drawn", text="pairs are drawn", source="here", random=True)(in_order)
    assert ZipSpec(pairing="drawn").sharing == "all"
    with pytest.raises(SpecError, match="metric 'euclidean' has no effect with pairing drawn"):
        ZipSpec(pairing="drawn", metric="euclidean")


def test_a_network_is_zipped_by_a_method_of_ones_own() -> None:
    pairing_method("in order", text="equal index", source="here")(in_order)
    parent = randomised(Perceptron(), 0)
    order = torch.arange(12).flip(0)
    twin = randomised(Perceptron(), 0)
    with torch.no_grad():
        twin.fc1.weight.copy_(parent.fc1.weight[order])
        twin.fc1.bias.copy_(parent.fc1.bias[order])
        twin.fc2.weight.copy_(parent.fc2.weight[:, order])
    same, mirrored = (
        zip_networks([parent, other], [images()] * 2, ZipSpec(share={"fc1": 1.0}, pairing="in order", compensate=False))
        for other in (parent, twin)
    )
    torch.testing.assert_close(same.network(images(), task=1), parent(images()))
    assert (mirrored.network(images(), task=1) - parent(images())).abs().max() > 1e-3


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "my_methods.py").write_text(
        "from mtz_core.methods.kinds import pairing_method\n"
        "from tests.test_registry import in_order\n"
        "pairing_method('mine', text='equal index', source='here')(in_order)\n"
        "def trained(): return {}\n"
    )
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_methods", None)


def test_the_command_line_knows_the_methods_of_the_module_that_is_given(
    own_module: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = own_module / "run.yaml"
    spec.write_text("networks: [{parent: nobody}, {parent: nobody}]\nzip: {pairing: mine}\n")
    assert main(["preflight", str(spec)]) == 2
    assert "'mine' is no pairing method" in capsys.readouterr().err
    assert main(["preflight", str(spec), "--models", "my_methods:trained"]) == 2
    told = capsys.readouterr().err
    assert "nobody" in told
    assert "pairing" not in told
