"""Compensation: what layers aim at, how merged, private and free weights follow, against plain least squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core import RetrainSpec, ZippedNetwork, ZipSpec, zip_networks
from mtz_core import events as ev
from mtz_core.algebra.gram import DenseGram, RowGram, outer, to_dense
from mtz_core.algebra.scaling import ScaledMerge
from mtz_core.calibration.moments import GroupedMoments, Moment, Moments
from mtz_core.graph import channel_graph
from mtz_core.graph.execution import Program
from mtz_core.layerwise.dense import DenseProblem
from mtz_core.layerwise.grouped import GroupedProblem
from mtz_core.layerwise.objective import DenseObjective
from mtz_core.layerwise.outcome import merged
from mtz_core.layerwise.problem import Given, parts_of
from mtz_core.network.dense import DenseLayer
from tests.networks import Perceptron, Tower, images, randomised

ALPHAS = (0.3, 0.7)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moments(x: Tensor, residuals: Tensor) -> Moments:
    """Moments of rows (m, d) with residuals (m, n), alternately in both halves."""
    found = Moments(x.shape[1])
    for half in range(2):
        found.parts[half].add(x[half::2], residuals[half::2])
    return found


def least_squares(x: Tensor, y: Tensor, base: Tensor, ridge: float) -> Tensor:
    """arg-min of mean ½(y - w x)² + ½ λ|w - base|², by an augmented system."""
    strength = ridge * float(x.square().mean())
    wide = torch.cat([x / len(x) ** 0.5, strength**0.5 * torch.eye(x.shape[1], dtype=x.dtype)])
    return torch.linalg.lstsq(wide, torch.cat([y / len(x) ** 0.5, strength**0.5 * base.mT])).solution.mT


@pytest.mark.parametrize("rows", [12, 200])
def test_a_task_alone_is_fitted_to_its_targets(rows: int) -> None:
    """With fewer rows than inputs the system is solved by rows, else by a matrix; both are least squares."""
    x, base, y = draws(rows, 20), draws(4, 20, seed=1), draws(rows, 4, seed=2)
    found = moments(x, y - x @ base.mT).mean("calibration")
    assert found is not None
    assert isinstance(found.gram, RowGram if rows < 20 else DenseGram)
    objective = DenseObjective(found, base)
    fitted = objective.fit(1e-3)
    torch.testing.assert_close(fitted, least_squares(x, y, base, 1e-3))
    every = torch.arange(4)
    torch.testing.assert_close(objective.loss(fitted, every), 0.5 * (y - x @ fitted.mT).square().mean(0))
    torch.testing.assert_close(objective.loss(torch.zeros_like(base), every), 0.5 * y.square().mean(0))
    again = DenseObjective(found.dense(), base)
    torch.testing.assert_close(again.fit(1e-3), fitted)
    torch.testing.assert_close(again.loss(base, every), objective.loss(base, every))


def test_few_rows_fit_weights_at_every_ridge_as_least_squares_do() -> None:
    """Products of rows are formed once; Gram and cross-moment as matrices, which are kept beside, are not asked."""
    x, base, y = draws(9, 20), draws(4, 20, seed=1), draws(9, 4, seed=2)
    few = moments(x, y - x @ base.mT).mean("calibration")
    assert few is not None
    objective, every = DenseObjective(Moment(DenseGram(torch.eye(20)), power=few.power), base, few=few), torch.arange(4)
    for ridge in (1e-2, 10.0, 1e-4, 1e-2):
        fitted = objective.fit(ridge)
        torch.testing.assert_close(fitted, least_squares(x, y, base, ridge))
        torch.testing.assert_close(objective.loss(fitted, every), 0.5 * (y - x @ fitted.mT).square().mean(0))


@pytest.mark.parametrize("count", [3, 600, 1100])
def test_symmetric_products_are_whole(count: int) -> None:
    rows = draws(count, 5)
    torch.testing.assert_close(outer(rows), torch.einsum("id,jd->ij", rows, rows))


def test_a_pruned_task_keeps_its_zeros() -> None:
    x, base, y = draws(50, 6), draws(3, 6, seed=1), draws(50, 3, seed=2)
    mask = torch.rand(3, 6, generator=torch.Generator().manual_seed(3)) > 0.4
    found = moments(x, y - x @ (base * mask).mT).mean("calibration")
    assert found is not None
    fitted = DenseObjective(found, base * mask).fit(0.0, mask)
    assert not bool((fitted[~mask] != 0).any())
    for i in range(3):
        alone = torch.linalg.lstsq(x[:, mask[i]], y[:, i : i + 1]).solution[:, 0]
        torch.testing.assert_close(fitted[i, mask[i]], alone, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("rows", "free", "ridge"), [(10, 11, 0.05), (60, 11, 0.05), (10, 1, 1e-7), (17, 2, 0.05)])
def test_eliminated_weights_are_where_the_loss_is_least(rows: int, free: int, ridge: float) -> None:
    """Few inputs are eliminated from kept rows without a matrix of rows × rows, many with one."""
    x = draws(rows, 15) + 0.5
    gram = RowGram(x, 1 / rows, ridge) if rows < 20 else DenseGram(x.mT @ x / rows, 1.0, ridge)
    full = x.mT @ x / rows + ridge * torch.eye(15, dtype=x.dtype)
    kept = torch.tensor([1, 4, 7, 8, 0, 2, 3, 5, 6, 9, 10, 11, 12, 13, 14][: 15 - free]).sort().values
    found = gram.eliminate(kept)
    delta = draws(3, 15 - free, seed=1)
    moved = torch.zeros(3, 15, dtype=x.dtype)
    moved[:, kept], moved[:, found.free] = delta, found.follow(delta)
    slope = moved @ full
    torch.testing.assert_close(slope[:, found.free], torch.zeros(3, free, dtype=x.dtype))
    torch.testing.assert_close(found.gram.loss(delta), 0.5 * (slope * moved).sum(1))


def _work(spec: ZipSpec, inputs: np.ndarray, x: list[Tensor], y: list[Tensor], base: list[Tensor]) -> DenseProblem:
    found = {}
    for t in range(2):
        own = torch.as_tensor(inputs[inputs[:, t] >= 0, t])
        found[t] = moments(x[t][:, own], y[t] - x[t] @ base[t].mT)
    return DenseProblem.of(given(base, found, spec, inputs=inputs))


def given(base: list[Tensor], found: Any, spec: ZipSpec, **more: Any) -> Given:
    """Of two dense layers without sparsity."""
    nothing: dict[str, Any] = {"inputs": np.empty((0, 2), dtype=np.int64), "entries": (), "depthwise": False}
    fields = {
        "tasks": (0, 1),
        "matrices": base,
        "masks": [None, None],
        "moments": found,
        "alphas": ALPHAS,
        "spec": spec,
    }
    return Given(**fields | nothing | more)


def test_partly_shared_neurons_are_joint_least_squares() -> None:
    """Two shared inputs, one private input and a private bias each: every weight is where the total is least."""
    inputs = np.array([[0, 1], [2, 0], [1, -1], [-1, 2], [3, -1], [-1, 3]])
    x = [torch.cat([draws(80, 3, seed=t), torch.ones(80, 1, dtype=torch.float64)], 1) for t in range(2)]
    y = [draws(80, 2, seed=5 + t) + x[t][:, :2] for t in range(2)]
    base = [draws(2, 4, seed=8 + t) for t in range(2)]
    work = _work(ZipSpec(ridge=1e-9, scale="shared"), inputs, x, y, base)
    work.compensate()
    work.choose_ridge(np.array([[0, 1]]))
    outcome = merged(work, np.array([[0, 1]]))
    # Unknowns: two shared weights, then for each task a private weight and a bias.
    design = torch.zeros(160, 6, dtype=torch.float64)
    design[:80, [0, 1, 2, 3]] = x[0][:, [0, 2, 1, 3]]
    design[80:, [0, 1, 4, 5]] = x[1][:, [1, 0, 2, 3]]
    weight = torch.tensor(ALPHAS, dtype=torch.float64).sqrt().repeat_interleave(80)[:, None]
    goal = torch.cat([y[0][:, 0], y[1][:, 1]])[:, None]
    best = torch.linalg.lstsq(design * weight, goal * weight).solution[:, 0]
    torch.testing.assert_close(outcome.weights[0][0, [0, 2, 1, 3]], best[:4], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(outcome.weights[1][1, [1, 0, 2, 3]], best[[0, 1, 4, 5]], rtol=1e-5, atol=1e-7)
    for t, row in ((0, 1), (1, 0)):  # neurons of one task alone follow their own targets
        alone = torch.linalg.lstsq(x[t], y[t][:, row : row + 1]).solution[:, 0]
        torch.testing.assert_close(outcome.weights[t][row], alone, rtol=1e-5, atol=1e-7)


def test_the_difference_leaves_private_weights_free() -> None:
    inputs = np.array([[0, 1], [2, 0], [1, -1], [-1, 2], [3, 3]])
    x = [torch.cat([draws(80, 3, seed=t), torch.ones(80, 1, dtype=torch.float64)], 1) for t in range(2)]
    y = [draws(80, 2, seed=5 + t) for t in range(2)]
    work = _work(ZipSpec(ridge=1e-9, scale="shared"), inputs, x, y, [draws(2, 4, seed=8 + t) for t in range(2)])
    work.compensate()
    work.choose_ridge(np.array([[0, 1]]))
    difference = work.difference(0, 1)
    for i in range(2):
        for j in range(2):
            part = parts_of(np.array([[i, j]]))[0]
            values = work.solve(part, "calibration", work.ridge).values
            alone = [work.best("calibration", t)[row : row + 1] for t, row in ((0, i), (1, j))]
            added = work.loss(part, values, "calibration") - work.loss(part, alone, "calibration")
            torch.testing.assert_close(difference[i, j], added[0], rtol=1e-5, atol=1e-8)


def test_scales_of_their_own_never_raise_the_loss_and_find_multiples() -> None:
    x = [draws(90, 7, seed=t) for t in range(3)]
    grams = [DenseGram(rows.mT @ rows / 90) for rows in x]
    weights = [draws(5, 7, seed=9 + t) for t in range(3)]
    every = [torch.arange(7)] * 3
    merged, scales = ScaledMerge(grams, every, 7)(weights)
    system = torch.stack([gram.matrix for gram in grams]).sum(0)
    pull = torch.stack([w @ gram.matrix for w, gram in zip(weights, grams, strict=True)]).sum(0)
    plain = torch.linalg.solve(system, pull.mT).mT

    def total(made: list[Tensor]) -> float:
        return sum(float(g.loss(m - w).sum()) for g, m, w in zip(grams, made, weights, strict=True))

    assert total([merged * s[:, None] for s in scales]) < total([plain] * 3)
    alike = [weights[0], 2.5 * weights[0], 0.5 * weights[0]]
    merged, scales = ScaledMerge(grams, every, 7)(alike)
    torch.testing.assert_close(
        scales, torch.tensor([1.0, 2.5, 0.5], dtype=scales.dtype)[:, None].expand(3, 5), rtol=1e-2, atol=0
    )


@pytest.mark.parametrize("ridge", [1e-6, 1e-2])
def test_scales_by_rows_and_by_matrices_are_alike(ridge: float) -> None:
    indices = [torch.arange(0, 30), torch.arange(10, 40), torch.cat([torch.arange(0, 10), torch.arange(30, 40)])]
    weights = [draws(4, len(index), seed=t) for t, index in enumerate(indices)]
    grams = [RowGram(draws(6, len(p), seed=5 + t), 0.2).relative_ridge(ridge) for t, p in enumerate(indices)]
    by_rows, by_matrices = ScaledMerge(grams, indices, 40), ScaledMerge([to_dense(gram) for gram in grams], indices, 40)
    assert type(by_rows.products) is not type(by_matrices.products)
    for mine, theirs in zip(by_rows(weights), by_matrices(weights), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    known = torch.tensor([[1.0], [20.0], [0.5]], dtype=torch.float64).expand(3, 4)
    found, scales = by_rows(weights, known)
    torch.testing.assert_close(scales, known)
    torch.testing.assert_close(found, by_matrices(weights, known)[0], rtol=1e-5, atol=1e-5)


def test_layers_store_scales_beside_shared_weights() -> None:
    rows, columns = np.array([[0, 1], [1, -1], [-1, 0]]), np.array([[0, 0], [1, -1], [-1, 1]])
    first, second = torch.randn(2, 2), torch.randn(2, 2)
    second[1, 0] = 3.0 * first[0, 0]
    layer = DenseLayer([first, second], rows, columns, None, [torch.ones(2), torch.tensor([1.0, 3.0])])
    torch.testing.assert_close(layer.matrix(0), first)
    torch.testing.assert_close(layer.matrix(1), second)
    assert layer.counts() == (1, [3, 4])
    torch.testing.assert_close(layer.scale(1), torch.tensor([1.0, 3.0]))


def test_a_grouped_convolution_follows_like_single_systems() -> None:
    """Two groups of three inputs, of which one is private: merged rows solve the joint problem of their group."""
    x = [draws(60, 2, 3, seed=t) for t in range(2)]
    base = [draws(4, 3, seed=5 + t) for t in range(2)]
    goal = [draws(60, 4, seed=7 + t) + 2 * x[t].repeat_interleave(2, 1)[:, :, 0] for t in range(2)]
    found = {t: GroupedMoments() for t in range(2)}
    for t in range(2):
        now = torch.einsum("mbd,bkd->mbk", x[t], base[t].reshape(2, 2, 3)).flatten(1)
        for half in range(2):
            found[t].add(half, x[t][half::2], (goal[t] - now)[half::2])
    entries = [np.array([[0, 1, -1]] * 2 + [[2, 3, -1]] * 2)] * 2
    work = GroupedProblem.of(given(base, found, ZipSpec(ridge=1e-9), entries=entries))
    work.own_ridge = {0: 1e-9, 1: 1e-9}
    outcome = merged(work, np.array([[1, 0]]))
    design = torch.zeros(120, 4, dtype=torch.float64)
    design[:60, [0, 1, 2]], design[60:, [0, 1, 3]] = x[0][:, 0], x[1][:, 0]
    weight = torch.tensor(ALPHAS, dtype=torch.float64).sqrt().repeat_interleave(60)[:, None]
    wanted = torch.cat([goal[0][:, 1], goal[1][:, 0]])[:, None]
    best = torch.linalg.lstsq(design * weight, wanted * weight).solution[:, 0]
    torch.testing.assert_close(outcome.weights[0][1], best[[0, 1, 2]], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(outcome.weights[1][0], best[[0, 1, 3]], rtol=1e-4, atol=1e-6)
    alone = torch.linalg.lstsq(x[0][:, 1], goal[0][:, 3:4]).solution[:, 0]
    torch.testing.assert_close(outcome.weights[0][3], alone, rtol=1e-4, atol=1e-6)


class Following(nn.Module):
    """Every kind of what may follow a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(4 if k else 1, 4, 3, padding=1) for k in range(4))
        self.pool, self.six = nn.MaxPool2d(2), nn.ReLU6()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = torch.relu(self.b(x) + x)
        x = self.six(self.pool(self.c(x)))
        y = torch.tanh(self.d(x))
        return self.head((x + y).mean((2, 3)))


def test_what_follows_a_layer_is_found() -> None:
    graph = channel_graph(randomised(Following(), 0), images(2))
    program = Program(graph.network.module, graph.layers)
    found = {layer.name: program.sequel(layer.nodes[0]) for layer in graph.layers}
    assert (found["a"].summand, found["a"].floor) == (None, 0.0)
    assert found["b"].summand is not None
    assert found["b"].floor == 0.0
    assert (found["c"].floor, found["c"].ceiling) == (0.0, 6.0)
    assert (found["d"].summand, found["d"].floor) == (None, None)


def _loss(result: nn.Module, parents: list[nn.Module], x: Tensor) -> float:
    with torch.no_grad():
        return sum(float((result(x, task=t) - parent(x)).square().mean()) for t, parent in enumerate(parents))


@pytest.mark.parametrize("family", [Perceptron, lambda: Tower(2), Following])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_compensated_networks_are_closer_to_their_parents(family: type[nn.Module], share: float) -> None:
    parents = [randomised(family(), seed) for seed in range(2)]
    known, unseen = [images(400, seed) for seed in (3, 4)], images(100, 9)
    losses = []
    for fields in ({"compensate": False}, {"bias": "shared", "scale": "shared", "relu_rounds": 0}, {}):
        result = zip_networks(parents, known, ZipSpec(share=share, positions=None, **fields))
        losses.append(_loss(result.network, parents, unseen))
    assert losses[1] < losses[0]
    assert losses[2] < losses[0]


def test_without_sharing_nothing_changes() -> None:
    parents = [randomised(Tower(1), seed) for seed in range(2)]
    network = zip_networks(parents, [images(60)] * 2, ZipSpec(share=0.0)).network
    assert _loss(network, parents, images(5)) < 1e-10


def test_private_layers_report_what_they_were_fitted_to() -> None:
    parents = [randomised(Perceptron(), seed) for seed in range(2)]
    heard: list[ev.Event] = []
    zip_networks(parents, [images(200)] * 2, ZipSpec(), on_event=heard.append)
    head = [event for event in heard if isinstance(event, ev.LayerCompensated)]
    assert [event.layer for event in head] == ["fc3"]
    assert 0.5 < head[0].predicted / head[0].measured < 2.0


def test_three_tasks_with_subsets_survive_saving_and_retraining(tmp_path: Path) -> None:
    parents = [randomised(Perceptron(width), seed) for seed, width in enumerate((12, 12, 14))]
    spec = ZipSpec(share=0.6, retrain=RetrainSpec(steps=4, schedule="final"))
    network = zip_networks(parents, [images(120, seed) for seed in range(3)], spec).network
    network.save(tmp_path / "three.safetensors")
    loaded = ZippedNetwork.load(tmp_path / "three.safetensors", [randomised(Perceptron(w), 7) for w in (12, 12, 14)])
    for t in range(3):
        torch.testing.assert_close(loaded(images(5), task=t), network(images(5), task=t))
        torch.testing.assert_close(network.extract(t)(images(5)), network(images(5), task=t))


@pytest.mark.parametrize(("rows", "inputs", "ridge"), [(20, 60, 1e-7), (20, 60, 0.0), (64, 1200, 1e-4)])
def test_neurons_that_agree_stay_what_they_are_even_where_single_precision_can_not_invert(
    rows: int, inputs: int, ridge: float
) -> None:
    w = draws(5, inputs, seed=1).float()
    nearly = w * (1 + 1e-6 * draws(5, inputs, seed=2).float())
    by_rows = [RowGram(draws(rows, inputs, seed=s).float()).relative_ridge(ridge) for s in (3, 4)]
    for grams in (by_rows, [to_dense(gram) for gram in by_rows]):
        merged, scales = ScaledMerge(grams, [torch.arange(inputs)] * 2, inputs)([w, nearly])
        torch.testing.assert_close(scales, torch.ones(2, 5), rtol=1e-5, atol=0)
        torch.testing.assert_close(merged, w, rtol=1e-4, atol=1e-4)
