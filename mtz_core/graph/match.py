"""Which layers of the parents correspond.

Layers correspond in order of execution, if they are of one kind: kernel, stride, bias, how far the image has been
scaled down, and whether they write into a residual stream. Networks of different depths are aligned so that as many
layers as possible correspond, with a preference for equal names (block 3 of stage 2 with block 3 of stage 2). What
is left over stays private. Widths, names and the form of the code may differ freely.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mtz_core.errors import GraphError
from mtz_core.graph.channels import HEAD, PRIVATE, ChannelGraph, ChannelGroup, WeightLayer
from mtz_core.graph.layout import COMMON

NO_PARTNER = "no other network has layers that correspond"
SAME_NAME = 0.01
"""What equal names add to the score of one corresponding layer."""


@dataclass
class _Joint:
    """What stands at one place in the common order: task → index of its layer, or of its channel group."""

    members: dict[int, int] = field(default_factory=dict)


def correspond(graphs: Sequence[ChannelGraph]) -> tuple[ChannelGraph, ...]:
    """Return the graphs with layers and channel groups numbered alike.

    Layer k of one returned graph corresponds to layer k of the others, and group g to group g. Where a network has
    no layer that corresponds, a layer of width 0 without nodes takes its place, and likewise for groups; a group
    that only one network has is frozen.

    Raises:
        GraphError: no hidden layer of some network corresponds to one of another.
    """
    if all(graph.joint for graph in graphs):
        return tuple(graphs)
    layers = [_Joint({0: k}) for k in range(len(graphs[0].layers))]
    groups = [_Joint({0: g}) for g in range(len(graphs[0].groups))]
    for t in range(1, len(graphs)):
        layers = _fold(graphs, layers, groups, t)
        _check_some(graphs, layers, t)
    return tuple(_renumbered(graphs, layers, groups, t) for t in range(len(graphs)))


def _signature(graph: ChannelGraph, layer: WeightLayer) -> tuple[Any, ...]:
    shape = graph.network.shapes[layer.nodes[0]]
    space = shape[1:-1] if layer.kind in ("linear", "lstm", "gru") else shape[2:]
    whole = graph.network.example.shape[2:]
    scaled = tuple(round(math.log2(a / b)) if a and b else 0 for a, b in zip(whole, space, strict=False))
    producers = [p for p in graph.groups[layer.group].producers if not graph.layer(p).depthwise]
    kernel = (layer.kind, layer.kernel, layer.setting, layer.bias, layer.groups > 1, layer.depthwise)
    return (*kernel, scaled if layer.kernel else len(space), len(producers) > 1)


def _is_head(graph: ChannelGraph, layer: WeightLayer) -> bool:
    return graph.groups[layer.group].frozen == HEAD


def _fold(graphs: Sequence[ChannelGraph], layers: list[_Joint], groups: list[_Joint], t: int) -> list[_Joint]:
    """Add task t's layers and groups to the common order; `groups` is extended in place."""
    mine = graphs[t]
    known = [next(iter(sorted(joint.members.items()))) for joint in layers]
    there = [(graphs[u], graphs[u].layers[k]) for u, k in known]
    matched = _longest(there, [(mine, layer) for layer in mine.layers])
    votes = Counter(
        (_group_of(groups, known[j], graphs), mine.layers[k].group)
        for j, k in matched
        if j is not None and k is not None
    )
    group_of: dict[int, int] = {}
    for (joint, own), _ in sorted(votes.items(), key=lambda item: (-item[1], item[0])):
        if own not in group_of and joint not in group_of.values():
            group_of[own] = joint
    for own in range(len(mine.groups)):
        if own not in group_of:
            group_of[own] = len(groups)
            groups.append(_Joint())
        groups[group_of[own]].members[t] = own
    order: list[_Joint] = []
    for j, k in matched:
        if j is not None:
            order.append(layers[j])
        if k is None:
            continue
        if j is not None and _group_of(groups, known[j], graphs) == group_of[mine.layers[k].group]:
            layers[j].members[t] = k
        else:
            order.append(_Joint({t: k}))
    return order


def _group_of(groups: Sequence[_Joint], place: tuple[int, int], graphs: Sequence[ChannelGraph]) -> int:
    u, k = place
    own = graphs[u].layers[k].group
    return next(g for g, joint in enumerate(groups) if joint.members.get(u) == own)


def _longest(
    a: Sequence[tuple[ChannelGraph, WeightLayer]], b: Sequence[tuple[ChannelGraph, WeightLayer]]
) -> list[tuple[int | None, int | None]]:
    """The alignment of two sequences of layers with the most corresponding pairs, early ones first."""
    signs_a, signs_b = [_signature(*x) for x in a], [_signature(*x) for x in b]
    heads_a, heads_b = [_is_head(*x) for x in a], [_is_head(*x) for x in b]
    best = np.zeros((len(a) + 1, len(b) + 1))

    def gain(i: int, j: int) -> float:
        alike = heads_a[i] and heads_b[j] if heads_a[i] or heads_b[j] else signs_a[i] == signs_b[j]
        return (1.0 + SAME_NAME * (a[i][1].name == b[j][1].name)) if alike else -math.inf

    gains = np.array([[gain(i, j) for j in range(len(b))] for i in range(len(a))])
    for i in range(len(a) - 1, -1, -1):
        for j in range(len(b) - 1, -1, -1):
            best[i, j] = max(best[i + 1, j], best[i, j + 1], gains[i, j] + best[i + 1, j + 1])
    pairs: list[tuple[int | None, int | None]] = []
    i = j = 0
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and best[i, j] == gains[i, j] + best[i + 1, j + 1]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif j >= len(b) or (i < len(a) and best[i, j] == best[i + 1, j]):
            pairs.append((i, None))
            i += 1
        else:
            pairs.append((None, j))
            j += 1
    return pairs


def _check_some(graphs: Sequence[ChannelGraph], layers: Sequence[_Joint], t: int) -> None:
    """Raise unless some hidden layer of task t has a partner."""
    for joint in layers:
        if (
            t in joint.members
            and len(joint.members) > 1
            and not _is_head(graphs[t], graphs[t].layers[joint.members[t]])
        ):
            return
    lists = [", ".join(f"{layer.name} ({layer.kind})" for layer in graphs[u].layers) for u in (0, t)]
    raise GraphError(
        f"no hidden layer of network {t} corresponds to one of another network: layers correspond if they are of one "
        "kind, with the same kernel, stride, padding and bias, at the same scale of the image.\n"
        f"  network 0: {lists[0]}\n  network {t}: {lists[1]}"
    )


def _renumbered(
    graphs: Sequence[ChannelGraph], layers: Sequence[_Joint], groups: Sequence[_Joint], t: int
) -> ChannelGraph:
    graph = graphs[t]
    group_of = {joint.members[t]: g for g, joint in enumerate(groups) if t in joint.members}
    new_groups = []
    for joint in groups:
        if t in joint.members:
            own = graph.groups[joint.members[t]]
            lonely = len(joint.members) == 1 and own.frozen is None
            new_groups.append(replace(own, frozen=NO_PARTNER) if lonely else own)
        else:
            u, g = min(joint.members.items())
            name = f"{graphs[u].groups[g].name} (network {u})"
            new_groups.append(ChannelGroup(name, 0, (), (), NO_PARTNER))
    new_layers, alone = [], set()
    for joint in layers:
        own_group = _group_of(groups, min(joint.members.items()), graphs)
        if t not in joint.members:
            u, k = min(joint.members.items())
            new_layers.append(_absent(f"{graphs[u].layers[k].name} (network {u})", graphs[u].layers[k], own_group))
            continue
        layer = graph.layers[joint.members[t]]
        places = np.array([group_of.get(int(g), int(g)) for g in layer.column_groups], dtype=np.int64)
        if _raw_inputs_differ(graphs, joint):
            places[places == COMMON] = PRIVATE
        new_layers.append(replace(layer, group=own_group, column_groups=places))
        if len(joint.members) == 1:
            alone.add(layer.name)
    return replace(graph, layers=tuple(new_layers), groups=tuple(new_groups), alone=frozenset(alone), joint=True)


def _raw_inputs_differ(graphs: Sequence[ChannelGraph], joint: _Joint) -> bool:
    counts = {int((graphs[u].layers[k].column_groups == COMMON).sum()) for u, k in joint.members.items()}
    return len(counts) > 1


def _absent(name: str, model: WeightLayer, group: int) -> WeightLayer:
    nothing = np.empty(0, dtype=np.int64)
    return WeightLayer(name, model.kind, (), 0, model.kernel, False, model.setting, group, nothing, nothing, nothing)
