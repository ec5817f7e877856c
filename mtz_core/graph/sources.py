"""A traced network, where the numbers of its layers live in the parent, and helpers for rewriting its graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx


@dataclass(frozen=True)
class NormSource:
    """State-dict keys of a BatchNorm; `weight` and `bias` are `None` without an affine part."""

    mean: str
    variance: str
    weight: str | None
    bias: str | None
    eps: float


@dataclass(frozen=True)
class WeightSource:
    """Where a weight layer's numbers live in the parent: state-dict keys, and the BatchNorm folded into it.

    `rows` limits weight and bias to a range of rows (attention stacks three layers in one tensor), `bias_rows` the
    bias alone. With `copies`, the layer reads so many copies of the one channel that the parent's weight reads.
    """

    weight: str
    bias: str | None
    norm: NormSource | None = None
    rows: tuple[int, int] | None = None
    bias_rows: tuple[int, int] | None = None
    copies: int = 1


@dataclass(frozen=True)
class TracedNetwork:
    """A parent's computation: `module` is a traced copy in evaluation mode, `sources` has an entry per weight layer."""

    module: fx.GraphModule
    sources: dict[str, WeightSource]
    shapes: dict[str, tuple[int, ...]]
    """Output shape of every node that yields a tensor, for the example batch."""
    example: Tensor

    @property
    def largest(self) -> int:
        """Bytes of the largest activation of one image."""
        values = max(map(math.prod, self.shapes.values()), default=0)
        return values * self.example.element_size() // max(1, len(self.example))


def call_arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of a call by name."""
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def fresh_name(traced: fx.GraphModule, base: str) -> str:
    """A sub-module path that begins with `base` and is not in use."""
    taken = {name for name, _ in traced.named_modules()}
    name, number = base, 1
    while name in taken or hasattr(traced, name):
        number += 1
        name = f"{base}_{number}"
    return name
