"""REPAIR: the pairs of activation matching, with the statistics of the parents in every hidden layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtz_core.baselines import merge_networks
from tests.networks import FAMILIES, Perceptron, images, randomised


def test_every_feature_has_the_average_mean_and_deviation_of_its_channels() -> None:
    """First layer of networks without BatchNorm, by numpy on the parents' outputs; `permute` leaves too little."""
    parents = [randomised(Perceptron(), seed) for seed in (0, 1)]
    x = images(40)
    merged = [merge_networks(parents, [x[:20], x[20:]], method).network for method in ("permute", "repair")]
    layers = [network.layer(0) for network in merged]
    slots = [getattr(layers[1], f"rows_{t}").numpy() for t in (0, 1)]
    for t in (0, 1):
        np.testing.assert_array_equal(getattr(layers[0], f"rows_{t}").numpy(), slots[t])
    inputs = torch.cat([x.flatten(1), torch.ones(40, 1, dtype=x.dtype)], dim=1)
    found = [(inputs @ layer.weight.mT).numpy() for layer in layers]
    own = [parent.fc1(x.flatten(1)).detach().numpy() for parent in parents]
    order = [np.argsort(part) for part in slots]
    mean, deviation = (sum(getattr(y, what)(axis=0)[o] for y, o in zip(own, order, strict=True)) / 2
                       for what in ("mean", "std"))  # fmt: skip
    np.testing.assert_allclose(found[1].mean(axis=0), mean, rtol=1e-6)
    np.testing.assert_allclose(found[1].std(axis=0), deviation, rtol=1e-6)
    assert found[0].std(axis=0).mean() < 0.95 * deviation.mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_merged_with_itself_answers_as_before(family: str) -> None:
    network = randomised(FAMILIES[family](), 0)
    result = merge_networks([network, network], [images(20)] * 2, "repair", side="written")
    torch.testing.assert_close(result.network(images(5, 3), task=1), network(images(5, 3)))
