"""Images on their way through a network: the same activations whatever is kept, recomputed, forked or overwritten."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core import ZippedNetwork, ZipSpec, zip_networks
from mtz_core.calibration import stream as streaming
from mtz_core.calibration.stream import Stream, twins
from mtz_core.errors import GraphError
from mtz_core.graph import channel_graph
from mtz_core.graph.correspondence import correspond
from mtz_core.graph.execution import Program, advance
from mtz_core.layerwise import objective
from mtz_core.layerwise import problem as working
from tests.networks import FAMILIES, images, randomised

CPU = torch.device("cpu")
PLENTY = 2**30


class Overwriting(nn.Module):
    """Overwrites what other layers read in every way that there is, and has a narrow start and a wide end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, stride=2)
        self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 24, 1)
        self.c, self.d, self.head = nn.Conv2d(24, 24, 1), nn.Conv2d(24, 24, 1), nn.Linear(24, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.mul_(2.0)).requires_grad_(False)
        out = self.relu(self.a(x))
        x += out
        x = F.relu(self.b(x), True)
        x += self.c(x).tanh_()
        x = F.leaky_relu_(x)
        x -= self.d(F.elu(x, inplace=True))
        return self.head(x.mean((2, 3)))


def streamed(budget: int, batch: int = 7) -> tuple[Stream, nn.Module, Tensor]:
    network, x = randomised(Overwriting(), 3), images(20)
    graph = channel_graph(network, x[:2])
    return Stream(Program(graph.network.module, graph.layers), x, batch, budget, CPU), network, x


def read(stream: Stream, node: str, network: nn.Module) -> Tensor:
    graph = channel_graph(network, images(2))
    matrices = graph.matrices(CPU)
    return torch.cat([x.clone() for _, (x, _) in stream.inputs(node, matrices)])


def expected(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].clone()}))
        for name, module in network.named_children()
        if name != "relu"
    ]
    with torch.no_grad():
        network(x.clone())
    for hook in hooks:
        hook.remove()
    return seen


LAYERS = ("stem", "a", "b", "c", "d", "head")


@pytest.mark.parametrize("budget", [0, 5_000, 20_000, PLENTY])
def test_what_a_layer_reads_does_not_depend_on_what_is_kept(budget: int) -> None:
    stream, network, x = streamed(budget)
    before = x.clone()
    found = {name: read(stream, name, network) for name in LAYERS}
    assert torch.equal(x, before)
    for name, value in expected(network, x).items():
        torch.testing.assert_close(found[name], value)


def test_forks_do_not_disturb_each_other() -> None:
    stream, network, x = streamed(PLENTY)
    read(stream, "a", network)
    fork = stream.fork(14)
    wanted = expected(network, x)
    for name in LAYERS[1:]:
        torch.testing.assert_close(read(fork, name, network), wanted[name][:14])
    for name in LAYERS[1:]:
        torch.testing.assert_close(read(stream, name, network), wanted[name])


def test_a_batch_that_grows_too_large_goes_on_from_where_it_was_small(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, network, _ = streamed(budget=8_000)
    ran: list[int] = []

    def counted(program: Program, state: streaming.State, *args: object, **kwargs: object) -> streaming.State:
        ran.append(state.position)
        return advance(program, state, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(streaming, "advance", counted)
    read(stream, "a", network)
    early = {first: state.position for first, state in stream.states.items()}
    assert len(early) == 3
    for name in ("c", "d"):
        ran.clear()
        read(stream, name, network)
        assert ran == list(early.values())
        assert {first: state.position for first, state in stream.states.items()} == early


class Discarding(Overwriting):
    """Does not use the results of what it overwrites."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2.0)
        x = self.stem(x)
        self.relu(x)
        return self.head(self.b(x).mean((2, 3)))


class Viewing(Overwriting):
    """Overwrites what another name stands for."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        flat.mul_(2.0)
        return self.head(self.b(self.stem(x)).mean((2, 3)))


def test_results_that_are_not_used_count_all_the_same() -> None:
    network, x = randomised(Discarding(), 1), images(4)
    traced = channel_graph(network, x).network.module
    torch.testing.assert_close(traced(x), network(x.clone()))
    with pytest.raises(GraphError, match="answers differently when it is traced"):
        channel_graph(randomised(Viewing(), 1), x)


def test_batches_are_smaller_where_activations_are_large() -> None:
    parents = [randomised(Overwriting(), seed) for seed in range(2)]
    graphs = [channel_graph(parent, images(2)) for parent in parents]
    assert graphs[0].network.largest == 24 * 3 * 3 * 8
    network = zip_networks(parents, [images(30), images(30)], ZipSpec(share=0.5)).network
    assert isinstance(network, ZippedNetwork)
    share = 24 * 3 * 3 * 8 * streaming.BATCHES * 10
    for budget, size in ((4 * share, 10), (0, streaming.SMALL_BATCH), (PLENTY, 128)):
        made = twins(network, [images(30)] * 2, True, 128, budget, CPU)
        assert [twin.zipped.batch_size for twin in made] == [size, size]
    assert twins(network, [images(30)] * 2, True, 4, 0, CPU)[0].zipped.batch_size == 4


@pytest.mark.parametrize("family", ["perceptron", "convolutional"])
@pytest.mark.parametrize("weighting", ["fisher", "equal"])
def test_neurons_are_merged_alike_in_small_pieces(family: str, weighting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images: Grams stay rows, as in the wide layers whose weights are cut into pieces."""
    parents = [randomised(FAMILIES[family](), seed) for seed in (0, 1, 2)]
    spec = ZipSpec(share=0.7, weighting=weighting, scale="shared", positions=2)
    calibration = [images(12, seed) for seed in range(3)]
    whole = zip_networks(parents, calibration, spec)
    monkeypatch.setattr(working, "PIECE", 1)
    monkeypatch.setattr(objective, "BYTES", 1)
    pieces = zip_networks(parents, calibration, spec)
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(pieces.network.state_dict()[name], value, rtol=1e-6, atol=1e-8)
    for one, other in zip(whole.layers, pieces.layers, strict=True):
        assert other.predicted == pytest.approx(one.predicted, rel=1e-6)
        assert other.measured == pytest.approx(one.measured, rel=1e-6)


def test_a_traced_network_shares_the_memory_of_its_parent_and_leaves_it_alone() -> None:
    network = randomised(Overwriting(), 3).train()
    before = {name: (value.data_ptr(), value.clone()) for name, value in network.state_dict().items()}
    graph = channel_graph(network, images(5))
    assert graph.network.module.get_submodule("a").weight.data_ptr() == before["a.weight"][0]
    other = randomised(Overwriting(), 4)
    ZippedNetwork([network, other], correspond([graph, channel_graph(other, images(5))]))
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.training
    for name, value in network.state_dict().items():
        assert value.data_ptr() == before[name][0]
        torch.testing.assert_close(value, before[name][1], rtol=0, atol=0)
