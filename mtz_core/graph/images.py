"""Whether layers read images in their order: each image's rows beside each other, along the first axis.

A layer may read more rows than there are images (windows, patches), as long as those of one image come before those of
the next. Calibration counts images so.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

PLACES = 4096
"""So many numbers of what a layer reads of the first image are compared, at most."""


class Recorder(fx.Interpreter):
    """Runs a graph and notes the shape of every tensor, every whole number, and some of what `layers` read."""

    def __init__(self, module: fx.GraphModule, layers: Collection[str] = ()) -> None:
        super().__init__(module)
        self.nodes, self.layers = list(module.graph.nodes), layers
        self.images = 1
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.numbers: dict[str, int] = {}
        self.first: dict[str, Tensor] = {}

    def of(self, example: Tensor) -> Any:
        """The answer to a batch of inputs (N, ...)."""
        self.images = len(example)
        with torch.no_grad():
            return self.run(example)

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module" and n.target in self.layers:
            reads = self.env.get(n.args[0]) if n.args and isinstance(n.args[0], fx.Node) else None
            if isinstance(reads, Tensor) and reads.ndim and len(reads) % self.images == 0:
                self.first[n.name] = _some(reads[: len(reads) // self.images])
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n.name] = tuple(value.shape)
        elif isinstance(value, int) and not isinstance(value, bool):
            self.numbers[n.name] = value
        return value


def _some(x: Tensor) -> Tensor:
    flat = x.reshape(-1)
    return flat[:: max(1, len(flat) // PLACES)].clone()


def out_of_order(together: Recorder, alone: Recorder) -> frozenset[str]:
    """Nodes of layers that don't read the first image first, from a run of several images and one of the first."""
    nodes = [n for n in together.nodes if n.op == "call_module" and n.target in together.layers]
    return frozenset(n.name for n in nodes if not _alike(together.first.get(n.name), alone.first.get(n.name)))


def _alike(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    return torch.allclose(a, b, rtol=1e-2, atol=1e-3 * float(b.abs().max()) if len(b) else 0.0)
