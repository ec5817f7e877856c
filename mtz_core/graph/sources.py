"""A traced network, where the numbers of its layers live in the parent, and helpers for rewriting its graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from mtz_core.graph.heads import Head, joined


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
    `turned` is the number of groups of a transposed convolution, whose weight has its first two axes exchanged. A
    weight that is not the parent's `own` was computed: it can't be written back.
    """

    weight: str
    bias: str | None
    norm: NormSource | None = None
    rows: tuple[int, int] | None = None
    bias_rows: tuple[int, int] | None = None
    copies: int = 1
    turned: int = 0
    own: bool = True


@dataclass(frozen=True)
class TracedNetwork:
    """A parent's computation: `module` is a traced copy in evaluation mode, `sources` has an entry per weight layer."""

    module: fx.GraphModule
    sources: dict[str, WeightSource]
    shapes: dict[str, tuple[int, ...]]
    """Output shape of every node that yields a tensor, for the example batch."""
    example: Tensor
    computed: dict[str, int] = field(default_factory=dict)
    """Layer name → parameters of the parent that its weight was computed from, where it was."""
    opaque: dict[str, str] = field(default_factory=dict)
    """Path of a module that could only be called as a whole → why."""
    precision: torch.dtype | None = None
    """Type of the parent's numbers, if it is computed in another one; `None`: it is computed as it is."""
    homes: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Tensors that have another name in the parent: that name, and whether their first two axes are exchanged there."""
    fixed: bool = False
    """Whether its forward decides by the lengths of axes, so that this computation is for inputs of this size alone."""
    mixed: frozenset[str] = frozenset()
    """Nodes of layers that don't read one image's values after the other's along the first axis."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Node name → whole number that it is, for the example: sizes, and what is computed from sizes."""

    heads: tuple[Head, ...] = ()
    """What its answer consists of, if it is more than one tensor."""

    def outputs(self, x: Tensor) -> Tensor:
        """The parent's outputs for inputs `x` (N, ...), as one tensor (see `graph.heads.joined`)."""
        return joined(self.module(x), self.heads)

    @property
    def largest(self) -> int:
        """Bytes of the largest activation of one image."""
        values = max(map(math.prod, self.shapes.values()), default=0)
        return values * self.example.element_size() // max(1, len(self.example))


def norm_homes(norms: Mapping[str, NormSource]) -> dict[str, tuple[str, bool]]:
    """Names that the tensors of normalisations have in the parent, where they are others."""
    found: dict[str, tuple[str, bool]] = {}
    for name, norm in norms.items():
        own = {"running_mean": norm.mean, "running_var": norm.variance, "weight": norm.weight, "bias": norm.bias}
        found |= {f"{name}.{key}": (home, False) for key, home in own.items() if home and home != f"{name}.{key}"}
    return found


def called(root: nn.Module, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """What a node of a traced module gives for these arguments; `root` has its modules and tensors."""
    if node.op == "get_attr":
        return attrgetter(str(node.target))(root)
    if node.op == "call_module":
        return root.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return cast(Callable[..., Any], node.target)(*args, **kwargs)


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
