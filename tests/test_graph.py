"""The channel graph: what it finds, and that its index maps are right."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core.errors import GraphError
from mtz_core.graph import ChannelGraph, channel_graph, correspond, execute
from mtz_core.graph.execution import Program
from mtz_core.structure.networks import HEAD
from tests.networks import FAMILIES, Perceptron, Residual, convolutional, images, randomised


def _run(graph: ChannelGraph, x: Tensor, matrices: dict[str, Tensor]) -> Tensor:
    return execute(Program(graph.network.module, graph.layers), x, matrices.__getitem__)


@pytest.mark.parametrize("family", FAMILIES)
def test_traced_network_with_folded_norms_answers_as_the_parent(family: str) -> None:
    network = randomised(FAMILIES[family](), 0)
    graph = channel_graph(network, images(4))
    matrices = {layer.name: graph.matrix(layer) for layer in graph.layers}
    torch.testing.assert_close(_run(graph, images(9), matrices), network(images(9)))


class _Views(nn.Module):
    """Shapes by `view`, which asks for strides that a convolution's output need not have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(x)))
        y = y.view(y.size(0), 2, 2, -1)
        return y.view(y.size(0), -1)


def test_views_work_whatever_the_layout_of_convolutions() -> None:
    network, x = _Views().eval(), torch.randn(3, 1, 16, 16)
    graph = channel_graph(network, x)
    answer = _run(graph, x, {layer.name: graph.matrix(layer) for layer in graph.layers})
    torch.testing.assert_close(answer, network(x))
    assert answer.is_contiguous()


@pytest.mark.parametrize("family", FAMILIES)
def test_permuting_channels_of_every_group_changes_no_output(family: str) -> None:
    """Rows of producers and columns of consumers move together; a wrong index map would change the function."""
    network = randomised(FAMILIES[family](), 1)
    graph = channel_graph(network, images(4))
    rng = np.random.default_rng(0)
    orders = [
        np.arange(g.width) if g.frozen else _order_that_keeps_coverage(graph, k, rng)
        for k, g in enumerate(graph.groups)
    ]
    assert any((order != np.arange(len(order))).any() for order in orders)
    matrices = {}
    for layer in graph.layers:
        row_of_channel = np.full(graph.groups[layer.group].width, -1)
        row_of_channel[layer.rows] = np.arange(layer.width)
        rows = row_of_channel[orders[layer.group][layer.rows]]
        columns = np.arange(layer.columns)
        kernel = np.arange(layer.kernel_size)
        positions = {}
        seen: dict[tuple[int, int], int] = {}
        for p, key in enumerate(zip(layer.column_groups.tolist(), layer.column_channels.tolist(), strict=True)):
            seen[key] = seen.get(key, -1) + 1
            positions[(*key, seen[key])] = p
        for (g, c, occurrence), p in positions.items():
            if g >= 0:
                q = positions[(g, int(orders[g][c]), occurrence)]
                columns[p * len(kernel) + kernel] = q * len(kernel) + kernel
        matrices[layer.name] = graph.matrix(layer)[rows][:, columns]
    torch.testing.assert_close(_run(graph, images(9), matrices), network(images(9)))


def _order_that_keeps_coverage(graph: ChannelGraph, group: int, rng: np.random.Generator) -> np.ndarray:
    """A permutation of a group's channels among those that the same layers write."""
    layers = [layer for layer in graph.layers if layer.group == group]
    width = graph.groups[group].width
    cover = [tuple(int(c in set(layer.rows.tolist())) for layer in layers) for c in range(width)]
    order = np.arange(width)
    for kind in set(cover):
        members = np.array([c for c in range(width) if cover[c] == kind])
        order[members] = rng.permutation(members)
    return order


def test_layers_groups_and_names() -> None:
    graph = channel_graph(Perceptron(), images(2).float())
    assert [layer.name for layer in graph.layers] == ["fc1", "fc2", "fc3"]
    assert [group.frozen for group in graph.groups] == [None, None, HEAD]
    assert [layer.columns for layer in graph.layers] == [65, 13, 11]
    assert graph.structure().parameters == sum(p.numel() for p in Perceptron().parameters())


def test_flatten_gives_each_channel_its_positions() -> None:
    graph = channel_graph(convolutional().eval(), images(2).float())
    linear = graph.layers[2]
    assert (linear.column_channels == np.repeat(np.arange(7), 9)).all()


def test_a_residual_stream_is_one_group_and_padding_ties_part_of_it() -> None:
    graph = channel_graph(Residual().eval(), images(2).float())
    assert [group.producers for group in graph.groups] == [("stem", "a", "b"), ("fc",)]
    stem, b = graph.layer("stem"), graph.layer("b")
    assert graph.groups[0].width == 10
    assert (stem.rows == b.rows[2:8]).all()


def test_an_unknown_operation_freezes_what_it_touches_and_says_so() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cumsum(self.a(x.flatten(1)), 1)
            return self.c(F.relu(self.b(x)))

    graph = channel_graph(Odd().eval(), images(2).float())
    assert "cumsum" in str(graph.groups[0].frozen)
    assert graph.groups[1].frozen is None


def test_parents_are_never_modified() -> None:
    network = convolutional()
    before = copy.deepcopy(network.state_dict())
    network.train()
    channel_graph(network, images(2).float())
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x.flatten(1))
        return y if y.sum() > 0 else -y


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (_Branching(), "branch"),
        (nn.Sequential(nn.Linear(5, 3)), "shape"),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), "no Linear or Conv"),
        (nn.DataParallel(nn.Linear(5, 3)), "network.module"),
        (nn.LSTM(8, 4), "Tensor|returns|fails|traced"),
    ],
)
def test_what_cannot_be_traced_is_explained(network: nn.Module, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        channel_graph(network.eval(), images(2).float())


def test_nan_weights_are_found_by_name() -> None:
    network = Perceptron()
    with torch.no_grad():
        network.fc2.weight[0, 0] = float("nan")
    with pytest.raises(GraphError, match=r"fc2\.weight"):
        channel_graph(network, images(2).float())


def graph_of(network: nn.Module) -> ChannelGraph:
    return channel_graph(network.eval(), images(2).float())


def test_widths_and_heads_may_differ() -> None:
    mlp = graph_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)))
    wide = graph_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 5)))
    joint = correspond([mlp, wide])
    assert [[layer.width for layer in graph.layers] for graph in joint.graphs] == [[8, 4], [9, 5]]
    assert [group.widths for group in joint.groups] == [[8, 9], [4, 5]]


def test_a_deeper_network_keeps_its_additional_layers() -> None:
    shallow = graph_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)))
    deep = graph_of(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 4))
    )
    joint = correspond([shallow, deep])
    assert [layer.widths for layer in joint.layers] == [[8, 8], [0, 7], [4, 4]]
    assert [layer.name for layer in joint.structure.networks[1].layers if layer.alone] == ["3"]
    assert joint.group_of(1).members[1].frozen == "no other network has layers that correspond"


def test_networks_that_have_nothing_in_common_are_refused_with_their_layers() -> None:
    with_bias = graph_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)))
    bare = graph_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 8, bias=False), nn.ReLU(), nn.Linear(8, 4)))
    with pytest.raises(GraphError, match=r"(?s)no hidden layer of network 1.*1 \(linear\)"):
        correspond([with_bias, bare])
