"""Zip time against the number of images and of layers: one pass through the network, nothing computed L times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.machine import table
from mtz_core import ZipSpec, zip_networks
from mtz_core.zoo.architectures import ResidualBlock

SIDE, CHANNELS = 16, 16


class Plain(nn.Module):
    """`depth` equal 3×3 convolutions, a mean over places and a head."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k in range(depth):
            layers += [nn.Conv2d(1 if k == 0 else CHANNELS, CHANNELS, 3, padding=1), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(CHANNELS, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class ResNet(nn.Module):
    """The CIFAR-style network of depth 6n + 2."""

    def __init__(self, n: int) -> None:
        super().__init__()
        widths = [CHANNELS, CHANNELS, 2 * CHANNELS, 4 * CHANNELS]
        blocks = [
            ResidualBlock(inputs if k == 0 else outputs, outputs, 2 if k == 0 and inputs != outputs else 1)
            for inputs, outputs in pairwise(widths)
            for k in range(n)
        ]
        self.stem, self.norm = nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS)
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))


def _seconds(build: Callable[[], nn.Module], images: int) -> float:
    parents = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = build()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        parents.append(network.eval())
    data = [torch.rand(images, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(t)) for t in (0, 1)]
    start = time.perf_counter()
    zip_networks(parents, data, ZipSpec())
    return time.perf_counter() - start


def run(
    counts: Sequence[int] = (250, 500, 1000, 2000, 4000),
    depths: Sequence[int] = (4, 8, 16, 32),
    residual: Sequence[int] = (2, 4, 8),
    images: int = 500,
) -> None:
    """Three tables: images, depth of a plain network, depth of a residual network. Random weights."""
    _seconds(lambda: Plain(2), 50)
    print(f"\n## Zip time, {CHANNELS} channels, {SIDE}×{SIDE} pixels, no retraining\n")
    depth = depths[min(1, len(depths) - 1)]
    _table("images per task", [(str(n), n, depth, lambda: Plain(depth)) for n in counts])
    _table("convolutions", [(str(d), images, d, lambda d=d: Plain(d)) for d in depths])
    rows = [(f"depth 6·{n} + 2", images, 6 * n + 1, lambda n=n: ResNet(n)) for n in residual]
    _table("residual network", rows)


def _table(what: str, rows: Sequence[tuple[str, int, int, Callable[[], nn.Module]]]) -> None:
    lines, first = [], 0.0
    for label, images, layers, build in rows:
        seconds = _seconds(build, images)
        each = seconds / (images * layers)
        first = first or each
        lines.append([label, f"{seconds:.2f}", f"{each * 1e6:.1f}", f"{each / first:.2f}"])
    print(table([what, "seconds", "µs per image and hidden layer", "against the first row"], lines) + "\n", flush=True)
