"""Networks merged up to a layer, and what ZipIt! discounts and limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mtz_core.baselines import merge_networks
from mtz_core.baselines.lockstep import Lockstep
from mtz_core.baselines.merged import MergedNetwork
from mtz_core.baselines.methods.zip import zipped
from mtz_core.baselines.observation import observe
from mtz_core.errors import SpecError
from mtz_core.graph import channel_graph
from mtz_core.graph.execution import Program
from tests.networks import Perceptron, Residual, images, randomised

LAYERS: dict[str, tuple[Any, dict[str, str]]] = {
    "residual": (Residual, {"stem": "norm", "a": "norm_a", "b": "norm_b"}),
    "perceptron": (Perceptron, {"fc1": "fc1", "fc2": "fc2"}),
}
"""Hidden layers, and the modules that write last what goes on from them."""


def _depth(correlations: Any, a: float, tree: Any, other: Any) -> float:
    """Correlation of two merged features from their leaves alone: every merge above a leaf discounts it once."""
    return min(correlations[p, q] * a ** (m + n) for p, m in _leaves(tree) for q, n in _leaves(other))


def _leaves(tree: Any, above: int = 0) -> list[tuple[int, int]]:
    if isinstance(tree, int):
        return [(tree, above)]
    return [leaf for part in tree for leaf in _leaves(part, above + 1)]


@pytest.mark.parametrize(("discount", "within"), [(1.0, 1.0), (0.3, 1.0), (0.3, 0.25), (0.01, 0.5), (1.0, 0.0)])
@pytest.mark.parametrize("widths", [[6, 6], [4, 4, 4]])
def test_zip_discounts_and_limits_as_its_authors_do(discount: float, within: float, widths: list[int]) -> None:
    """Each merge looked up among all pairs of binary trees; a merged feature belongs where its first leaf does."""
    rng = np.random.default_rng(len(widths))
    common = rng.normal(size=(80, 5)) @ rng.normal(size=(5, 12))
    covariance = np.cov((np.abs(common) + rng.normal(size=(80, 12))).T)
    related = covariance / np.sqrt(np.outer(covariance.diagonal(), covariance.diagonal()))
    k, home = widths[0], np.repeat(np.arange(len(widths)), widths)
    trees: list[Any] = list(range(12))
    left = [int(within * k)] * len(widths)
    forbidden = {t for t in range(len(widths)) if left[t] == 0}
    barred: set[tuple[int, int]] = {(p, q) for p in range(12) for q in range(12) if home[p] == home[q] in forbidden}
    for _ in range((len(widths) - 1) * k):
        possible = [
            (_depth(related, discount, a, b), a, b)
            for i, a in enumerate(trees)
            for b in trees[i + 1 :]
            if not any((p, q) in barred for p, _ in _leaves(a) for q, _ in _leaves(b))
        ]
        if not possible:
            break
        _, a, b = max(possible, key=lambda found: found[0])
        first, second = sorted((a, b), key=lambda tree: min(leaf for leaf, _ in _leaves(tree)))
        trees = sorted(
            [tree for tree in trees if tree is not a and tree is not b] + [(first, second)],
            key=lambda tree: min(leaf for leaf, _ in _leaves(tree)),
        )
        t = int(home[_leaves(first)[0][0]])
        if t == home[_leaves(second)[0][0]]:
            left[t] -= 1
            if left[t] == 0:
                inside = [tree for tree in trees if home[_leaves(tree)[0][0]] == t]
                barred |= {(p, q) for x in inside for y in inside for p, _ in _leaves(x) for q, _ in _leaves(y)}
    slots = np.concatenate(zipped(torch.as_tensor(covariance), widths, k, within, discount))
    expected = {tuple(sorted(leaf for leaf, _ in _leaves(tree))) for tree in trees}
    assert {tuple(np.flatnonzero(slots == s)) for s in slots} == expected


def test_settings_of_zip_that_mean_nothing_are_refused() -> None:
    covariance = torch.eye(4, dtype=torch.float64)
    with pytest.raises(SpecError, match="discount is 0"):
        zipped(covariance, [2, 2], 2, discount=0.0)
    with pytest.raises(SpecError, match="'average' nothing is discounted"):
        zipped(covariance, [2, 2], 2, discount=0.5, linkage="average")


@pytest.mark.parametrize("family", LAYERS)
@pytest.mark.parametrize("method", ["average", "permute", "zip"])
def test_behind_the_last_merged_layer_every_task_is_its_parent(family: str, method: str) -> None:
    """What merged layers write for a task's channels goes on through the parent's own modules, by hooks."""
    make, after = LAYERS[family]
    parents = [randomised(make(), seed) for seed in (0, 1)]
    x, fresh = images(30), images(5, 3)
    whole = merge_networks(parents, [x[:15], x[15:]], method)
    shared = []
    for count, name in enumerate(after, start=1):
        result = merge_networks(parents, [x[:15], x[15:]], method, until=name)
        shared.append(result.counts.shared)
        answers = result.network.answers(fresh)
        for t, parent in enumerate(parents):
            torch.testing.assert_close(result.network(fresh, task=t), answers[t])
            written = dict(zip(after.values(), _trunk(result.network, fresh, t), strict=False))
            assert len(written) == count
            assert not torch.allclose(answers[t], parent(fresh))
            hooks = [
                parent.get_submodule(module).register_forward_hook(lambda m, i, o, value=value: value)
                for module, value in written.items()
            ]
            torch.testing.assert_close(answers[t], parent(fresh))
            for hook in hooks:
                hook.remove()
    assert shared == sorted(shared)
    assert shared[0] < shared[-1] == whole.counts.shared
    assert result.counts.total >= whole.counts.total


def _trunk(network: MergedNetwork, x: Tensor, task: int) -> list[Tensor]:
    """What every merged layer writes for the channels of a task, in order of execution."""
    walk, found = network.lockstep.walk(x), []
    call, given = next(walk)
    while call < network.cut:
        copies = network.copies(call, network.features(call, given))
        found.append(copies[task])
        call, given = walk.send(copies)
    return found


def test_channels_are_compared_where_only_merged_layers_have_written() -> None:
    """A stream that a second layer adds to later: covariances of what the first wrote, by numpy on hooked values."""
    parents = [randomised(Residual(), seed) for seed in (0, 1)]
    graphs = [channel_graph(parent, images(2)) for parent in parents]
    lockstep = Lockstep(graphs, [Program(graph.network.module, graph.layers) for graph in graphs])
    x = images(12)
    stream = graphs[0].layer("stem").group
    for side, names in (("written", ["norm"]), ("read", ["a"])):
        seen = observe(graphs, lockstep, x, 5, [stream], side, cut=1).covariances[stream].numpy()  # type: ignore[arg-type]
        parts = [_caught(parent, names[0], side == "read", x) for parent in parents]
        width = graphs[0].groups[stream].width
        where = np.concatenate([t * width + graph.layer("stem").rows for t, graph in enumerate(graphs)])
        expected = np.zeros((2 * width, 2 * width))
        expected[np.ix_(where, where)] = np.cov(np.concatenate(parts, axis=1).T, bias=True)
        np.testing.assert_allclose(seen, expected, atol=1e-12)


def _caught(parent: nn.Module, name: str, inputs: bool, x: Tensor) -> Any:
    """What a module reads or writes, one row per image and place."""
    found: list[Tensor] = []
    hook = parent.get_submodule(name).register_forward_hook(lambda m, i, o: found.append(i[0] if inputs else o))
    parent(x)
    hook.remove()
    return np.moveaxis(found[0].detach().numpy(), 1, -1).reshape(-1, found[0].shape[1])


def test_a_layer_to_stop_at_must_be_one() -> None:
    parents = [randomised(Residual(), seed) for seed in (0, 1)]
    for name in ("fc", "norm"):
        with pytest.raises(SpecError, match=rf"until is '{name}', .* choose from stem, a, b"):
            merge_networks(parents, [images()] * 2, until=name)
    again = [randomised(Again(), seed) for seed in (0, 1)]
    with pytest.raises(SpecError, match="twice is called before and behind it"):
        merge_networks(again, [images()] * 2, until="between")


class Again(nn.Module):
    """One layer called before another and behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.between = nn.Linear(64, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.twice(self.first(x.flatten(1)).relu()).relu()
        last: Tensor = self.last(self.twice(self.between(y).relu()).relu())
        return last


@pytest.mark.parametrize("until", [None, "stem", "a"])
def test_multiplications_are_those_that_torch_counts(until: str | None) -> None:
    """Two floating-point operations each, counted while the answers are computed."""
    parents = [randomised(Residual(), seed) for seed in (0, 1)]
    result = merge_networks(parents, [images(20)] * 2, share=0.6, until=until)
    x, counted = images(1, 3), []
    for work in (
        lambda: result.network.answers(x),
        *(lambda t=t: result.network(x, task=t) for t in (0, 1)),
        *(lambda p=p: p(x) for p in parents),
    ):
        with FlopCounterMode(display=False) as counter:
            work()
        counted.append(counter.get_total_flops() // 2)
    found = result.multiplications
    assert [found.all_tasks, *found.one_task, *found.parents] == counted
    assert found.versus_smallest == counted[0] / min(counted[3:])
