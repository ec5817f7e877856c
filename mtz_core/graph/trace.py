"""Trace a module into a graph of calls in which every weight layer is a module and BatchNorm is folded away.

The parent itself is never touched: tracing works on a copy. Functional calls that read their weight from an
attribute (`F.linear(x, self.w, self.b)`) become module calls, so that later stages know one form only; where the
original tensors live is remembered, so that a merged network can be written back into the parent's own class.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from inspect import Parameter, signature
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from mtz_core.errors import GraphError
from mtz_core.graph.answers import from_input, heads_of, spread
from mtz_core.graph.attention import plain_transformers, rewrite_attention
from mtz_core.graph.computed import hold_computed
from mtz_core.graph.folding import fold_norms, is_norm
from mtz_core.graph.functional import LINEAR, NORM, attribute, set_parameter
from mtz_core.graph.images import Recorder, out_of_order
from mtz_core.graph.images_first import images_first
from mtz_core.graph.own_answers import alike, check_network, one_by_one, own_answer
from mtz_core.graph.plain import computing_type, make_plain, read_type, twin
from mtz_core.graph.record import Carries, call_of, in_place_argument, operation_of, out_of_place
from mtz_core.graph.recurrent import rewrite_recurrent
from mtz_core.graph.sources import NormSource, TracedNetwork, WeightSource, call_arguments, norm_homes
from mtz_core.graph.tied import join_tied
from mtz_core.graph.tracer import Tracer
from mtz_core.graph.transposed import rewrite_transposed


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
    check_network(network)
    wide = computing_type(network)
    example = example.to(read_type(network)) if example.is_floating_point() else example
    expected = own_answer(network, example)
    heads = heads_of(expected, len(example))
    module = twin(network, example.device).to(wide)
    names = _first_names(module)
    computed = make_plain(module)
    plain = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    plain |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    module = plain_transformers(module)
    graph, opaque, fixed = _symbolic_graph(module, example)
    heads = from_input(graph, heads)
    traced = fx.GraphModule(module, graph)
    _out_of_place(traced)
    if wide is not None:
        _in_type(traced, wide)
    sources = {name: _module_source(name, child) for name, child in _called(traced, _is_layer)}
    norms = {name: _module_norm(name, child) for name, child in _called(traced, is_norm)}
    rewrite_attention(traced, sources)
    rewrite_recurrent(traced, sources)
    computed |= hold_computed(traced)
    _functional_to_modules(traced, sources, norms)
    rewrite_transposed(traced, sources)
    join_tied(traced, sources, names)
    homes = {new: (old, True) for new, old in images_first(traced, lambda: node_shapes(traced, example)).items()}
    fold_norms(traced, sources, norms)
    if copies > 1:
        _copy_input(traced, sources, copies)
    traced.graph.eliminate_dead_code()
    traced = fx.GraphModule(traced, traced.graph)  # takes along only what the graph still uses
    recorder = Recorder(traced, sources)
    output = recorder.of(example)
    if not alike(output, expected, heads):
        raise GraphError(
            f"{type(network).__name__} answers differently when it is traced; its forward depends on something that "
            "tracing cannot see (randomness, or state that changes from call to call). Rewrite that part with torch "
            "operations on the input"
        )
    mixed = out_of_order(recorder, one_by_one(network, traced, sources, example, expected, heads))
    known = {name: computed[source.weight] for name, source in sources.items() if source.weight in computed}
    homes |= norm_homes(norms)
    own = None if wide is None else next(p.dtype for p in network.parameters() if p.is_floating_point())
    writable, shapes = _writable(plain, sources), recorder.shapes
    return TracedNetwork(
        traced, writable, shapes, example, known, opaque, own, homes, fixed, mixed, recorder.numbers, heads
    )


def _first_names(module: nn.Module) -> dict[str, str]:
    """By every name of a parameter, the first of its names."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(p), name) for name, p in module.named_parameters(remove_duplicate=False)}


def _writable(plain: Collection[str], sources: Mapping[str, WeightSource]) -> dict[str, WeightSource]:
    """Mark the layers for whose weights the parent has no tensor, even if all that is computed is made plain."""
    means = [source.norm.mean for source in sources.values() if source.norm is not None]
    found = {}
    for name, source in sources.items():
        keys = [key for key in (source.weight, source.bias) if key is not None]
        if source.norm is not None:
            keys += [source.norm.mean, source.norm.variance]
        missing = any(key not in plain for key in keys)
        missing |= source.norm is not None and means.count(source.norm.mean) > 1  # it can be undone for one only
        found[name] = replace(source, own=False) if missing else source
    return found


def _symbolic_graph(module: nn.Module, example: Tensor) -> tuple[fx.Graph, dict[str, str], bool]:
    """The graph of calls, why some modules are called as wholes, and whether it is for inputs of this size alone.

    Arguments with a default keep it.
    """
    first, *others = signature(module.forward).parameters.values()
    kinds = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    needed = [p.name for p in others if p.default is Parameter.empty and p.kind not in kinds]
    if needed and first.kind not in kinds:
        raise GraphError(
            f"{type(module).__name__}.forward needs {1 + len(needed)} inputs ({', '.join([first.name, *needed])}); "
            "wrap it in a module whose forward takes the one tensor that varies"
        )
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._NormBase):  # which asks for the number of axes only
            norm._check_input_dim = lambda input: None  # type: ignore[method-assign]  # of this copy, while it is traced
    tracer = Tracer([example.clone()])
    try:
        with torch.no_grad():
            graph = tracer.trace(module, {p.name: p.default for p in others if p.kind not in kinds})
    except Exception as error:  # tracing runs the user's own code: anything may come
        raise GraphError(
            f"{type(module).__name__} cannot be traced ({type(error).__name__}: {error}). Its forward must not branch "
            "on the values of a tensor; put such code into a sub-module (it is then kept as it is), rewrite it with "
            "torch operations, or export the network with torch.export and zip the exported program"
        ) from error
    finally:
        for norm in module.modules():
            vars(norm).pop("_check_input_dim", None)
    spread(graph, tracer.values)
    _only_input(graph)
    return graph, tracer.opaque, tracer.fixed


def _only_input(graph: fx.Graph) -> None:
    """Leave out arguments that keep their default, and checks that only raise errors (in place)."""
    first = next(iter(graph.nodes))
    for node in reversed(list(graph.nodes)):
        checks = node.op == "call_function" and node.target in (torch._assert, torch._assert_async)
        if not node.users and (checks or (node.op == "placeholder" and node is not first)):
            graph.erase_node(node)


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
            position = in_place_argument(node.target)
            if position is not None:
                node.args, node.kwargs = node.args[:position], {**node.kwargs, "inplace": False}


def _in_type(traced: fx.GraphModule, wide: torch.dtype) -> None:
    """Let a forward that asks for half precision by name ask for another type (in place)."""
    low = (torch.float16, torch.bfloat16)
    for node in traced.graph.nodes:
        if node.op == "call_method" and node.target in ("half", "bfloat16"):
            node.target, node.args = "to", (*node.args[:1], wide)
        elif node.op in ("call_method", "call_function"):
            node.args = tuple(wide if argument in low else argument for argument in node.args)
            node.kwargs = {name: wide if argument in low else argument for name, argument in node.kwargs.items()}


def _works_in_place(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        name = str(node.target)
        return name.endswith("_") and not name.endswith("__") and callable(getattr(Tensor, name[:-1], None))
    if node.op != "call_function":
        return False
    function = cast(Callable[..., Any], node.target)
    position = in_place_argument(function)
    if position is not None:
        return bool(node.args[position]) if len(node.args) > position else bool(node.kwargs.get("inplace"))
    return out_of_place(function) is not function


def _is_layer(module: nn.Module) -> bool:
    operation = operation_of(module)
    return operation is not None and operation.carries is Carries.LAYER


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


def node_shapes(traced: fx.GraphModule, example: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape of every node's result, where it is a tensor, for the input `example`."""
    recorder = Recorder(traced)
    recorder.of(example)
    return recorder.shapes
