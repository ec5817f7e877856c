"""One parameter in two layers: one layer called twice, or a layer whose weight is used once more, transposed."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from mtz_core.graph.functional import LINEAR, attribute, set_parameter
from mtz_core.graph.recurrent import Recurrence
from mtz_core.graph.sources import WeightSource, call_arguments, fresh_name


def join_tied(traced: fx.GraphModule, sources: dict[str, WeightSource], names: dict[str, str]) -> None:
    """Let layers with the same weight be one layer (in place); biases that differ are added behind it.

    `names` has the first name of every parameter of the parent by each of its names. Layers that share a weight and
    cannot be one (strides that differ, recurrences) are marked: they can't be written back into the parent's class.
    """
    first: dict[tuple[Any, ...], str] = {}
    for name in list(sources):
        source, module = sources[name], traced.get_submodule(name)
        key = (names.get(source.weight, source.weight), source.rows, *_settings(module))
        other = first.setdefault(key[:2], name)
        if other == name:
            continue
        if _settings(traced.get_submodule(other)) != key[2:] or isinstance(module, Recurrence):
            sources[name], sources[other] = replace(source, own=False), replace(sources[other], own=False)
            continue
        if names.get(source.bias or "") != names.get(sources[other].bias or ""):
            for one in (other, name):
                _bias_behind(traced, one)
                sources[one] = replace(sources[one], bias=None)
        for node in traced.graph.nodes:
            if node.op == "call_module" and node.target == name:
                node.target = other
        del sources[name]


def _settings(module: nn.Module) -> tuple[Any, ...]:
    keys = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return (type(module).__name__, *(str(getattr(module, key, None)) for key in keys))


def _bias_behind(traced: fx.GraphModule, name: str) -> None:
    """Add a layer's bias behind every call of it instead of within (in place)."""
    module = traced.get_submodule(name)
    bias, axes = cast(Tensor | None, module.bias), cast(Tensor, module.weight).ndim - 2
    if bias is None:
        return
    target = fresh_name(traced, f"{name.replace('.', '_')}_bias")
    traced.register_parameter(target, nn.Parameter(bias.detach().reshape(-1, *[1] * axes), requires_grad=False))
    set_parameter(module, "bias", None)
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and node.target == name:
            with traced.graph.inserting_after(node):
                read = traced.graph.get_attr(target)
            with traced.graph.inserting_after(read):
                added = traced.graph.call_function(operator.add, (node, read))
            node.replace_all_uses_with(added, lambda user, added=added: user is not added)


def read_weight(node: object) -> str | None:
    """Name of the layer whose weight a node reads as a parameter."""
    path = attribute(node)
    return path.removesuffix(".weight") if path is not None and path.endswith(".weight") else None


def transposed_weight(node: fx.Node) -> str | None:
    """Name of the layer whose weight a call of `F.linear` uses the other way round: y = x W + b."""
    if node.op != "call_function" or node.target is not F.linear:
        return None
    weight = call_arguments(node, LINEAR).get("weight")
    turned = False
    while isinstance(weight, fx.Node) and weight.op != "get_attr":
        if not is_transposition(weight):
            return None
        turned, weight = not turned, weight.args[0]
    return read_weight(weight) if turned else None


def is_transposition(node: fx.Node) -> bool:
    """Whether a node exchanges the two axes of a weight."""
    if node.op == "call_method" and node.target == "t":
        return True
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("T", "mT")
    exchanged = node.target in ("transpose", "swapaxes", torch.transpose, torch.t, torch.swapaxes)
    axes = [axis for axis in (*node.args[1:], *node.kwargs.values()) if isinstance(axis, int)]
    return exchanged and (node.target is torch.t or sorted(axis % 2 for axis in axes) == [0, 1])
