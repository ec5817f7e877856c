"""The steps of one layer, each on its own: what is compared, looked ahead at, paired, judged and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from mtz_core import ZippedNetwork, ZipSpec
from mtz_core.algebra.gram import DenseGram
from mtz_core.calibration import stream as streaming
from mtz_core.calibration.moments import GroupedMoments, Moments
from mtz_core.calibration.samples import TOP_IMAGES
from mtz_core.calibration.stream import Stream, Twin, twins
from mtz_core.graph import channel_graph, correspond
from mtz_core.layerwise import problem as problems
from mtz_core.layerwise.ahead import look_ahead
from mtz_core.layerwise.choose import choose_slots
from mtz_core.layerwise.comparison import Calibrator
from mtz_core.layerwise.dense import DenseProblem
from mtz_core.layerwise.grouped import GroupedProblem, aligned
from mtz_core.layerwise.ledger import Ledger
from mtz_core.layerwise.outcome import merged
from mtz_core.layerwise.problem import Given, parts_of
from mtz_core.layerwise.walk import LayerWalk
from mtz_core.pairing.assignment import pair_neurons
from mtz_core.pairing.subsets import pair_subsets
from tests.networks import Perceptron, images, randomised
from tests.oracles import greedy_pairs
from tests.test_layer_problems import ALPHAS, CASES, KINDS, NEURONS, RIDGE, ROWS, Case, made, network, signals

Array = NDArray[np.float64]
CPU = torch.device("cpu")


def _data(seed: int, count: int = 60, width: int = 5) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _walk(
    parents: Sequence[nn.Module], data: Sequence[Tensor], spec: ZipSpec, shares: Mapping[str, int], alphas: Any
) -> tuple[LayerWalk, list[Twin]]:
    joint = correspond([channel_graph(parent, x[:2]) for parent, x in zip(parents, data, strict=True)])
    network = ZippedNetwork(parents, joint)
    halves = [torch.arange(len(x)) % 2 for x in data]
    walk = LayerWalk(network, spec, Ledger(joint, shares), Calibrator(network, spec, alphas, halves))
    return walk, twins(network, data, spec.compensate, 64, 2**20, CPU)


# Looking ahead.


class Streamed(nn.Module):
    """A layer, and another that writes the same channels: added, as a gate, as a gate of some, or behind a third."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.first, self.head = nn.Linear(5, 6), nn.Linear(6, 3)
        if form == "inner":
            self.inner = nn.Linear(5, 6)
        self.second = nn.Linear(6 if form == "inner" else 5, 4 if form == "some" else 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.form == "inner":
            y = y + self.second(torch.relu(self.inner(x)))
        elif self.form == "some":
            y = y * F.pad(torch.sigmoid(self.second(x)), (1, 1))
        elif self.form == "gate":
            y = y * torch.sigmoid(self.second(x))
        else:
            y = y + self.second(x)
        return self.head(torch.relu(y))


@dataclass
class Seen:
    """One layer of two tasks in front of rows with a one at the end."""

    layers: Sequence[nn.Linear]
    rows: Sequence[Array]
    alphas: tuple[float, float] = (0.3, 0.7)
    ridge: float = 0.01
    weights: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        self.weights = [torch.cat([x.weight, x.bias[:, None]], 1).detach().numpy() for x in self.layers]
        self.rows = [np.hstack([x, np.ones((len(x), 1))]) for x in self.rows]

    def difference(self) -> Array:
        forms = []
        for alpha, x in zip(self.alphas, self.rows, strict=True):
            gram = x.T @ x / len(x)
            forms.append(alpha * (gram + self.ridge * np.trace(gram) / len(gram) * np.eye(len(gram))))
        middle = np.linalg.inv(sum(np.linalg.inv(form) for form in forms)) / sum(self.alphas)
        apart = self.weights[0][:, None] - self.weights[1][None]
        return 0.5 * np.einsum("ijk,kl,ijl->ij", apart, middle, apart)

    def power(self) -> float:
        both = zip(self.alphas, self.rows, self.weights, strict=True)
        return sum(a * 0.5 * float(np.square(x @ w.T).mean(0).sum()) for a, x, w in both)


@pytest.mark.parametrize("form", ["added", "gate", "some", "inner"])
def test_a_layer_that_writes_the_same_channels_adds_its_costs(form: str) -> None:
    """As they are where outputs are added up; relative to the strength of the outputs where they are multiplied."""
    parents, data = [randomised(Streamed(form), seed) for seed in (0, 1)], [_data(3), _data(4)]
    spec = ZipSpec(ridge=0.01, compensate=False, normalise=False, positions=None, streams="all")
    shares = {"first": 3, "inner": 6} if form == "inner" else {"first": 3}
    walk, streams = _walk(parents, data, spec, shares, (0.3, 0.7))
    layers = {layer.name: layer for layer in walk.network.joint.layers}
    index, fresh = layers["first"].index, walk.ledger.fresh(layers["first"].index)
    seen = walk.compare(index, streams, walk.network.tables)
    raw = [x.numpy() for x in data]
    first = Seen([p.first for p in parents], raw)
    np.testing.assert_allclose(walk.costs(seen, fresh)[0, 1], first.difference(), rtol=1e-8)
    assert seen.power == pytest.approx(first.power())
    if form == "inner":
        inner = Seen([p.inner for p in parents], raw)
        order = linear_sum_assignment(inner.difference())[1]
        hidden = [torch.relu(p.inner(x)).detach().numpy() for p, x in zip(parents, data, strict=True)]
        second = Seen([p.second for p in parents], [hidden[0], hidden[1][:, order]])
        second.weights[1] = np.hstack([second.weights[1][:, order], second.weights[1][:, -1:]])
    else:
        second = Seen([p.second for p in parents], raw)
    *names, last = list(look_ahead(walk, index, seen, fresh, streams))
    assert [name for name, _ in names] == (["inner", "second"] if form == "inner" else ["second"])
    assert all(costs == {} for _, costs in names)
    expected, part = first.difference(), second.difference()
    if form == "some":
        expected[1:5, 1:5] += part * (first.power() / second.power())
    else:
        expected += part * (first.power() / second.power() if form == "gate" else 1.0)
    assert last[0] == ""
    np.testing.assert_allclose(last[1][0, 1], expected, rtol=1e-8)


class Banked(nn.Module):
    """A stream to which a convolution in banks adds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.banks = nn.Conv1d(1, 6, 2), nn.Conv1d(1, 4, 2), nn.Conv1d(4, 6, 1, groups=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        return self.head(torch.relu(self.first(x) + self.banks(torch.relu(self.inner(x)))).mean(2))


def test_a_twin_costs_nothing_in_layers_ahead_that_read_in_banks() -> None:
    """Ahead, a bank reads the channels that were paired on the way there."""
    parent, x = randomised(Banked(), 0), _data(3)
    spec = ZipSpec(ridge=0.01, compensate=False, positions=None, streams="all")
    walk, streams = _walk([parent, parent], [x, x], spec, {"first": 3, "inner": 4}, (0.5, 0.5))
    index = next(layer.index for layer in walk.network.joint.layers if layer.name == "first")
    fresh = walk.ledger.fresh(index)
    seen = walk.compare(index, streams, walk.network.tables)
    *names, last = list(look_ahead(walk, index, seen, fresh, streams))
    assert [name for name, _ in names] == ["inner", "banks"]
    costs = last[1][0, 1]
    assert np.abs(costs.diagonal()).max() < 1e-10
    assert (costs[np.isfinite(costs)] > -1e-12).all()
    assert costs[0, 1] > walk.costs(seen, fresh)[0, 1][0, 1] + 1e-6


def test_nothing_is_looked_ahead_at_where_pairs_are_drawn_or_the_first_layer_decides() -> None:
    parents, data = [randomised(Streamed("added"), seed) for seed in (0, 1)], [_data(3), _data(4)]
    for fields, expected in (({"streams": "all"}, [1]), ({"streams": "first"}, []), ({"pairing": "random"}, [])):
        walk, _ = _walk(parents, data, ZipSpec(**fields), {"first": 3}, (0.5, 0.5))
        assert walk.ahead(0) == expected
        assert walk.ahead(1) == []


# Choosing slots.


@dataclass
class Known:
    """A problem that knows its slots, and notes what it was asked."""

    alphas: tuple[float, ...] = (0.5, 0.3, 0.2)
    exact: NDArray[np.int64] | None = None
    asked: list[Any] = field(default_factory=list)

    def worth(self, tasks: tuple[int, ...]) -> None:
        self.asked.append(tasks)

    def exact_slots(self, rows: Any, count: int, method: str, seed: int) -> NDArray[np.int64] | None:
        self.asked.append(({t: r.tolist() for t, r in rows.items()}, count, method, seed))
        return self.exact


FRESH = {0: np.array([1, 3, 5, 7]), 1: np.array([0, 2, 4, 6]), 2: np.array([2, 3, 8, 9])}


def _chosen(tasks: Sequence[int], problem: Known, alone: bool = True, wanted: int = 2, **fields: Any) -> Any:
    joint = correspond([channel_graph(randomised(Perceptron(), t), images(2)) for t in range(3)])
    tables = ZippedNetwork([randomised(Perceptron(), t) for t in range(3)], joint).tables
    rng = np.random.default_rng(5)
    costs = {(t, u): rng.random((4, 4)) for t in tasks for u in tasks if t < u}
    fresh = {t: FRESH[t] for t in tasks}
    arguments: Any = (joint, ZipSpec(**fields), 0, wanted, costs, fresh, problem, tables)
    return costs, choose_slots(*arguments) if alone else choose_slots(*arguments, alone=False)


def _as_channels(local: NDArray[np.int64]) -> list[list[int]]:
    return [[int(FRESH[t][c]) if c >= 0 else -1 for t, c in enumerate(row)] for row in local]


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("method", ["optimal", "greedy", "random", "bottleneck"])
def test_slots_of_two_tasks_are_their_pairs(pair: tuple[int, int], method: str) -> None:
    costs, slots = _chosen(pair, Known(), pairing=method, seed=3)
    expected = np.full((2, 3), -1)
    pairs = pair_neurons(costs[pair], 2, method, 3)
    for k, t in enumerate(pair):
        expected[:, t] = FRESH[t][pairs[:, k]]
    np.testing.assert_array_equal(slots, expected)
    assert _chosen(pair, Known(), wanted=0)[1].shape == (0, 3)


def test_three_tasks_that_share_all_or_nothing_are_paired_by_their_exact_costs_where_one_layer_decides() -> None:
    exact = np.array([[3, 1, 0], [0, 2, 2]])
    problem = Known(exact=exact)
    _, slots = _chosen((0, 1, 2), problem, sharing="all", pairing="greedy", seed=4)
    assert slots.tolist() == _as_channels(exact)
    assert problem.asked == [({t: rows.tolist() for t, rows in FRESH.items()}, 2, "greedy", 4)]
    for fields in ({"alone": False, "sharing": "all"}, {"sharing": "subsets"}):
        problem = Known(exact=exact)
        costs, slots = _chosen((0, 1, 2), problem, **fields)
        assert problem.asked == [(0, 1, 2)]
        local = pair_subsets(costs, [4] * 3, problem.alphas, 4, fields["sharing"] == "all")
        assert slots.tolist() == _as_channels(local)


def test_slots_of_three_tasks_that_are_drawn_hold_as_many_of_each() -> None:
    _, slots = _chosen((0, 1, 2), Known(), wanted=3, pairing="random", seed=1)
    rng = np.random.default_rng(1)
    local = np.stack([rng.permutation(4)[:3] for _ in range(3)], axis=1)
    assert slots.tolist() == _as_channels(local)


# A layer's problem.


@pytest.mark.parametrize(("kind", "compensated"), list(product(KINDS, (True, False))))
def test_power_is_half_the_mean_square_of_what_the_layer_should_give(kind: str, compensated: bool) -> None:
    case = made(kind, 3, compensated, False)
    for t in range(3):
        x, w = case.rows[t], case.base[t]
        outputs = (
            x @ w.T if x.ndim == 2 else np.stack([x[:, i * x.shape[1] // NEURONS] @ w[i] for i in range(NEURONS)], 1)
        )
        residual = case.residuals[t]
        wanted = outputs if residual is None else outputs + residual
        assert case.problem.power(t) == pytest.approx(ALPHAS[3][t] * 0.5 * np.square(wanted).mean(0).sum())


@pytest.mark.parametrize(("kind", "shape", "compensated", "sparse"), [c for c in CASES if c[1] == (3, True)])
def test_neurons_are_merged_alike_however_many_fit_at_once(
    kind: str, shape: tuple[int, bool], compensated: bool, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.array(ROWS[shape])
    whole = merged(made(kind, shape[0], compensated, sparse).problem, rows)
    for name in ("mtz_core.algebra.gram.BYTES", "mtz_core.layerwise.objective.BYTES"):
        monkeypatch.setattr(name, 1)
    monkeypatch.setattr(problems, "PIECE", 1)
    problem = made(kind, shape[0], compensated, sparse).problem
    if kind in ("matrix", "rows"):
        assert [len(part.rows) for part in problem.pieces(parts_of(rows))] == [1] * len(rows)
    pieces = merged(problem, rows)
    for mine, theirs in zip(whole.weights, pieces.weights, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)
    for name in ("predicted", "measured", "scale"):
        assert getattr(pieces, name) == pytest.approx(getattr(whole, name), rel=1e-8)
    np.testing.assert_array_equal(pieces.pairs, whole.pairs)
    torch.testing.assert_close(pieces.merged, whole.merged, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("kind", "compensated"), list(product(KINDS, (True, False))))
def test_an_outcome_measures_the_loss_of_its_weights_and_that_of_nothing(kind: str, compensated: bool) -> None:
    """Over the merged neurons, and with compensation over all others."""
    case, rows = made(kind, 3, compensated, False), np.array(ROWS[3, True])
    outcome = merged(case.problem, rows)
    assert outcome.measured_on == "calibration"
    measured = scale = 0.0
    for t in range(3):
        x, columns, residual = case.rows[t], case.problem.own[t], case.residuals[t]
        for i in range(NEURONS) if compensated else rows[rows[:, t] >= 0, t]:
            own = x if x.ndim == 2 else x[:, i * x.shape[1] // NEURONS]
            wanted = own @ case.base[t][i] + (0.0 if residual is None else residual[:, i])
            given = own @ outcome.weights[t][i].numpy()[columns]
            measured += case.alphas[t] * 0.5 * float(np.square(wanted - given).mean())
            scale += case.alphas[t] * 0.5 * float(np.square(wanted).mean())
    assert outcome.measured == pytest.approx(measured)
    assert outcome.scale == pytest.approx(scale)
    assert outcome.scales is None
    assert outcome.columns.tolist() == case.problem.columns.tolist()
    # Merged weights stand where the columns say, as the first of a slot's tasks that share them has them.
    for slot, weights in zip(outcome.pairs, outcome.merged, strict=True):
        for column, value in zip(outcome.columns, weights, strict=True):
            held = [t for t in range(3) if slot[t] >= 0 and column[t] >= 0]
            if kind in ("matrix", "rows") and len(held) > 1:
                assert float(value) == float(outcome.weights[held[0]][slot[held[0]], column[held[0]]])


def test_quick_pairs_are_the_greedy_ones_of_the_first_two_tasks() -> None:
    problem = made("matrix", 3, True, False).problem
    difference = problem.difference(1, 2).numpy()
    fresh = {1: np.array([3, 0, 2]), 2: np.array([1, 3])}
    local = greedy_pairs(difference[np.ix_(fresh[1], fresh[2])], 2)
    expected = [[-1, int(fresh[1][i]), int(fresh[2][j])] for i, j in local]
    found = problem.quick_pairs(fresh)
    assert found is not None
    assert found.tolist() == expected
    assert problem.quick_pairs({}) is None
    assert problem.quick_pairs({0: np.arange(2), 1: np.arange(0)}) is None
    assert made("grouped", 3, True, False).problem.quick_pairs(fresh) is None
    assert problem.importance(0) is None
    assert not problem.paired_first
    assert made("grouped", 3, True, False).problem.paired_first


def test_columns_in_common_are_found_row_by_row() -> None:
    """Rows that read different things, in any order, with private inputs (-1)."""
    rng = np.random.default_rng(0)
    reads = [np.stack([rng.permutation([0, 1, 2, 3, -1, -1]) + 10 * k * (rng.random() < 0.5) for k in range(5)])
             for _ in range(2)] + [np.stack([rng.permutation([0, 1, 2, -1]) for _ in range(5)])]  # fmt: skip
    reads = [np.where(r % 10 == 9, -1, r) for r in reads]
    for members in ((0, 1), (0, 2), (0, 1, 2)):
        slots = np.array([[4, 0, 1], [2, 3, 0], [0, 1, 4]])
        columns, real = aligned(members, slots, reads)
        for k, slot in enumerate(slots):
            own = [set(reads[t][slot[t]].tolist()) - {-1} for t in members]
            common = sorted(set.intersection(*own))
            assert real[k].tolist() == [True] * len(common) + [False] * (real.shape[1] - len(common))
            for m, t in enumerate(members):
                assert reads[t][slot[t]][columns[m][k][: len(common)]].tolist() == common


def test_neurons_of_banks_are_compared_over_the_inputs_that_both_banks_read() -> None:
    """Three banks of two neurons beside two banks of three; nothing in common but the bias is nothing at all."""
    rng, bias = np.random.default_rng(1), np.iinfo(np.int64).max
    reads = [
        np.array([[0, 1, 2, bias], [3, 4, -1, bias], [5, 6, 7, bias]]),
        np.array([[4, 1, 0, bias], [3, -1, 2, bias]]),
    ]
    entries = [np.repeat(reads[0], 2, axis=0), np.repeat(reads[1], 3, axis=0)]
    x = [rng.normal(size=(40, len(own), 4)) for own in reads]
    w = [rng.normal(size=(6, 4)) for _ in range(2)]
    moments: dict[int, Any] = {t: GroupedMoments() for t in (0, 1)}
    for t, part in product((0, 1), (0, 1)):
        moments[t].add(part, torch.as_tensor(x[t][part::2]))
    for compensate in (True, False):
        spec = ZipSpec(ridge=0.1, compensate=compensate)
        given = Given((0, 1), [torch.as_tensor(m) for m in w], [None] * 2, np.empty((0, 2), dtype=np.int64), entries,
                      False, moments, (0.3, 0.7), spec)  # fmt: skip
        found = GroupedProblem.of(given).difference(0, 1).numpy()
        for i, j in product(range(6), repeat=2):
            own, other = reads[0][i // 2].tolist(), reads[1][j // 3].tolist()
            common = [key for key in own if key >= 0 and key in other]
            if common == [bias]:
                assert found[i, j] == np.inf
                continue
            inverse, apart = 0.0, 0.0
            for sign, t, bank, keys, alpha in ((1, 0, i // 2, own, 0.3), (-1, 1, j // 3, other, 0.7)):
                gram = x[t][:, bank].T @ x[t][:, bank] / 40
                form = alpha * (gram + 0.1 * np.trace(gram) / 4 * np.eye(4))
                at = [keys.index(key) for key in common]
                # Weights that are free to follow: the inverse of the submatrix is the submatrix of the inverse.
                cut = np.linalg.inv(form)[np.ix_(at, at)] if compensate else np.linalg.inv(form[np.ix_(at, at)])
                inverse, apart = inverse + cut, apart + sign * w[t][(i, j)[t]][at]
            assert found[i, j] == pytest.approx(0.5 * apart @ np.linalg.solve(inverse, apart), rel=1e-7)


@pytest.mark.parametrize("shape", list(ROWS))
@pytest.mark.parametrize("known", ["all", "one"])
def test_merged_neurons_make_up_for_each_others_errors_where_outputs_matter_together(
    shape: tuple[int, bool], known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the normal equations of all unknowns of all neurons at once, weighed by what errors matter."""
    monkeypatch.setattr("mtz_core.algebra.coupled.STEPS", 500)
    monkeypatch.setattr("mtz_core.algebra.coupled.WORTHWHILE", 0.0)
    tasks, rows = shape[0], np.array(ROWS[shape])
    case, rng = made("matrix", tasks, True, False), np.random.default_rng(3)
    problem = case.problem
    assert isinstance(problem, DenseProblem)
    matter = [np.eye(NEURONS)] * tasks
    for t in range(tasks) if known == "all" else (1,):
        errors = rng.normal(size=(9, NEURONS))
        matter[t] = errors.T @ errors / 9
    problem.outputs = {t: torch.as_tensor(matter[t]) for t in (range(tasks) if known == "all" else (1,))}
    found = merged(problem, rows).weights
    unknown: dict[Any, int] = {}
    unknowns: list[list[int]] = [[] for _ in range(tasks)]
    for t, i in product(range(tasks), range(NEURONS)):
        slot = next((k for k, row in enumerate(rows.tolist()) if row[t] == i), None)
        members = [t] if slot is None else [u for u in range(tasks) if rows[slot, u] >= 0]
        for column, key in enumerate(case.reads[t][i]):
            several = sum(key in case.reads[u][0] for u in members) > 1
            name = ("shared", slot, key) if several else ("own", t, i, column)
            unknowns[t].append(unknown.setdefault(name, len(unknown)))
    total, pull = np.zeros((len(unknown), len(unknown))), np.zeros(len(unknown))
    for t in range(tasks):
        best = np.concatenate([case.best(t, i) for i in range(NEURONS)])
        form = np.kron(matter[t], case.form(t, 0))
        chosen = np.eye(len(unknown))[unknowns[t]]
        total += chosen.T @ form @ chosen
        pull += chosen.T @ form @ best
    least = np.linalg.solve(total, pull)
    for t in range(tasks):
        mine = found[t].numpy()[:, problem.own[t]]
        np.testing.assert_allclose(mine.reshape(-1), least[unknowns[t]], rtol=1e-5, atol=1e-6)


# Layers within cells and attention, in whole networks.


def _read(module: Any, x: Tensor, name: str) -> Tensor:
    """What a layer reads (N, L, d), computed with torch's own modules."""
    if name in ("middle", "head"):
        y = _stream(module, x) if hasattr(module, "mix") else module.cells(x)[0][:, -1:]
        return y if name == "middle" else torch.relu(module.middle(y)).mean(1, keepdim=True)
    if name == "embed" or name.endswith("_ih_l0"):
        return x
    if name.endswith("_hh_l0"):
        states = module.cells(x)[0]
        return torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)
    y, mix = module.embed(x), module.mix
    if not name.endswith("out_projection"):
        return y
    q, k, v = (F.linear(y, w, b).unflatten(2, (2, 4)).transpose(1, 2) for w, b in
               zip(mix.in_proj_weight.chunk(3), mix.in_proj_bias.chunk(3), strict=True))  # fmt: skip
    return ((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)


def _stream(module: Any, x: Tensor) -> Tensor:
    """The residual stream behind the attention."""
    y = module.embed(x)
    return y + module.mix(y, y, y, need_weights=False)[0]


@pytest.mark.parametrize(("kind", "compensated"), list(product(("lstm", "gru", "attention"), (True, False))))
def test_merged_weights_of_cells_and_attention_are_those_of_the_least_total_loss(kind: str, compensated: bool) -> None:
    """Layer by layer: rows are what torch's own modules read, in the zipped network so far and in the parents."""
    parents, data = [network(kind, t, False) for t in (0, 1)], [signals(5 + t, 50) for t in (0, 1)]
    fields = {"ridge": RIDGE, "compensate": compensated, "normalise": False, "positions": None, "streams": "first"}
    fields |= {"weighting": "equal", "relu_rounds": 0, "scale": "shared"} if compensated else {}
    joint = correspond([channel_graph(parent, x[:2]) for parent, x in zip(parents, data, strict=True)])
    shares = {group.name: group.narrowest // 2 for group in joint.groups if group.frozen is None}
    walk, streams = _walk(parents, data, ZipSpec(**fields), shares, ALPHAS[2])
    steps = [x.view(-1, 3, 2) for x in data]
    for index in walk.stations():
        name, zipped = joint.layers[index].name, [walk.network.extract(t) for t in (0, 1)]
        seen, fresh = walk.compare(index, streams, walk.network.tables), walk.ledger.fresh(index)
        if index in walk.ledger.hidden() and any(len(channels) for channels in fresh.values()):
            slots = walk.slots(seen, walk.costs(seen, fresh), fresh, walk.network.tables)
            walk.decide(index, fresh, slots)
        rows, problem = walk.rows(index), seen.problem
        problem.choose_ridge(rows)
        found = seen.merge(rows, 0)
        assert isinstance(problem, DenseProblem)
        inputs, residuals, base = [], [], []
        for t, (parent, now, x) in enumerate(zip(parents, zipped, steps, strict=True)):
            with torch.no_grad():
                own, given = (F.pad(_read(m, x, name), (0, 1), value=1.0) for m in (now, parent))
                weights, before = walk.network.matrix(index, t).detach(), walk.network.graphs[t]
                apart = given @ before.matrix(before.layers[index]).mT - own @ weights.mT
                if name.endswith("out_projection"):  # the layer is to make up for what it is added to
                    apart = apart + parent.embed(x) - now.embed(x)
            inputs.append(own.flatten(0, 1).numpy()[:, problem.own[t]])
            residuals.append(apart.flatten(0, 1).numpy() if compensated else None)
            base.append(weights.numpy()[:, problem.own[t]])
        reads = [[np.flatnonzero(problem.inputs[:, t] >= 0).tolist()] * len(base[t]) for t in (0, 1)]
        support = [np.ones(w.shape, dtype=bool) for w in base]
        case = Case(problem, inputs, residuals, base, support, reads, False, compensated, ALPHAS[2])
        assert len(rows) == len(base[0]) // 2 or name == "head"
        for i, j in rows:
            for t, weights in case.least({0: int(i), 1: int(j)})[1].items():
                mine = found.weights[t][(i, j)[t]].numpy()[problem.own[t]]
                np.testing.assert_allclose(mine, weights, rtol=1e-6, atol=1e-8)
        walk.network.merge(index, found.weights)


# Calibration.


@pytest.mark.parametrize("kind", ["dense", "grouped"])
@pytest.mark.parametrize("residual", [True, False])
def test_means_of_every_part_are_over_its_own_rows(kind: str, residual: bool) -> None:
    rng = np.random.default_rng(0)
    counts = (7, 12, 9)
    x = [rng.normal(size=(n, 2, 3)) for n in counts]
    r = [rng.normal(size=(n, 4)) for n in counts]
    moments: Any = Moments(3) if kind == "dense" else GroupedMoments()
    for part in (0, 1):
        for some in (slice(0, 4), slice(4, None)):
            rows = torch.as_tensor(x[part][some] if kind == "grouped" else x[part][some, 0])
            moments.add(part, rows, torch.as_tensor(r[part][some]) if residual else None)
    assert moments.rows == 19
    assert moments.mean("evaluation") is None
    rows = torch.as_tensor(x[2] if kind == "grouped" else x[2][:, 0])
    moments.add(2, rows, torch.as_tensor(r[2]) if residual else None)
    assert moments.rows == 19
    for source, parts in {"half 0": [0], "half 1": [1], "calibration": [0, 1], "evaluation": [2]}.items():
        every, left = np.concatenate([x[p] for p in parts]), np.concatenate([r[p] for p in parts])
        grams = np.einsum("mbi,mbj->bij", every, every) / len(every)
        crosses = np.stack([left[:, i] @ every[:, i // 2] / len(every) for i in range(4)])
        found = moments.mean(source)
        if kind == "grouped":
            assert len(found) == (3 if residual else 1)
            np.testing.assert_allclose(found[0], grams, rtol=1e-10)
            if residual:
                np.testing.assert_allclose(found[1], crosses, rtol=1e-10)
                np.testing.assert_allclose(found[2], np.square(left).mean(0), rtol=1e-10)
        else:
            np.testing.assert_allclose(found.gram.full(), grams[0], rtol=1e-10)
            if residual:
                np.testing.assert_allclose(found.crossed(), left.T @ every[:, 0] / len(every), rtol=1e-10)
                np.testing.assert_allclose(found.power, np.square(left).mean(0), rtol=1e-10)
                known = moments.mean(source, DenseGram(torch.eye(3, dtype=torch.float64)))
                assert known.gram.matrix.equal(torch.eye(3, dtype=torch.float64))
                np.testing.assert_allclose(known.cross, found.crossed(), rtol=1e-10)
                np.testing.assert_allclose(known.power, found.power, rtol=1e-10)
            else:
                assert (found.cross, found.power, found.residuals) == (None, None, None)


class Plain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


@pytest.mark.parametrize("compensate", [True, False])
def test_the_images_on_which_neurons_fire_most_and_the_rows_are_counted(compensate: bool) -> None:
    parents, data = [randomised(Plain(), seed) for seed in (0, 1)], [_data(3, 70), _data(4, 30)]
    walk, streams = _walk(parents, data, ZipSpec(compensate=compensate), {"0": 3}, (0.5, 0.5))
    seen = walk.compare(0, streams, walk.network.tables)
    assert seen.rows == {0: 70, 1: 30}
    assert seen.index == 0
    assert seen.renewable == ((0,) if compensate else ())  # eight rows for each of six columns, and a ReLU behind
    for t, (parent, x) in enumerate(zip(parents, data, strict=True)):
        fired = parent[0](x).detach().numpy()
        order = np.argsort(-fired, axis=0)[:TOP_IMAGES].T
        np.testing.assert_array_equal(seen.top_images[t], order)
        np.testing.assert_allclose(seen.top_values[t], np.take_along_axis(fired.T, order, 1), rtol=1e-6)
        assert seen.top_values[t].dtype == np.float32
    for t, table in walk.compare(0, streams, walk.network.tables, peaks=False).top_images.items():
        assert table.shape == (7, 0), t


class Wide(nn.Module):
    """A convolution, a depthwise one and a dense layer: 16, 9 and one places an image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(1, 4, 2), nn.Conv2d(4, 4, 2, groups=4)
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.deep(torch.relu(self.stem(x)))).flatten(1))


def test_memory_for_rows_is_that_of_the_layer_which_needs_most() -> None:
    """Rows × (inputs of all banks + twice the outputs) × eight bytes, of layers that have eight rows an input."""
    parents = [randomised(Wide(), seed) for seed in (0, 1)]
    data = [torch.rand(count, 1, 5, 5, dtype=torch.float64) for count in (20, 40)]
    stem, deep = (lambda rows: 8 * rows * (5 + 2 * 4)), (lambda rows: 8 * rows * (5 * 4 + 2 * 4))

    def needed(positions: int | None, indices: Sequence[int], counts: Sequence[int] = (20, 40), **more: Any) -> int:
        walk, _ = _walk(parents, data, ZipSpec(positions=positions, **more), {}, (0.5, 0.5))
        return walk.calibrator.row_bytes(indices, counts)

    assert needed(None, [0]) == stem(16 * 60)
    assert needed(None, [1]) == deep(9 * 60)
    assert needed(None, [0, 1]) == needed(None, [1, 0]) == max(stem(16 * 60), deep(9 * 60))
    assert needed(4, [0], (7, 9)) == stem(4 * 16)  # as many rows as images are given, of at most four places each
    assert needed(100, [1]) == deep(9 * 60)
    assert needed(1, [0]) == stem(40)  # the first task has 20 rows for five inputs, which is half of what it takes
    assert needed(None, [2]) == 0
    assert needed(None, []) == 0
    assert needed(None, [0], relu_rounds=0) == 0
    assert needed(None, [0], activation_budget=1000) == 500


def test_a_walk_begins_once_for_every_batch_even_if_it_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, start = [], streaming.start

    def counted(*given: Any) -> Any:
        begun.append(len(given[1]))
        return start(*given)

    monkeypatch.setattr(streaming, "start", counted)
    graph = channel_graph(randomised(Plain(), 0), _data(0, 2))
    program = ZippedNetwork([randomised(Plain(), 0)] * 2, correspond([graph, graph])).program(0)
    stream = Stream(program, _data(1, 23), 10, 2**20, CPU)
    for layer in (0, 0, 1, 1):
        sizes = [
            where.stop - where.start for where, _ in stream.inputs(graph.layers[layer].nodes[0], graph.matrices(CPU))
        ]
        assert sizes == [10, 10, 3]
    assert begun == [10, 10, 3]
    again = list(stream.inputs(graph.layers[0].nodes[0], graph.matrices(CPU)))
    assert torch.cat([x for _, (x, _) in again]).equal(_data(1, 23))


def test_a_layer_with_rows_of_unequal_halves_weighs_every_row_alike() -> None:
    """The Gram of all rows is put together from those of the halves."""
    x, w = [_data(t, 50, 4) for t in (0, 1)], [_data(5 + t, 3, 4) for t in (0, 1)]
    moments: dict[int, Any] = {t: Moments(4) for t in (0, 1)}
    for t in (0, 1):
        moments[t].add(0, x[t][:13])
        moments[t].add(1, x[t][13:])
    given = Given((0, 1), w, [None] * 2, np.array([[k, k] for k in range(4)]), (), False, moments, (0.4, 0.6),
                  ZipSpec(compensate=False))  # fmt: skip
    problem = DenseProblem.of(given)
    for t in (0, 1):
        gram = problem.gram("calibration", t, 0.0)
        torch.testing.assert_close(gram.full(), (0.4, 0.6)[t] * x[t].mT @ x[t] / 50)
        ridged = problem.gram("half 0", t, 0.1).full()
        plain = x[t][:13].mT @ x[t][:13] / 13
        expected = (0.4, 0.6)[t] * (plain + 0.1 * plain.diagonal().mean() * torch.eye(4, dtype=plain.dtype))
        torch.testing.assert_close(ridged, expected)
