"""Weight matching: no permutation of any one layer agrees better, and permuted copies are found out."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtz_core.baselines import merge_networks
from mtz_core.zoo.colour import ResNet20
from tests.networks import FAMILIES, images, randomised
from tests.permuting import permuted


def _parents(count: int, widths: tuple[int, int] = (4, 5)) -> list[nn.Sequential]:
    made = []
    for seed in range(count):
        layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, widths[0]), nn.ReLU(), nn.Linear(*widths), nn.Tanh(), nn.Linear(widths[1], 3)
        )
        made.append(randomised(layers, seed))
    return made  # type: ignore[return-value]


def _rows(network: Any, index: int) -> list[Any]:
    """For every network, which feature each row of a layer became."""
    return [getattr(network.layer(index), f"rows_{t}").numpy() for t in range(network.tasks)]


def _agreement(a: nn.Sequential, b: nn.Sequential, p: Any, q: Any) -> float:
    """Inner product of all weights and biases of two hidden layers; channel i of a has the partner p[i] (q[i])."""
    with torch.no_grad():
        first = (a[1].weight * b[1].weight[list(p)]).sum() + (a[1].bias * b[1].bias[list(p)]).sum()
        second = (a[3].weight * b[3].weight[list(q)][:, list(p)]).sum() + (a[3].bias * b[3].bias[list(q)]).sum()
        return float(first + second)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_no_other_permutation_of_one_layer_agrees_better(scale: float) -> None:
    """All permutations of every single layer, tried on the networks' own weights."""
    a, b = _parents(2)
    with torch.no_grad():
        for network in (a, b):
            network[3].weight.mul_(scale)
    result = merge_networks([a, b], [images(6)] * 2, "match", reset=False)
    p, q = (np.argsort(rows[1])[rows[0]] for rows in (_rows(result.network, 0), _rows(result.network, 1)))
    found = _agreement(a, b, p, q)
    assert found >= max(_agreement(a, b, other, q) for other in itertools.permutations(range(4))) - 1e-12
    assert found >= max(_agreement(a, b, p, other) for other in itertools.permutations(range(5))) - 1e-12
    assert found > _agreement(a, b, range(4), range(5))


def test_a_third_network_is_matched_with_the_average_of_two() -> None:
    """The same found by matching two networks, one of which was averaged by hand."""
    a, b, c = _parents(3)
    result = merge_networks([a, b, c], [images(6)] * 3, "match", reset=False)
    rows = [_rows(result.network, index) for index in (0, 1)]
    p, q = (np.argsort(each[1])[each[0]] for each in rows)
    mean = _parents(1)[0]
    with torch.no_grad():
        mean[1].weight.copy_((a[1].weight + b[1].weight[p]) / 2)
        mean[1].bias.copy_((a[1].bias + b[1].bias[p]) / 2)
        mean[3].weight.copy_((a[3].weight + b[3].weight[q][:, p]) / 2)
        mean[3].bias.copy_((a[3].bias + b[3].bias[q]) / 2)
    two = merge_networks([mean, c], [images(6)] * 2, "match", reset=False)
    for index in (0, 1):
        expected, mine = _rows(two.network, index), rows[index]
        assert (np.argsort(expected[1])[expected[0]] == np.argsort(mine[2])[mine[0]]).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_a_network_matched_with_its_permuted_copies_answers_as_before(family: str, share: float) -> None:
    network = randomised(FAMILIES[family](), 0)
    x = images(12)
    parents = [network, permuted(network, x[:2], 1), permuted(network, x[:2], 2)]
    result = merge_networks(parents, [x[:4], x[4:8], x[8:]], "match", share)
    assert result.counts.shared > 0
    fresh = images(5, 9)
    for t in range(3):
        torch.testing.assert_close(result.network(fresh, task=t), network(fresh), rtol=1e-6, atol=1e-6)


def test_the_pairs_that_agree_most_are_kept() -> None:
    a, b = _parents(2)
    whole = merge_networks([a, b], [images(6)] * 2, "match", reset=False).network
    half = merge_networks([a, b], [images(6)] * 2, "match", 0.5, reset=False).network
    p, q = (np.argsort(rows[1])[rows[0]] for rows in (_rows(whole, 0), _rows(whole, 1)))
    with torch.no_grad():
        own: Tensor = (a[1].weight * b[1].weight[p]).sum(1) + a[1].bias * b[1].bias[p]
        own = own + (a[3].weight * b[3].weight[q][:, p]).sum(0)
    first, second = _rows(half, 0)
    kept = {(i, int(np.flatnonzero(second == f)[0])) for i, f in enumerate(first) if f in second}
    assert kept == {(int(i), int(p[i])) for i in own.argsort(descending=True)[:2]}


def test_networks_of_other_widths_are_matched_as_far_as_they_go() -> None:
    a, b, c = _parents(1, (4, 5))[0], _parents(2, (6, 3))[1], _parents(3, (5, 6))[2]
    result = merge_networks([a, b, c], [images(6)] * 3, "match")
    for index, (common, total) in enumerate(((4, 15), (3, 14))):
        rows = _rows(result.network, index)
        assert len(set.intersection(*(set(part.tolist()) for part in rows))) == common
        assert len(np.unique(np.concatenate(rows))) == total - 2 * common


def test_networks_with_a_common_beginning_keep_their_order() -> None:
    """Weights that differ by twice their own spread still agree most about as they stand, which no search from the
    input on would find in a deep residual network."""
    torch.manual_seed(0)
    network, chance = ResNet20(5).eval(), torch.Generator().manual_seed(0)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for weight in (p for p in twin.parameters() if p.ndim > 1):
            weight.add_(2 * weight.std() * torch.randn(weight.shape, generator=chance))
    inputs = torch.randn(4, 3, 32, 32, generator=chance)
    result = merge_networks([network, twin], [inputs] * 2, "match", reset=False)
    rows = [_rows(result.network, index) for index in range(len(result.network.layers) - 1)]
    kept = np.concatenate([first == second for first, second in rows])
    assert kept.mean() > 0.7
