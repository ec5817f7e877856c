"""Many tasks, and so very many sets of tasks that can share: each is solved right, and few are in memory at once."""

from __future__ import annotations

import weakref
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from mtz_core import ZippedNetwork, ZipSpec, zip_networks
from mtz_core.algebra import coupled, kept
from mtz_core.algebra.scaling import ScaledMerge
from mtz_core.calibration.moments import Moments
from mtz_core.layerwise import dense
from mtz_core.layerwise.dense import DenseProblem
from mtz_core.layerwise.outcome import merged
from mtz_core.layerwise.problem import Given
from tests.networks import Perceptron, images, randomised

TASKS, WIDTH, RIDGE = 5, 7, 0.03
SETS = [members for k in range(2, TASKS + 1) for members in combinations(range(TASKS), k)]


def draws(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def every_set() -> np.ndarray:
    """A slot for every set of two tasks or more, with neurons that no other slot holds."""
    slots = np.full((len(SETS), TASKS), -1, dtype=np.int64)
    for s, members in enumerate(SETS):
        for t in members:
            slots[s, t] = (slots[:, t] >= 0).sum()
    return slots


@pytest.mark.parametrize("budget", [0, 2**30])
@pytest.mark.parametrize("partly", [False, True])
def test_neurons_of_every_set_of_tasks_are_the_least_squares_ones(
    budget: int, partly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "BUDGET", budget)
    slots = every_set()
    x = [draws(60, WIDTH, seed=t) for t in range(TASKS)]
    weights = [draws(int((slots[:, t] >= 0).sum()), WIDTH, seed=20 + t) for t in range(TASKS)]
    inputs = np.repeat(np.arange(WIDTH)[:, None], TASKS, axis=1)
    own: list[tuple[int, ...]] = [tuple(range(TASKS))] * WIDTH
    if partly:  # input c is shared by some of the tasks, and the others have one of their own in its place
        own = [(0, 1, 2, 3, 4), (0, 1), (1, 2, 3), (0, 4), (2, 3, 4), (0, 2), (1, 2, 3, 4)]
        rest = np.full((WIDTH * TASKS, TASKS), -1, dtype=np.int64)
        for c, t in ((c, t) for c in range(WIDTH) for t in range(TASKS) if t not in own[c]):
            inputs[c, t], rest[c * TASKS + t, t] = -1, c
        inputs = np.concatenate([inputs, rest[(rest >= 0).any(1)]])
    moments = {t: Moments(WIDTH) for t in range(TASKS)}
    for t, half in ((t, half) for t in range(TASKS) for half in (0, 1)):
        moments[t].add(half, x[t][half::2][:, inputs[inputs[:, t] >= 0, t]])
    given = Given(
        tasks=tuple(range(TASKS)),
        matrices=weights,
        masks=[None] * TASKS,
        inputs=inputs,
        entries=(),
        depthwise=False,
        moments=moments,
        alphas=(0.1, 0.3, 0.2, 0.25, 0.15),
        spec=ZipSpec(ridge=RIDGE, scale="shared"),
    )
    problem = DenseProblem.of(given)
    problem.choose_ridge(slots)
    found = merged(problem, slots).weights
    for slot in slots:
        members = [t for t in range(TASKS) if slot[t] >= 0]
        roots, wanted, unknowns = [], [], dict[object, int]()
        places: dict[int, list[int]] = {}
        for t in members:
            places[t] = []
            for c in range(WIDTH):
                several = t in own[c] and len(set(own[c]) & set(members)) > 1
                places[t].append(unknowns.setdefault(c if several else (c, t), len(unknowns)))
        for t in members:
            gram = (x[t].mT @ x[t] / 60).numpy()
            gram = given.alphas[t] * (gram + RIDGE * np.trace(gram) / WIDTH * np.eye(WIDTH))
            root = np.linalg.cholesky(gram).T
            design = np.zeros((WIDTH, len(unknowns)))
            design[:, places[t]] = root
            roots.append(design)
            wanted.append(root @ weights[t][slot[t]].numpy())
        best = np.linalg.lstsq(np.concatenate(roots), np.concatenate(wanted), rcond=None)[0]
        for t in members:
            np.testing.assert_allclose(found[t][slot[t]].numpy(), best[places[t]], rtol=1e-8, atol=1e-10)


def weights_of(network: ZippedNetwork) -> list[Tensor]:
    return [network.matrix(k, t).detach() for k in range(len(network.joint.layers)) for t in range(network.tasks)]


def test_what_is_not_kept_is_found_again_and_few_sums_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = [randomised(Perceptron(24), seed) for seed in range(TASKS)]
    data = [images(300, seed) for seed in range(TASKS)]
    spec = ZipSpec(share=0.5, relu_rounds=2)
    alive: weakref.WeakSet[ScaledMerge] = weakref.WeakSet()
    most = 0

    class Counted(ScaledMerge):
        def __init__(self, *arguments: object) -> None:
            nonlocal most
            super().__init__(*arguments)  # type: ignore[arg-type]
            alive.add(self)
            most = max(most, len(alive))

    monkeypatch.setattr(dense, "ScaledMerge", Counted)
    usual = zip_networks(parents, data, spec)
    sets = len({tuple(slot) for slot in (usual.layers[0].pairs >= 0).tolist()})
    assert sets >= 8
    assert most >= sets
    monkeypatch.setattr(kept, "BUDGET", 0)
    monkeypatch.setattr(coupled, "PRECONDITIONERS", 0)
    most = 0
    sparing = zip_networks(parents, data, spec)
    assert 0 < most <= 2
    for mine, theirs in zip(weights_of(usual.network), weights_of(sparing.network), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_no_more_is_kept_than_the_budget_allows() -> None:
    made: list[int] = []

    class Block:
        def __init__(self, key: int) -> None:
            made.append(key)

        def bytes(self) -> int:
            return 40

    store: kept.Kept[Block] = kept.Kept(budget=100)
    for _ in range(3):
        for key in (0, 1, 2, 2, 3):
            store.get("a ridge", key, lambda key=key: Block(key))  # type: ignore[misc]
            assert store.held == 40 * len(store.values) <= 100
    assert made == [0, 1, 2, 3, 2, 3, 2, 3]
    store.get("another ridge", 0, lambda: Block(9))
    assert (store.held, list(store.values), made[-1]) == (40, [0], 9)
