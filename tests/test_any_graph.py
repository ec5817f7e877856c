"""Networks of every kind: the channel graph tells the truth, and they zip, save, load and come apart again."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core import ZippedNetwork, ZipSpec, load_data, load_parent, preflight, zip_networks
from mtz_core.checking.checks import permutation_check
from mtz_core.events import Event, LookedAhead
from mtz_core.graph import channel_graph


class Excite(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return x * torch.sigmoid(gate)


class Mobile(nn.Module):
    """Inverted residual with a depthwise convolution, a gate and a batch norm that cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.expand, self.deep = nn.Conv2d(8, 16, 1, bias=False), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.excite, self.project = Excite(16), nn.Conv2d(16, 8, 1)
        self.act, self.head = nn.PReLU(16), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        x = self.norm(x)
        x = x + self.project(self.excite(self.act(self.deep(F.relu(self.expand(x))))))
        return self.head(x.mean((2, 3)))


class Grouped(nn.Module):
    """A grouped convolution, group norm, a depth multiplier."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 18, 3, groups=3)
        self.norm, self.c, self.d = nn.GroupNorm(2, 18), nn.Conv2d(18, 10, 1), nn.Conv2d(10, 20, 1, groups=10)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.b(F.relu(self.a(x)))))
        return self.head(F.relu(self.d(F.relu(self.c(x)))).amax((2, 3)))


class Shuffle(nn.Module):
    """Chunk, concatenate, shuffle, and a depthwise convolution over all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.bn, self.deep = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.point, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.bn(self.stem(x)).relu().chunk(2, dim=1)
        x = torch.cat([one, F.relu(self.branch(two))], dim=1)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return self.head(F.silu(self.point(self.deep(x))).mean((2, 3)))


class Tokens(nn.Module):
    """A small vision transformer with a class token and positions of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, stride=4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 10, 12))
        layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(12), enable_nested_tensor=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.place
        return self.head(self.encoder(x)[:, 0])


class OwnAttention(nn.Module):
    """Attention written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(36, 12)
        self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.transpose(1, 2).flatten(2))
        n, length, width = x.shape
        q, k, v = (p(x).view(n, length, 3, width // 3).transpose(1, 2) for p in (self.q, self.k, self.v))
        mixed = ((q @ k.transpose(-2, -1)) * 0.5).softmax(-1) @ v
        return self.head(torch.tanh(x + self.o(mixed.transpose(1, 2).reshape(n, length, width))).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], bidirectional: bool = False, layers: int = 1) -> None:
        super().__init__()
        self.cells = kind(36, 8, num_layers=layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(16 if bidirectional else 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.cells(x.transpose(1, 2).flatten(2))
        return self.head(out[:, -1])


class LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(36, 8, num_layers=2, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, _) = self.cells(x.transpose(1, 2).flatten(2))
        return self.head(hidden[-1])


class SequenceFirst(nn.Module):
    """Images on the second axis, as recurrent layers have it if they are not told otherwise; the last step answers."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.mix, self.head = nn.GRU(36, 8, bidirectional=True), nn.Linear(16, 10), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.cells(x.flatten(1, 2).view(-1, 12, 36).permute(1, 0, 2))
        out = torch.relu(self.mix(out))
        return self.head(torch.cat([out[-1], out.mean(0)], dim=1))


class SequenceFirstTokens(nn.Module):
    """A transformer as in many tutorials: images on the second axis, a token and positions in front."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 12, 4, stride=4), nn.LayerNorm(12)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(10, 1, 12))
        layer = nn.TransformerEncoderLayer(12, 3, 20)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x).flatten(2).permute(2, 0, 1))
        x = torch.cat([self.token.expand(-1, x.shape[1], -1), x], dim=0) + self.place
        return self.head(F.gelu(self.encoder(x))[0])


class Crossed(nn.Module):
    """A sequence first network that goes back and forth."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(36, 4)
        self.a, self.b, self.cells, self.head = nn.Linear(36, 9), nn.Linear(9, 7), nn.LSTM(7, 6, 2), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2).flatten(2).transpose(0, 1)
        x = torch.tanh(self.a(self.attend(x, x, x)[0])).transpose(1, 0)
        _, (hidden, _) = self.cells(F.leaky_relu(self.b(x)).permute([1, 0, 2])[2:])
        return self.head(hidden[-1])


MAKERS = {
    "sequence first": SequenceFirst,
    "tokens, sequence first": SequenceFirstTokens,
    "back and forth": Crossed,
    "mobile": Mobile,
    "grouped": Grouped,
    "shuffle": Shuffle,
    "tokens": Tokens,
    "own attention": OwnAttention,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru, both ways": lambda: Recurrent(nn.GRU, bidirectional=True),
    "two lstm layers": LastState,
}


def batch(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def made(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = MAKERS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.running_mean)
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.6)
    return network.eval()


@pytest.mark.parametrize("name", MAKERS)
def test_the_channel_graph_tells_the_truth(name: str) -> None:
    report = preflight(made(name), batch(2))
    assert report.green, report
    moved = report.checks[0].note.split()
    assert int(moved[0]) > 0.4 * int(moved[2])
    assert report.networks[0].frozen == {}
    assert report.networks[0].share > 0.9


def test_a_wrong_channel_graph_is_found_out() -> None:
    graph = channel_graph(made("mobile"), batch(2))
    layer = graph.layer("project")
    wrong = replace(layer, column_channels=layer.column_channels[::-1].copy())
    layers = tuple(wrong if each.name == "project" else each for each in graph.layers)
    assert permutation_check(graph).passed
    assert not permutation_check(replace(graph, layers=layers)).passed


@pytest.mark.parametrize("name", MAKERS)
def test_zipped_with_itself_it_answers_as_before_at_the_size_of_one(name: str) -> None:
    network = made(name)
    before = copy.deepcopy(network.state_dict())
    result = zip_networks(
        [network, copy.deepcopy(network)], [batch(60)] * 2, ZipSpec(ridge=1e-6, bias="shared", scale="shared")
    )
    x = batch(9, 5)
    with torch.no_grad():
        expected = network(x)
        for task in (0, 1):
            torch.testing.assert_close(result.network(x, task=task), expected, rtol=1e-3, atol=1e-4)
    head = sum(p.numel() for n, p in network.named_parameters() if n.startswith("head"))
    body = result.counts.private[0] + result.counts.private[1] - 2 * head
    assert body == 2 * preflight(network, batch(2)).networks[0].structure.other_parameters
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_twins_zip_save_load_and_come_apart(name: str, share: float, tmp_path: Path) -> None:
    parents = [made(name, seed) for seed in range(2)]
    result = zip_networks(parents, [batch(60), batch(60, 1)], ZipSpec(share=share))
    for layer in result.layers:
        assert np.isfinite(layer.predicted)
        assert np.isfinite(layer.merged).all()
    assert result.counts.total < 0.95 * sum(result.counts.parents)
    result.network.save(tmp_path / "z.safetensors")
    loaded = ZippedNetwork.load(tmp_path / "z.safetensors", parents)
    x = batch(7, 3)
    with torch.no_grad():
        for task in (0, 1):
            answer = result.network(x, task=task)
            torch.testing.assert_close(loaded(x, task=task), answer)
            torch.testing.assert_close(result.network.extract(task)(x), answer, rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for p in result.network.parameters()) == result.counts.total


class Deep(nn.Module):
    def __init__(self, blocks: int, inputs: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"a": nn.Conv2d(8, 10, 3, padding=1), "b": nn.Conv2d(10, 8, 3, padding=1)})
            for _ in range(blocks)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(x + block["b"](F.relu(block["a"](x))))
        return self.head(x.mean((2, 3)))


def test_networks_of_different_depth_share_the_blocks_that_both_have() -> None:
    torch.manual_seed(0)
    long = Deep(4).eval()
    short = Deep(2).eval()
    short.load_state_dict({k: v for k, v in long.state_dict().items() if "blocks.2" not in k and "blocks.3" not in k})
    report = preflight([short, long], [batch(2), batch(2)])
    assert report.green
    private = [row.layers for row in report.correspondence if row.reason and row.layers[0] is None]
    assert private == [(None, f"blocks.{k}.{c}") for k in (2, 3) for c in "ab"]
    result = zip_networks([short, long], [batch(60)] * 2, ZipSpec(ridge=1e-6, bias="shared", scale="shared"))
    x = batch(5, 9)
    with torch.no_grad():
        for task, parent in enumerate((short, long)):
            torch.testing.assert_close(result.network(x, task=task), parent(x), rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(result.network.extract(task)(x), parent(x), rtol=1e-3, atol=1e-4)
    own = 2 * sum(p.numel() for p in long.blocks[2].parameters())
    heads = 2 * sum(p.numel() for p in long.head.parameters())
    assert sum(result.counts.private) == own + heads


def test_grey_and_colour_networks_share_their_first_layer(tmp_path: Path) -> None:
    torch.manual_seed(1)
    grey, colour = Deep(1, inputs=1).eval(), Deep(1).eval()
    images = [batch(60)[:, :1], batch(60, 1)]
    result = zip_networks([grey, colour], images, ZipSpec())
    assert len(result.layers[0].pairs) == 8
    single = result.network.extract(0)
    x = batch(5, 2)[:, :1]
    with torch.no_grad():
        torch.testing.assert_close(single(x), result.network(x, task=0), rtol=1e-4, atol=1e-5)
    result.network.save(tmp_path / "z.safetensors")
    loaded = ZippedNetwork.load(tmp_path / "z.safetensors", [grey, colour])
    torch.testing.assert_close(loaded(x, task=0), result.network(x, task=0))


def test_a_stream_is_paired_by_all_layers_that_write_it() -> None:
    parents = [load_parent(f"resnet14-mnist-{k}").module for k in range(2)]
    x = load_data("mnist", "calibration")[0][:80]
    heard: list[Event] = []
    total = {}
    for streams in ("first", "all"):
        spec = ZipSpec(share=0.5, streams=streams, positions=4, compensate=False)
        result = zip_networks(parents, [x, x], spec, on_event=heard.append if streams == "all" else None)
        total[streams] = sum(layer.predicted for layer in result.layers)
    assert total["all"] < total["first"]
    assert "stage3.1.conv2" in {event.producer for event in heard if isinstance(event, LookedAhead)}


def test_what_no_rule_explains_stays_private_with_its_reason() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cumsum(self.a(x), dim=1)
            return self.head(F.relu(self.c(F.relu(self.b(x)))).mean((2, 3)))

    torch.manual_seed(0)
    report = preflight(Odd().eval(), batch(2))
    assert report.green
    assert report.networks[0].frozen == {"a": "no rule says how cumsum moves channels"}
    assert any("cumsum" in reason or "no rule" in reason for reason in report.networks[0].private)
