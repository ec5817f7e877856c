"""The parents' channel graphs numbered alike: layer k of one corresponds to layer k of the others (see `alignment`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mtz_core.errors import GraphError
from mtz_core.graph.channels import PRIVATE, ChannelGraph, ChannelGroup, WeightLayer
from mtz_core.graph.layout import COMMON
from mtz_core.structure.alignment import Alignment, Members, Place, align
from mtz_core.structure.joint import NO_PARTNER, absent_name
from mtz_core.structure.networks import HEAD


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
    found = align([_places(graph) for graph in graphs], [len(graph.groups) for graph in graphs])
    for t in found.apart:
        lists = [", ".join(f"{layer.name} ({layer.kind})" for layer in graphs[u].layers) for u in (0, t)]
        raise GraphError(
            f"no hidden layer of network {t} corresponds to one of another network: layers correspond if they are of "
            "one kind, with the same kernel, stride, padding and bias, at the same scale of the image.\n"
            f"  network 0: {lists[0]}\n  network {t}: {lists[1]}"
        )
    return tuple(_renumbered(graphs, found, t) for t in range(len(graphs)))


def _places(graph: ChannelGraph) -> list[Place]:
    heads = [group.frozen == HEAD for group in graph.groups]
    return [Place(layer.name, graph.role(layer), layer.group, heads[layer.group]) for layer in graph.layers]


def _renumbered(graphs: Sequence[ChannelGraph], found: Alignment, t: int) -> ChannelGraph:
    graph = graphs[t]
    group_of = {members[t]: g for g, members in enumerate(found.groups) if t in members}
    new_groups = []
    for members in found.groups:
        if t in members:
            own = graph.groups[members[t]]
            lonely = len(members) == 1 and own.frozen is None
            new_groups.append(replace(own, frozen=NO_PARTNER) if lonely else own)
        else:
            u, g = min(members.items())
            new_groups.append(ChannelGroup(absent_name(graphs[u].groups[g].name, u), 0, (), (), NO_PARTNER))
    new_layers, alone = [], set()
    for members in found.layers:
        u, k = min(members.items())
        own_group = found.group_of(u, graphs[u].layers[k].group)
        if t not in members:
            new_layers.append(_absent(absent_name(graphs[u].layers[k].name, u), graphs[u].layers[k], own_group))
            continue
        layer = graph.layers[members[t]]
        places = np.array([group_of.get(int(g), int(g)) for g in layer.column_groups], dtype=np.int64)
        if _raw_inputs_differ(graphs, members):
            places[places == COMMON] = PRIVATE
        new_layers.append(replace(layer, group=own_group, column_groups=places))
        if len(members) == 1:
            alone.add(layer.name)
    offsets = tuple(graph.offsets[members[t]] if t in members else -1 for members in found.groups)
    return replace(
        graph,
        layers=tuple(new_layers),
        groups=tuple(new_groups),
        offsets=offsets,
        alone=frozenset(alone),
        joint=True,
    )


def _raw_inputs_differ(graphs: Sequence[ChannelGraph], members: Members) -> bool:
    counts = {int((graphs[u].layers[k].column_groups == COMMON).sum()) for u, k in members.items()}
    return len(counts) > 1


def _absent(name: str, model: WeightLayer, group: int) -> WeightLayer:
    nothing = np.empty(0, dtype=np.int64)
    return WeightLayer(name, model.kind, (), 0, model.kernel, False, model.setting, group, nothing, nothing, nothing)


def full_shares(graphs: Sequence[ChannelGraph]) -> dict[str, int]:
    """Number of channels, by group name, that are shared if all that can be is."""
    groups = graphs[0].groups
    able = {g: who for g in range(len(groups)) if len(who := participants(graphs, g)) > 1}
    return {groups[g].name: min(graphs[t].groups[g].width for t in who) for g, who in able.items()}


def participants(graphs: Sequence[ChannelGraph], group: int) -> tuple[int, ...]:
    """Tasks that have the channel group and whose channels in it can be shared."""
    return tuple(t for t, graph in enumerate(graphs) if graph.groups[group].frozen is None)
