"""Theorems that hold for every kind of layer: merged weights are where the total loss is least, whatever is shared.

The oracle forms every task's quadratic from the raw rows in numpy, writes the weights as a linear map of the unknowns,
shared ones once, and solves the normal equations. It shares no code with the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core import ZippedNetwork, ZipSpec, zip_networks
from mtz_core.calibration.moments import GroupedMoments, LayerMoments, Moments
from mtz_core.graph import channel_graph, correspond
from mtz_core.layerwise.dense import DenseProblem
from mtz_core.layerwise.grouped import GroupedProblem
from mtz_core.layerwise.outcome import merged
from mtz_core.layerwise.problem import Given, LayerProblem
from tests.networks import randomised

Array = NDArray[np.float64]
RIDGE, NEURONS = 0.05, 4
ALPHAS = {2: (0.3, 0.7), 3: (0.2, 0.5, 0.3)}
ROWS = {
    (2, False): [[0, 1], [2, 0]],
    (3, False): [[0, 1, 2], [2, 0, 1]],
    (3, True): [[0, 1, -1], [-1, 0, 2], [1, -1, 0], [2, 2, 1]],
}


@dataclass
class Case:
    """A layer's problem, and for the oracle every task's rows, residuals, weights, supports, and what columns read."""

    problem: LayerProblem
    rows: list[Array]
    residuals: list[Array | None]
    base: list[Array]
    support: list[NDArray[np.bool_]]
    reads: list[list[list[Hashable]]]
    """Task → neuron → what each of its columns reads; equal for columns that tasks can share."""
    all_or_none: bool
    """Whether a column is shared by all tasks of a slot or by none of them."""
    free: bool
    """Whether weights that are not shared follow."""
    alphas: tuple[float, ...]

    def form(self, t: int, neuron: int) -> Array:
        """Task-weighted Gram of one neuron, ridge included."""
        x = self.rows[t] if self.rows[t].ndim == 2 else self.rows[t][:, neuron // self._per_bank(t)]
        gram = x.T @ x / len(x)
        return self.alphas[t] * (gram + RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)))

    def _per_bank(self, t: int) -> int:
        return len(self.base[t]) // self.rows[t].shape[1]

    def best(self, t: int, neuron: int) -> Array:
        """Weights of one task alone that come closest to its targets."""
        w, residual = self.base[t][neuron], self.residuals[t]
        if residual is None:
            return w
        x = self.rows[t] if self.rows[t].ndim == 2 else self.rows[t][:, neuron // self._per_bank(t)]
        inside = np.flatnonzero(self.support[t][neuron])
        form = (self.form(t, neuron) / self.alphas[t])[np.ix_(inside, inside)]
        moved = np.zeros_like(w)
        moved[inside] = np.linalg.solve(form, (x.T @ residual[:, neuron] / len(x))[inside])
        return w + moved

    def least(self, neurons: dict[int, int]) -> tuple[float, dict[int, Array]]:
        """Least total loss beyond the tasks' own, and the weights there, if these neurons (task → number) are one."""
        reads = {t: self.reads[t][i] for t, i in neurons.items()}
        counts: dict[Hashable, int] = {}
        for own in reads.values():
            for key in own:
                counts[key] = counts.get(key, 0) + 1
        enough = len(neurons) if self.all_or_none else 2
        unknown: dict[Hashable, int] = {}
        maps, offsets = {}, {}
        support = {k for t, own in reads.items() for k, on in zip(own, self.support[t][neurons[t]], strict=True) if on}
        entries: dict[int, list[tuple[int, int]]] = {t: [] for t in neurons}
        for t, own in reads.items():
            offsets[t] = np.zeros(len(own))
            for column, key in enumerate(own):
                shared = counts[key] >= enough and len(neurons) > 1
                name = key if shared else (t, column)
                on = key in support if shared else bool(self.support[t][neurons[t]][column])
                if shared or self.free:
                    if on:
                        entries[t].append((column, unknown.setdefault(name, len(unknown))))
                else:
                    offsets[t][column] = self.best(t, neurons[t])[column]
        total, pull = np.zeros((len(unknown), len(unknown))), np.zeros(len(unknown))
        for t, i in neurons.items():
            maps[t] = np.zeros((len(reads[t]), len(unknown)))
            for column, number in entries[t]:
                maps[t][column, number] = 1.0
            total += maps[t].T @ self.form(t, i) @ maps[t]
            pull += maps[t].T @ self.form(t, i) @ (self.best(t, i) - offsets[t])
        z = np.linalg.lstsq(total, pull, rcond=None)[0]
        found = {t: offsets[t] + maps[t] @ z for t in neurons}
        loss = sum(0.5 * float((found[t] - self.best(t, i)) @ self.form(t, i) @ (found[t] - self.best(t, i)))
                   for t, i in neurons.items())  # fmt: skip
        return loss, found


def spec(compensated: bool) -> ZipSpec:
    return ZipSpec(ridge=RIDGE, scale="shared") if compensated else ZipSpec(ridge=RIDGE, compensate=False)


def supports(rng: np.random.Generator, tasks: int, shape: tuple[int, int], sparse: bool) -> list[NDArray[np.bool_]]:
    masks = [rng.random(shape) < (0.6 if sparse else 2.0) for _ in range(tasks)]
    for mask in masks:
        mask[:, -1] = True
    return masks


def dense_case(tasks: int, compensated: bool, sparse: bool, few_rows: bool, count: int | None = None) -> Case:
    """Columns: some that all tasks share, some that two of them do, and private ones."""
    rng = np.random.default_rng([tasks, compensated, sparse, few_rows])
    shared, private = (14, 3) if few_rows else (4, 2)
    table = [[k] * tasks for k in range(shared)]
    table += [[shared, shared, *([-1] * (tasks - 2))], [shared + 1, *([-1] * (tasks - 2)), shared + 1]]
    width = shared + 2 + private
    count = count or (2 if few_rows else 40)
    if compensated:
        for t in range(tasks):
            left = [c for c in range(width) if c not in [row[t] for row in table]]
            table += [[c if u == t else -1 for u in range(tasks)] for c in left]
    inputs = np.array(table, dtype=np.int64)
    base = [rng.normal(size=(NEURONS, width)) for _ in range(tasks)]
    support = supports(rng, tasks, (NEURONS, width), sparse)
    base = [w * mask for w, mask in zip(base, support, strict=True)]
    rows, residuals, moments, reads = [], [], {}, []
    own = [inputs[inputs[:, t] >= 0, t] for t in range(tasks)]
    for t in range(tasks):
        x = rng.normal(size=(2 * count, len(own[t]))) + 0.3
        r = rng.normal(size=(2 * count, NEURONS)) if compensated else None
        moments[t] = Moments(len(own[t]))
        _add(moments[t], x, r)
        rows.append(x)
        residuals.append(r)
        slots = np.flatnonzero(inputs[:, t] >= 0)
        reads.append([[int(s) for s in slots]] * NEURONS)
    problem = DenseProblem.of(
        Given(
            tasks=tuple(range(tasks)),
            matrices=[torch.as_tensor(w) for w in base],
            masks=[torch.as_tensor(mask) if sparse else None for mask in support],
            inputs=inputs,
            entries=(),
            depthwise=False,
            moments=moments,
            alphas=ALPHAS[tasks],
            spec=spec(compensated),
        )
    )
    cut = [w[:, columns] for w, columns in zip(base, own, strict=True)]
    seen = [mask[:, columns] for mask, columns in zip(support, own, strict=True)]
    return Case(problem, rows, residuals, cut, seen, reads, False, compensated, ALPHAS[tasks])


def grouped_case(tasks: int, compensated: bool, sparse: bool, depthwise: bool) -> Case:
    """Two banks of two neurons, or one neuron a bank; some inputs of each bank are common to all tasks."""
    rng = np.random.default_rng([tasks, compensated, sparse, depthwise, 7])
    banks, width = (NEURONS, 5) if depthwise else (2, 6)
    base = [rng.normal(size=(NEURONS, width)) for _ in range(tasks)]
    support = supports(rng, tasks, (NEURONS, width), sparse)
    base = [w * mask for w, mask in zip(base, support, strict=True)]
    entries, rows, residuals, moments, reads = [], [], [], {}, []
    for t in range(tasks):
        # A depthwise neuron reads what it writes: by kernel position. In banks the last input is private, and the order
        # of the others differs from task to task.
        order = np.arange(width) if depthwise else np.append(rng.permutation(width - 1), -1)
        own = np.broadcast_to(order, (NEURONS, width))
        entries.append(own)
        x = rng.normal(size=(60, banks, width)) + 0.3
        r = rng.normal(size=(60, NEURONS)) if compensated else None
        moments[t] = GroupedMoments()
        _add(moments[t], x, r)
        rows.append(x)
        residuals.append(r)
        reads.append([[int(e) if e >= 0 else ("own", t) for e in row] for row in own])
    problem = GroupedProblem.of(
        Given(
            tasks=tuple(range(tasks)),
            matrices=[torch.as_tensor(w) for w in base],
            masks=[torch.as_tensor(mask) if sparse else None for mask in support],
            inputs=np.empty((0, tasks), dtype=np.int64),
            entries=entries,
            depthwise=depthwise,
            moments=moments,
            alphas=ALPHAS[tasks],
            spec=spec(compensated),
        )
    )
    return Case(problem, rows, residuals, base, support, reads, True, compensated, ALPHAS[tasks])


def _add(moments: LayerMoments, x: Array, r: Array | None) -> None:
    """Half of the rows to each half of the calibration set."""
    for part in (0, 1):
        residuals = None if r is None else torch.as_tensor(r[part::2])
        moments.add(part, torch.as_tensor(x[part::2]), residuals)


KINDS: dict[str, Callable[[int, bool, bool], Case]] = {
    "matrix": lambda tasks, compensated, sparse: dense_case(tasks, compensated, sparse, few_rows=False),
    "rows, then a matrix": lambda tasks, compensated, sparse: dense_case(tasks, compensated, sparse, True, count=3),
    "matrix, few rows each": lambda tasks, compensated, sparse: dense_case(tasks, compensated, sparse, True, count=7),
    "rows": lambda tasks, compensated, sparse: dense_case(tasks, compensated, sparse, few_rows=True),
    "grouped": lambda tasks, compensated, sparse: grouped_case(tasks, compensated, sparse, depthwise=False),
    "depthwise": lambda tasks, compensated, sparse: grouped_case(tasks, compensated, sparse, depthwise=True),
}
CASES = list(product(KINDS, ROWS, (True, False), (True, False)))
each_case = pytest.mark.parametrize(("kind", "shape", "compensated", "sparse"), CASES)


def made(kind: str, tasks: int, compensated: bool, sparse: bool) -> Case:
    case = KINDS[kind](tasks, compensated, sparse)
    case.problem.compensate()
    case.problem.choose_ridge(np.array([[0] * tasks]))
    return case


@each_case
def test_merged_weights_and_costs_are_those_of_the_least_total_loss(
    kind: str, shape: tuple[int, bool], compensated: bool, sparse: bool
) -> None:
    case, rows = made(kind, shape[0], compensated, sparse), np.array(ROWS[shape])
    outcome = merged(case.problem, rows)
    losses = []
    for slot in rows:
        neurons = {t: int(i) for t, i in enumerate(slot) if i >= 0}
        loss, found = case.least(neurons)
        losses.append(loss)
        for t, i in neurons.items():
            columns = torch.as_tensor(case.problem.own[t])
            torch.testing.assert_close(outcome.weights[t][i, columns], torch.as_tensor(found[t]), rtol=1e-6, atol=1e-8)
    order = [losses[[row.tolist() for row in rows].index(row.tolist())] for row in outcome.pairs]
    np.testing.assert_allclose(outcome.costs.numpy(), order, rtol=1e-6, atol=1e-9)
    assert order == sorted(order)


@each_case
def test_neurons_of_one_task_alone_reproduce_their_targets_best(
    kind: str, shape: tuple[int, bool], compensated: bool, sparse: bool
) -> None:
    case, rows = made(kind, shape[0], compensated, sparse), np.array(ROWS[shape])
    weights = merged(case.problem, rows).weights
    for t in range(shape[0]):
        columns = torch.as_tensor(case.problem.own[t])
        for i in set(range(NEURONS)) - set(rows[:, t].tolist()):
            expected = torch.as_tensor(case.best(t, i))
            torch.testing.assert_close(weights[t][i, columns], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("kind", "tasks", "compensated"), list(product((*list(KINDS)[:4], "grouped"), (2, 3), (True, False)))
)
def test_the_difference_is_what_merging_two_neurons_adds(kind: str, tasks: int, compensated: bool) -> None:
    case = made(kind, tasks, compensated, sparse=False)
    for t, u in ((0, 1), (0, tasks - 1)):
        found = case.problem.difference(t, u)
        for i, j in product(range(NEURONS), repeat=2):
            expected = case.least({t: i, u: j})[0] / (case.alphas[t] + case.alphas[u])
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("kind", "tasks", "compensated"), list(product(KINDS, (2, 3), (True, False))))
def test_what_a_difference_is_made_of_adds_up_to_it(kind: str, tasks: int, compensated: bool) -> None:
    case = made(kind, tasks, compensated, sparse=False)
    for t, u in ((0, 1), (0, tasks - 1)):
        found = case.problem.difference(t, u)
        for i, j in product(range(NEURONS), repeat=2):
            compared = case.problem.form(t, u, i, j)
            assert float(compared.form.contributions().sum()) == pytest.approx(float(found[i, j]), rel=1e-9, abs=1e-12)
            assert float(compared.form.directions().parts.sum()) == pytest.approx(float(found[i, j]), rel=1e-9)
            reads = [[case.reads[x][n][own.index(c)] for c in compared.columns[:, k].tolist()]
                     for k, (x, n) in enumerate(((t, i), (u, j))) for own in [list(case.problem.own[x])]]  # fmt: skip
            assert reads[0] == reads[1]


@pytest.mark.parametrize("compensated", [True, False])
def test_the_difference_of_depthwise_neurons_is_exact_where_grams_agree_and_never_too_small(compensated: bool) -> None:
    case = made("depthwise", 2, compensated, sparse=False)
    found = case.problem.difference(0, 1)
    for i, j in product(range(NEURONS), repeat=2):
        assert float(found[i, j]) >= case.least({0: i, 1: j})[0] - 1e-12
    rng = np.random.default_rng(3)
    x, matrices = rng.normal(size=(50, NEURONS, 5)), [rng.normal(size=(NEURONS, 5)) for _ in range(2)]
    moments = {t: GroupedMoments() for t in (0, 1)}
    for each in moments.values():
        _add(each, np.repeat(x[:, :1], NEURONS, axis=1), None)
    entries = [np.broadcast_to(np.arange(5), (NEURONS, 5))] * 2
    nothing = np.empty((0, 2), dtype=np.int64)
    tensors = [torch.as_tensor(w) for w in matrices]
    equal = ZipSpec(ridge=RIDGE, compensate=False)
    given = Given((0, 1), tensors, [None] * 2, nothing, entries, True, moments, (0.5, 0.5), equal)
    problem = GroupedProblem.of(given)
    problem.choose_ridge(np.array([[0, 0]]))
    alike = Case(problem, [x[:, :1].repeat(NEURONS, 1)] * 2, [None] * 2, matrices, [np.ones((NEURONS, 5), bool)] * 2,
                 [[list(range(5))] * NEURONS] * 2, True, False, (0.5, 0.5))  # fmt: skip
    exact = problem.difference(0, 1)
    for i, j in product(range(NEURONS), repeat=2):
        assert float(exact[i, j]) == pytest.approx(alike.least({0: i, 1: j})[0], rel=1e-9)


@pytest.mark.parametrize(("tasks", "compensated"), list(product((2, 3), (True, False))))
def test_rows_matrices_and_systems_of_their_own_give_one_answer(tasks: int, compensated: bool) -> None:
    """The three forms of one problem: kept rows, a matrix, and masks that allow everything."""
    case = dense_case(tasks, compensated, False, few_rows=True)
    problem = case.problem
    assert isinstance(problem, DenseProblem)
    assert not problem.dense
    rows = np.array(ROWS[tasks, False])
    answers = []
    for form in ("rows", "matrix", "masks"):
        moments: dict[int, LayerMoments] = {}
        for t in range(tasks):
            moments[t] = Moments(case.rows[t].shape[1])
            copies = 1 if form == "rows" else 40  # the same mean, from more rows than inputs
            x = np.tile(case.rows[t], (copies, 1))
            r = case.residuals[t]
            _add(moments[t], x, None if r is None else np.tile(r, (copies, 1)))
        masks = [torch.ones_like(w, dtype=torch.bool) if form == "masks" else None for w in problem.matrices]
        fields: Any = {"tasks": problem.tasks, "matrices": problem.matrices, "inputs": problem.inputs, "entries": ()}
        again = DenseProblem.of(
            Given(**fields, masks=masks, depthwise=False, moments=moments, alphas=ALPHAS[tasks], spec=problem.spec)
        )
        again.compensate()
        again.choose_ridge(rows)
        assert again.dense == (form != "rows")
        answers.append(again.merged_weights(rows))
    for other in answers[1:]:
        for mine, theirs in zip(answers[0], other, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)


class Linear(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


class Convolutions(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv1d(1, 8, 3, padding=1), nn.Conv1d(8, 8, 3, groups=groups)
        self.last, self.head = nn.Conv1d(8, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.inner(torch.relu(self.stem(x[:, None]))))
        return self.head(torch.relu(self.last(x)).mean(2))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.cells, self.middle, self.head = kind(2, 6, batch_first=True), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.middle(self.cells(x.view(-1, 3, 2))[0][:, -1])))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Linear(2, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.middle, self.head = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.view(-1, 3, 2))
        x = x + self.mix(x, x, x, need_weights=False)[0]
        return self.head(F.relu(self.middle(x)).mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dense": Linear,
    "grouped": lambda: Convolutions(2),
    "depthwise": lambda: Convolutions(8),
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "attention": Attention,
}


def network(kind: str, seed: int, sparse: bool) -> nn.Module:
    made = randomised(NETWORKS[kind](), seed)
    if sparse:
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(torch.rand(parameter.shape, generator=chance) < 0.5)
    return made


def signals(seed: int, count: int = 40) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


each_network = pytest.mark.parametrize(
    ("kind", "tasks", "sharing", "compensated", "sparse"),
    [
        (*case, sharing, *rest)
        for case in product(NETWORKS, (2, 3))
        for sharing in (("subsets", "all") if case[1] == 3 else ("subsets",))
        for rest in product((True, False), (True, False))
    ],
)


@each_network
def test_a_network_zipped_with_itself_answers_as_before(
    kind: str, tasks: int, sharing: Any, compensated: bool, sparse: bool
) -> None:
    parent, x = network(kind, 1, sparse), signals(2)
    spec = ZipSpec(sharing=sharing, compensate=compensated, ridge=1e-6)
    zipped = zip_networks([parent] * tasks, [x] * tasks, spec).network
    for t in range(tasks):
        torch.testing.assert_close(zipped(x, task=t), parent(x), rtol=1e-6, atol=1e-8)
    assert zipped.counts().shared > 0


@each_network
def test_a_share_of_nothing_keeps_every_network(
    kind: str, tasks: int, sharing: Any, compensated: bool, sparse: bool
) -> None:
    parents, data = [network(kind, t, sparse) for t in range(tasks)], [signals(5 + t) for t in range(tasks)]
    spec = ZipSpec(share=0.0, sharing=sharing, compensate=compensated)
    zipped = zip_networks(parents, data, spec).network
    for t, (parent, x) in enumerate(zip(parents, data, strict=True)):
        torch.testing.assert_close(zipped(x, task=t), parent(x), rtol=1e-9, atol=1e-10)
    assert zipped.counts().shared == 0


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_stored_counts_what_is_not_zero(kind: str, sparse: bool) -> None:
    parents: Sequence[nn.Module] = [network(kind, t, sparse) for t in range(2)]
    joint = correspond([channel_graph(parent, signals(1, 4)) for parent in parents])
    nothing = ZippedNetwork(parents, joint)
    weights = [sum(int((p != 0).sum()) for p in parent.parameters()) for parent in parents]
    assert list(nothing.counts().private) == weights
