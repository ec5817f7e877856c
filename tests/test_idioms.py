"""Ways in which networks are written, one small network each: what they share is true, and zipping keeps answers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core import ZipSpec, preflight, zip_networks
from mtz_core.graph import channel_graph


class Idiom(nn.Module):
    """A stem, `body` on its feature map (N, 16, 6, 6) or on tokens (N, 36, 16), and a head."""

    tokens = False

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 5)
        self.build()

    def build(self) -> None:
        """Make the layers of the body."""

    def body(self, x: Tensor) -> Tensor:
        """What the idiom is."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        if self.tokens:
            return self.head(self.body(x.flatten(2).transpose(1, 2)).mean(1))
        return self.head(self.body(x).mean((2, 3)))


class StackedQueries(Idiom):
    """Queries, keys and values are one layer, and come apart on the first axis."""

    tokens = True
    heads = 2

    def build(self) -> None:
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def body(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return x + self.out(self.attend(q, k, v).transpose(1, 2).reshape(n, length, width))


class StackedQueriesByHand(StackedQueries):
    """The same, with the product of queries and keys written out."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (0.5 * q @ k.transpose(-2, -1)).softmax(-1) @ v


class LinearAttention(StackedQueries):
    """Keys meet values first; a column of ones counts them."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q.relu(), k.relu(), F.pad(v, (0, 1), value=1.0)
        out = q @ (k.transpose(-1, -2) @ v)
        return out[..., :-1] / (out[..., -1:] + 1e-3)


class CrossCovariance(StackedQueries):
    """Channels attend to channels."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(-2, -1) for x in (q, k, v))
        return ((F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1) @ v).transpose(-2, -1)


class SeparableAttention(Idiom):
    """One query for all channels: scores weigh the keys, and their sum scales the values."""

    def build(self) -> None:
        self.qkv, self.out = nn.Conv2d(16, 33, 1), nn.Conv2d(16, 16, 1)

    def body(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x.flatten(2)[..., None]).split([1, 16, 16], dim=1)
        context = (key * query.softmax(2)).sum(dim=2, keepdim=True)
        return x + self.out(F.relu(value) * context.expand_as(value)).view_as(x)


class GatedHeads(Idiom):
    """One number scales all channels of a head."""

    tokens = True

    def build(self) -> None:
        self.gate, self.value, self.out = nn.Linear(16, 4), nn.Linear(16, 16), nn.Linear(16, 16)

    def body(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x)).unsqueeze(-1)
        return self.out((self.value(x).unflatten(-1, (4, 4)) * gate).flatten(2))


class Windows(StackedQueries):
    """Shifted windows stand where images do, with a bias for every place of a window, and a mask for every window."""

    def build(self) -> None:
        super().build()
        self.bias = nn.Parameter(torch.randn(9))
        self.register_buffer("mask", torch.randn(4, 9, 9))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = self.mask.view(1, 4, 1, q.shape[2], -1).expand(q.shape[0] // 4, -1, 2, -1, -1).reshape(-1, 2, 9, 9)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias + mask)

    def body(self, x: Tensor) -> Tensor:
        n, side = x.shape[0], 6
        y = torch.roll(x.view(n, side, side, 16), shifts=(-1, -1), dims=(1, 2))
        y = F.pad(y, (0, 0, 0, (3 - side % 3) % 3, 0, 0))
        y = y.view(n, 2, 3, 2, 3, 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, 16)
        y = super().body(y)
        y = y.view(n, 2, 2, 3, 3, 16).permute(0, 1, 3, 2, 4, 5).reshape(n, side, side, 16)
        return torch.roll(y, shifts=(1, 1), dims=(1, 2)).reshape(n, -1, 16)


class Unfolded(Idiom):
    """Channels pass through the first axis on the way to patches, and back."""

    def build(self) -> None:
        self.mix, self.out = nn.Linear(16, 24), nn.Linear(24, 16)

    def body(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        y = x.reshape(n * 16 * 3, 2, 3, 2).transpose(1, 2).reshape(n, 16, 9, 4).transpose(1, 3).reshape(n * 4, 9, 16)
        y = y + self.out(F.gelu(self.mix(y)))
        y = y.view(n, 4, 9, 16).transpose(1, 3).reshape(n * 16 * 3, 3, 2, 2)
        return y.transpose(1, 2).reshape(n, 16, 6, 6)


class FlattenedNorm(Idiom):
    """BatchNorm over tokens of all images."""

    tokens = True

    def build(self) -> None:
        self.mix, self.norm = nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16)
        self.norm.running_var.uniform_(0.5, 2.0)

    def body(self, x: Tensor) -> Tensor:
        y = self.mix(x)
        return F.hardswish(self.norm(y.flatten(0, 1)).reshape_as(y))


class TokenMixing(Idiom):
    """A layer along the tokens, the same for every channel."""

    tokens = True

    def build(self) -> None:
        self.norm = nn.LayerNorm(16, elementwise_affine=False)
        self.a, self.b, self.c, self.d = nn.Linear(36, 24), nn.Linear(24, 36), nn.Linear(16, 20), nn.Linear(20, 16)

    def body(self, x: Tensor) -> Tensor:
        x = x + self.b(F.gelu(self.a(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        return x + self.d(F.gelu(self.c(self.norm(x))))


class SpatialGate(Idiom):
    """Half of the channels, mixed over the tokens, gates the other half."""

    tokens = True

    def build(self) -> None:
        self.wide, self.mix, self.out = nn.Linear(16, 32), nn.Linear(36, 36), nn.Linear(16, 16)

    def body(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.wide(x)).chunk(2, dim=-1)
        return self.out(u * self.mix(v.transpose(1, 2)).transpose(1, 2))


class NeighbourGate(Idiom):
    """A convolution over the channels as places."""

    def build(self) -> None:
        self.over, self.out = nn.Conv1d(1, 1, 3, padding=1, bias=False), nn.Conv2d(16, 16, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        gate = self.over(x.mean((2, 3)).view(x.shape[0], 1, -1)).sigmoid().view(x.shape[0], -1, 1, 1)
        return self.out(x * gate.expand_as(x))


class MapGate(Idiom):
    """A gate for every place, from the mean and the largest over all channels."""

    def build(self) -> None:
        self.over, self.out = nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        found = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return self.out(x * torch.sigmoid(self.over(found)))


class GlobalResponse(Idiom):
    """Channels are scaled by their norm, relative to the mean of all channels' norms."""

    def build(self) -> None:
        self.gain, self.offset, self.out = (
            nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(16)), nn.Conv2d(16, 32, 3, padding=1)
        )  # fmt: skip
        self.more = nn.Conv2d(32, 16, 1)

    def body(self, x: Tensor) -> Tensor:
        norm = x.norm(p=2, dim=(2, 3), keepdim=True)
        y = x * (norm / (norm.mean(dim=1, keepdim=True) + 1e-6))
        x = x + torch.addcmul(self.offset.view(1, -1, 1, 1), self.gain.view(1, -1, 1, 1), y)
        return self.more(F.relu(self.out(x)))


class NormByHand(Idiom):
    """A layer norm over channels, written out."""

    def build(self) -> None:
        self.out = nn.Conv2d(16, 16, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        x = (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-2)
        return self.out(x)


class SelectedKernels(Idiom):
    """Two kernels' outputs on an axis of their own, weighed against each other and added up."""

    def build(self) -> None:
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.down, self.up = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 32, 1)

    def body(self, x: Tensor) -> Tensor:
        y = torch.stack([self.a(x), self.b(x)], dim=1)
        chosen = self.up(F.relu(self.down(y.sum(1).mean((2, 3), keepdim=True))))
        return (y * chosen.view(x.shape[0], 2, 16, 1, 1).softmax(1)).sum(1)


class SplitAttention(Idiom):
    """The banks of a grouped convolution are added up, channel by channel."""

    def build(self) -> None:
        self.split, self.down, self.up = (
            nn.Conv2d(16, 32, 3, padding=1, groups=2),
            nn.Conv2d(16, 8, 1),
            nn.Conv2d(8, 32, 1),
        )

    def body(self, x: Tensor) -> Tensor:
        y = F.relu(self.split(x)).reshape(x.shape[0], 2, 16, 6, 6)
        gate = self.up(F.relu(self.down(y.sum(1).mean((2, 3), keepdim=True))))
        gate = gate.view(x.shape[0], 1, 2, -1).transpose(1, 2).softmax(dim=1).reshape(x.shape[0], 2, 16, 1, 1)
        return (y * gate).sum(dim=1)


class Fixed(Idiom):
    """Places as a grid that is made from sizes alone; a layer reads it."""

    tokens = True

    def build(self) -> None:
        self.place, self.out = nn.Linear(2, 16), nn.Linear(16, 16)

    def body(self, x: Tensor) -> Tensor:
        ones = ~torch.zeros((x.shape[0], x.shape[1]), device=x.device).to(torch.bool)
        grid = ones.cumsum(1, dtype=torch.float32) / x.shape[1]
        return self.out(F.relu(x + self.place(torch.stack([grid.sin(), grid.cos()], dim=2))))


class PlacesByConvolution(StackedQueries):
    """A token in front, which a convolution over the others leaves out; values of other names at other places."""

    def build(self) -> None:
        super().build()
        self.token, self.deep = nn.Parameter(torch.randn(1, 1, 16)), nn.Conv2d(16, 16, 3, padding=1, groups=16)

    def body(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        first, rest = x[:, :1], x[:, 1:]
        seen = rest.transpose(1, 2).view(x.shape[0], 16, 6, 6)
        return super().body(torch.cat([first, (self.deep(seen) + seen).flatten(2).transpose(1, 2)], dim=1))


IDIOMS: dict[str, Callable[[], Idiom]] = {kind.__name__: kind for kind in (
    StackedQueries, StackedQueriesByHand, LinearAttention, CrossCovariance, SeparableAttention, GatedHeads, Windows,
    Unfolded, FlattenedNorm, TokenMixing, SpatialGate, NeighbourGate, MapGate, GlobalResponse, NormByHand,
    SelectedKernels, SplitAttention, Fixed, PlacesByConvolution,
)}  # fmt: skip


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def made(name: str, seed: int = 0) -> Idiom:
    torch.manual_seed(seed)
    return IDIOMS[name]().eval()


@pytest.mark.parametrize("name", IDIOMS)
def test_what_can_be_shared_is_true_and_nearly_everything(name: str) -> None:
    report = preflight(made(name), images(2))
    assert report.green, report.checks
    assert report.networks[0].share >= 0.95, report.networks[0].private
    assert report.networks[0].frozen == {}
    assert report.checks[0].note.split()[0] != "0"


@pytest.mark.parametrize("name", IDIOMS)
def test_zipped_with_itself_it_answers_as_before_and_comes_apart(name: str) -> None:
    network, x = made(name), images(5, 7)
    spec = ZipSpec(ridge=1e-6, bias="shared", scale="shared", positions=2, compensate=False)
    result = zip_networks([network, copy.deepcopy(network)], [images(20)] * 2, spec)
    with torch.no_grad():
        expected = network(x)
        for task in (0, 1):
            torch.testing.assert_close(result.network(x, task=task), expected, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(result.network.extract(task)(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", IDIOMS)
def test_without_sharing_the_networks_stay_and_with_it_they_get_smaller(name: str) -> None:
    parents, x = [made(name, seed) for seed in range(2)], images(5, 7)
    calibration = [images(20), images(20, 1)]
    apart = zip_networks(parents, calibration, ZipSpec(share=0.0, ridge=1e-3, positions=2))
    with torch.no_grad():
        for task, parent in enumerate(parents):
            torch.testing.assert_close(apart.network(x, task=task), parent(x), rtol=1e-4, atol=1e-5)
    together = zip_networks(parents, calibration, ZipSpec(ridge=1e-3, positions=2))
    heads = 2 * sum(p.numel() for p in parents[0].head.parameters())
    assert together.counts.total - heads < 0.7 * (sum(together.counts.parents) - heads)
    with torch.no_grad():
        for task in (0, 1):
            answer = together.network(x, task=task)
            torch.testing.assert_close(together.network.extract(task)(x), answer, rtol=1e-3, atol=1e-4)


class Rows(nn.Module):
    """Two layers on every row of an image; `order` says how rows stand beside images."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.a, self.b, self.head, self.order = nn.Linear(12, 10), nn.Linear(10, 8), nn.Linear(8, 5), order

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1)
        n = x.shape[0]
        if self.order == "images":
            x = x.reshape(n * 4, 3, 12)
        elif self.order == "rows":
            x = x.view(n, 4, 3, 12).transpose(0, 1).reshape(4 * n, 3, 12)
        x = F.relu(self.b(F.relu(self.a(x))))
        x = x.view(4, n, 3, 8).transpose(0, 1) if self.order == "rows" else x
        return self.head(x.reshape(n, 12, 8).mean(1))


def rows(order: str, seed: int) -> Rows:
    torch.manual_seed(seed)
    return Rows(order).eval()


def test_windows_that_stand_for_images_are_calibrated_as_places_of_an_image() -> None:
    merged = []
    for order in ("together", "images"):
        spec = ZipSpec(share=0.5, positions=None, ridge=1e-3)
        parents = [rows(order, seed) for seed in range(2)]
        merged.append(zip_networks(parents, [images(30), images(30, 1)], spec))
    for layer, other in zip(merged[0].layers, merged[1].layers, strict=True):
        np.testing.assert_array_equal(layer.pairs, other.pairs)
        assert layer.predicted == pytest.approx(other.predicted, rel=1e-3)
    x = images(5, 7)
    with torch.no_grad():
        for task in (0, 1):
            expected = merged[0].network(x, task=task)
            torch.testing.assert_close(merged[1].network(x, task=task), expected, rtol=1e-4, atol=1e-5)


def test_layers_that_read_images_in_another_order_stay_private_and_say_so() -> None:
    report = preflight(rows("rows", 0), images(2))
    assert report.green
    assert report.networks[0].frozen == {k: f"{k} (Linear) reads images along another axis" for k in ("a", "b")}


def test_a_grouped_norm_and_a_norm_over_all_channels_keep_groups_apart() -> None:
    class Both(Idiom):
        def build(self) -> None:
            self.norm, self.out = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 1)

        def body(self, x: Tensor) -> Tensor:
            return self.out(self.norm(x) - x.mean(1, keepdim=True))

    torch.manual_seed(0)
    network = Both().eval()
    assert preflight(network, images(2)).green
    cells = channel_graph(network, images(2)).groups[0].cells
    assert cells is not None
    assert [list(cells).count(cell) for cell in sorted(set(cells))] == [4] * 4
