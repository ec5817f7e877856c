"""Pairing by the angle between incoming weights, against numpy, in dense and in grouped layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core import Zipper, ZipSpec
from mtz_core.events import DifferenceComputed
from mtz_core.methods.metrics.cosine import cosine
from tests.networks import randomised


class Grouped(nn.Module):
    """Two groups of three neurons read the channels of a layer that all networks have in common."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.stem, self.grouped, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 3, groups=2), nn.Linear(6, 3)
        randomised(self, seed)
        randomised(self.stem, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.grouped(torch.relu(self.stem(x)))).mean((2, 3)))


def angles(layers: list[Any], bias: bool) -> NDArray[np.float64]:
    """One minus the cosine for all pairs of neurons of two layers."""
    rows = [torch.cat([m.weight.flatten(1), m.bias[:, None]][: 1 + bias], dim=1).detach().numpy() for m in layers]
    unit = [w / np.sqrt((w * w).sum(axis=1, keepdims=True)) for w in rows]
    return 1 - unit[0] @ unit[1].T


def differences(parents: list[nn.Module], layer: str, **fields: Any) -> NDArray[np.floating]:
    """What pairing compared in a layer, with task weights 2/3 and 1/3, in units of their product."""
    data = [torch.randn(30, 4, 6, 6, generator=torch.Generator().manual_seed(t), dtype=torch.float64) for t in (0, 1)]
    events = Zipper(parents, data, ZipSpec(metric="cosine", alpha=(2.0, 1.0), **fields)).run()
    event = next(e for e in events if isinstance(e, DifferenceComputed) and e.layer == layer)
    return np.asarray(event.differences[0, 1], dtype=float) * 4.5


@pytest.mark.parametrize("compensate", [False, True])
def test_dense_neurons_differ_by_one_minus_the_cosine(compensate: bool) -> None:
    """In the first layer nothing has to be made up for; where tasks have biases of their own these aren't compared."""
    parents = [
        randomised(nn.Sequential(nn.Flatten(), nn.Linear(144, 9), nn.ReLU(), nn.Linear(9, 3)), seed) for seed in (0, 1)
    ]
    fields = {"normalise": False, "relu_rounds": 0} if compensate else {}
    found = differences(parents, "1", compensate=compensate, **fields)
    np.testing.assert_allclose(found, angles([p[1] for p in parents], bias=not compensate), rtol=1e-5)


def test_grouped_neurons_differ_by_one_minus_the_cosine_within_their_bank() -> None:
    parents: list[nn.Module] = [Grouped(seed) for seed in (0, 1)]
    found = differences(parents, "grouped", compensate=False)
    expected = angles([p.grouped for p in parents], bias=True)
    for bank in (slice(0, 3), slice(3, 6)):
        np.testing.assert_allclose(found[bank, bank], expected[bank, bank], rtol=1e-5)


def test_length_does_not_matter_and_a_neuron_without_weights_stays_as_it_is() -> None:
    weights = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(cosine(3.0 * weights), cosine(weights))
    torch.testing.assert_close(cosine(weights).norm(dim=1), torch.ones(5, dtype=torch.float64))
    weights[2] = 0.0
    assert cosine(weights)[2].abs().sum() == 0.0
