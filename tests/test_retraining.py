"""Retraining: steps that suit weights of any size, images held back, the best state kept, and what is said of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core import RetrainSpec, ZippedNetwork, Zipper, ZipResult, ZipSpec, zip_networks
from mtz_core import events as ev
from mtz_core.errors import DataError
from mtz_core.graph import channel_graph
from mtz_core.graph.correspondence import correspond
from mtz_core.zipping.relative import RelativeSteps, balanced, sizes
from mtz_core.zipping.retraining import Retrained, RetrainingData, held_back, retrain
from tests.networks import FAMILIES, Perceptron, images, randomised

CPU = torch.device("cpu")


class Banks(nn.Module):
    """A grouped convolution between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3, groups=2), nn.Conv2d(8, 5, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))).mean((2, 3)))


def _twins(make: Callable[[], nn.Module] = Perceptron) -> list[nn.Module]:
    return [randomised(make(), seed) for seed in (0, 1)]


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def _zipped(retrain: RetrainSpec | None, parents: list[nn.Module] | None = None, **more: Any) -> ZipResult:
    x = [images(300, 3), images(250, 4)]
    spec = ZipSpec(compensate=False, ridge=1e-3, retrain=retrain)
    return zip_networks(parents or _twins(), x, spec, retraining=x, **more)


# Steps


def test_balanced_sizes_leave_rows_and_columns_of_mean_square_one() -> None:
    w = torch.randn(7, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w[:, 4], w[2], w[5, 7:9] = 0.0, 0.0, 0.0
    squares = ((w / balanced(w)) ** 2).numpy()
    counts = (w != 0).numpy()
    for axis in (0, 1):
        means = squares.sum(axis) / np.maximum(1, counts.sum(axis))
        np.testing.assert_allclose(means[counts.sum(axis) > 0], 1.0, rtol=1e-3)
    assert (balanced(w) > 0).all()  # rows and columns of zeros can move
    assert torch.equal(balanced(torch.zeros(2, 3)), torch.ones(2, 3))
    assert balanced(torch.empty(0, 0)).shape == (0, 0)


def test_sizes_follow_rows_and_columns_that_grow() -> None:
    chance = torch.Generator().manual_seed(1)
    w = torch.randn(9, 20, generator=chance, dtype=torch.float64)
    rows, columns = (10.0 ** (4 * torch.rand(n, generator=chance, dtype=torch.float64) - 2) for n in (9, 20))
    scaled = rows[:, None] * w * columns
    torch.testing.assert_close(balanced(scaled), rows[:, None] * balanced(w) * columns, rtol=2e-3, atol=0)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("make", [Perceptron, Banks])
def test_steps_do_not_depend_on_the_size_of_channels(kind: Any, make: Callable[[], nn.Module]) -> None:
    """ReLU channels that grow by c while their readers divide by c: the same functions before and after each step."""
    plain = _twins(make)
    scaled = [copy.deepcopy(parent) for parent in plain]
    chance = torch.Generator().manual_seed(5)
    pairs = (("fc1", "fc2"), ("fc2", "fc3")) if make is Perceptron else (("a", "b"), ("c", "head"))
    for writer, reader in pairs:
        width = plain[0].get_submodule(writer).weight.shape[0]
        c = 10.0 ** (3 * torch.rand(width, generator=chance, dtype=torch.float64) - 1.5)
        for parent in scaled:
            one, two = parent.get_submodule(writer), parent.get_submodule(reader)
            one.weight.data *= c.reshape(-1, *[1] * (one.weight.ndim - 1))
            one.bias.data *= c
            banks = getattr(two, "groups", 1)
            own = c.reshape(banks, 1, -1).expand(banks, two.weight.shape[0] // banks, -1).reshape(len(two.weight), -1)
            two.weight.data /= own.reshape(*own.shape, *[1] * (two.weight.ndim - 2))
    outcomes = []
    for parents in (plain, scaled):
        network = _fully_shared(parents)
        moves = RelativeSteps(network, kind)
        outputs = [network(images(20, 8), task=1).detach()]
        for _ in range(4):
            network.zero_grad()
            for t in (0, 1):
                network(images(30, t), task=t).square().sum().backward()
            moves.take(3e-2)
            outputs.append(network(images(20, 8), task=1).detach())
        outcomes.append(torch.stack(outputs))
    moved = outcomes[0][-1] - outcomes[0][0]
    assert moved.norm() > 3e-3 * outcomes[0][0].norm()
    assert (outcomes[1] - outcomes[0]).norm() < 5e-3 * moved.norm()


def _fully_shared(parents: list[nn.Module]) -> ZippedNetwork:
    """Channel k of one parent is merged with channel k of the other, weights are averaged."""
    joint = correspond([channel_graph(parent, images(2)) for parent in parents])
    network = ZippedNetwork(parents, joint)
    for group in joint.groups:
        if group.open and group.widths[0] == group.widths[1]:
            network.pair(group.number, np.repeat(np.arange(group.narrowest)[:, None], 2, axis=1))
    for layer in joint.layers:
        if joint.groups[layer.group].open:
            mean = (network.matrix(layer.index, 0) + network.matrix(layer.index, 1)) / 2
            network.merge(layer.index, [mean, mean])
    assert network.counts().shared > 0
    return network.requires_grad_(True)


@pytest.mark.parametrize("make", [*FAMILIES.values(), Banks])
def test_every_stored_number_has_the_mean_size_of_its_entries(make: Callable[[], nn.Module]) -> None:
    """Found by asking which entries of the tasks' matrices change with a stored number."""
    parents = [randomised(make(), seed) for seed in range(3)]
    network = zip_networks(parents, [images()] * 3, ZipSpec(share=0.5, bias="shared", scale="shared")).network
    found = sizes(network)
    parameters = list(network.layers.parameters())
    assert [size.shape for size in found] == [parameter.shape for parameter in parameters]
    chance = torch.Generator().manual_seed(2)
    for index, layer in enumerate(network.layers):
        own = {id(parameter) for parameter in layer.parameters()}
        members = network.joint.layers[index].members
        banks = [1 if each.depthwise else each.banks for each in members]
        wanted = [_in_banks(network.matrix(index, t), banks[t]) for t in range(3)]
        for size, parameter in zip(found, parameters, strict=True):
            if id(parameter) not in own or not parameter.numel():
                continue
            some = torch.randint(parameter.numel(), (), generator=chance)
            for k in (0, int(some)):  # what is shared comes first
                before = [network.matrix(index, t).detach().clone() for t in range(3)]
                with torch.no_grad():
                    parameter.view(-1)[k] += 1.0
                entries = [network.matrix(index, t).detach() != before[t] for t in range(3)]
                with torch.no_grad():
                    parameter.view(-1)[k] -= 1.0
                held = torch.cat([w[entry] for w, entry in zip(wanted, entries, strict=True)])
                torch.testing.assert_close(size.reshape(-1)[k], held.mean(), rtol=1e-6, atol=0)


def _in_banks(matrix: Tensor, banks: int) -> Tensor:
    return torch.cat([balanced(part) for part in matrix.detach().chunk(banks)])


def test_zeros_of_pruned_layers_do_not_move() -> None:
    parents = _twins()
    with torch.no_grad():
        for seed, parent in enumerate(parents):
            mask = torch.rand(parent.fc2.weight.shape, generator=torch.Generator().manual_seed(seed)) < 0.7
            parent.fc2.weight[mask] = 0.0
    network = _zipped(RetrainSpec(steps=30, learning_rate=0.05, schedule="final"), parents).network
    before = _zipped(None, parents).network
    for t in (0, 1):
        zeros = before.matrix(1, t) == 0
        assert zeros.any()
        assert (network.matrix(1, t)[zeros] == 0).all()
        assert (network.matrix(1, t) != before.matrix(1, t)).any()


# What is kept


def _divergence(network: ZippedNetwork, parents: list[nn.Module], held: list[Tensor], temperature: float) -> float:
    """Σ_t ½ τ² KL(parent ‖ zipped), mean over images, by its definition."""
    total = 0.0
    for t, (parent, x) in enumerate(zip(parents, held, strict=True)):
        p = torch.softmax(parent(x) / temperature, 1).detach().numpy()
        q = torch.softmax(network(x, task=t) / temperature, 1).detach().numpy()
        total += 0.5 * temperature**2 * float((p * np.log(p / q)).sum(1).mean())
    return total


class _Watched:
    """Runs a retraining and notes which images had gradients, and which had not."""

    def __init__(self, spec: RetrainSpec, counts: tuple[int, ...] = (300, 250), labels: bool = False) -> None:
        self.parents = _twins()
        self.network = _zipped(None, self.parents).network
        self.data = [images(count, 3 + t) for t, count in enumerate(counts)]
        self.learnt: list[set[bytes]] = [set(), set()]
        self.judged: list[set[bytes]] = [set(), set()]
        self.network.register_forward_pre_hook(self._note, with_kwargs=True)
        targets = [p(x).argmax(1) if labels else None for p, x in zip(self.parents, self.data, strict=True)]
        data = [RetrainingData(x, y, held_back(x, 7)) for x, y in zip(self.data, targets, strict=True)]
        self.before = _state(self.network)
        items = list(retrain(self.network, data, self.parents, (0.5, 0.5), spec, spec.steps, 11, CPU))
        assert isinstance(items[-1], Retrained)
        self.losses, self.outcome = items[:-1], items[-1]

    def _note(self, _: nn.Module, arguments: tuple[Tensor], named: dict[str, Any]) -> None:
        noted = self.learnt if torch.is_grad_enabled() else self.judged
        noted[named["task"]] |= {image.numpy().tobytes() for image in arguments[0]}

    def held(self) -> list[Tensor]:
        return [
            torch.stack([image for image in x if image.numpy().tobytes() in judged])
            for x, judged in zip(self.data, self.judged, strict=True)
        ]


def test_images_held_back_are_never_learnt_from_and_judge_what_is_kept() -> None:
    watched = _Watched(RetrainSpec(steps=60, learning_rate=3e-2))
    outcome = watched.outcome
    assert outcome.images == (60, 50)
    assert [len(judged) for judged in watched.judged] == [60, 50]
    for learnt, judged in zip(watched.learnt, watched.judged, strict=True):
        assert not learnt & judged
    assert len(watched.learnt[0]) == 240
    held = watched.held()
    after = _divergence(watched.network, watched.parents, held, 2.0)
    assert after == pytest.approx(outcome.after, rel=1e-6)
    assert outcome.after < 0.9 * outcome.before
    watched.network.load_state_dict(watched.before)
    assert _divergence(watched.network, watched.parents, held, 2.0) == pytest.approx(outcome.before, rel=1e-6)


def test_images_held_back_are_the_same_after_every_layer() -> None:
    zipper = Zipper(_twins(), [images(100)] * 2, ZipSpec(retrain=RetrainSpec(steps=60, evaluate_every=1000)))
    learnt: set[bytes] = set()
    forward = zipper.network.forward

    def watch(x: Tensor, task: int = 0) -> Tensor:
        if torch.is_grad_enabled() and task == 0:
            learnt.update(image.numpy().tobytes() for image in x)
        return forward(x, task)

    zipper.network.forward = watch  # type: ignore[method-assign]
    portions = [event.taken for event in zipper.run() if isinstance(event, ev.RetrainEnded)]
    assert portions == [30, 30]
    assert len(learnt) == 80


def test_images_that_did_not_calibrate_are_held_back_first() -> None:
    x = images(100, 3)
    assert held_back(x, 0, x[10:]).sort().values[:10].tolist() == list(range(10))
    assert not set(held_back(x, 0, x[:60]).tolist()) & set(range(60))
    assert len(set(held_back(x, 1, x).tolist())) == 20
    assert held_back(x, 1, x).tolist() == held_back(x, 1).tolist()


def test_the_best_state_is_kept_though_later_ones_are_worse() -> None:
    """A run of twice the steps at a rate that does not fall so soon passes its best state, and keeps it."""
    kept = [_Watched(RetrainSpec(steps=steps, learning_rate=0.2)).outcome for steps in (100, 200)]
    assert any(0 < outcome.kept < outcome.taken for outcome in kept)
    assert all(outcome.after < outcome.before for outcome in kept)


def test_an_absurd_rate_leaves_the_network_as_it_was_and_says_so() -> None:
    spec = RetrainSpec(steps=80, learning_rate=10.0, schedule="final")
    seen: list[ev.Event] = []
    result = _zipped(spec, on_event=seen.append)
    (ended,) = [event for event in seen if isinstance(event, ev.RetrainEnded)]
    assert _equal(_state(result.network), _state(_zipped(None).network))
    assert (ended.kept, ended.before) == (0, ended.after)
    assert ended.taken == sum(isinstance(event, ev.RetrainStep) for event in seen) < ended.wanted == 80
    assert result.notes == (ended.text,)
    assert f"stopped at step {ended.taken}: agreement with the parents fell {ended.returns} times" in ended.text
    assert "nothing was better than what was before" in ended.text
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions)
    before, after = (fractions[seen.index(ended) - k] for k in (1, 0))
    assert after > before + 0.1  # steps that are not taken are not waited for


def test_gradient_descent_is_never_worse_even_at_an_absurd_rate() -> None:
    watched = _Watched(RetrainSpec(steps=80, learning_rate=10.0, optimizer="sgd"))
    assert watched.outcome.after <= watched.outcome.before
    found = _divergence(watched.network, watched.parents, watched.held(), 2.0)
    assert found == pytest.approx(watched.outcome.after, rel=1e-6)


def test_a_high_rate_is_halved_until_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    take = RelativeSteps.take

    def note(self: RelativeSteps, rate: float) -> None:
        rates.append(rate)
        take(self, rate)

    monkeypatch.setattr(RelativeSteps, "take", note)
    outcome = _Watched(RetrainSpec(steps=150, learning_rate=2.0)).outcome
    assert outcome.returns > 0
    assert outcome.kept > 0
    assert outcome.after < 0.9 * outcome.before
    falling = [1 + math.cos(math.pi * step / 150) for step in range(150)]
    halved = np.round(np.log2(np.array(falling) / np.array(rates)), 6)
    assert set(halved) == set(map(float, range(outcome.returns + 1)))
    assert (np.diff(halved) >= 0).all()


def test_layer_by_layer_nothing_gets_worse_and_an_interrupted_run_resumes_to_the_same() -> None:
    spec = ZipSpec(share=0.6, retrain=RetrainSpec(steps=60, learning_rate=10.0))
    whole = Zipper(_twins(), [images(100)] * 2, spec)
    ended = [event for event in whole.run() if isinstance(event, ev.RetrainEnded)]
    assert [event.layer for event in ended] == ["fc1", "fc2"]
    assert all(event.after <= event.before and event.taken < 30 for event in ended)
    broken = Zipper(_twins(), [images(100)] * 2, spec)
    for event in broken.run():
        if isinstance(event, ev.LayerFinished) and event.layer == "fc1":
            checkpoint = broken.checkpoint()
            fraction = event.fraction
            break
    again = Zipper(_twins(), [images(100)] * 2, spec)
    events = list(again.run(resume=checkpoint))
    assert abs(events[0].fraction - fraction) < 0.3
    assert checkpoint.meta["steps"] + checkpoint.meta["spared"] == 30
    assert _equal(_state(again.network), _state(whole.network))
    steps = [event.step for event in events if isinstance(event, ev.RetrainStep)]
    assert steps == list(range(ended[0].taken + 1, ended[0].taken + ended[1].taken + 1))
    assert f"step {ended[0].taken + ended[1].taken}" in ended[1].text


def test_with_labels_their_loss_on_images_held_back_judges() -> None:
    watched = _Watched(RetrainSpec(steps=40, learning_rate=1e-2, targets="labels"), labels=True)
    expected = 0.0
    for t, (parent, x) in enumerate(zip(watched.parents, watched.held(), strict=True)):
        q = torch.softmax(watched.network(x, task=t), 1).detach().numpy()
        expected -= 0.5 * float(np.log(q[np.arange(len(x)), parent(x).argmax(1).numpy()]).mean())
    assert watched.outcome.after == pytest.approx(expected, rel=1e-6)
    assert watched.outcome.after < watched.outcome.before
    assert "agreement with the labels" not in watched.outcome.text(None, 0, "labels") or watched.outcome.returns


@pytest.mark.parametrize("count", [2, 3, 19, 20, 24])
def test_few_images_are_enough_and_none_is_held_back_unsaid(count: int) -> None:
    watched = _Watched(RetrainSpec(steps=12, batch_size=8), (count, 100))
    assert watched.outcome.images == (4 if count >= 20 else 0, 20)
    assert watched.outcome.after <= watched.outcome.before
    said = watched.outcome.text("fc1", 3, "distill")
    assert ("fewer than 20" in said) == (count < 20)
    assert said.startswith("Retraining after fc1")


# What goes wrong


class _Faulty:
    """A parent that answers NaN from its n-th question on, for so many questions."""

    def __init__(self, parent: nn.Module, first: int, many: int) -> None:
        self.parent, self.first, self.many, self.asked = parent, first, many, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.asked += 1
        wrong = self.first <= self.asked < self.first + self.many
        return self.parent(x) * (math.nan if wrong else 1.0)


def _with_fault(first: int, many: int) -> Retrained:
    parents = _twins()
    network = _zipped(None, parents).network
    data = [
        RetrainingData(x, None, held_back(x, 0)) for x in (images(100, 0), images(100, 1))
    ]  # of which 20 are judged by, in one question
    teachers = [parents[0], _Faulty(parents[1], first, many)]
    spec = RetrainSpec(steps=40, learning_rate=1e-2)
    outcome = list(retrain(network, data, teachers, (0.5, 0.5), spec, 40, 1, CPU))[-1]
    assert isinstance(outcome, Retrained)
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())
    assert outcome.after <= outcome.before
    return outcome


def test_a_loss_that_is_not_a_number_is_gone_back_from() -> None:
    once = _with_fault(9, 1)
    assert (once.taken, once.returns) == (40, 1)
    assert once.kept > 0
    for_good = _with_fault(14, 1000)
    assert for_good.taken < 40
    assert 0 < for_good.kept < 13


def test_a_loss_that_is_not_a_number_at_the_start_is_an_error() -> None:
    with pytest.raises(DataError, match="before the first step"):
        _with_fault(1, 1000)


def test_parents_stay_as_they_are_and_the_seed_decides() -> None:
    parents = _twins()
    before = [_state(parent) for parent in parents]
    spec = RetrainSpec(steps=25, learning_rate=1e-2)
    one, two = (_zipped(spec, parents) for _ in range(2))
    assert all(_equal(state, _state(parent)) for state, parent in zip(before, parents, strict=True))
    assert _equal(_state(one.network), _state(two.network))
    assert one.notes == two.notes
    assert not any(parameter.grad is not None for parameter in one.network.parameters())
