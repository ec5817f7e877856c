"""Which layers of several networks read which, as one graph: its nodes are the columns of the common order, and joins.

Where networks have a connection in common it is one path that carries all their tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mtz_core.structure.joint import JointStructure
from mtz_core.structure.networks import INPUT, JoinSummary, LayerSummary, NetworkStructure

START, END = -1, -2
"""Nodes that stand for the networks' inputs and outputs."""


@dataclass(frozen=True)
class Join:
    """Where values meet: node number, kind (see `JoinSummary`), the last column before it, the tasks that have it."""

    node: int
    kind: str
    after: int
    tasks: tuple[int, ...]


@dataclass(frozen=True)
class Path:
    """From one node to another, in the networks of these tasks."""

    source: int
    target: int
    tasks: tuple[int, ...]


@dataclass(frozen=True)
class Paths:
    """All joins and paths. Nodes below the number of columns are columns; joins follow; see `START` and `END`."""

    joins: tuple[Join, ...]
    paths: tuple[Path, ...]


def common_paths(joint: JointStructure) -> Paths:
    """Lay all networks' connections over each other.

    Joins of two networks are one if they are of one kind and what they join is the same. Of concatenations that grow
    (each holds all of the one before, and something more) each is drawn from the one before: the values are the same.
    """
    columns = len(joint.alignment.layers)
    joins: dict[tuple[str, frozenset[int]], int] = {}
    tasks_of: dict[int, set[int]] = {}
    edges: dict[tuple[int, int], set[int]] = {}
    for t, network in enumerate(joint.networks):
        known = network if any(layer.reads for layer in network.layers) else inferred(network)
        nodes = {INPUT: START} | {
            layer.name: position for layer, position in zip(known.layers, joint.positions[t], strict=True)
        }
        for join in known.joins:
            key = (join.kind, frozenset(nodes[name] for name in join.reads))
            nodes[join.name] = joins.setdefault(key, columns + len(joins))
            tasks_of.setdefault(nodes[join.name], set()).add(t)
        for source, target in _connections(known):
            edges.setdefault((nodes[source], nodes[target] if target else END), set()).add(t)
    read = {node: reads for (_, reads), node in joins.items()}
    for grown, smaller in _growing({node: kind for (kind, _), node in joins.items()}, read, tasks_of):
        for held in read[smaller]:
            edges.pop((held, grown))
        edges[smaller, grown] = set(tasks_of[grown])
    after = _last_columns(read)
    return Paths(
        tuple(Join(node, kind, after[node], tuple(sorted(tasks_of[node]))) for (kind, _), node in joins.items()),
        tuple(Path(*ends, tuple(sorted(tasks))) for ends, tasks in sorted(edges.items())),
    )


def inferred(network: NetworkStructure) -> NetworkStructure:
    """Fill in which layers read which, of a network whose structure was stored without that.

    A layer reads the channels of its groups as the layers before it left them; one that writes channels that another
    has written is taken to add to them. That is so in residual networks; a gate is taken for a sum, too.
    """
    state: dict[str, str] = {}
    joins: list[JoinSummary] = []
    layers: list[LayerSummary] = []
    writes = {name: group.name for group in network.groups for name in group.producers}
    for layer in network.layers:
        found = tuple(dict.fromkeys(state[group] for group in layer.inputs if group in state))
        layers.append(replace(layer, reads=found or (INPUT,)))
        group = layer.group or writes.get(layer.name, layer.name)
        if group in state and group not in layer.inputs:
            joins.append(JoinSummary(f"join {len(joins) + 1}", "add", (layer.name, state[group])))
            state[group] = joins[-1].name
        else:
            state[group] = layer.name
    read = {name for reads in (*(x.reads for x in layers), *(x.reads for x in joins)) for name in reads}
    ends = tuple(name for name in dict.fromkeys(state.values()) if name not in read)
    return replace(network, layers=tuple(layers), joins=tuple(joins), outputs=ends)


def _connections(network: NetworkStructure) -> Iterator[tuple[str, str | None]]:
    """What every layer and join reads, and what the network puts out (target `None`)."""
    nodes: list[LayerSummary | JoinSummary] = [*network.layers, *network.joins]
    for node in nodes:
        yield from ((source, node.name) for source in node.reads)
    yield from ((source, None) for source in network.outputs)


def _growing(
    kinds: Mapping[int, str], read: Mapping[int, frozenset[int]], tasks_of: Mapping[int, set[int]]
) -> Iterator[tuple[int, int]]:
    """Concatenations, each with the largest earlier one that it holds."""
    before: list[int] = []
    for node in sorted(kinds):
        if kinds[node] != "concat":
            continue
        held = [k for k in before if read[k] < read[node] and tasks_of[k] >= tasks_of[node]]
        if held:
            yield node, max(held, key=lambda k: len(read[k]))
        before.append(node)


def _last_columns(read: Mapping[int, frozenset[int]]) -> dict[int, int]:
    """For every join the last column from which a value comes to it; what a join reads has a smaller number."""
    found: dict[int, int] = {}
    for node in sorted(read):
        found[node] = max(found.get(source, source) for source in read[node])
    return found
