"""The zipped network: exact at both ends, counted right, saved and restored."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mtz_core import ZippedNetwork, ZipSpec, zip_networks
from mtz_core.errors import CheckpointError, SpecError
from mtz_core.structure.joint import joined
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import plan_counts
from tests.networks import FAMILIES, Perceptron, images, randomised


def _twins(family: str, tasks: int = 2) -> list[nn.Module]:
    return [randomised(FAMILIES[family](), seed) for seed in range(tasks)]


@pytest.mark.parametrize("family", FAMILIES)
def test_share_zero_keeps_every_network_exactly(family: str) -> None:
    parents = _twins(family, 3)
    result = zip_networks(parents, [images()] * 3, ZipSpec(share=0.0))
    for t, parent in enumerate(parents):
        torch.testing.assert_close(result.network(images(7, 5), task=t), parent(images(7, 5)))
    assert result.counts.shared == 0
    assert result.counts.versus_all == 1.0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pairing", ["optimal", "greedy"])
def test_zipping_a_network_with_itself_preserves_outputs(family: str, pairing: str) -> None:
    parent = _twins(family)[0]
    result = zip_networks([parent, parent], [images()] * 2, ZipSpec(share=1.0, pairing=pairing, positions=None))
    for t in (0, 1):
        torch.testing.assert_close(result.network(images(7, 5), task=t), parent(images(7, 5)))
    for layer in result.layers:
        assert (layer.pairs[:, 0] == layer.pairs[:, 1]).all()
        assert layer.predicted <= 1e-12 * max(1.0, layer.scale)


@pytest.mark.parametrize("family", ["perceptron", "convolutional"])
@pytest.mark.parametrize("weighting", ["equal", "fisher"])
def test_permuting_a_parents_hidden_neurons_changes_nothing(family: str, weighting: str) -> None:
    """The pairs follow the permutation, and the zipped network computes the same functions."""
    a, b = _twins(family)
    permuted = copy.deepcopy(b)
    first, second = [m for m in permuted.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-2:]
    order = torch.randperm(first.weight.shape[0], generator=torch.Generator().manual_seed(3))
    norm = [m for m in permuted.modules() if isinstance(m, nn.BatchNorm1d)]
    with torch.no_grad():
        first.weight.copy_(first.weight[order])
        if first.bias is not None:
            first.bias.copy_(first.bias[order])
        for n in norm:
            for tensor in (n.weight, n.bias, n.running_mean, n.running_var):
                tensor.copy_(tensor[order])
        second.weight.copy_(second.weight[:, order])
    torch.testing.assert_close(permuted(images()), b(images()))
    # Coupled merging works in single precision.
    exact = {"equal": (1e-7, 1e-7), "fisher": (1e-4, 1e-5)}[weighting]
    spec = ZipSpec(share=0.7, ridge=1e-3, positions=None, weighting=weighting)
    plain, other = (zip_networks([a, n], [images()] * 2, spec) for n in (b, permuted))
    for t in (0, 1):
        one, two = (result.network(images(9, 1), task=t) for result in (plain, other))
        torch.testing.assert_close(one, two, rtol=exact[0], atol=exact[1])
    last = [r.layers[-1].pairs for r in (plain, other)]
    assert (last[0][:, 0] == last[1][:, 0]).all()
    assert (last[0][:, 1] == order.numpy()[last[1][:, 1]]).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_extracted_network_is_the_parents_class_with_the_same_outputs(family: str, share: float) -> None:
    parents = _twins(family)
    before = [copy.deepcopy(parent.state_dict()) for parent in parents]
    result = zip_networks(parents, [images()] * 2, ZipSpec(share=share))
    for t, parent in enumerate(parents):
        extracted = result.network.extract(t)
        assert type(extracted) is type(parent)
        assert extracted.state_dict().keys() == parent.state_dict().keys()
        torch.testing.assert_close(extracted(images(7, 5)), result.network(images(7, 5), task=t), rtol=1e-5, atol=1e-5)
        for key, value in parent.state_dict().items():
            torch.testing.assert_close(value, before[t][key], rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_state_dict_stores_each_number_once_and_the_plan_foretells_it(family: str, share: float) -> None:
    parents = _twins(family)
    result = zip_networks(parents, [images()] * 2, ZipSpec(share=share))
    stored = sum(value.numel() for value in result.network.state_dict().values())
    assert stored == result.counts.total
    structures = [graph.structure() for graph in result.network.graphs]
    shared = {g.name: len(t[(t >= 0).all(1)]) for g, t in zip(structures[0].groups, result.network.tables, strict=True)}
    if family != "residual":
        assert plan_counts(joined(structures), shared, Keeping.all()) == result.counts


def test_full_share_of_twins_costs_one_network_and_a_head() -> None:
    a, b = _twins("perceptron")
    counts = zip_networks([a, b], [images()] * 2, ZipSpec(share=1.0)).counts
    factors = a.fc1.in_features + a.fc2.in_features + (neurons := a.fc1.out_features + a.fc2.out_features)
    assert counts.total == counts.parents[0] + (head := a.fc3.weight.numel() + a.fc3.bias.numel()) + neurons + factors
    counts = zip_networks([a, b], [images()] * 2, ZipSpec(bias="shared", scale="shared")).counts
    assert counts.private == (head, head)
    assert counts.total == counts.parents[0] + head


def test_partially_shared_inputs_keep_private_weights_of_shared_neurons() -> None:
    """The weights from private inputs into a shared neuron stay the parent's own (§3.2 of the paper)."""
    a, b = _twins("perceptron")
    result = zip_networks([a, b], [images()] * 2, ZipSpec(share={"fc1": 5, "fc2": 1.0}, compensate=False))
    fc1, fc2 = result.layers
    for t, parent in enumerate((a, b)):
        private = np.setdiff1d(np.arange(12), fc1.pairs[:, t])
        got = result.network.matrix(1, t)
        torch.testing.assert_close(got[:, private], parent.fc2.weight[:, private])
        rows = fc2.pairs[:, t]
        shared = np.sort(fc1.pairs[:, 0]) if t == 0 else fc1.pairs[np.argsort(fc1.pairs[:, 0]), 1]
        assert got[rows][:, shared].shape == (10, 5)
    columns = [fc1.pairs[:, t] for t in (0, 1)]
    shared = [result.network.matrix(1, t)[fc2.pairs[:, t]][:, columns[t]] for t in (0, 1)]
    torch.testing.assert_close(shared[0], shared[1], rtol=0, atol=0)


def test_different_widths_share_up_to_the_narrower() -> None:
    a, b = randomised(Perceptron(12), 0), randomised(Perceptron(9), 1)
    result = zip_networks([a, b], [images()] * 2, ZipSpec(share=1.0))
    assert result.layers[0].difference.shape == (12, 9)
    assert result.layers[0].pairs.shape == (9, 2)
    for t in (0, 1):
        assert result.network(images(3), task=t).shape == (3, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_network_comes_back_the_same(family: str, tmp_path: Path) -> None:
    parents = _twins(family)
    network = zip_networks(parents, [images()] * 2, ZipSpec(share=0.6)).network
    network.save(tmp_path / "zipped.safetensors")
    strangers = [randomised(FAMILIES[family](), seed) for seed in (8, 9)]
    loaded = ZippedNetwork.load(tmp_path / "zipped.safetensors", strangers)
    for t in (0, 1):
        torch.testing.assert_close(loaded(images(5), task=t), network(images(5), task=t), rtol=0, atol=0)
    twin = copy.deepcopy(network)
    torch.testing.assert_close(twin(images(5), task=1), network(images(5), task=1), rtol=0, atol=0)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    network = zip_networks(_twins("perceptron"), [images()] * 2, ZipSpec(share=0.5)).network
    network.save(tmp_path / "z.safetensors")
    with pytest.raises(CheckpointError, match="as many networks"):
        ZippedNetwork.load(tmp_path / "z.safetensors", _twins("perceptron", 3))
    with pytest.raises(CheckpointError, match="other architectures"):
        ZippedNetwork.load(tmp_path / "z.safetensors", [randomised(Perceptron(7), s) for s in (0, 1)])
    (tmp_path / "noise").write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match="not a zipped network"):
        ZippedNetwork.load(tmp_path / "noise", _twins("perceptron"))
    with pytest.raises(CheckpointError, match="other architectures"):
        ZippedNetwork.load(tmp_path / "z.safetensors", _twins("convolutional"))
    with pytest.raises(CheckpointError, match="not a zipped network"):
        ZippedNetwork.load(tmp_path / "absent", _twins("perceptron"))
    with pytest.raises(SpecError, match="task 2"):
        network(images(2), task=2)


def _prune(network: Perceptron, seed: int) -> Perceptron:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in (network.fc1, network.fc2, network.fc3):
            layer.weight.mul_(torch.rand(layer.weight.shape, generator=generator) < 0.3)
    return network


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_masks_survive_merging_retraining_and_saving(share: float, tmp_path: Path) -> None:
    parents = [_prune(randomised(Perceptron(), seed), seed) for seed in (0, 1)]
    retrain = {"steps": 12, "learning_rate": 0.05, "targets": "distill"}
    result = zip_networks(parents, [images()] * 2, ZipSpec(share=share, retrain=retrain))
    moved = 0.0
    for index, layer in enumerate(result.layers):
        for t, parent in enumerate(parents):
            got = result.network.matrix(index, t)
            allowed = torch.zeros_like(got, dtype=torch.bool)
            own = [getattr(p, layer.name).weight != 0 for p in parents]
            allowed[:, :-1] = own[t]
            allowed[:, -1] = True
            partners = layer.pairs
            columns = np.arange(64) if index == 0 else None
            if columns is None:
                pairs = result.layers[index - 1].pairs
                columns = {int(p[t]): int(p[1 - t]) for p in pairs}
            for pair in partners:
                for mine in range(got.shape[1] - 1):
                    other = mine if index == 0 else columns.get(mine)
                    if other is not None and bool(own[1 - t][int(pair[1 - t]), other]):
                        allowed[int(pair[t]), mine] = True
            assert (got[~allowed] == 0).all()
            moved += float((got[:, :-1] - getattr(parent, layer.name).weight).detach().abs().sum())
    assert moved > 1.0
    assert result.counts.parents[0] < 0.5 * sum(p.numel() for p in parents[0].parameters())
    result.network.save(tmp_path / "s.safetensors")
    strangers = [randomised(Perceptron(), seed) for seed in (8, 9)]
    loaded = ZippedNetwork.load(tmp_path / "s.safetensors", strangers)
    assert loaded.counts() == result.counts
    torch.testing.assert_close(loaded(images(5), task=1), result.network(images(5), task=1), rtol=0, atol=0)


def test_a_sparse_network_zipped_with_itself_stays_as_sparse() -> None:
    parent = _prune(randomised(Perceptron(), 0), 0)
    result = zip_networks([parent, parent], [images()] * 2, ZipSpec(ridge=1e-6, bias="shared", scale="shared"))
    torch.testing.assert_close(result.network(images(5), task=1), parent(images(5)))
    head = int((parent.fc3.weight != 0).sum()) + 4
    assert result.counts.total == result.counts.parents[0] + head
