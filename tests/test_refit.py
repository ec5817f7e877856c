"""Layers fitted anew: RegMean's and PLeaS's weights by numpy on what was caught in the parents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core.baselines import merge_networks
from mtz_core.errors import SpecError
from tests.networks import FAMILIES, Perceptron, Residual, images, randomised


def _caught(parent: nn.Module, name: str, x: Tensor) -> tuple[Any, Any]:
    """What a module reads and writes."""
    found: list[Any] = []
    hook = parent.get_submodule(name).register_forward_hook(lambda m, i, o: found.append((i[0], o)))
    with torch.no_grad():
        parent(x)
    hook.remove()
    return found[0][0].numpy(), found[0][1].numpy()


@pytest.mark.parametrize("reduce", [1.0, 0.9, 0.0])
def test_regmean_is_its_papers_formula(reduce: float) -> None:
    """Every network's inputs on its own task's images, in both hidden layers."""
    parents = [randomised(Perceptron(), seed) for seed in (0, 1)]
    tasks = [images(300, 5), images(400, 6) ** 2]
    result = merge_networks(parents, tasks, "regmean", reduce=reduce)
    for index, name in enumerate(("fc1", "fc2")):
        total, aim = 0.0, 0.0
        for parent, x in zip(parents, tasks, strict=True):
            read = _caught(parent, name, x)[0]
            gram = read.T @ read / len(read)
            gram = reduce * gram + (1 - reduce) * np.diag(np.diag(gram))
            total, aim = total + gram, aim + gram @ parent.get_submodule(name).weight.detach().numpy().T  # type: ignore[union-attr,operator]
        found = result.network.layer(index).weight.numpy()
        np.testing.assert_allclose(found[:, :-1], np.linalg.solve(total, aim).T, rtol=1e-3, atol=1e-4)
        bias = sum(parent.get_submodule(name).bias.detach().numpy() for parent in parents) / 2  # type: ignore[union-attr,operator]
        np.testing.assert_allclose(found[:, -1], bias)


def test_regmean_fits_convolutions_to_their_receptive_fields() -> None:
    """Least squares of all places' patches on what either network makes of its own, by `unfold` and numpy."""
    parents = [
        randomised(nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.ReLU(), nn.Flatten(),
                                 nn.Linear(64, 3)), seed)
        for seed in (0, 1)
    ]  # fmt: skip
    tasks = [images(40, 5), images(40, 6) - 0.3]
    layer = merge_networks(parents, tasks, "regmean", reduce=1.0).network.layer(0)
    patches = [F.unfold(x, 3, stride=2, padding=1).mT.reshape(-1, 9).numpy() for x in tasks]
    own = [parent[0].weight.detach().reshape(4, 9).numpy() for parent in parents]  # type: ignore[index]
    aim = np.concatenate([x @ w.T for x, w in zip(patches, own, strict=True)])
    expected = np.linalg.lstsq(np.concatenate(patches), aim, rcond=None)[0].T
    np.testing.assert_allclose(layer.weight.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_pleas_is_least_squares_on_averaged_features() -> None:
    """Both hidden layers of aligned networks that share a part: numpy on caught values, blocks apart left zero."""
    parents = [randomised(Perceptron(), seed) for seed in (0, 1)]
    x = images(600, 4)
    result = merge_networks(parents, [x[:200], x[200:]], "pleas", 0.5, ridge=1e-12)
    aligned = merge_networks(parents, [x[:200], x[200:]], "permute", 0.5)
    before: Any = [np.arange(64)] * 2
    for index, name in enumerate(("fc1", "fc2")):
        layer = result.network.layer(index)
        rows = [getattr(layer, f"rows_{t}").numpy() for t in (0, 1)]
        for t in (0, 1):
            np.testing.assert_array_equal(rows[t], getattr(aligned.network.layer(index), f"rows_{t}").numpy())
        read, written = zip(*(_caught(parent, name, x) for parent in parents), strict=True)
        inputs, outputs = _merged(read, before), _merged(written, rows)
        z = np.concatenate([inputs[0] + inputs[1], np.ones((600, 1))], axis=1)
        z[:, :-1] /= inputs[2]
        y = (outputs[0] + outputs[1]) / outputs[2]
        # Columns stand in the order in which the networks' inputs carry them for the first time.
        order = np.unique(np.concatenate(before), return_index=True)[1].argsort()
        z = z[:, [*order, len(order)]]
        found = layer.weight.numpy()
        for f in range(found.shape[0]):
            owners = [t for t in (0, 1) if f in rows[t]]
            allowed = [c in np.concatenate([before[t] for t in owners]) for c in order] + [True]
            expected = np.zeros(found.shape[1])
            expected[allowed] = np.linalg.lstsq(z[:, allowed], y[:, f], rcond=None)[0]
            np.testing.assert_allclose(found[f], expected, rtol=1e-3, atol=1e-5)
        before = rows
    assert result.counts == aligned.counts


def _merged(values: Any, numbers: Any) -> tuple[Any, Any, Any]:
    """Values summed by feature for both networks, and how many channels each feature has."""
    count = max(int(part.max()) for part in numbers) + 1
    parts = [np.zeros((len(values[0]), count)) for _ in values]
    for part, own, where in zip(parts, values, numbers, strict=True):
        part[:, where] = own
    return parts[0], parts[1], np.bincount(np.concatenate(numbers))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("method", "align"), [("regmean", "average"), ("pleas", "match"), ("pleas", "permute")])
def test_a_network_merged_with_itself_stays_what_it_is(family: str, method: str, align: str) -> None:
    network = randomised(FAMILIES[family](), 0)
    side: Any = {"side": "written"} if align == "permute" else {}
    result = merge_networks([network, network], [images(40), images(40, 1)], method, align=align, **side)
    torch.testing.assert_close(result.network(images(5, 3), task=1), network(images(5, 3)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["regmean", "pleas"])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_what_one_network_has_alone_is_not_changed(method: str, share: float) -> None:
    """Whole networks at share 0; below share 1 what one network's features read of another's alone stays nothing."""
    parents = [randomised(Residual(), seed) for seed in (0, 1)]
    result = merge_networks(parents, [images(60), images(60, 1)], method, share, align="permute", reset=False)
    if share == 0.0:
        for t, parent in enumerate(parents):
            torch.testing.assert_close(result.network(images(5, 3), task=t), parent(images(5, 3)), rtol=1e-4, atol=1e-5)
    plain = merge_networks(parents, [images(60), images(60, 1)], "permute", share, reset=False)
    assert result.counts == plain.counts
    for index in range(3):
        mine, before = (network.layer(index).weight for network in (result.network, plain.network))
        assert ((mine != 0) <= (before != 0)).all()
        assert not (index and share) or not torch.allclose(mine, before)


def test_settings_that_have_no_effect_are_refused() -> None:
    parents = [randomised(Perceptron(), seed) for seed in (0, 1)]
    data = [images(20)] * 2
    with pytest.raises(SpecError, match="align is 'pleas'; choose from 'average', 'match', 'permute', 'zip'"):
        merge_networks(parents, data, "pleas", align="pleas")
    with pytest.raises(SpecError, match="'regmean' has no setting 'ridge'; it has 'align', 'reduce'"):
        merge_networks(parents, data, "regmean", ridge=1.0)
    with pytest.raises(SpecError, match="'match' compares no activations"):
        merge_networks(parents, data, "pleas", align="match", side="read")
    with pytest.raises(SpecError, match="'permute' has no setting 'align'"):
        merge_networks(parents, data, "permute", align="match")
    with pytest.raises(SpecError, match="ridge is 0"):
        merge_networks(parents, data, "pleas", ridge=0.0)
    with pytest.raises(SpecError, match="reduce is 2"):
        merge_networks(parents, data, "regmean", reduce=2.0)
    merge_networks(parents, data, "pleas", align="zip", within=0.5)
