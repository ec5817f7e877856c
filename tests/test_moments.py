"""Input rows and streaming Grams against torch's own unfolding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core.algebra.gram import DenseGram, RowGram
from mtz_core.calibration.moments import Accumulator
from mtz_core.calibration.rows import rows_at, sample_positions
from mtz_core.errors import DataError
from mtz_core.graph import WeightLayer, channel_graph


def input_rows(layer: WeightLayer, module: nn.Module, x: Tensor, count: int | None, seed: int = 0) -> Tensor:
    positions = sample_positions(layer, module, x, count, torch.Generator().manual_seed(seed))
    return rows_at(layer, module, x, positions)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, (2, 3), stride=(2, 1), dilation=(1, 2), padding="valid", bias=False),
        nn.Conv2d(3, 4, (3, 2), stride=(1, 2), dilation=(2, 1)),
        nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"),
    ],
)
def test_rows_times_weights_are_the_convolutions_output(convolution: nn.Conv2d) -> None:
    network = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(5, 3, 9, 8)
    network(x)
    graph = channel_graph(network, x)
    layer = graph.layers[0]
    rows = input_rows(layer, convolution, x, None)
    got = rows @ graph.matrix(layer).mT
    torch.testing.assert_close(got.mT.reshape(5, 4, *convolution(x).shape[2:]), convolution(x))
    some = input_rows(layer, convolution, x, 6)
    assert some.shape == (5, 6, layer.columns)
    for image, sampled in zip(rows, some, strict=True):
        indices = [int((image == row).all(1).nonzero()[0]) for row in sampled]
        assert len(set(indices)) == 6


def test_conv1d_rows() -> None:
    convolution = nn.Conv1d(2, 3, 4, stride=3, dilation=2, padding=3)
    network = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 2))
    x = torch.randn(4, 2, 30)
    graph = channel_graph(network, x)
    rows = input_rows(graph.layers[0], convolution, x, None)
    torch.testing.assert_close((rows @ graph.matrix(graph.layers[0]).mT).mT.reshape(4, 3, -1), convolution(x))


def test_streaming_gram_equals_the_whole_and_changes_form_at_d_rows() -> None:
    x = torch.randn(40, 12)
    accumulated = Accumulator(12)
    for part in x[:9].split(4):
        accumulated.add(part)
    rows = accumulated.gram()
    assert isinstance(rows, RowGram)
    torch.testing.assert_close(rows.dense().full(), x[:9].mT @ x[:9] / 9)
    for part in x[9:].split(4):
        accumulated.add(part)
    dense = accumulated.gram()
    assert isinstance(dense, DenseGram)
    torch.testing.assert_close(dense.full(), (x.double().mT @ x.double()) / 40)


def test_an_empty_or_damaged_half_is_an_error() -> None:
    with pytest.raises(DataError, match="two images"):
        Accumulator(3).gram()
    with pytest.raises(DataError, match="NaN"):
        Accumulator(3).add(torch.full((2, 3), float("nan")))


def test_linear_rows_take_every_position() -> None:
    linear = nn.Linear(6, 3)
    network = nn.Sequential(linear, nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    x = torch.randn(5, 4, 6)
    layer = channel_graph(network, x).layers[0]
    rows = input_rows(layer, linear, x, None)
    assert rows.shape == (5, 4, 7)
    torch.testing.assert_close(rows[..., :6], x)
    assert input_rows(layer, linear, x, 2).shape == (5, 2, 7)
    torch.testing.assert_close(
        F.linear(x, linear.weight, linear.bias), rows @ torch.cat([linear.weight, linear.bias[:, None]], 1).mT
    )
