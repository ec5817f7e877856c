"""Guarantees that the engine would run on without, a little worse: each is held by a theorem of its own.

`docs/testing.md` lists what was broken by hand to see each of these tests fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtz_core import ZipSpec, functional_difference, merge_weights, pair_neurons, zip_networks
from mtz_core.algebra import merging
from mtz_core.algebra.gram import DenseGram, Gram, RowGram
from mtz_core.algebra.merging import merge, merge_loss
from mtz_core.algebra.partial import merge_partial
from mtz_core.budget import search
from mtz_core.budget.choice import Choice, Curve
from mtz_core.budget.plan import Plan, plan_text
from mtz_core.budget.search import frontier, smallest_error, smallest_size
from mtz_core.calibration.moments import GroupedMoments, LayerMoments, Moments
from mtz_core.calibration.sensitivity import Sensitivity
from mtz_core.calibration.stream import twins
from mtz_core.graph import channel_graph, correspond
from mtz_core.layerwise.allowed import allowed
from mtz_core.layerwise.comparison import Calibrator, Comparison
from mtz_core.layerwise.dense import DenseProblem
from mtz_core.layerwise.grouped import GroupedProblem
from mtz_core.layerwise.problem import Given
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.pairing.slots import complete
from mtz_core.pairing.subsets import pair_subsets
from mtz_core.structure.joint import joined
from mtz_core.structure.networks import GroupSummary, LayerSummary, NetworkStructure
from mtz_core.structure.trunks import trunks
from tests.networks import randomised
from tests.test_layer_problems import Convolutions

RIDGE = 0.01


# The algebra.


def _rows(seed: int, count: int, width: int) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_common_offset_of_all_weights_costs_no_digits() -> None:
    """Differences are of neurons that may all lie far from zero: single precision must not lose them there."""
    a, b, x, y = _rows(0, 5, 8), _rows(1, 6, 8), _rows(2, 90, 8), _rows(3, 90, 8)
    exact = functional_difference(a, b, x.mT @ x / 90, y.mT @ y / 90)
    for grams in (
        [DenseGram(r.float().mT @ r.float() / 90) for r in (x, y)],
        [RowGram(r.float()[:3], 1.0) for r in (x, y)],
    ):
        far = functional_difference((a + 1000).float(), (b + 1000).float(), *grams, ridge=0.1)
        near = functional_difference(a.float(), b.float(), *grams, ridge=0.1)
        assert (far - near).abs().max() < 1e-3 * near.max()
    assert exact.min() > 0


@pytest.mark.parametrize("repeated", [1, 3])
def test_rows_without_a_ridge_merge_and_compare_as_matrices_do(repeated: int) -> None:
    """With fewer rows than inputs there is a neuron that answers both tasks as before: merging costs nothing."""
    a, b = _rows(0, 4, 30), _rows(1, 4, 30)
    x, y = _rows(2, 5, 30).repeat(repeated, 1), 1e-3 * _rows(3, 4, 30).repeat(repeated, 1)
    rows: list[Gram] = [RowGram(x, 1 / len(x)), RowGram(y, 1 / len(y))]
    assert functional_difference(a, b, *rows).abs().max() < 1e-10
    merged = merge_weights([a, b], rows)
    assert merge_loss(merged, [a, b], rows).max() < 1e-10
    # Where no row looks, the merged neuron is the mean: neither task has a say there.
    seen = _span(x, y)
    blind = torch.eye(30, dtype=torch.float64) - seen @ seen.mT
    torch.testing.assert_close(merged @ blind, (a + b) / 2 @ blind, rtol=1e-6, atol=1e-6)


def test_partly_shared_rows_without_a_ridge_leave_both_tasks_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task lacks some of the inputs, and there are few rows: some weights answer both tasks as before."""
    monkeypatch.setattr("mtz_core.algebra.partial.DENSE_UP_TO", 0)
    indices = [torch.arange(0, 25), torch.arange(5, 30)]
    weights, rows = [_rows(t, 4, 25) for t in (0, 1)], [_rows(t, 5, 25) for t in (2, 3)]
    merged = merge_partial(weights, [RowGram(x, 0.2) for x in rows], indices, 30)
    for w, x, index in zip(weights, rows, indices, strict=True):
        torch.testing.assert_close(merged[:, index] @ x.mT, w @ x.mT, rtol=1e-4, atol=1e-4)


def test_a_ridge_too_small_to_be_felt_does_not_decide_between_tasks() -> None:
    """Where no row looks, ridges decide; of ridges that rounding would drown neither counts for more."""
    a, b = _rows(0, 4, 30), _rows(1, 4, 30)
    x, y = _rows(2, 5, 30), _rows(3, 4, 30)
    blind = torch.eye(30, dtype=torch.float64) - _span(x, y) @ _span(x, y).mT
    for ridges in ((0.0, 1e-30), (1e-30, 1e-40), (0.0, 0.0)):
        merged = merge([a, b], [RowGram(x, 0.2, ridges[0]), RowGram(y, 0.25, ridges[1])])
        torch.testing.assert_close(merged @ blind, (a + b) / 2 @ blind, rtol=1e-6, atol=1e-6)
    felt = merge([a, b], [RowGram(x, 0.2, 1e-3), RowGram(y, 0.25, 3e-3)])
    torch.testing.assert_close(felt @ blind, (a + 3 * b) / 4 @ blind, rtol=1e-6, atol=1e-6)


def _span(*rows: Tensor) -> Tensor:
    """Orthonormal columns that span all rows."""
    _, singular, right = torch.linalg.svd(torch.cat(rows), full_matrices=False)
    return right[singular > 1e-9 * singular.max()].mT


@pytest.mark.parametrize("room", [1, 8 * 36 * 3, 2**30])
def test_pruned_neurons_are_merged_alike_however_many_at_once(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.as_tensor(np.random.default_rng(0).random((11, 6)) < 0.6)
    weights, grams = [_rows(t, 11, 6) * mask for t in (0, 1)], [_rows(t, 30, 6).mT @ _rows(t, 30, 6) for t in (2, 3)]
    monkeypatch.setattr(merging, "MASKED_BYTES", room)
    merged = merge(weights, [DenseGram(gram) for gram in grams], mask)
    for row, inside in enumerate(mask):
        total = sum(gram[inside][:, inside] for gram in grams)
        pull = sum((gram @ w[row])[inside] for gram, w in zip(grams, weights, strict=True))
        torch.testing.assert_close(merged[row, inside], torch.linalg.solve(total, pull), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("seed", range(6))
def test_padding_never_stands_for_a_pair_even_where_pairs_cost_less_than_nothing(seed: int) -> None:
    costs = np.random.default_rng(seed).random((4, 5)) - 1.0
    for k in (1, 2, 3):
        pairs = pair_neurons(costs, k)
        least = min(
            sum(costs[i, j] for i, j in zip(rows, columns, strict=True))
            for rows in combinations(range(4), k)
            for columns in permutations(range(5), k)
        )
        assert len(pairs) == k
        assert costs[pairs[:, 0], pairs[:, 1]].sum() == pytest.approx(least)


# A layer's problem.


def _dense(spec: ZipSpec, outputs: Mapping[int, Tensor] | None = None, tasks: int = 2) -> DenseProblem:
    moments: dict[int, LayerMoments] = {}
    for t in range(tasks):
        moments[t] = Moments(6)
        for part in (0, 1):
            moments[t].add(part, _rows(10 * t + part, 20, 6))
    matrices = [_rows(50 + t, 4, 6) for t in range(tasks)]
    inputs = np.array([[k] * tasks for k in range(6)])
    alphas = (0.3, 0.7) if tasks == 2 else (0.2, 0.5, 0.3)
    return DenseProblem.of(
        Given(
            tuple(range(tasks)), matrices, [None] * tasks, inputs, (), False, moments, alphas, spec, outputs or {}
        )
    )  # fmt: skip


def _grouped(spec: ZipSpec, depthwise: bool) -> GroupedProblem:
    banks, width = (4, 5) if depthwise else (2, 6)
    moments: dict[int, LayerMoments] = {}
    for t in range(3):
        moments[t] = GroupedMoments()
        for part in (0, 1):
            rows = _rows(10 * t + part, 20 * banks, width).reshape(20, banks, width)
            moments[t].add(part, rows)
    entries = [np.broadcast_to(np.arange(width), (4, width))] * 3
    nothing = np.empty((0, 3), dtype=np.int64)
    matrices = [_rows(50 + t, 4, width) for t in range(3)]
    alphas = (0.2, 0.5, 0.3)
    return GroupedProblem.of(Given((0, 1, 2), matrices, [None] * 3, nothing, entries, depthwise, moments, alphas, spec))


def test_neurons_whose_outputs_matter_twice_as_much_differ_twice_as_much() -> None:
    """a for one task's neuron and b for the other's weigh their difference by 2ab/(a + b), whatever else they are."""
    spec = ZipSpec(ridge=RIDGE, compensate=False)
    plain = _dense(spec).difference(0, 1)
    a, b = torch.tensor([[0.5, 1.0, 2.0, 3.0], [4.0, 0.25, 1.0, 2.0]], dtype=torch.float64)
    weighed = _dense(spec, {0: torch.diag(a), 1: torch.diag(b)}).difference(0, 1)
    factor = 2 / (1 / a[:, None] + 1 / b)
    torch.testing.assert_close(weighed, plain * factor, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", ["dense", "grouped", "depthwise"])
def test_the_euclidean_distance_of_a_pair_is_weighed_by_both_tasks(kind: str) -> None:
    """½ ab |Δ|² for the tasks' parts a and b of their weight together: unequal tasks have less to lose."""
    spec = ZipSpec(ridge=RIDGE, compensate=False, metric="euclidean")
    problem = _dense(spec, tasks=3) if kind == "dense" else _grouped(spec, kind == "depthwise")
    for t, u in ((0, 1), (0, 2), (1, 2)):
        w, v = (problem.matrices[x] for x in (t, u))
        a, b = (problem.alphas[x] / (problem.alphas[t] + problem.alphas[u]) for x in (t, u))
        expected = 0.5 * a * b * (w[:, None] - v[None]).square().sum(-1)
        torch.testing.assert_close(problem.difference(t, u), expected, rtol=1e-9, atol=1e-12)


def test_every_task_that_compensates_gets_a_ridge_whatever_the_tasks_before_it_do() -> None:
    for ridge, expected in ((RIDGE, {1: RIDGE, 2: RIDGE}), ("auto", None)):
        problem = _dense(ZipSpec(ridge=ridge), tasks=3)
        moments: dict[int, LayerMoments] = {}
        for t in range(3):
            moments[t] = Moments(6)
            for part in (0, 1):
                residuals = _rows(80 + 2 * t + part, 20, 4) * (t > 0)
                moments[t].add(part, _rows(10 * t + part, 20, 6), residuals)
        problem = DenseProblem.of(
            Given((0, 1, 2), problem.matrices, [None] * 3, problem.inputs, (), False, moments, (0.2, 0.5, 0.3),
                  ZipSpec(ridge=ridge))
        )  # fmt: skip
        problem.compensate()
        assert set(problem.own_ridge) == {1, 2}
        assert expected is None or problem.own_ridge == expected


def _total(slots: np.ndarray, costs: Mapping[tuple[int, int], np.ndarray], alphas: tuple[float, ...]) -> float:
    total = 0.0
    for slot in slots:
        held = [t for t in range(3) if slot[t] >= 0]
        pairs = [(alphas[t] + alphas[u]) ** 2 * costs[t, u][slot[t], slot[u]] for t, u in combinations(held, 2)]
        total += sum(pairs) / max(1e-9, sum(alphas[t] for t in held))
    return total


@pytest.mark.parametrize(("seed", "n", "power"), [(0, 6, 3), (1, 6, 3), (2, 5, 1), (2, 5, 6), (16, 12, 3)])
def test_no_task_leaves_its_dearest_slot_for_a_cheaper_one(seed: int, n: int, power: int) -> None:
    """Of all memberships the one whose end saves most is ended: no new one costs less."""
    rng, alphas = np.random.default_rng(seed), (0.5, 0.3, 0.2)
    costs = {pair: rng.random((n, n)) ** power for pair in ((0, 1), (0, 2), (1, 2))}
    slots = complete(pair_subsets(costs, [n] * 3, alphas, n, full=False), [n] * 3)
    now = _total(slots, costs, alphas)
    ends = []
    for s, t in product(range(len(slots)), range(3)):
        if slots[s, t] >= 0 and (slots[s] >= 0).sum() > 1:
            left, alone = slots.copy(), np.full((1, 3), -1)
            alone[0, t], left[s, t] = slots[s, t], -1
            ends.append(np.concatenate([left, alone]))
    after = min(ends, key=lambda each: _total(each, costs, alphas))
    for a, b in product(range(len(after)), repeat=2):
        single, both = after[b], np.maximum(after[a], after[b])
        if a != b and (single >= 0).sum() == 1 and not ((after[a] >= 0) & (single >= 0)).any():
            joined_up = np.concatenate([np.delete(after, [a, b], axis=0), both[None]])
            assert _total(joined_up, costs, alphas) >= now - 1e-9


# A layer in front of images.


class Two(nn.Sequential):
    def __init__(self, hidden: int = 7) -> None:
        super().__init__(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def _parents(*factors: float) -> list[nn.Module]:
    """Perceptrons with the first layer's outputs so many times as large."""
    made = [randomised(Two(), seed) for seed in range(len(factors))]
    with torch.no_grad():
        for parent, factor in zip(made, factors, strict=True):
            for parameter in parent[0].parameters():
                parameter.mul_(factor)
    return made


def _seen(
    parents: list[nn.Module],
    data: list[Tensor],
    spec: ZipSpec,
    alphas: tuple[float, ...],
    units: tuple[float, ...] = (),
) -> Comparison:
    """The first layer, compared."""
    joint = correspond([channel_graph(parent, x[:2]) for parent, x in zip(parents, data, strict=True)])
    network = ZippedNetwork(parents, joint)
    halves = [torch.arange(len(x)) % 2 for x in data]
    outputs = [{"0": Sensitivity(torch.eye(7, dtype=torch.float64), unit)} for unit in units]
    streams = twins(network, data, True, 64, 2**20, torch.device("cpu"))
    fresh = {t: np.arange(7) for t in range(len(parents))}
    return Calibrator(network, spec, alphas, halves, outputs).compare(0, streams, network.tables, fresh)


def _spread(parent: nn.Module, x: Tensor) -> float:
    return float(parent[0](x).detach().var(0, unbiased=False).mean())


def test_tasks_count_relative_to_the_variance_of_their_outputs() -> None:
    parents, data, alphas = _parents(1.0, 5.0), [_rows(t, 100, 5) for t in (0, 1)], (0.4, 0.6)
    relative = np.array([a / _spread(p, x) for a, p, x in zip(alphas, parents, data, strict=True)])
    seen = _seen(parents, data, ZipSpec(weighting="equal"), alphas).problem
    assert seen.alphas == pytest.approx(relative / relative.sum())
    assert seen.unit == pytest.approx(relative.sum())
    plain = _seen(parents, data, ZipSpec(weighting="equal", normalise=False), alphas).problem
    assert plain.alphas == pytest.approx(alphas)
    assert plain.unit == 1.0


def test_tasks_are_drawn_apart_by_a_fourth_root_of_what_their_outputs_errors_do() -> None:
    """Where errors of the size of the outputs do 16 times as much, a task counts twice as much, not 16 times."""
    parents, data, alphas, units = _parents(1.0, 5.0), [_rows(t, 100, 5) for t in (0, 1)], (0.4, 0.6), (3.0, 0.02)
    spreads = [_spread(p, x) for p, x in zip(parents, data, strict=True)]
    harm = [unit * spread for unit, spread in zip(units, spreads, strict=True)]
    relative = np.array([a / s * np.sqrt(np.sqrt(h)) for a, s, h in zip(alphas, spreads, harm, strict=True)])
    seen = _seen(parents, data, ZipSpec(), alphas, units).problem
    assert seen.alphas == pytest.approx(relative / relative.sum())
    assert seen.unit == pytest.approx(relative.sum())


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_targets_below_a_relu_follow_what_the_merged_neurons_give(rounds: int) -> None:
    """What was negative may be anything negative: from round to round it is what the merged neuron gives there."""
    parents, alphas = _parents(1.0, 1.0), (0.4, 0.6)
    data = [_rows(t, 100, 5) for t in (0, 1)]
    spec = ZipSpec(ridge=RIDGE, normalise=False, weighting="equal", scale="shared", bias="shared")
    outcome = _seen(parents, data, spec, alphas).merge(np.stack([np.arange(7)] * 2, axis=1), rounds)
    inputs = [np.hstack([x.numpy(), np.ones((100, 1))]) for x in data]
    grams = [x.T @ x / 100 for x in inputs]
    forms = [a * (h + RIDGE * np.trace(h) / 6 * np.eye(6)) for a, h in zip(alphas, grams, strict=True)]
    own = [torch.cat([p[0].weight, p[0].bias[:, None]], 1).detach().numpy() for p in parents]
    best, merged = list(own), np.zeros((7, 6))
    for left in range(rounds, -1, -1):
        pulls = sum(w @ form for w, form in zip(best, forms, strict=True))
        merged = np.linalg.solve(sum(forms), pulls.T).T
        for t, x in enumerate(inputs if left else ()):
            wanted = x @ own[t].T
            goal = np.where(wanted > 0, wanted, np.minimum(x @ merged.T, 0.0))
            cross = (goal - wanted).T @ x / 100
            best[t] = own[t] + np.linalg.solve(forms[t] / alphas[t], cross.T).T
    for weights in outcome.weights:
        np.testing.assert_allclose(weights.numpy(), merged, rtol=1e-7, atol=1e-9)


class Sliced(nn.Module):
    """Some channels of the first layer are read by one layer, the others by another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv1d(1, 8, 3), nn.Conv1d(3, 4, 2), nn.Conv1d(5, 4, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x[:, None]))
        left, right = torch.relu(self.left(x[:, :3])), torch.relu(self.right(x[:, 3:]))
        return self.head(torch.cat([left.mean(2), right.mean(2)], 1))


def test_channels_are_paired_with_those_that_the_same_layers_read() -> None:
    parents = [randomised(Sliced(), seed) for seed in (0, 1)]
    with torch.no_grad():  # each channel looks like one that other layers read
        parents[1].stem.weight.copy_(parents[0].stem.weight.roll(3, 0))
        parents[1].stem.bias.copy_(parents[0].stem.bias.roll(3, 0))
    data = [_rows(t, 60, 9) for t in (0, 1)]
    joint = correspond([channel_graph(parent, x[:2]) for parent, x in zip(parents, data, strict=True)])
    group, everything = joint.group_of(0), {t: np.arange(8) for t in (0, 1)}
    tables = ZippedNetwork(parents, joint).tables
    found = allowed(joint, group, {(0, 1): np.zeros((8, 8))}, everything, tables)[0, 1]
    first = np.arange(8) < 3
    np.testing.assert_array_equal(np.isfinite(found), first[:, None] == first[None, :])
    result = zip_networks(parents, data, ZipSpec(share=0.75))
    stem = next(layer for layer in result.layers if layer.name == "stem")
    assert len(stem.pairs) == 6
    assert ((stem.pairs[:, 0] < 3) == (stem.pairs[:, 1] < 3)).all()


class Banked(nn.Module):
    """Six channels that a convolution reads in three banks of two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.banks, self.head = nn.Conv1d(1, 6, 3), nn.Conv1d(6, 6, 1, groups=3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.banks(torch.relu(self.stem(x[:, None])))).mean(2))


@pytest.mark.parametrize("seed", range(4))
def test_channels_of_one_bank_are_paired_with_those_of_one_bank(seed: int) -> None:
    """Which banks belong together is what costs least over all orders of banks, and of channels within."""
    parents = [randomised(Banked(), t) for t in (0, 1)]
    joint = correspond([channel_graph(parent, _rows(t, 2, 9)) for t, parent in enumerate(parents)])
    costs, bank = np.random.default_rng(seed).random((6, 6)), np.arange(6) // 2
    tables = ZippedNetwork(parents, joint).tables
    group, everything = joint.group_of(0), {t: np.arange(6) for t in (0, 1)}
    found = allowed(joint, group, {(0, 1): costs}, everything, tables)[0, 1]

    def cost(order: tuple[int, ...]) -> float:
        squares = [costs[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] for i, j in enumerate(order)]
        return sum(min(square.trace(), square[::-1].trace()) for square in squares)

    best = np.array(min(permutations(range(3)), key=cost))
    within = best[bank][:, None] == bank[None, :]
    np.testing.assert_array_equal(found, np.where(within, costs, np.inf))


# The planner.


WIDTHS, INPUTS, CLASSES = (6, 5, 4), 9, 3


def _perceptron() -> NetworkStructure:
    """Layers whose inputs follow in the same way from the network's, so that they may form a trunk."""
    layers, groups = [], []
    for k, width in enumerate(WIDTHS):
        reads, inputs = (INPUTS, {}) if k == 0 else (WIDTHS[k - 1], {f"fc{k - 1}": 1.0})
        layers.append(LayerSummary(f"fc{k}", "Linear", width, reads + 1, f"fc{k}", inputs, recipe=f"input {k}"))
        groups.append(GroupSummary(f"fc{k}", width, (f"fc{k}",)))
    layers.append(LayerSummary("head", "Linear", CLASSES, WIDTHS[-1] + 1, None, {f"fc{len(WIDTHS) - 1}": 1.0}))
    return NetworkStructure(tuple(layers), tuple(groups))


def random_choice(tasks: int, trunk: int, own_scale: bool, step: int = 1, seed: int = 0) -> Choice:
    """Random rising curves with a point for every `step` channels; a trunk of so many layers."""
    rng = np.random.default_rng(seed)
    joint = joined([_perceptron()] * tasks)
    curves = []
    for k, width in enumerate(WIDTHS):
        counts = (width,) if k < trunk else tuple(sorted({*range(0, width, step), width}))
        rising = np.cumsum(rng.random(len(counts)) ** 2)
        curves.append(Curve(f"fc{k}", counts, tuple(float(v) for v in rising - rising[0])))
    known = trunks(joint)[trunk - 1] if trunk else None
    return Choice(joint, tuple(curves), True, own_scale, own_scale, 10.0, known, 0.5 if trunk else 0.0)


def stored_size(choice: Choice, counts: tuple[int, ...]) -> int:
    """Numbers that a network with these shares stores, layer by layer as `docs/method.md` says."""
    tasks, total = choice.tasks, 0
    for k, (width, count) in enumerate(zip(WIDTHS, counts, strict=True)):
        reads, shared = (INPUTS, INPUTS) if k == 0 else (WIDTHS[k - 1], counts[k - 1])
        common = choice.trunk is not None and f"fc{k}" in choice.trunk.common
        saved = count * shared + (count if common or not choice.own_bias else 0)
        saved -= count if choice.own_scale and not common and shared else 0
        once = choice.trunk is not None and f"fc{k}" in choice.trunk.layers
        saved -= shared if choice.own_inputs and not once and count else 0
        total += tasks * width * (reads + 1) - (tasks - 1) * saved
    return total + tasks * CLASSES * (WIDTHS[-1] + 1)


def _every(choice: Choice) -> list[tuple[int, float]]:
    """Size and divergence of every choice that its curves allow, single channels included."""
    ranges = [range(c.least, c.width + 1) for c in choice.curves]
    found = []
    for counts in product(*ranges):
        # A group whose first layer reads nothing in common shares nothing.
        if any(counts[k] and not counts[k - 1] for k in range(1, len(counts))):
            continue
        divergence = sum(c.divergence(n) for c, n in zip(choice.curves, counts, strict=True))
        found.append((stored_size(choice, counts), choice.base + divergence))
    return found


@pytest.mark.parametrize(("trunk", "own_scale", "tasks"), [(0, False, 2), (0, True, 3), (2, False, 2), (2, True, 3)])
def test_planned_sizes_count_every_tasks_scales_and_a_trunk_that_has_none(
    trunk: int, own_scale: bool, tasks: int
) -> None:
    choice = random_choice(tasks, trunk, own_scale)
    every = _every(choice)
    sizes = [size for size, _ in every]
    for part in (0.15, 0.4, 0.7):
        limit = round(min(sizes) + part * (max(sizes) - min(sizes)))
        found = smallest_error(choice, limit)
        counts = tuple(found.shares[c.group] for c in choice.curves)
        assert found.parameters == stored_size(choice, counts) <= limit
        assert found.divergence == pytest.approx(min(d for size, d in every if size <= limit), rel=1e-3)
        error = choice.error(choice.base + part * (max(d for _, d in every) - choice.base))
        small = smallest_size(choice, error)
        assert choice.error(small.divergence) <= error * (1 + 1e-9)
        assert small.parameters <= 1.01 * min(s for s, d in every if choice.error(d) <= error * (1 + 1e-9))


@pytest.mark.parametrize(("trunk", "own_scale", "tasks"), [(0, False, 2), (0, True, 3), (2, False, 2), (2, True, 3)])
def test_the_integer_program_itself_knows_every_size(trunk: int, own_scale: bool, tasks: int) -> None:
    """What it finds needs no repair: within the size to the number, and the best of all."""
    choice = random_choice(tasks, trunk, own_scale)
    every = _every(choice)
    sizes = [size for size, _ in every]
    for part in (0.1, 0.3, 0.5, 0.7):
        limit = round(min(sizes) + part * (max(sizes) - min(sizes)))
        found = search.Program(choice).solve(size=limit)
        assert stored_size(choice, tuple(found.values())) <= limit
        least = min(d for size, d in every if size <= limit)
        assert choice.divergence(found) == pytest.approx(least, rel=1e-3)
        small = search.Program(choice).solve(divergence=least - choice.base + 1e-6)
        best = min(size for size, d in every if d <= least + 1e-6)
        assert best <= stored_size(choice, tuple(small.values())) <= 1.002 * best
        assert choice.divergence(small) <= least + 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_no_channel_more_or_less_betters_a_plan(seed: int) -> None:
    """Curves with few points are where the solver looks; between them single channels make the best of the room."""
    choice = random_choice(2, 0, False, step=3, seed=seed)
    every = _every(choice)
    sizes, worst = [size for size, _ in every], max(d for _, d in every)
    for part in (0.2, 0.35, 0.6, 0.8):
        limit = round(min(sizes) + part * (max(sizes) - min(sizes)))
        best, error = smallest_error(choice, limit), choice.error(part * worst)
        small = smallest_size(choice, error)
        for group, step in product(best.shares, (-1, 1)):
            trial = choice.point({**best.shares, group: best.shares[group] + step})
            inside = 0 <= trial.shares[group] <= next(c.width for c in choice.curves if c.group == group)
            assert not (inside and trial.parameters <= limit and trial.divergence < best.divergence * (1 - 1e-6))
            trial = choice.point({**small.shares, group: small.shares[group] + step})
            inside = 0 <= trial.shares[group] <= next(c.width for c in choice.curves if c.group == group)
            assert not (inside and choice.error(trial.divergence) < error and trial.parameters < small.parameters)


def test_what_rounding_left_too_large_shares_its_cheapest_channels_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """From nothing shared, as far as the size asks: all of a cheap layer, then the next, not the dear one."""
    choice = random_choice(2, 0, False)
    slopes = (0.01, 1.0, 50.0)
    curves = [
        replace(c, divergences=tuple(slope * n for n in c.counts))
        for c, slope in zip(choice.curves, slopes, strict=True)
    ]
    choice = replace(choice, curves=tuple(curves))
    monkeypatch.setattr(search.Program, "solve", lambda self, **given: dict.fromkeys(("fc0", "fc1", "fc2"), 0))
    found = [tuple(point.shares.values()) for point in frontier(choice, points=5)]
    # Each channel of the first layer saves 9 numbers, each of the second 6: sizes are 164 and 26, 52, ... more.
    assert found == [(6, 5, 4), (6, 4, 0), (6, 0, 0), (3, 0, 0), (0, 0, 0)]


def test_what_cannot_be_chosen_is_one_point_of_the_true_size() -> None:
    choice = random_choice(2, 3, False)
    only = frontier(choice, lambda shares: 1000 + sum(shares.values()))
    assert [(point.parameters, dict(point.shares)) for point in only] == [(1015, {"fc0": 6, "fc1": 5, "fc2": 4})]
    assert frontier(choice)[0].parameters == stored_size(choice, WIDTHS)


def test_a_plan_is_written_line_by_line() -> None:
    choice = random_choice(2, 0, False)
    text = plan_text(Plan(choice, choice.point(choice.uniform(0.5)), tuple(frontier(choice, points=3))))
    lines = text.splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:4]] == ["fc0", "fc1", "fc2"]
    assert len(lines) == 5 + len(frontier(choice, points=3))


def test_what_is_saved_are_the_numbers_that_are_counted() -> None:
    """Of a grouped layer, too: what says where numbers stand is found again, not saved."""
    parents = [randomised(Convolutions(2), seed) for seed in (0, 1)]
    made = zip_networks(parents, [_rows(t, 60, 9) for t in (0, 1)], ZipSpec(share=0.5))
    numbers = sum(value.numel() for value in made.network.state_dict().values() if value.is_floating_point())
    assert numbers == made.counts.total
    assert not [name for name, value in made.network.state_dict().items() if not value.is_floating_point()]
