"""Sharing by subsets of three and more tasks, against brute force and against the plain formulas."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from mtz_core import ZipSpec, zip_networks
from mtz_core.algebra.gram import DenseGram, RowGram
from mtz_core.algebra.merging import merge
from mtz_core.algebra.partial import merge_partial
from mtz_core.calibration.moments import GroupedMoments
from mtz_core.figures.inspect import pair_rows, shared_by
from mtz_core.layerwise.grouped import GroupedProblem
from mtz_core.layerwise.outcome import merged
from mtz_core.layerwise.problem import Given
from mtz_core.pairing.blocks import block_partners, within_blocks
from mtz_core.pairing.subsets import pair_subsets, worth_of
from tests.networks import Perceptron, images, randomised


def cost_of(slots: list[tuple[int, ...]], costs: dict[tuple[int, int], np.ndarray], alphas: list[float]) -> float:
    total = 0.0
    for slot in slots:
        held = [t for t, channel in enumerate(slot) if channel >= 0]
        weight = sum(alphas[t] for t in held)
        for a in range(len(held)):
            for b in range(a + 1, len(held)):
                t, u = held[a], held[b]
                total += (alphas[t] + alphas[u]) ** 2 * costs[t, u][slot[t], slot[u]] / weight
    return total


def best(n: int, savings: int, costs: dict[tuple[int, int], np.ndarray], alphas: list[float]) -> float:
    """The least cost over all ways to divide three tasks' n channels."""
    least = np.inf
    # Channel k of task 0 leads slot k; others join one of these slots or slots of task 1's own.
    for second in product(range(-1, n), repeat=n):
        used = [s for s in second if s >= 0]
        if len(set(used)) < len(used):
            continue
        base = [[k, -1, -1] for k in range(n)]
        for channel, s in enumerate(second):
            if s >= 0:
                base[s][1] = channel
            else:
                base.append([-1, channel, -1])
        for third in product(range(-1, len(base)), repeat=n):
            taken = [s for s in third if s >= 0]
            if len(set(taken)) < len(taken) or len(used) + len(taken) != savings:
                continue
            slots = [list(slot) for slot in base]
            for channel, s in enumerate(third):
                if s >= 0:
                    slots[s][2] = channel
            least = min(least, cost_of([tuple(s) for s in slots], costs, alphas))
    return float(least)


@pytest.mark.parametrize("seed", range(4))
def test_subsets_come_close_to_the_best_of_all_divisions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, alphas = 3, [0.5, 0.3, 0.2]
    costs = {pair: rng.random((n, n)) for pair in ((0, 1), (0, 2), (1, 2))}
    for savings in (1, 2, 3, 4):
        slots = pair_subsets(costs, [n] * 3, alphas, savings, full=False)
        assert int(((slots >= 0).sum(1) - 1).sum()) == savings
        for t in range(3):
            held = slots[slots[:, t] >= 0, t]
            assert len(set(held.tolist())) == len(held)
        got = cost_of([tuple(int(c) for c in slot) for slot in slots], costs, alphas)
        least = best(n, savings, costs, alphas)
        assert least - 1e-9 <= got <= 1.5 * least + 1e-9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_slots_save_as_many_weights_and_channels_as_if_all_tasks_shared_them(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    n = 20
    columns = np.where(rng.random((40, 3)) < 0.6, 1, -1)
    costs = {pair: rng.random((n, n)) for pair in ((0, 1), (0, 2), (1, 2))}
    k = round(share * n)
    slots = pair_subsets(costs, [n] * 3, [1 / 3] * 3, 2 * k, full=False, worth=worth_of(columns))
    plain = pair_subsets(costs, [n] * 3, [1 / 3] * 3, 2 * k, full=True)

    def saved(rows: np.ndarray) -> int:
        return sum(max(0, int(((row >= 0) & (column >= 0)).sum()) - 1) for row in rows for column in columns)

    assert saved(slots) >= saved(plain)
    assert ((slots >= 0).sum(1) - 1).sum() >= 2 * k
    for t in range(3):
        held = slots[slots[:, t] >= 0, t]
        assert len(set(held.tolist())) == len(held)
    rows = [[tuple(int(c) for c in row) for row in each] for each in (slots, plain)]
    costs_of = [cost_of(each, costs, [1 / 3] * 3) for each in rows]
    assert costs_of[0] <= costs_of[1] * 1.05


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_subsets_save_as_much_as_neurons_that_all_tasks_share(share: float) -> None:
    parents = [randomised(Perceptron(), seed) for seed in range(3)]
    sizes = {}
    for sharing in ("subsets", "all"):
        spec = ZipSpec(share=share, sharing=sharing, ridge=1e-3)
        sizes[sharing] = zip_networks(parents, [images(200, seed) for seed in range(3)], spec).counts.total
    assert sizes["subsets"] <= 1.01 * sizes["all"]


def test_an_unrelated_task_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    near = rng.random((8, 8)) * 0.1
    far = 5.0 + rng.random((8, 8))
    costs = {(0, 1): near, (0, 2): far, (1, 2): far}
    slots = pair_subsets(costs, [8] * 3, [1 / 3] * 3, 8, full=False)
    assert len(slots) == 8
    assert (slots[:, 2] < 0).all()
    whole = pair_subsets(costs, [8] * 3, [1 / 3] * 3, 8, full=True)
    assert whole.shape == (4, 3)
    assert (whole >= 0).all()


def test_partial_merging_is_the_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(0)
    indices = [torch.tensor([0, 1, 3]), torch.tensor([0, 2, 3]), torch.tensor([1, 2, 3])]
    weights = [torch.randn(5, 3, dtype=torch.float64, generator=generator) for _ in range(3)]
    rows = [torch.randn(7, 3, dtype=torch.float64, generator=generator) for _ in range(3)]
    grams = [DenseGram(x.mT @ x) for x in rows]
    merged = merge_partial(weights, grams, indices, 4)
    design, target = torch.zeros(21, 4, dtype=torch.float64), torch.zeros(21, 5, dtype=torch.float64)
    for t, (x, w, index) in enumerate(zip(rows, weights, indices, strict=True)):
        design[7 * t : 7 * t + 7, index] = x
        target[7 * t : 7 * t + 7] = x @ w.mT
    torch.testing.assert_close(merged, torch.linalg.lstsq(design, target).solution.mT)


def test_rows_and_matrices_merge_partially_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    indices = [torch.arange(0, 30), torch.arange(10, 40), torch.cat([torch.arange(0, 10), torch.arange(30, 40)])]
    weights = [torch.randn(4, len(p), dtype=torch.float64, generator=generator) for p in indices]
    grams = [RowGram(torch.randn(6, len(p), dtype=torch.float64, generator=generator), 0.2, 0.03) for p in indices]
    dense = merge_partial(weights, grams, indices, 40)
    monkeypatch.setattr("mtz_core.algebra.partial.DENSE_UP_TO", 0)
    torch.testing.assert_close(merge_partial(weights, grams, indices, 40), dense)


def test_every_subset_of_three_tasks_answers_and_comes_apart() -> None:
    parents = [randomised(Perceptron(), seed) for seed in range(3)]
    result = zip_networks(parents, [images(200, 4)] * 3, ZipSpec(share=0.5, ridge=1e-4))
    members = {tuple((row >= 0).tolist()) for row in result.layers[0].pairs}
    assert len(members) > 1
    x = images(20, 8)
    with torch.no_grad():
        for task in range(3):
            torch.testing.assert_close(result.network.extract(task)(x), result.network(x, task=task))
    stored = sum(p.numel() for p in result.network.layers.parameters())
    assert stored == result.counts.total


def test_twins_among_three_tasks_share_everything_and_keep_their_answers() -> None:
    twin, stranger = randomised(Perceptron(), 0), randomised(Perceptron(), 1)
    result = zip_networks([twin, twin, stranger], [images(200, 4)] * 3, ZipSpec(share=0.5, ridge=1e-6))
    x = images(20, 8)
    with torch.no_grad():
        for task, parent in enumerate((twin, twin, stranger)):
            torch.testing.assert_close(result.network(x, task=task), parent(x), rtol=1e-3, atol=1e-4)


def test_two_of_three_tasks_are_looked_at_by_what_they_share() -> None:
    arrays = {
        "difference_0_1": np.ones((3, 3)),
        "pairs": np.array([[0, 1, -1], [2, 0, 1], [-1, 2, 0]]),
        "costs": np.array([0.1, 0.2, 0.3]),
        "merged": np.arange(12.0).reshape(3, 4),
        "columns_0": np.array([0, 1, -1, 2]),
        "columns_1": np.array([0, -1, 1, 2]),
        "columns_2": np.array([0, 1, 2, 3]),
    }
    seen = shared_by(arrays, (0, 1))
    assert seen["pairs"].tolist() == [[0, 1, -1], [2, 0, 1]]
    assert seen["merged"].tolist() == [[0.0, 3.0], [4.0, 7.0]]
    assert [seen[f"columns_{t}"].tolist() for t in range(2)] == [[0, 2], [0, 2]]
    records = pair_rows(None, arrays["pairs"], arrays["costs"], ["a", "b", "c"])
    assert records[-1]["c neuron"] is None  # the cheapest comes last


def test_blocks_are_paired_as_wholes() -> None:
    rng = np.random.default_rng(3)
    blocks = np.repeat(np.arange(3), 4)
    order = np.array([2, 0, 1])
    costs = rng.random((12, 12)) + 1.0
    for mine, theirs in enumerate(order):
        costs[np.ix_(blocks == mine, blocks == theirs)] -= 0.9
    allowed = within_blocks(costs, blocks, blocks, block_partners(costs, blocks, blocks))
    assert (np.isfinite(allowed) == (order[blocks][:, None] == blocks[None, :])).all()


def test_banks_merge_like_dense_layers() -> None:
    generator = torch.Generator().manual_seed(0)
    moments = {t: GroupedMoments() for t in range(2)}
    x = {t: torch.randn(40, 3, 4, dtype=torch.float64, generator=generator) for t in range(2)}
    for t in range(2):
        moments[t].add(0, x[t][:20])
        moments[t].add(1, x[t][20:])
    matrices = [torch.randn(3, 4, dtype=torch.float64, generator=generator) for _ in range(2)]
    entries = [np.broadcast_to(np.arange(4), (3, 4))] * 2
    work = GroupedProblem.of(
        Given(
            tasks=(0, 1),
            matrices=matrices,
            masks=[None, None],
            inputs=np.empty((0, 2), dtype=np.int64),
            entries=entries,
            depthwise=True,
            moments=moments,
            alphas=(0.4, 0.6),
            spec=ZipSpec(ridge=0.0),
        )
    )
    rows = np.array([[0, 2], [1, 0]])
    outcome = merged(work, rows)
    for i, j in rows:
        grams = [DenseGram(x[t][:, c].mT @ x[t][:, c] / 40).scaled(a) for t, c, a in ((0, i, 0.4), (1, j, 0.6))]
        expected = merge([matrices[0][i : i + 1], matrices[1][j : j + 1]], grams)[0]
        torch.testing.assert_close(outcome.weights[0][i], expected, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(outcome.weights[1][j], expected, rtol=1e-6, atol=1e-8)
