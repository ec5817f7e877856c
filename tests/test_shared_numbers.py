"""Scales that all heads share: the channels within heads are permuted alike, and every task keeps its own numbers."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core import ZipSpec, preflight, zip_networks

HEADS, SIZE = 2, 6
WIDTH = HEADS * SIZE


class Scale(nn.Module):
    """A number for every channel of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SIZE))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


KINDS: dict[str, Any] = {
    "LayerNorm": lambda: nn.LayerNorm(SIZE), "RMSNorm": lambda: nn.RMSNorm(SIZE), "scale": Scale
}  # fmt: skip


class Attention(nn.Module):
    """Queries, keys and values of every head pass one norm that all heads share; `once`: one for all three, too."""

    def __init__(self, kind: str, seed: int, once: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 5)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norms = nn.ModuleList([KINDS[kind]() for _ in range(3)])
        if once:
            self.norms = nn.ModuleList([self.norms[0]] * 3)
        for parameter in self.norms.parameters():
            nn.init.normal_(parameter)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        read = (layer(x).unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k, v = (norm(each) for norm, each in zip(self.norms, read, strict=True))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + self.out(mixed)).relu().mean(1))


def inputs(seed: int = 0) -> Tensor:
    return torch.randn(300, 7, 4, generator=torch.Generator().manual_seed(seed))


def permuted(network: Attention) -> Attention:
    """Another network that computes the same: heads exchanged, and channels in one other order in every head."""
    other, draw = copy.deepcopy(network), torch.Generator().manual_seed(9)
    within = [torch.randperm(SIZE, generator=draw) for _ in range(2)]  # of queries and keys, and of values
    for number, layer in enumerate((other.q, other.k, other.v)):
        order = torch.arange(WIDTH).reshape(HEADS, SIZE).flip(0)[:, within[number // 2]].flatten()
        layer.weight.copy_(layer.weight[order])
        layer.bias.copy_(layer.bias[order])
        for parameter in other.norms[number].parameters():
            parameter.copy_(parameter[within[number // 2]])
    other.out.weight.copy_(other.out.weight[:, order])
    return other


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_both_checks_pass_where_heads_share_a_scale(kind: str, once: bool) -> None:
    networks = [Attention(kind, seed, once) for seed in range(2)]
    report = preflight(networks, inputs()[:2])
    assert report.green, report.checks
    moved = [int(check.note.split()[0]) for check in report.checks if check.name == "channels permuted"]
    assert min(moved) >= 2.5 * WIDTH  # of the channels of the stem, of queries and keys, and of values


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_and_its_permuted_copy_become_one_network(kind: str) -> None:
    network = Attention(kind, 0)
    twin, x = permuted(network), inputs()
    assert torch.allclose(twin(x), network(x), atol=1e-5)
    result = zip_networks([network, twin], [x, x], spec=ZipSpec(share=1.0))
    for task in range(2):
        assert torch.allclose(result.network(x, task=task), network(x), atol=1e-3)
    hidden = (network.stem, network.q, network.k, network.v, network.out)
    assert result.counts.shared == sum(layer.weight.numel() for layer in hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_what_two_networks_answer_is_what_their_own_forward_answers_with_the_merged_weights(kind: str) -> None:
    parents, x = [Attention(kind, seed) for seed in range(2)], inputs()
    network = zip_networks(parents, [x, x], spec=ZipSpec(share=0.5)).network
    for task, parent in enumerate(parents):
        own = copy.deepcopy(parent)
        for index, layer in enumerate(network.graphs[task].layers):
            matrix, module = network.matrix(index, task), cast(nn.Linear, own.get_submodule(layer.name))
            module.weight.copy_(matrix[:, :-1])
            module.bias.copy_(matrix[:, -1])
        assert not torch.allclose(own(x), parent(x), atol=1e-3)
        assert torch.allclose(network(x, task=task), own(x), atol=1e-5)
