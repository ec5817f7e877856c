"""What tasks that see the same images have in common is computed once; the count of operations is PyTorch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mtz_core import ZippedNetwork, ZipSpec, zip_networks
from mtz_core.errors import GraphError, SpecError
from mtz_core.graph import channel_graph
from mtz_core.network import together
from mtz_core.network.together import Together, indices_of
from mtz_core.spec import BudgetSpec, RetrainSpec
from mtz_core.structure.joint import joined
from mtz_core.structure.networks import NetworkStructure
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import plan_counts, plan_range
from mtz_core.structure.trunks import trunk_of, trunks
from tests.networks import Perceptron, Residual, Tower, images, randomised
from tests.test_any_graph import Mobile, SequenceFirst, Shuffle, batch, made


class Mixed(nn.Module):
    """Flattened with channels last, concatenated, padded: channels end up at many indices."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1), nn.Linear(11 * 16, 9)
        self.d, self.head = nn.Linear(9, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(F.avg_pool2d(x, 3)))
        x = torch.cat([self.b(x), x], dim=1).permute(0, 2, 3, 1).flatten(1)
        return self.head(F.dropout(torch.tanh(self.d(F.relu(self.c(x)))), training=False))


FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], Tensor]]] = {
    "perceptron": (Perceptron, images),
    "tower": (lambda: Tower(2), images),
    "residual": (Residual, images),
    "mixed": (Mixed, batch),
    "mobile": (Mobile, batch),
    "shuffle": (Shuffle, batch),
    "sequence first": (SequenceFirst, batch),
}


def family(name: str, tasks: int = 2) -> tuple[list[nn.Module], list[Tensor]]:
    make, data = FAMILIES[name]
    return [randomised(make(), seed) for seed in range(tasks)], [data(60, seed).double() for seed in range(tasks)]


def structures(parents: Sequence[nn.Module], data: Sequence[Tensor]) -> list[NetworkStructure]:
    return [channel_graph(parent, x[:2]).structure() for parent, x in zip(parents, data, strict=True)]


def operations(run: Callable[[Tensor], object], x: Tensor) -> int:
    """Multiplications per image of what `run` does, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(x)
    return counter.get_total_flops() // (2 * len(x))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_takes_the_multiplications_that_its_structure_says(name: str) -> None:
    parents, data = family(name)
    assert operations(parents[0], data[0][:3]) == structures(parents, data)[0].multiplications


@pytest.mark.parametrize("name", FAMILIES)
def test_a_trunk_is_computed_once_and_the_answers_are_the_same(name: str) -> None:
    parents, data = family(name)
    known = structures(parents, data)
    possible = trunks(joined(known))
    assert possible
    for trunk in {t.name: t for t in (possible[0], possible[len(possible) // 2], possible[-1])}.values():
        result = zip_networks(parents, data, ZipSpec(share=0.5, trunk=trunk.name, ridge=1e-3))
        answering = Together(result.network)
        x = data[0][:3]
        with torch.no_grad():
            for task, answer in enumerate(answering(x)):
                torch.testing.assert_close(answer, result.network(x, task=task), rtol=1e-9, atol=1e-9)
        assert operations(answering, x) == trunk.multiplications
        shares = {layer.name: len(layer.pairs) for layer in result.layers}
        assert all(shares[layer] == known[0].layers[k].width for k, layer in enumerate(trunk.layers))


def test_the_longest_trunk_ends_before_the_heads_or_where_a_task_has_parameters_of_its_own() -> None:
    ends = {name: trunks(joined(structures(*family(name))))[-1].name for name in FAMILIES}
    assert ends["perceptron"] == "fc2"
    assert ends["mixed"] == "d"
    assert ends["shuffle"] == "point"
    tokens = [channel_graph(made("tokens", seed), batch(2)).structure() for seed in range(2)]
    assert trunks(joined(tokens))[-1].name == "embed"  # what follows adds a token and positions of the task's own


def test_three_tasks_have_a_trunk_in_common() -> None:
    parents, data = family("mixed", tasks=3)
    trunk = trunk_of(joined(structures(parents, data)), "c")
    assert trunk is not None
    result = zip_networks(parents, data, ZipSpec(share=0.0, trunk="c"))
    answering, x = Together(result.network), data[0][:4]
    with torch.no_grad():
        for task, answer in enumerate(answering(x)):
            torch.testing.assert_close(answer, result.network(x, task=task), rtol=1e-9, atol=1e-9)
    assert operations(answering, x) == trunk.multiplications


def test_frozen_answers_are_the_same_and_assemble_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    parents, data = family("perceptron")
    network = zip_networks(parents, data, ZipSpec(share=0.5, trunk="fc1")).network
    answering, x = Together(network), data[0][:4]
    with torch.no_grad():
        wanted, frozen = answering(x), answering.frozen()
        monkeypatch.setattr(ZippedNetwork, "matrix", None)
        for answer, expected in zip(frozen(x), wanted, strict=True):
            torch.testing.assert_close(answer, expected, rtol=1e-9, atol=1e-9)


def test_a_trunk_may_end_in_a_single_neuron() -> None:
    parents = [randomised(nn.Sequential(nn.Linear(4, 1), nn.Tanh(), nn.Linear(1, 3)), seed) for seed in (0, 1)]
    data = [torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(t)) for t in (0, 1)]
    network = zip_networks(parents, data, ZipSpec(share=0.5, trunk="0")).network
    answering = Together(network)
    assert operations(answering, data[0][:3]) == 4 + 2 * 3
    with torch.no_grad():
        for task, answer in enumerate(answering(data[0])):
            torch.testing.assert_close(answer, network(data[0], task=task), rtol=1e-9, atol=1e-9)


def test_without_a_trunk_everything_is_computed_for_each_task() -> None:
    parents, data = family("perceptron")
    network = zip_networks(parents, data, ZipSpec()).network
    assert operations(Together(network), data[0][:3]) == 2 * operations(parents[0], data[0][:3])


def test_networks_that_do_other_things_in_between_have_no_longer_trunk() -> None:
    class Other(Perceptron):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc3(F.relu(self.fc2(torch.tanh(self.fc1(x.view(x.size(0), -1))))))

    parents = [randomised(Perceptron(), 0), randomised(Other(), 1)]
    known = structures(parents, [images(9)] * 2)
    assert [trunk.name for trunk in trunks(joined(known))] == ["fc1"]
    wide = structures([randomised(Perceptron(12), 0), randomised(Perceptron(14), 1)], [images(9)] * 2)
    assert trunks(joined(wide)) == ()
    with pytest.raises(SpecError, match=r"trunk: the tasks cannot have all layers up to 'fc2' .*possible: fc1"):
        zip_networks(parents, [images(30)] * 2, ZipSpec(trunk="fc2"))


def test_settings_of_operations_without_parameters_must_agree() -> None:
    def pooled(**settings: bool) -> nn.Module:
        pool = nn.AvgPool2d(3, 2, padding=1, **settings)
        return randomised(
            nn.Sequential(nn.Conv2d(1, 4, 3), pool, nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(16, 3)), 0
        )

    one, alike, other = pooled(), pooled(count_include_pad=True), pooled(count_include_pad=False)
    for second, name in ((alike, "2"), (other, "0")):
        assert trunks(joined(structures([one, second], [images(9)] * 2)))[-1].name == name


@pytest.mark.parametrize("name", ["perceptron", "residual", "mobile"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_size_with_a_trunk_is_known_beforehand(name: str, share: float) -> None:
    parents, data = family(name)
    known = structures(parents, data)
    trunk = trunks(joined(known))[len(trunks(joined(known))) // 2]
    shared = {g.name: round(share * g.width) for g in known[0].groups if g.frozen is None} | dict(trunk.groups)
    result = zip_networks(parents, data, ZipSpec(share=share, trunk=trunk.name, ridge=1e-3))
    assert plan_counts(joined(known), shared, Keeping.all(trunk)) == result.counts
    assert plan_range(joined(known), shared, Keeping.all(trunk)) == (result.counts.total,) * 2


def test_a_trunk_survives_saving_copying_resuming_and_retraining(tmp_path: Path) -> None:
    parents, data = family("mixed")
    spec = ZipSpec(trunk="c", retrain=RetrainSpec(steps=20, learning_rate=1e-2, batch_size=8))
    network = zip_networks(parents, data, spec).network
    network.save(tmp_path / "z.safetensors")
    x = data[1][:4]
    with torch.no_grad():
        wanted = [network(x, task=t) for t in range(2)]
        for other in (network, ZippedNetwork.load(tmp_path / "z.safetensors", parents), copy.deepcopy(network)):
            answering = Together(other)
            assert operations(answering, x) < 1.2 * operations(parents[0], x)
            for answer, expected in zip(answering(x), wanted, strict=True):
                torch.testing.assert_close(answer, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("limit", "name"), [(2.0, None), (1.99, "fc1"), (1.2, "fc1"), (1.1, "fc2")])
def test_the_shortest_trunk_within_a_limit_is_taken(limit: float, name: str | None) -> None:
    known = structures(*family("perceptron"))
    trunk = trunk_of(joined(known), limit=limit)
    assert (trunk and trunk.name) == name
    if trunk is not None:
        assert trunk.multiplications <= limit * known[0].multiplications


def test_a_limit_that_cannot_be_kept_is_named() -> None:
    parents, data = family("perceptron")
    with pytest.raises(SpecError, match=r"0\.5 times the multiplications of one network are too few.* take 1\.0"):
        zip_networks(parents, data, ZipSpec(share="auto", budget=BudgetSpec(macs=0.5)))


def test_answers_that_would_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parents, data = family("mixed")
    network = zip_networks(parents, data, ZipSpec(trunk="c")).network
    monkeypatch.setattr(together, "indices_of", lambda wanted, given: np.arange(len(wanted))[::-1].copy())
    with pytest.raises(GraphError, match="task 1 answers otherwise"):
        Together(network)


def test_indices_of_counts_appearances() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        given = rng.integers(0, 4, 12)
        order = rng.permutation(12)
        found = indices_of(given[order], given)
        assert (given[found] == given[order]).all()
        assert sorted(found) == list(range(12))
