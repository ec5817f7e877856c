"""Finding the heads in a network's answer, and bringing the answer of its graph into plain containers."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mtz_core.errors import GraphError
from mtz_core.graph.heads import Head, is_record, leaves, mapped


def heads_of(answer: Any, count: int) -> tuple[Head, ...]:
    """The heads of an answer to `count` inputs; none, if it is one tensor. A tensor that is returned twice is one head.

    Raises `GraphError` if nothing in it could be one.
    """
    if isinstance(answer, Tensor):
        if not _is_head(answer, count):
            raise _no_head(answer)
        return ()
    found: dict[int, Head] = {}
    for number, (name, value) in enumerate(leaves(answer)):
        if _is_head(value, count) and id(value) not in found:
            found[id(value)] = Head(name, number, tuple(value.shape[1:]))
    if not found:
        raise _no_head(answer)
    return tuple(found.values())


def _is_head(value: Any, count: int) -> bool:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return floating and value.ndim > 0 and len(value) == count and value.numel() > 0


def _no_head(answer: Any) -> GraphError:
    what = type(answer).__name__ + (f" of {answer.dtype} {tuple(answer.shape)}" if isinstance(answer, Tensor) else "")
    return GraphError(
        f"the network returns {what}; zipping needs a tensor of floating-point numbers with an entry for every input "
        "(inputs, outputs …), or a tuple, list or dictionary of such. Let its forward return what it computes before "
        "classes are chosen or boxes are filtered"
    )


def spread(graph: fx.Graph, values: Mapping[fx.Node, Any]) -> None:
    """Let a graph's answer be plain containers of tensors (in place), whatever builds it.

    `values` are those of nodes for the example.
    """
    output = next(node for node in graph.nodes if node.op == "output")
    before = output.args[0]
    with graph.inserting_before(output):
        output.args = (_spread(graph, before, values),)
    if isinstance(before, fx.Node) and not before.users:
        graph.erase_node(before)


def from_input(graph: fx.Graph, heads: Sequence[Head]) -> tuple[Head, ...]:
    """Those of the heads that a graph, whose answer was spread, computes from its input.

    Raises `GraphError` if there is none.
    """
    reached = set[fx.Node]()
    for node in graph.nodes:
        if node.op == "placeholder" or any(source in reached for source in node.all_input_nodes):
            reached.add(node)
    output = next(node for node in graph.nodes if node.op == "output")
    every = leaves(output.args[0])
    found = tuple(head for head in heads if every[head.leaf][1] in reached)
    if heads and not found:
        raise GraphError("nothing of what the network returns is computed from its input")
    return found


def _spread(graph: fx.Graph, answer: Any, values: Mapping[fx.Node, Any]) -> Any:
    if isinstance(answer, Mapping):
        return {name: _spread(graph, value, values) for name, value in answer.items()}
    if isinstance(answer, tuple | list):
        return type(mapped(answer))(_spread(graph, value, values) for value in answer)
    value = values.get(answer) if isinstance(answer, fx.Node) else None
    if isinstance(answer, fx.Node) and isinstance(answer.target, type) and (answer.args or answer.kwargs):
        if hasattr(answer.target, "_fields"):  # a named tuple
            named = dict(zip(answer.target._fields, answer.args, strict=False)) | answer.kwargs
            return tuple(_spread(graph, named[name], values) for name in answer.target._fields if name in named)
        if dataclasses.is_dataclass(answer.target):
            names = [each.name for each in dataclasses.fields(answer.target)]
            named = dict(zip(names, answer.args, strict=False)) | answer.kwargs
            return {name: _spread(graph, named.get(name), values) for name in names}
    if isinstance(value, Mapping):
        return {key: _taken(graph, answer, key, values, part) for key, part in value.items()}
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        kind = type(mapped(value))
        return kind(_taken(graph, answer, key, values, part) for key, part in enumerate(value))
    if is_record(value):
        raise GraphError(
            f"the network answers with a {type(value).__name__} that a part of it makes, which could not be followed; "
            "return a tuple or a dictionary"
        )
    return answer


def _taken(graph: fx.Graph, node: Any, key: Any, values: Mapping[fx.Node, Any], part: Any) -> Any:
    """One part of what a node gives, as a node of its own, spread in turn."""
    taken = graph.call_function(operator.getitem, (node, key))
    return _spread(graph, taken, {**values, taken: part})
