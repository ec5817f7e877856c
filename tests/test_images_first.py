"""Networks that keep images on the second axis are rewritten: the same answers, and images first throughout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from mtz_core.graph.images_first import images_first
from mtz_core.graph.trace import node_shapes

SIZE = (3, 5, 4)
"""Images, steps, values."""


def rewritten(forward: Callable[[nn.Module, Tensor], Tensor]) -> tuple[Tensor, Tensor, list[str]]:
    """Answers before and after, and the transpositions left."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.place = nn.Linear(4, 4), nn.LayerNorm(4), nn.Parameter(torch.randn(5, 1, 4))

        def forward(self, x: Tensor) -> Tensor:
            return forward(self, x)

    torch.manual_seed(0)
    network, x = Network().double(), torch.randn(SIZE, dtype=torch.float64)
    traced = fx.symbolic_trace(network)
    with torch.no_grad():
        before = network(x)
        images_first(traced, lambda: node_shapes(traced, x))
        traced.recompile()
        left = [str(node.target) for node in traced.graph.nodes if "transpose" in node.name or "permute" in node.name]
        return before, traced(x), left


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.a(x.transpose(0, 1))[-1],
        lambda m, x: m.norm(m.a(x.permute(1, 0, 2)) + m.place).mean(0),
        lambda m, x: torch.relu(x.permute((1, 0, 2)))[1:4].transpose(1, 0).flatten(1),
        lambda m, x: torch.cat([x.transpose(0, 1)[:2], x.transpose(0, 1)], 0).sum((0, 2), keepdim=True)[0],
        lambda m, x: F.softmax(m.a(x.swapaxes(0, 1)), dim=-1).select(0, 2),
        lambda m, x: (x.transpose(0, 1) * 2.0 + x.transpose(0, 1))[2, :, 1:3],
        lambda m, x: (y := x.transpose(0, 1)).sum(0) * y.shape[0] - y.size(1),
        lambda m, x: torch.cat([x.transpose(0, 1), m.place * x.transpose(0, 1)], 2).amax(0),
        lambda m, x: torch.concat([x.transpose(0, 1), x.transpose(0, 1)], dim=0).sum(0),
        lambda m, x: F.layer_norm(x.movedim(0, 1), (4,), m.norm.weight, m.norm.bias).select(1, 2),
        lambda m, x: F.log_softmax(F.dropout(x.transpose(0, 1), 0.5, False), -1)[..., 0].mean(0),
    ],
)
def test_the_answers_stay_and_no_transposition_is_left(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    before, after, left = rewritten(forward)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
    assert not left


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.a(torch.cumsum(x.transpose(0, 1), 0))[-1],
        lambda m, x: F.softmax(x.transpose(0, 1), dim=0)[0],
        lambda m, x: F.layer_norm(x.transpose(0, 1), (3, 4))[1],
        lambda m, x: x.permute(1, 2, 0).transpose(0, 2),
        lambda m, x: x.transpose(0, 1).reshape(-1, 4)[:7],
        lambda m, x: torch.stack([x.transpose(0, 1)[0], x.transpose(0, 1)[1]], 1),
    ],
)
def test_what_has_no_rule_reads_what_it_always_read(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    before, after, _ = rewritten(forward)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
