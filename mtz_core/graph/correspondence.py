"""Channel graphs of T networks side by side: layer k of one corresponds to layer k of the others.

Which layers correspond is worked out once, from the networks as plain data (see `structure.alignment`). Layers and
channel groups then carry the numbers of the common order in every network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from mtz_core.errors import GraphError
from mtz_core.graph.channels import PRIVATE, ChannelGraph, ChannelGroup, Indices, WeightLayer, channel_roles
from mtz_core.graph.layout import COMMON
from mtz_core.structure.alignment import Alignment, Members
from mtz_core.structure.joint import NO_PARTNER, JointStructure, absent_name, joined


@dataclass(frozen=True)
class CommonLayer:
    """Layers of T networks that correspond: `members[t]` is that of task t, of width 0 where its network has none.

    `index` is their number in the common order, `group` that of the channel group which they write.
    """

    index: int
    name: str
    group: int
    members: tuple[WeightLayer, ...] = field(repr=False)

    @property
    def present(self) -> tuple[int, ...]:
        """Tasks that have the layer."""
        return tuple(t for t, layer in enumerate(self.members) if layer.width)

    @property
    def widths(self) -> list[int]:
        """Neurons in every task."""
        return [layer.width for layer in self.members]

    @property
    def kind(self) -> str:
        """What kind of layer it is, in all tasks."""
        return self.members[0].kind

    @property
    def kernel(self) -> tuple[int, ...]:
        """Size of the kernel, in all tasks; empty where it is no convolution."""
        return self.members[0].kernel

    @property
    def banked(self) -> bool:
        """Whether neurons read the channels of their own bank only: a grouped convolution, depthwise ones included."""
        return any(layer.banks > 1 for layer in self.members)

    @property
    def repeated(self) -> bool:
        """Whether some network calls the layer more than once."""
        return any(len(layer.nodes) > 1 for layer in self.members)


@dataclass(frozen=True)
class CommonGroup:
    """Channel groups of T networks that correspond, number `number` in the common order."""

    number: int
    name: str
    members: tuple[ChannelGroup, ...] = field(repr=False)

    @property
    def widths(self) -> list[int]:
        """Channels in every task; 0 where its network has no such group."""
        return [group.width for group in self.members]

    @property
    def sharing(self) -> tuple[int, ...]:
        """Tasks that have the group and whose channels in it can be shared."""
        return tuple(t for t, group in enumerate(self.members) if group.frozen is None)

    @property
    def narrowest(self) -> int:
        """Channels that all of these tasks have."""
        return min((self.members[t].width for t in self.sharing), default=0)

    @property
    def frozen(self) -> str | None:
        """The first reason why a network that has the group cannot share it; `None` if there is none."""
        return next((g.frozen for g in self.members if g.width and g.frozen is not None), None)

    @property
    def open(self) -> bool:
        """Whether two or more tasks can share its channels."""
        return len(self.sharing) > 1

    def blocks(self, t: int) -> Indices | None:
        """Number of the block of each of task t's channels, if they are divided into blocks."""
        return self.members[t].blocks


@dataclass(frozen=True)
class JointGraph:
    """T networks side by side. `graphs[t]` has layers and groups with the numbers of the common order."""

    graphs: tuple[ChannelGraph, ...]
    layers: tuple[CommonLayer, ...]
    groups: tuple[CommonGroup, ...]
    structure: JointStructure
    """The same as plain data."""
    known_roles: dict[tuple[int, int, int], tuple[Indices, Indices]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def tasks(self) -> int:
        """Number of networks."""
        return len(self.graphs)

    @property
    def first(self) -> ChannelGraph:
        """The network that computes for all what they have in common."""
        return self.graphs[0]

    @cached_property
    def widths(self) -> list[list[int]]:
        """`widths[t][g]`: channels of task t in group g."""
        return [[group.members[t].width for group in self.groups] for t in range(self.tasks)]

    def group_of(self, index: int) -> CommonGroup:
        """The channel group that layer number `index` writes."""
        return self.groups[self.layers[index].group]

    def sharing(self, index: int) -> tuple[int, ...]:
        """Tasks whose neurons in layer number `index` can be shared."""
        layer = self.layers[index]
        return tuple(t for t in self.groups[layer.group].sharing if layer.members[t].width)

    def producers(self, group: int) -> list[int]:
        """Numbers of the layers that write a group."""
        return [layer.index for layer in self.layers if layer.group == group]

    def roles(self, group: int, t: int, u: int) -> tuple[Indices, Indices]:
        """A number for the role of every channel of a group in two tasks: which layers write and read it.

        Equal numbers, equal roles. A layer that comes between in one network only keeps another from reading the group
        there, so only layers that both networks have and that read it in both count.
        """
        if (group, t, u) not in self.known_roles:
            both = {layer.index for layer in self.layers if layer.members[t].width and layer.members[u].width}
            widths = self.groups[group].widths
            parts = [
                _marked(
                    channel_roles(self.graphs[x].layers, group, widths[x], both), self.groups[group].members[x].marks
                )
                for x in (t, u)
            ]
            known = set[int].intersection(*({x for role in per for x in role} for per in parts))
            roles = [[tuple(x for x in role if x in known) for role in per] for per in parts]
            numbers = {role: k for k, role in enumerate(dict.fromkeys([*roles[0], *roles[1]]))}
            mine, theirs = (np.array([numbers[role] for role in each], dtype=np.int64) for each in roles)
            self.known_roles[group, t, u] = (mine, theirs)
        return self.known_roles[group, t, u]

    def full_shares(self) -> dict[str, int]:
        """Number of channels, by group name, that are shared if all that can be is."""
        return {group.name: group.narrowest for group in self.groups if group.open}


def _marked(roles: list[tuple[int, ...]], marks: Indices | None) -> list[tuple[int, ...]]:
    """Roles that tell marked channels apart, too."""
    if marks is None:
        return roles
    return [(*role, -2 - int(mark)) for role, mark in zip(roles, marks, strict=True)]


def correspond(graphs: Sequence[ChannelGraph]) -> JointGraph:
    """Put channel graphs side by side.

    Where a network has no layer that corresponds, a layer of width 0 without nodes stands for it, and likewise for
    groups; a group that only one network has is frozen.

    Raises:
        GraphError: no hidden layer of some network corresponds to one of another.
    """
    structure = joined([graph.structure() for graph in graphs])
    found = structure.alignment
    for t in found.apart:
        lists = [", ".join(f"{layer.name} ({layer.kind})" for layer in graphs[u].layers) for u in (0, t)]
        raise GraphError(
            f"no hidden layer of network {t} corresponds to one of another network: layers correspond if they are of "
            "one kind, with the same kernel, stride, padding and bias, at the same scale of the image.\n"
            f"  network 0: {lists[0]}\n  network {t}: {lists[1]}"
        )
    return side_by_side(tuple(_numbered(graphs, found, t) for t in range(len(graphs))), structure)


def side_by_side(graphs: tuple[ChannelGraph, ...], structure: JointStructure) -> JointGraph:
    """Channel graphs whose layers and groups already carry the numbers of the common order."""
    layers = tuple(
        CommonLayer(index, members[0].name, members[0].group, members)
        for index, members in enumerate(zip(*(graph.layers for graph in graphs), strict=True))
    )
    groups = tuple(
        CommonGroup(number, members[0].name, members)
        for number, members in enumerate(zip(*(graph.groups for graph in graphs), strict=True))
    )
    return JointGraph(graphs, layers, groups, structure)


def _numbered(graphs: Sequence[ChannelGraph], found: Alignment, t: int) -> ChannelGraph:
    """Task t's graph with the numbers of the common order."""
    graph = graphs[t]
    group_of = {members[t]: g for g, members in enumerate(found.groups) if t in members}
    groups = []
    for members in found.groups:
        if t in members:
            own = graph.groups[members[t]]
            lonely = len(members) == 1 and own.frozen is None
            groups.append(replace(own, frozen=NO_PARTNER) if lonely else own)
        else:
            u, g = min(members.items())
            groups.append(ChannelGroup(absent_name(graphs[u].groups[g].name, u), 0, (), (), NO_PARTNER))
    layers = []
    for members in found.layers:
        u, k = min(members.items())
        own_group = found.group_of(u, graphs[u].layers[k].group)
        if t not in members:
            layers.append(_absent(absent_name(graphs[u].layers[k].name, u), graphs[u].layers[k], own_group))
            continue
        layer = graph.layers[members[t]]
        read = np.array([group_of.get(int(g), int(g)) for g in layer.column_groups], dtype=np.int64)
        if _raw_inputs_differ(graphs, members):
            read[read == COMMON] = PRIVATE
        layers.append(replace(layer, group=own_group, column_groups=read))
    offsets = tuple(graph.offsets[members[t]] if t in members else -1 for members in found.groups)
    return replace(graph, layers=tuple(layers), groups=tuple(groups), offsets=offsets)


def _raw_inputs_differ(graphs: Sequence[ChannelGraph], members: Members) -> bool:
    counts = {int((graphs[u].layers[k].column_groups == COMMON).sum()) for u, k in members.items()}
    return len(counts) > 1


def _absent(name: str, model: WeightLayer, group: int) -> WeightLayer:
    nothing: Any = np.empty(0, dtype=np.int64)
    return WeightLayer(name, model.kind, (), 0, model.kernel, False, model.setting, group, nothing, nothing, nothing)
