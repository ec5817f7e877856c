"""Several networks side by side: which layers and channel groups correspond, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mtz_core.structure.alignment import Alignment, Candidate, align
from mtz_core.structure.networks import GroupSummary, LayerSummary, NetworkStructure

NO_PARTNER = "no other network has layers that correspond"


def absent_name(name: str, task: int) -> str:
    """What a layer or group is called that the first network lacks and network `task` has."""
    return f"{name} (network {task})"


@dataclass(frozen=True)
class JointGroup:
    """Channel groups of several networks that correspond: `members` is task → group, `name` that of the first network.

    `sharing` are the tasks whose channels in it can be shared: two or more, or none.
    """

    name: str
    members: Mapping[int, GroupSummary]
    sharing: tuple[int, ...]

    @property
    def widths(self) -> list[int]:
        """Widths of the tasks that share."""
        return [self.members[t].width for t in self.sharing]


@dataclass(frozen=True)
class JointLayer:
    """Layers of two or more networks that correspond (task → layer), and the number of the group that they write."""

    members: Mapping[int, LayerSummary]
    group: int

    @property
    def name(self) -> str:
        """That of the first network's layer."""
        task, layer = min(self.members.items())
        return layer.name if task == 0 else absent_name(layer.name, task)


@dataclass(frozen=True)
class JointStructure:
    """Several networks side by side: what corresponds, numbered as the engine numbers it."""

    networks: tuple[NetworkStructure, ...]
    groups: tuple[JointGroup, ...]
    layers: tuple[JointLayer, ...]
    positions: tuple[tuple[int, ...], ...]
    """Per network, the position of each of its layers in the common order."""
    alignment: Alignment
    """The common order of all layers and groups, task heads and those that one network has alone among them."""

    def own_shares(self, task: int, shared: Mapping[str, int]) -> dict[str, int]:
        """Shared channels by the task's own group names, from those by the joint groups' names."""
        taking = (group for group in self.groups if task in group.sharing)
        return {group.members[task].name: shared.get(group.name, 0) for group in taking}

    def raw(self, layer: JointLayer) -> int:
        """Input columns that are common to all tasks, bias not counted; none if the tasks' raw inputs differ."""
        counts = {_raw(self.networks[t], own) for t, own in layer.members.items()}
        return counts.pop() if len(counts) == 1 else 0

    def reads(self, layer: JointLayer) -> list[tuple[JointGroup, dict[int, float]]]:
        """The joint groups that a layer reads, with columns per channel for each task that shares them."""
        found = []
        for group in self.groups:
            sharing = [t for t in group.sharing if t in layer.members]
            columns = {t: layer.members[t].inputs.get(group.members[t].name, 0) for t in sharing}
            if any(columns.values()):
                found.append((group, {t: per for t, per in columns.items() if per}))
        return found

    def sources(self, layer: JointLayer) -> list[str]:
        """Names of the joint groups of which a layer reads channels that two or more tasks can share."""
        return [group.name for group, per in self.reads(layer) if len(per) > 1]


def joined(networks: Sequence[NetworkStructure]) -> JointStructure:
    """Align networks. Those whose layers carry no roles are aligned by kind and kernel."""
    networks = _all_in_colour(networks)
    known = all(layer.role for network in networks for layer in network.layers)
    candidates = [_candidates(network, known) for network in networks]
    counts = [max([len(n.groups), *(p.group + 1 for p in own)]) for n, own in zip(networks, candidates, strict=True)]
    return side_by_side(networks, align(candidates, counts))


def side_by_side(networks: Sequence[NetworkStructure], found: Alignment) -> JointStructure:
    """Networks of which it is known what corresponds."""
    candidates = [_candidates(network, True) for network in networks]
    numbers = {g: k for k, g in enumerate(g for g in range(len(found.groups)) if _exists(networks, found, g))}
    layers, positions = [], [[-1] * len(network.layers) for network in networks]
    alone: list[set[int]] = [set() for _ in networks]
    for position, members in enumerate(found.layers):
        for t, k in members.items():
            positions[t][k] = position
        u, first = min(members.items())
        if len(members) == 1:
            alone[u].add(first)
        elif not candidates[u][first].head:
            own = {t: networks[t].layers[k] for t, k in members.items()}
            layers.append(JointLayer(own, numbers[found.group_of(u, candidates[u][first].group)]))
    marked = tuple(
        replace(network, layers=tuple(replace(x, alone=x.alone or k in own) for k, x in enumerate(network.layers)))
        for network, own in zip(networks, alone, strict=True)
    )
    groups = tuple(_joint_group(networks, found, g) for g in numbers)
    return JointStructure(marked, groups, tuple(layers), tuple(map(tuple, positions)), found)


def _all_in_colour(networks: Sequence[NetworkStructure]) -> list[NetworkStructure]:
    """Where some networks read grey images and the others colour, let the grey ones read copies of their channel."""
    channels = [_raw(network, network.layers[0]) // math.prod(network.layers[0].kernel) for network in networks]
    wide = {count for count in channels if count > 1}
    grey = 1 in channels and len(wide) == 1 and all(network.layers[0].kernel for network in networks)
    return [_read_copies(n, max(wide)) if grey and c == 1 else n for n, c in zip(networks, channels, strict=True)]


def _read_copies(network: NetworkStructure, copies: int) -> NetworkStructure:
    """The network as if every convolution that reads its one input channel read so many copies of it."""
    first = {group.producers[0] for group in network.groups if group.producers}

    def widened(layer: LayerSummary) -> LayerSummary:
        size = math.prod(layer.kernel)
        reads = layer.kernel and not layer.inputs and layer.name in first and _raw(network, layer) == size
        return replace(layer, columns=layer.columns + (copies - 1) * size) if reads else layer

    return replace(network, layers=tuple(map(widened, network.layers)))


def _candidates(network: NetworkStructure, roles: bool) -> list[Candidate]:
    """A head that no group names is one of its own."""
    writes = {name: g for g, group in enumerate(network.groups) for name in group.producers}
    numbers = {group.name: g for g, group in enumerate(network.groups)}
    candidates = []
    for layer in network.layers:
        own = len(network.groups) if layer.group is None else numbers[layer.group]
        group = writes.get(layer.name, own) if layer.group is None else own
        role = layer.role if roles else (layer.kind, layer.kernel)
        candidates.append(Candidate(layer.name, role, group, layer.group is None))
    return candidates


def _exists(networks: Sequence[NetworkStructure], found: Alignment, group: int) -> bool:
    return all(own < len(networks[t].groups) for t, own in found.groups[group].items())


def _joint_group(networks: Sequence[NetworkStructure], found: Alignment, group: int) -> JointGroup:
    members = {t: networks[t].groups[own] for t, own in found.groups[group].items()}
    u, first = min(members.items())
    sharing = [t for t, own in sorted(members.items()) if own.frozen in (None, NO_PARTNER)]
    name = first.name if u == 0 else absent_name(first.name, u)
    return JointGroup(name, members, tuple(sharing) if len(sharing) > 1 else ())


def _raw(network: NetworkStructure, layer: LayerSummary) -> int:
    """Input columns that no group owns, bias not counted."""
    owned = sum(network.group(name).width * per for name, per in layer.inputs.items())
    return layer.columns - int(layer.bias) - layer.unexplained - round(owned)
