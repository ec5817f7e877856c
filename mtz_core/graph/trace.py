"""Trace a module into a graph of calls in which every weight layer is a module and BatchNorm is folded away.

The parent itself is never touched: tracing works on a copy. Functional calls that read their weight from an
attribute (`F.linear(x, self.w, self.b)`) become module calls, so that later stages know one form only; where the
original tensors live is remembered, so that a merged network can be written back into the parent's own class.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from mtz_core.errors import GraphError
from mtz_core.graph.attention import plain_transformers, rewrite_attention
from mtz_core.graph.functional import LINEAR, NORM, attribute, set_parameter
from mtz_core.graph.images_first import images_first
from mtz_core.graph.record import Carries, call_of, in_place_argument, operation_of, out_of_place
from mtz_core.graph.recurrent import Recurrence, rewrite_recurrent
from mtz_core.graph.sources import NormSource, TracedNetwork, WeightSource, call_arguments


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_layer(m) or _is_norm(m) or super().is_leaf_module(m, module_qualified_name)


def trace(network: nn.Module, example: Tensor, copies: int = 1) -> TracedNetwork:
    """Trace `network` on an example batch.

    Args:
        network: any module whose `forward` takes one tensor and whose control flow does not depend on its values.
        example: a batch of inputs, (N, ...).
        copies: let the convolutions that read a one-channel input read so many copies of it, with weights divided by
            that number. The outputs stay the same, and the layer then fits beside one that reads `copies` channels.

    Raises:
        GraphError: the module cannot be traced, fails on the example, or its output depends on data-driven control
            flow; the message says where.
    """
    if not isinstance(network, nn.Module):
        raise GraphError(f"a network is a torch.nn.Module, got {type(network).__name__}; load the weights into one")
    if isinstance(network, nn.DataParallel):
        raise GraphError("the network is wrapped in nn.DataParallel; pass network.module")
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise GraphError(
                f"parameter {name!r} holds NaN or infinity; the network is damaged or its training diverged"
            )
    expected = own_answer(network, example)
    module = plain_transformers(_twin(network, example.device))
    graph = _symbolic_graph(module)
    traced = fx.GraphModule(module, graph)
    _out_of_place(traced)
    sources = {name: _module_source(name, child) for name, child in _called(traced, _is_layer)}
    norms = {name: _module_norm(name, child) for name, child in _called(traced, _is_norm)}
    rewrite_attention(traced, sources)
    rewrite_recurrent(traced, sources)
    _functional_to_modules(traced, sources, norms)
    images_first(traced, lambda: node_shapes(traced, example)[0])
    _fold_norms(traced, sources, norms)
    if copies > 1:
        _copy_input(traced, sources, copies)
    traced.graph.eliminate_dead_code()
    traced = fx.GraphModule(traced, traced.graph)  # takes along only what the graph still uses
    shapes, output = node_shapes(traced, example)
    if not torch.allclose(output, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max())):
        raise GraphError(
            f"{type(network).__name__} answers differently when it is traced; its forward depends on something that "
            "tracing cannot see (randomness, or state that changes from call to call). Rewrite that part with torch "
            "operations on the input"
        )
    return TracedNetwork(traced, sources, shapes, example)


def _twin(network: nn.Module, device: torch.device) -> nn.Module:
    """A copy in evaluation mode. On the same device it shares the parameters' memory, to which nothing writes."""
    shared = (p for p in network.parameters() if type(p) is nn.Parameter and p.device == device)
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in shared}
    return copy.deepcopy(network, memo).to(device).eval().requires_grad_(False)


def own_answer(network: nn.Module, example: Tensor) -> Tensor:
    """What the untouched network answers to a batch, in evaluation mode. Raises `GraphError` if it cannot."""
    twin = _twin(network, example.device)
    try:
        with torch.no_grad():
            output = twin(example.clone())
    except Exception as error:  # the user's own code runs here
        raise GraphError(
            f"the network fails on an input of shape {tuple(example.shape)}: {error}. Calibration data must have the "
            "shape that the network was trained on"
        ) from error
    if not isinstance(output, Tensor) or output.ndim < 2:
        raise GraphError(
            f"the network returns {type(output).__name__}; zipping needs one tensor (images, outputs) per task. "
            "Wrap the network in a module that returns the tensor you need"
        )
    if not math.isfinite(float(output.abs().max())):
        raise GraphError("the network's output on the calibration data is NaN or infinite; check weights and inputs")
    return output


def _symbolic_graph(module: nn.Module) -> fx.Graph:
    try:
        graph = _Tracer().trace(module)
    except Exception as error:  # tracing runs the user's own code: anything may come
        raise GraphError(
            f"{type(module).__name__} cannot be traced ({type(error).__name__}: {error}). Its forward must not branch "
            "on the values or unpack the shape of a tensor with *; wrap such code in a sub-module or rewrite it with "
            "torch operations"
        ) from error
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for extra in inputs[1:]:
        if not extra.args:
            raise GraphError(
                f"{type(module).__name__}.forward needs {len(inputs)} inputs ({', '.join(n.name for n in inputs)}); "
                "wrap it in a module whose forward takes the one tensor that varies"
            )
    return graph


def _out_of_place(traced: fx.GraphModule) -> None:
    """Let no operation overwrite its input: activations are kept and used more than once.

    What reads an input after it was overwritten reads the result instead.
    """
    seen = set[fx.Node]()
    for node in traced.graph.nodes:
        seen.add(node)
        if _works_in_place(traced, node) and isinstance(node.args[0], fx.Node):
            node.args[0].replace_all_uses_with(node, lambda user: user not in seen)
    for node in list(traced.graph.nodes):
        if node.op == "call_method" and node.target == "requires_grad_":  # which says nothing about values
            node.replace_all_uses_with(cast(fx.Node, node.args[0]))
            traced.graph.erase_node(node)
    for module in traced.modules():
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010 (not declared by nn.Module)
    for node in traced.graph.nodes:
        if node.op == "call_method" and _works_in_place(traced, node):
            node.target = str(node.target)[:-1]
        elif node.op == "call_function":
            node.target = out_of_place(cast(Callable[..., Any], node.target))
            place = in_place_argument(node.target)
            if place is not None:
                node.args, node.kwargs = node.args[:place], {**node.kwargs, "inplace": False}


def _works_in_place(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        name = str(node.target)
        return name.endswith("_") and not name.endswith("__") and callable(getattr(Tensor, name[:-1], None))
    if node.op != "call_function":
        return False
    function = cast(Callable[..., Any], node.target)
    place = in_place_argument(function)
    if place is not None:
        return bool(node.args[place]) if len(node.args) > place else bool(node.kwargs.get("inplace"))
    return out_of_place(function) is not function


def _is_layer(module: nn.Module) -> bool:
    operation = operation_of(module)
    return operation is not None and operation.carries is Carries.LAYER


def _is_norm(module: nn.Module) -> bool:
    operation = operation_of(module)
    return operation is not None and operation.folds


def _called(traced: fx.GraphModule, wanted: Callable[[nn.Module], bool]) -> list[tuple[str, nn.Module]]:
    """Distinct sub-modules of a wanted kind that the graph calls, in order of their first call."""
    found: dict[str, nn.Module] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            child = traced.get_submodule(str(node.target))
            if wanted(child):
                found[str(node.target)] = child
    return list(found.items())


def _module_source(name: str, module: nn.Module) -> WeightSource:
    return WeightSource(f"{name}.weight", f"{name}.bias" if module.bias is not None else None)


def _module_norm(name: str, module: nn.Module) -> NormSource:
    keys = [f"{name}.{key}" if getattr(module, key) is not None else None for key in ("weight", "bias")]
    return NormSource(f"{name}.running_mean", f"{name}.running_var", keys[0], keys[1], cast(float, module.eps))


def _functional_to_modules(
    traced: fx.GraphModule, sources: dict[str, WeightSource], norms: dict[str, NormSource]
) -> None:
    """Replace weight layers and BatchNorm in functional form, on attributes of the module, by module calls."""
    for node in list(traced.graph.nodes):
        operation = call_of(node, traced).operation if node.op == "call_function" else None
        if operation is None or operation.to_module is None:
            continue
        built = operation.to_module(traced, node)
        if built is None:
            continue
        name, module = built
        arguments = call_arguments(node, NORM if operation.folds else LINEAR)
        weight, bias = attribute(arguments.get("weight")), attribute(arguments.get("bias"))
        if operation.folds:
            mean, variance = (str(attribute(arguments[key])) for key in ("running_mean", "running_var"))
            norms[name] = NormSource(mean, variance, weight, bias, cast(float, module.eps))
        else:
            sources[name] = WeightSource(str(weight), bias)
        traced.add_submodule(name, module.eval().requires_grad_(False))
        with traced.graph.inserting_after(node):
            call = traced.graph.call_module(name, (arguments["input"],))
        node.replace_all_uses_with(call)
        traced.graph.erase_node(node)


def _fold_norms(traced: fx.GraphModule, sources: dict[str, WeightSource], norms: dict[str, NormSource]) -> None:
    """Fold every BatchNorm that follows a weight layer, and nothing but it, into that layer (in place)."""
    calls: dict[str, int] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not _is_norm(norm := traced.get_submodule(str(node.target))):
            continue
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or str(before.target) not in sources or len(before.users) != 1:
            continue
        if before.op != "call_module" or calls[str(before.target)] != 1 or calls[str(node.target)] != 1:
            continue
        layer = traced.get_submodule(str(before.target))
        source = sources[str(before.target)]
        if isinstance(layer, Recurrence) or source.rows is not None or source.bias_rows is not None:
            continue
        if norm.running_mean is None or norm.running_var is None or source.norm is not None:
            continue
        if str(node.target) not in norms:
            continue
        _fold(layer, norm)
        sources[str(before.target)] = replace(source, norm=norms[str(node.target)])
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)


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


def _copy_input(traced: fx.GraphModule, sources: dict[str, WeightSource], copies: int) -> None:
    """Let every convolution that reads the input directly read `copies` copies of it (in place)."""
    placeholder = next(node for node in traced.graph.nodes if node.op == "placeholder")
    for node in list(placeholder.users):
        layer = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, nn.Conv1d | nn.Conv2d) or layer.in_channels != 1:
            continue
        with traced.graph.inserting_before(node):
            shape = (-1, copies, *(-1,) * (layer.weight.ndim - 2))
            wide = traced.graph.call_method("expand", (placeholder, *shape))
        node.replace_input_with(placeholder, wide)
        set_parameter(layer, "weight", layer.weight.repeat_interleave(copies, dim=1) / copies)
        layer.in_channels = copies
        sources[str(node.target)] = replace(sources[str(node.target)], copies=copies)


class _ShapeRecorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n.name] = tuple(value.shape)
        return value


def node_shapes(traced: fx.GraphModule, example: Tensor) -> tuple[dict[str, tuple[int, ...]], Tensor]:
    """Return the shape of every node's result, where it is a tensor, and the output, for the input `example`."""
    recorder = _ShapeRecorder(traced)
    with torch.no_grad():
        output = recorder.run(example)
    return recorder.shapes, cast(Tensor, output)
