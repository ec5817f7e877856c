"""BatchNorm folded into the weight layers before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, fx, nn

from mtz_core.graph.functional import set_parameter
from mtz_core.graph.record import operation_of
from mtz_core.graph.recurrent import Recurrence
from mtz_core.graph.sources import NormSource, WeightSource


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation by stored statistics."""
    operation = operation_of(module)
    return operation is not None and operation.folds


def fold_norms(traced: fx.GraphModule, sources: dict[str, WeightSource], norms: dict[str, NormSource]) -> None:
    """Fold every BatchNorm that follows a weight layer, and nothing but it, into that layer (in place).

    One that is called more than once is folded everywhere, or nowhere.
    """
    calls: dict[str, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    for name, nodes in calls.items():
        norm = traced.get_submodule(name)
        if not is_norm(norm) or name not in norms or norm.running_mean is None or norm.running_var is None:
            continue
        layers = [_layer_before(traced, node, calls, sources) for node in nodes]
        if len({layer for layer in layers if layer is not None}) < len(nodes):
            continue
        for node, layer in zip(nodes, cast(list[str], layers), strict=True):
            _fold(traced.get_submodule(layer), norm)
            sources[layer] = replace(sources[layer], norm=norms[name])
            node.replace_all_uses_with(cast(fx.Node, node.args[0]))
            traced.graph.erase_node(node)


def _layer_before(
    traced: fx.GraphModule, node: fx.Node, calls: Mapping[str, Sequence[fx.Node]], sources: Mapping[str, WeightSource]
) -> str | None:
    """The weight layer whose output a norm alone reads, if it can be folded into it."""
    before = node.args[0] if node.args else None
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
        return None
    name = str(before.target)
    if name not in sources or len(calls[name]) != 1 or isinstance(traced.get_submodule(name), Recurrence):
        return None
    source = sources[name]
    return None if source.rows is not None or source.bias_rows is not None or source.norm is not None else name


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    """y = γ (W x + b - μ) / √(σ² + ε) + β, written as one layer; computed in double precision."""
    weight = cast(Tensor, layer.weight)
    mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    gain = (variance + cast(float, norm.eps)).rsqrt()
    if norm.weight is not None:
        gain = gain * cast(Tensor, norm.weight).double()
    bias = torch.zeros_like(mean) if layer.bias is None else cast(Tensor, layer.bias).double()
    bias = (bias - mean) * gain
    if norm.bias is not None:
        bias = bias + cast(Tensor, norm.bias).double()
    shape = (-1,) + (1,) * (weight.ndim - 1)
    set_parameter(layer, "weight", (weight.double() * gain.view(shape)).to(weight.dtype))
    set_parameter(layer, "bias", bias.to(weight.dtype))
