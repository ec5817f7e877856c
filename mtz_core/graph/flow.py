"""Which layers read which: values on their way from layer to layer, and where several of them meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from mtz_core.graph.record import Call, Carries, call_of
from mtz_core.structure.networks import INPUT, JoinSummary


@dataclass(frozen=True)
class Flow:
    """For every layer what it `reads` (layers, joins, `INPUT`), the joins, and what the network's outputs are."""

    reads: Mapping[str, tuple[str, ...]]
    joins: tuple[JoinSummary, ...]
    outputs: tuple[str, ...]


def flow(module: fx.GraphModule, layers: Mapping[str, str], numbers: Mapping[str, int]) -> Flow:
    """Follow all values through a traced network.

    Args:
        module: the traced network.
        layers: the weight layer that a node calls, by the node's name.
        numbers: nodes that are whole numbers, by name.

    An operation on values of one source passes this source on. One on values of several is a join, in which residual
    sums (`add`) and concatenations (`concat`) are told from all else that meets (`meet`: a gate, attention). Values
    that are only asked for their shape, and those that come from parameters alone, have no source.
    """
    sources: dict[fx.Node, str] = {}
    reads: dict[str, tuple[str, ...]] = {}
    joins: list[JoinSummary] = []
    outputs: tuple[str, ...] = ()
    for node in module.graph.nodes:
        found = tuple(dict.fromkeys(sources[n] for n in node.all_input_nodes if n in sources))
        if node.op == "placeholder":
            if not node.args:
                sources[node] = INPUT
        elif node.op == "output":
            outputs = found
        elif node.name in layers:
            name = layers[node.name]
            reads[name] = tuple(dict.fromkeys((*reads.get(name, ()), *found)))
            sources[node] = name
        elif found and node.name not in numbers:
            call = call_of(node, module, numbers)
            if call.operation is not None and call.operation.carries is Carries.ASKS:
                continue
            if len(found) > 1:
                joins.append(JoinSummary(f"join {len(joins) + 1}", _kind(call), found))
            sources[node] = joins[-1].name if len(found) > 1 else found[0]
    return Flow(reads, tuple(joins), outputs)


def _kind(call: Call) -> str:
    carries = None if call.operation is None else call.operation.carries
    return "add" if carries is Carries.SUM else "concat" if carries is Carries.JOINS else "meet"
