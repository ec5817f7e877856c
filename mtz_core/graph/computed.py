"""Weights that a forward computes from parameters alone, evaluated once: they become constants of the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from mtz_core.graph.functional import LINEAR, NORM
from mtz_core.graph.record import call_of
from mtz_core.graph.sources import call_arguments, called, fresh_name
from mtz_core.graph.tied import transposed_weight


def hold_computed(traced: fx.GraphModule) -> dict[str, int]:
    """Replace every weight, bias or statistic that is computed by a constant (in place).

    Returns:
        By the path of every constant, how many parameters it was computed from.
    """
    made: dict[str, int] = {}
    constant = _constants(traced)
    for node in list(traced.graph.nodes):
        operation = call_of(node, traced).operation if node.op == "call_function" else None
        if operation is None or operation.to_module is None or transposed_weight(node) is not None:
            continue
        given = call_arguments(node, NORM if operation.folds else LINEAR)
        for name in ("weight", "bias", "running_mean", "running_var"):
            source = given.get(name)
            if not isinstance(source, fx.Node) or source not in constant or source.op == "get_attr":
                continue
            read: dict[str, Tensor] = {}
            value = _evaluate(traced, source, read)
            if not isinstance(value, Tensor):
                continue
            path = fresh_name(traced, f"computed_{source.name}")
            traced.register_buffer(path, value.detach().clone())
            made[path] = sum(tensor.numel() for tensor in read.values() if isinstance(tensor, nn.Parameter))
            with traced.graph.inserting_before(node):
                node.replace_input_with(source, traced.graph.get_attr(path))
    return made


def _constants(traced: fx.GraphModule) -> set[fx.Node]:
    """Nodes whose values depend on parameters and buffers alone."""
    found = set[fx.Node]()
    for node in traced.graph.nodes:
        reads = node.all_input_nodes
        if node.op == "get_attr" or (
            node.op in ("call_function", "call_method", "call_module") and reads and all(n in found for n in reads)
        ):
            found.add(node)
    return found


def _evaluate(traced: fx.GraphModule, node: fx.Node, read: dict[str, Tensor]) -> Any:
    """Value of a constant node; `read` gets the tensors that it is made from."""
    args = fx.node.map_arg(node.args, lambda n: _evaluate(traced, n, read))
    kwargs = fx.node.map_arg(node.kwargs, lambda n: _evaluate(traced, n, read))
    with torch.no_grad():
        value = called(traced, node, args, kwargs)
    if node.op == "get_attr":
        read[str(node.target)] = value
    return value
