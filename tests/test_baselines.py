"""Rival merging methods: exact where they must be, and each step against an independent computation."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtz_core.baselines import merge_networks
from mtz_core.baselines.features import by_index
from mtz_core.baselines.lockstep import Lockstep
from mtz_core.baselines.methods.permute import permute
from mtz_core.baselines.methods.zip import zipped
from mtz_core.baselines.observation import observe
from mtz_core.baselines.slots import channel_kinds
from mtz_core.errors import DataError, SpecError
from mtz_core.graph import ChannelGraph, channel_graph
from mtz_core.graph.execution import Program
from mtz_core.zoo.architectures import LeNet5, ResNet14
from tests.networks import FAMILIES, Functional, Perceptron, Residual, convolutional, images, randomised
from tests.permuting import permuted


def _digits(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NETWORKS: dict[str, Any] = {**FAMILIES, "lenet5": LeNet5, "resnet14": ResNet14}


def _data(family: str, count: int, seed: int = 0) -> Tensor:
    return _digits(count, seed) if family in ("lenet5", "resnet14") else images(count, seed)


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("method", ["permute", "zip"])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_a_network_merged_with_its_permuted_copies_answers_as_before(family: str, method: Any, share: float) -> None:
    network = randomised(NETWORKS[family](), 0)
    x = _data(family, 24)
    parents = [network, permuted(network, x[:2], 1), permuted(network, x[:2], 2)]
    before = [copy.deepcopy(parent.state_dict()) for parent in parents]
    moved = [(a != b).any() for a, b in zip(before[0].values(), before[1].values(), strict=True)]
    assert any(moved)
    torch.testing.assert_close(parents[1](x), network(x))
    # As they are read, channels that a ReLU silences on these images look all alike.
    result = merge_networks(parents, [x[:8], x[8:16], x[16:]], method, share, side="written")
    for t, parent in enumerate(parents):
        fresh = _data(family, 5, 9)
        torch.testing.assert_close(result.network(fresh, task=t), network(fresh), rtol=1e-6, atol=1e-6)
        for key, value in parent.state_dict().items():
            torch.testing.assert_close(value, before[t][key], rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reset", [False, True])
def test_averaging_a_network_with_itself_is_the_identity(family: str, reset: bool) -> None:
    network = randomised(FAMILIES[family](), 0)
    result = merge_networks([network, network], [images(20)] * 2, "average", reset=reset)
    torch.testing.assert_close(result.network(images(5, 3), task=1), network(images(5, 3)))


def test_averaging_is_the_mean_of_the_weights() -> None:
    a, b = (randomised(Perceptron(), seed) for seed in (0, 1))
    mean = copy.deepcopy(a)
    with torch.no_grad():
        for name in ("fc1", "fc2"):
            for key in ("weight", "bias"):
                one, two = (getattr(getattr(n, name), key) for n in (a, b))
                getattr(getattr(mean, name), key).copy_((one + two) / 2)
    result = merge_networks([a, b], [images()] * 2, "average")
    torch.testing.assert_close(result.network(images(5, 3), task=0), mean(images(5, 3)))
    head = a.fc3.weight.numel() + a.fc3.bias.numel()
    assert result.counts.private == (head, head)
    assert result.counts.total == result.counts.parents[0] + head


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["average", "permute", "zip"])
def test_share_zero_keeps_every_network(family: str, method: Any) -> None:
    parents = [randomised(FAMILIES[family](), seed) for seed in (0, 1)]
    result = merge_networks(parents, [images()] * 2, method, share=0.0)
    assert result.counts.shared == 0
    assert result.counts.versus_all == 1.0
    for t, parent in enumerate(parents):
        torch.testing.assert_close(result.network(images(5, 3), task=t), parent(images(5, 3)))


def test_zip_computes_its_merge_and_unmerge_matrices() -> None:
    """Written out with dense matrices M and U for a network with one hidden layer."""
    parents = [nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 3)) for _ in range(2)]
    parents = [randomised(parent, seed) for seed, parent in enumerate(parents)]
    x = images(30)
    with torch.no_grad():
        hidden = torch.cat([parent[1](x.flatten(1)) for parent in parents], dim=1)
        slots = zipped(torch.cov(hidden.relu().mT), [7, 7], 7)
        unmerge = torch.nn.functional.one_hot(torch.as_tensor(np.concatenate(slots))).double()
        merge = unmerge.mT / unmerge.sum(0)[:, None]
        features = (merge @ hidden.mT).relu()
        wanted = [(unmerge @ features)[7 * t : 7 * t + 7].mT for t in (0, 1)]
        result = merge_networks(parents, [x[:15], x[15:]], "zip")
        for t, parent in enumerate(parents):
            torch.testing.assert_close(result.network(x, task=t), parent[3](wanted[t]))
    owners = torch.stack([unmerge[:7].sum(0) > 0, unmerge[7:].sum(0) > 0])
    assert result.counts.shared == int(owners.all(0).sum()) * 65
    assert result.counts.total == 7 * 65 + sum(int(o.sum()) * 3 + 3 for o in owners)


@pytest.mark.parametrize("family", ["residual", "convolutional", "perceptron"])
def test_covariances_are_those_of_the_parents_activations(family: str) -> None:
    """numpy on outputs caught by hooks in the parents themselves; producers of one stream add up."""
    parents = [randomised(FAMILIES[family](), seed) for seed in (0, 1)]
    graphs = [channel_graph(parent, images(2)) for parent in parents]
    x = images(12)
    programs = [Program(graph.network.module, graph.layers) for graph in graphs]
    seen = observe(graphs, Lockstep(graphs, programs), x, 5, [0])
    caught = [_outputs(parent, graph, x) for parent, graph in zip(parents, graphs, strict=True)]
    n = graphs[0].groups[0].width
    expected = np.zeros((2 * n, 2 * n))
    for index, layer in enumerate(graphs[0].layers):
        if layer.group == 0:
            parts = [np.moveaxis(out[index], 1, -1).reshape(-1, layer.width) for out in caught]
            where = np.concatenate([layer.rows, n + layer.rows])
            expected[np.ix_(where, where)] += np.cov(np.concatenate(parts, axis=1).T, bias=True)
    np.testing.assert_allclose(seen.covariances[0].numpy(), expected, atol=1e-12)


def _outputs(parent: nn.Module, graph: ChannelGraph, x: Tensor) -> list[Any]:
    """Output of every weight layer, after the BatchNorm that follows it, of the unfolded parent."""
    found: dict[str, Any] = {}
    for name, module in parent.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: found.__setitem__(name, o.detach().numpy()))
    parent(x)
    outputs = []
    for layer in graph.layers:
        norm = graph.network.sources[layer.name].norm
        outputs.append(found[layer.name if norm is None else norm.mean.removesuffix(".running_mean")])
    return outputs


@pytest.mark.parametrize("method", ["average", "permute", "zip"])
@pytest.mark.parametrize("factory", [convolutional, Residual, Functional])
def test_reset_gives_merged_features_the_average_statistics_of_their_channels(factory: Any, method: Any) -> None:
    parents = [randomised(factory(), seed) for seed in (0, 1)]
    x = images(40)
    result = merge_networks(parents, [x[:20], x[20:]], method)
    plain = merge_networks(parents, [x[:20], x[20:]], method, reset=False)
    graphs = [channel_graph(parent, x[:2]) for parent in parents]
    own = [_statistics(graph, {k: graph.matrix(v) for k, v in enumerate(graph.layers)}, x) for graph in graphs]
    found, before = _features(result.network, x), _features(plain.network, x)
    for index, layer in enumerate(graphs[0].layers):
        normalised = graphs[0].network.sources[layer.name].norm is not None
        rows = [getattr(result.network.layer(index), f"rows_{t}").numpy() for t in (0, 1)]
        count = np.bincount(np.concatenate(rows))
        for k, what in enumerate(("mean", "deviation")):
            total = sum(np.bincount(rows[t], own[t][index][k], minlength=len(count)) for t in (0, 1))
            if normalised:
                np.testing.assert_allclose(found[index][k], total / count, rtol=1e-6, atol=1e-8, err_msg=what)
                # The mean of the first layer is right before any correction.
                assert what == "mean" or np.abs(before[index][k] - total / count).max() > 1e-3
        if not normalised and index == 0:
            np.testing.assert_allclose(found[index][1], before[index][1])


def _statistics(graph: ChannelGraph, matrices: dict[int, Tensor], x: Tensor) -> list[tuple[Any, Any]]:
    program, found = Program(graph.network.module, graph.layers), []
    lockstep = Lockstep([graph], [program])

    def step(call: int, given: list[Tensor]) -> list[Tensor]:
        index = lockstep.order[call]
        module = lockstep.module(call)
        y = module(given[0])
        moved = np.moveaxis(y.numpy(), 1, -1).reshape(-1, graph.layers[index].width)
        found.append((moved.mean(0), moved.std(0)))
        return [y]

    lockstep.run(x, step)
    return found


def _features(network: Any, x: Tensor) -> list[tuple[Any, Any]]:
    found = []

    def step(call: int, given: list[Tensor]) -> list[Tensor]:
        y = network.features(call, given)
        moved = np.moveaxis(y.numpy(), 1, -1).reshape(-1, y.shape[1])
        found.append((moved.mean(0), moved.std(0)))
        copies: list[Tensor] = network.copies(call, y)
        return copies

    network.lockstep.run(x, step)
    return found


def test_zip_merges_the_closest_first_within_and_across() -> None:
    """Three networks' features along given directions, in an order that can be followed by hand."""
    angles = np.deg2rad([0.0, 3.0, 90.0, 91.0, 200.0, 206.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    covariance = torch.as_tensor(vectors @ vectors.T)
    assert [s.tolist() for s in zipped(covariance, [3, 3], 3)] == [[0, 0, 1], [1, 2, 2]]
    across = [s.tolist() for s in zipped(covariance, [3, 3], 3, within=0.0)]
    assert sorted(across[0]) == sorted(across[1]) == [0, 1, 2]
    assert across[0][2] == across[1][0]
    three = zipped(covariance, [2, 2, 2], 2)
    assert len(np.unique(np.concatenate(three))) == 2


def test_permute_maximises_the_total_correlation() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 10)) @ rng.normal(size=(10, 10))
    slots = permute(torch.as_tensor(np.cov(x.T)), [5, 5], 5)
    related = np.corrcoef(x.T)[:5, 5:]
    partner = np.argsort(slots[1])[slots[0]]
    best = max(sum(related[i, p[i]] for i in range(5)) for p in itertools.permutations(range(5)))
    assert sum(related[i, partner[i]] for i in range(5)) == pytest.approx(best)


@pytest.mark.parametrize("rule", [lambda c, w, k: by_index(w, k), permute, zipped])
def test_slots_number_features_without_gaps(rule: Any) -> None:
    rng = np.random.default_rng(1)
    widths = [4, 5, 6]
    covariance = torch.as_tensor(np.cov(rng.normal(size=(40, 15)).T))
    for k in range(5):
        slots = rule(covariance, widths, k)
        assert [len(s) for s in slots] == widths
        numbers = np.unique(np.concatenate(slots))
        assert numbers.tolist() == list(range(15 - 2 * k))


def test_a_widening_stream_never_merges_what_different_layers_write() -> None:
    graphs = [channel_graph(randomised(Residual(), seed), images(2)) for seed in (0, 1)]
    kinds = channel_kinds(graphs, 0)
    assert sorted([len(part) for part in kind] for kind in kinds) == [[4, 4], [6, 6]]
    stem = set(graphs[0].layer("stem").rows.tolist())
    assert {frozenset(kind[0].tolist()) for kind in kinds} == {frozenset(stem), frozenset(range(10)) - stem}


def test_pruned_zeros_are_not_counted() -> None:
    parents = [randomised(Perceptron(), seed) for seed in (0, 1)]
    with torch.no_grad():
        for parent in parents:
            parent.fc1.weight[:, ::2] = 0.0
    counts = merge_networks(parents, [images()] * 2, "average").counts
    assert counts.parents[0] == sum(int((p != 0).sum()) for p in parents[0].parameters())
    assert counts.shared == 12 * (32 + 1) + 10 * 13


def test_what_these_methods_cannot_do_is_refused() -> None:
    a, b = (randomised(Perceptron(), seed) for seed in (0, 1))
    with pytest.raises(SpecError, match="'rebasin'"):
        merge_networks([a, b], [images()] * 2, "rebasin")
    with pytest.raises(SpecError, match="share is 1"):
        merge_networks([a, b], [images()] * 2, share=1.5)
    with pytest.raises(SpecError, match="side is 'between'"):
        merge_networks([a, b], [images()] * 2, side="between")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="'average' compares no activations"):
        merge_networks([a, b], [images()] * 2, "average", side="read")
    with pytest.raises(SpecError, match="'permute' has no setting 'within'; it has none"):
        merge_networks([a, b], [images()] * 2, "permute", within=0.5)
    with pytest.raises(SpecError, match="linkage is 'most'"):
        merge_networks([a, b], [images()] * 2, "zip", linkage="most")
    with pytest.raises(SpecError, match="two or more"):
        merge_networks([a], [images()])
    with pytest.raises(DataError, match="1 tasks for 2"):
        merge_networks([a, b], [images()])
    with pytest.raises(DataError, match="same images"):
        merge_networks([a, b], [images(), images().view(-1, 1, 4, 16)])
    with pytest.raises(SpecError, match="networks of one depth"):
        merge_networks([a, randomised(convolutional(), 1)], [images()] * 2)
    apart = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 3)).double().eval()
    with pytest.raises(SpecError, match="cannot be folded"):
        merge_networks([apart, apart], [images()] * 2)
    with pytest.raises(SpecError, match="task 2"):
        merge_networks([a, b], [images()] * 2).network(images(), task=2)


@pytest.mark.parametrize("family", ["residual", "convolutional", "perceptron"])
def test_covariances_are_those_of_what_the_next_layers_read(family: str) -> None:
    """numpy on inputs caught by hooks in the parents; a flattened channel's places are so many samples of it."""
    parents = [randomised(FAMILIES[family](), seed) for seed in (0, 1)]
    graphs = [channel_graph(parent, images(2)) for parent in parents]
    x = images(12)
    programs = [Program(graph.network.module, graph.layers) for graph in graphs]
    last = max(g for g, group in enumerate(graphs[0].groups) if group.frozen is None)
    seen = observe(graphs, Lockstep(graphs, programs), x, 5, [last], "read")
    caught = [_inputs(parent, x) for parent in parents]
    n = graphs[0].groups[last].width
    expected = np.zeros((2 * n, 2 * n))
    for layer in graphs[0].layers:
        channels = layer.column_channels[layer.column_groups == last]
        if len(channels) == 0:
            continue
        parts = []
        for part in caught:
            values = np.moveaxis(part[layer.name], 1, -1).reshape(-1, part[layer.name].shape[1])
            values = values[:, layer.column_groups == last]
            own = [values[:, channels == c].T.reshape(-1) for c in np.unique(channels)]
            parts.append(np.stack(own, axis=1))
        where = np.concatenate([np.unique(channels), n + np.unique(channels)])
        expected[np.ix_(where, where)] += np.cov(np.concatenate(parts, axis=1).T, bias=True)
    assert expected.diagonal().max() > 0
    np.testing.assert_allclose(seen.covariances[last].numpy(), expected, atol=1e-12)


def _inputs(parent: nn.Module, x: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, module in parent.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: found.__setitem__(name, i[0].detach().numpy()))
    parent(x)
    return found


def test_average_linkage_correlates_the_mean_of_merged_features() -> None:
    """Each merge is the most correlated pair of the averages so far, computed from the samples themselves."""
    x = np.random.default_rng(3).normal(size=(60, 10)) @ np.random.default_rng(4).normal(size=(10, 10))
    clusters = [[c] for c in range(10)]
    for _ in range(5):
        related = np.corrcoef(np.stack([x[:, c].mean(axis=1) for c in clusters]))
        np.fill_diagonal(related, -np.inf)
        i, j = np.unravel_index(related.argmax(), related.shape)
        clusters = [c for k, c in enumerate(clusters) if k not in (i, j)] + [clusters[i] + clusters[j]]
    slots = np.concatenate(zipped(torch.as_tensor(np.cov(x.T)), [5, 5], 5, linkage="average"))
    assert {tuple(np.flatnonzero(slots == s)) for s in slots} == {tuple(sorted(c)) for c in clusters}
