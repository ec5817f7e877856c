"""Functional calls that read their numbers from attributes, written as modules: later stages know one form only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, fx, nn

from mtz_core.graph.sources import call_arguments, fresh_name

LINEAR = ("input", "weight", "bias")
CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


class AnyBatchNorm(nn.BatchNorm2d):
    """BatchNorm over inputs of any rank, as the functional form allows."""

    def _check_input_dim(self, input: Tensor) -> None:
        return


def attribute(node: object) -> str | None:
    """Path of the parameter or buffer that a node reads."""
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def set_parameter(module: nn.Module, name: str, value: Tensor | None) -> None:
    """Give a module a fixed parameter of its own, or none."""
    setattr(module, name, None if value is None else nn.Parameter(value.detach().clone(), requires_grad=False))


def linear_module(traced: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
    """`F.linear` as `nn.Linear`, with a name that is free."""
    arguments = call_arguments(node, LINEAR)
    weight, bias = attribute(arguments["weight"]), arguments.get("bias")
    if weight is None or (bias is not None and attribute(bias) is None):
        return None
    value = _tensor(traced, weight)
    module = nn.Linear(value.shape[1], value.shape[0], bias=bias is not None, device="meta", dtype=value.dtype)
    set_parameter(module, "weight", value)
    set_parameter(module, "bias", None if bias is None else _tensor(traced, str(attribute(bias))))
    return _layer_name(traced, weight), module


def conv_module(traced: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
    """`F.conv1d`, `F.conv2d` or `F.conv3d` as a module, with a name that is free."""
    return _convolution(traced, node, CONV, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def transposed_conv_module(traced: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
    """`F.conv_transpose1d`, `2d` or `3d` as a module, with a name that is free."""
    return _convolution(traced, node, TRANSPOSED, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))


def _convolution(
    traced: fx.GraphModule, node: fx.Node, names: tuple[str, ...], builds: Sequence[Any]
) -> tuple[str, nn.Module] | None:
    arguments = call_arguments(node, names)
    weight, bias = attribute(arguments["weight"]), arguments.get("bias")
    if weight is None or (bias is not None and attribute(bias) is None):
        return None
    value = _tensor(traced, weight)
    given = {name: arguments[name] for name in names[3:] if name in arguments}
    groups = int(given.get("groups", 1))
    outputs, inputs = (
        (value.shape[0], value.shape[1] * groups) if names is CONV else (value.shape[1] * groups, len(value))
    )
    build = builds[value.ndim - 3]
    module = build(
        inputs, outputs, tuple(value.shape[2:]), **given, bias=bias is not None, device="meta", dtype=value.dtype
    )
    set_parameter(module, "weight", value)
    set_parameter(module, "bias", None if bias is None else _tensor(traced, str(attribute(bias))))
    return _layer_name(traced, weight), module


def norm_module(traced: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module] | None:
    """`F.batch_norm` with stored statistics as a module, with a name that is free."""
    arguments = call_arguments(node, NORM)
    paths = {key: attribute(arguments.get(key)) for key in NORM[1:5]}
    if arguments.get("training", False) or paths["running_mean"] is None or paths["running_var"] is None:
        return None
    mean = _tensor(traced, paths["running_mean"])
    module = AnyBatchNorm(len(mean), eps=arguments.get("eps", 1e-5), dtype=mean.dtype)
    module.running_mean, module.running_var = mean.clone(), _tensor(traced, paths["running_var"]).clone()
    for key in ("weight", "bias"):
        path = paths[key]
        set_parameter(module, key, None if path is None else _tensor(traced, path))
    return _layer_name(traced, f"{paths['running_mean']}_norm"), module


def _tensor(traced: fx.GraphModule, path: str) -> Tensor:
    prefix, _, name = path.rpartition(".")
    return cast(Tensor, getattr(traced.get_submodule(prefix), name))


def _layer_name(traced: fx.GraphModule, path: str) -> str:
    base = path.replace(".", "_")
    for ending in ("_weight", "_w", "_kernel"):
        base = base.removesuffix(ending)
    return fresh_name(traced, base)
