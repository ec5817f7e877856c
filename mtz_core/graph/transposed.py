"""Transposed convolutions, written as zeros between the inputs and a plain convolution of the mirrored kernel.

That is the same sum: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (arXiv 1603.07285),
section 4. So everything that is known of convolutions holds for them, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from mtz_core.graph.functional import set_parameter
from mtz_core.graph.record import torchs_own
from mtz_core.graph.sources import WeightSource


class MirroredConv1d(nn.Conv1d):
    """The convolution in a transposed convolution over one axis; of its inputs one in `spread` is not a zero."""

    kind = "convtranspose1d"
    spread = 1


class MirroredConv2d(nn.Conv2d):
    """The convolution in a transposed convolution over two axes; of its inputs one in `spread` is not a zero."""

    kind = "convtranspose2d"
    spread = 1


class MirroredConv3d(nn.Conv3d):
    """The convolution in a transposed convolution over three axes; of its inputs one in `spread` is not a zero."""

    kind = "convtranspose3d"
    spread = 1


TRANSPOSED = {
    nn.ConvTranspose1d: MirroredConv1d,
    nn.ConvTranspose2d: MirroredConv2d,
    nn.ConvTranspose3d: MirroredConv3d,
}


def spread_out(x: Tensor, stride: Sequence[int], pads: Sequence[int]) -> Tensor:
    """Put `stride` - 1 zeros between neighbours along every axis of `x` (N, C, *space), then pad, last axis first."""
    sides = list(pads)
    for k, between in enumerate(stride):
        if between > 1:
            # Zeros behind every value; those behind the last one are taken away with the padding.
            apart = F.pad(x.unsqueeze(3 + k), [0, 0] * (len(stride) - 1 - k) + [0, between - 1])
            x = apart.flatten(2 + k, 3 + k)
            sides[2 * (len(stride) - 1 - k) + 1] -= between - 1
    return F.pad(x, sides)


def rewrite_transposed(traced: fx.GraphModule, sources: dict[str, WeightSource]) -> None:
    """Replace every transposed convolution by `spread_out` and a convolution (in place)."""
    done: dict[str, tuple[list[int], list[int]]] = {}
    for node in list(traced.graph.nodes):
        if node.op != "call_module":
            continue
        name, module = str(node.target), traced.get_submodule(str(node.target))
        if name not in done:
            wanted = isinstance(module, tuple(TRANSPOSED)) and torchs_own(module)
            if not wanted or len(node.args) + len(node.kwargs) != 1:
                continue
            done[name] = _replaced(traced, sources, name, cast(Any, module))
        x = node.args[0] if node.args else next(iter(node.kwargs.values()))
        with traced.graph.inserting_before(node):
            wide = traced.graph.call_function(spread_out, (x, *done[name]))
        node.args, node.kwargs = (wide,), {}


def _replaced(
    traced: fx.GraphModule, sources: dict[str, WeightSource], name: str, module: Any
) -> tuple[list[int], list[int]]:
    """Put a convolution instead of a transposed one; return stride and padding of what it is to read."""
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    pads = [[r - p, r - p + extra] for r, p, extra in zip(reach, module.padding, module.output_padding, strict=True)]
    build: Any = list(TRANSPOSED.values())[len(reach) - 1]
    settings = {"dilation": module.dilation, "groups": module.groups, "bias": module.bias is not None}
    mirrored = build(module.in_channels, module.out_channels, module.kernel_size, **settings, device="meta")
    mirrored.spread = math.prod(module.stride)
    set_parameter(mirrored, "weight", mirror(module.weight, module.groups))
    set_parameter(mirrored, "bias", module.bias)
    traced.set_submodule(name, mirrored.eval())
    known = sources.get(name) or WeightSource(f"{name}.weight", f"{name}.bias" if module.bias is not None else None)
    sources[name] = replace(known, turned=module.groups)
    return list(module.stride), [x for pair in reversed(pads) for x in pair]


def mirror(weight: Tensor, groups: int) -> Tensor:
    """Weight (C_in, C_out / groups, *kernel) of a transposed convolution as (C_out, C_in / groups, *kernel).

    The same exchange leads back.
    """
    parts = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
    return torch.flip(parts.reshape(-1, *parts.shape[2:]), list(range(2, weight.ndim)))
