"""A network's layers as plain data: enough to draw it and to count a zipped network's parameters without torch.

A layer reads *input columns*: `inputs` names, for every channel group that it reads, how many of its columns each
channel of that group owns (kernel positions times flattened positions). Columns owned by no group (the raw input,
the bias) are common to all tasks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mtz_core.alignment import Alignment, Place, align

HEAD = "task head"
NO_PARTNER = "no other network has layers that correspond"
RECURRENT = ("lstm", "gru")
"""Kinds of layers whose outputs are not sums of products."""


@dataclass(frozen=True)
class LayerSummary:
    """One weight layer: `width` neurons (channels) with `columns` incoming weights each, bias included."""

    name: str
    kind: str
    width: int
    columns: int
    group: str | None
    """Channel group that the neurons belong to; `None` for a task head."""
    inputs: Mapping[str, float] = field(default_factory=dict)
    """Group name → columns per channel of that group; a fraction where the layer reads a part of its channels."""
    kernel: tuple[int, ...] = ()
    nonzero: int | None = None
    """Stored numbers of a pruned layer; `None` for a dense one."""
    bias: bool = True
    """Whether the last column is a bias."""
    groups: int = 1
    """Groups of a convolution."""
    unexplained: int = 0
    """Columns that read values which no rule explains: they are never shared."""
    alone: bool = False
    """Whether no other of the networks has a layer that corresponds: its weights are never shared."""
    role: str = ""
    """Equal for layers of two networks that may correspond (see `alignment`)."""
    positions: int = 1
    """Output positions per image at which the neurons' weights are multiplied with inputs."""
    recipe: str = ""
    """How the layer's input follows from the network's: equal for layers of two networks whose earlier layers are equal
    if all between has no parameters of its own and is equal, too. Empty: that is not so, or it is not known."""

    @property
    def multiplications(self) -> int:
        """Products of a weight and an input that one image takes."""
        return self.width * (self.columns - int(self.bias)) * self.positions


@dataclass(frozen=True)
class GroupSummary:
    """Channels that must be paired together: `width` channels written by `producers`."""

    name: str
    width: int
    producers: tuple[str, ...]
    frozen: str | None = None
    """Why the group cannot be shared; `None` if it can."""


@dataclass(frozen=True)
class NetworkStructure:
    """Layers in order of execution, their channel groups, and parameters outside weight layers."""

    layers: tuple[LayerSummary, ...]
    groups: tuple[GroupSummary, ...]
    other_parameters: int = 0

    @property
    def parameters(self) -> int:
        """Number of stored numbers (normalisation folded into the weight layers)."""
        return sum(layer.width * layer.columns for layer in self.layers) + self.other_parameters

    @property
    def multiplications(self) -> int:
        """Products of a weight and an input that one image takes."""
        return sum(layer.multiplications for layer in self.layers)

    def group(self, name: str) -> GroupSummary:
        """Return the group called `name`."""
        return next(group for group in self.groups if group.name == name)


@dataclass(frozen=True)
class ParameterCounts:
    """Sizes in stored numbers. `private[t]` belongs to task t alone; `parents[t]` is parent t's own size."""

    shared: int
    private: tuple[int, ...]
    parents: tuple[int, ...]

    @property
    def total(self) -> int:
        """Size of the zipped network."""
        return self.shared + sum(self.private)

    @property
    def versus_all(self) -> float:
        """Total relative to all parents together (1 = nothing saved)."""
        return self.total / max(1, sum(self.parents))

    @property
    def versus_smallest(self) -> float:
        """Total relative to the smallest parent (1 = as small as one network)."""
        return self.total / max(1, min(self.parents))


def shared_count(share: float | int, widths: Sequence[int]) -> int:
    """Return how many neurons a share asks for: a float is a ratio of the narrowest width, an int a count."""
    narrowest = min(widths)
    count = round(share * narrowest) if isinstance(share, float) else int(share)
    return max(0, min(narrowest, count))


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

    def inside(self, trunk: Collection[str]) -> bool:
        """Whether the layer belongs to a trunk, given by the first network's names."""
        return 0 in self.members and self.members[0].name in trunk


@dataclass(frozen=True)
class JointStructure:
    """Several networks side by side: what corresponds, numbered as the engine numbers it."""

    networks: tuple[NetworkStructure, ...]
    groups: tuple[JointGroup, ...]
    layers: tuple[JointLayer, ...]
    positions: tuple[tuple[int, ...], ...]
    """Per network, the place of each of its layers in the common order."""
    apart: tuple[int, ...]
    """Networks of which no hidden layer corresponds to one of those before."""

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
    places = [_places(network, known) for network in networks]
    counts = [max([len(n.groups), *(p.group + 1 for p in own)]) for n, own in zip(networks, places, strict=True)]
    found = align(places, counts)
    numbers = {g: k for k, g in enumerate(g for g in range(len(found.groups)) if _exists(networks, found, g))}
    layers, positions = [], [[-1] * len(network.layers) for network in networks]
    alone: list[set[int]] = [set() for _ in networks]
    for place, members in enumerate(found.layers):
        for t, k in members.items():
            positions[t][k] = place
        u, first = min(members.items())
        if len(members) == 1:
            alone[u].add(first)
        elif not places[u][first].head:
            own = {t: networks[t].layers[k] for t, k in members.items()}
            layers.append(JointLayer(own, numbers[found.group_of(u, places[u][first].group)]))
    marked = tuple(
        replace(network, layers=tuple(replace(x, alone=x.alone or k in own) for k, x in enumerate(network.layers)))
        for network, own in zip(networks, alone, strict=True)
    )
    groups = tuple(_joint_group(networks, found, g) for g in numbers)
    return JointStructure(marked, groups, tuple(layers), tuple(map(tuple, positions)), found.apart)


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


def _places(network: NetworkStructure, roles: bool) -> list[Place]:
    """A head that no group names is one of its own."""
    writes = {name: g for g, group in enumerate(network.groups) for name in group.producers}
    numbers = {group.name: g for g, group in enumerate(network.groups)}
    places = []
    for layer in network.layers:
        own = len(network.groups) if layer.group is None else numbers[layer.group]
        group = writes.get(layer.name, own) if layer.group is None else own
        role = layer.role if roles else (layer.kind, layer.kernel)
        places.append(Place(layer.name, role, group, layer.group is None))
    return places


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


def effective_shares(networks: Sequence[NetworkStructure], shared: Mapping[str, int]) -> dict[str, int]:
    """Return the shares that can take effect, by name of the joint group.

    Neurons are compared over the inputs that they have in common. Where a group's first layer reads nothing in common
    but a bias, all pairs are alike. Then sharing has a point only if a later layer reads the group: its weights are
    what is shared (see `unfounded`). Without such a layer the group shares none, whatever was asked.
    """
    return _effective(joined(networks), shared)[0]


def unfounded(networks: Sequence[NetworkStructure], shared: Mapping[str, int]) -> list[str]:
    """Groups that share channels although the layer that writes them reads nothing in common: any pairs will do."""
    return _effective(joined(networks), shared)[1]


def _effective(joint: JointStructure, shared: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    effective: dict[str, int] = {}
    alike: list[str] = []
    wanted = {source for layer in joint.layers if _asked(joint, layer, shared) for source in joint.sources(layer)}
    for layer in joint.layers:
        name = joint.groups[layer.group].name
        if name in effective:
            continue
        founded = joint.raw(layer) > 0 or any(effective.get(source, 0) for source in joint.sources(layer))
        effective[name] = shared.get(name, 0) if founded or name in wanted else 0
        if effective[name] and not founded:
            alike.append(name)
    return effective, alike


def _asked(joint: JointStructure, layer: JointLayer, shared: Mapping[str, int]) -> int:
    return shared.get(joint.groups[layer.group].name, 0)


def plan_counts(
    networks: Sequence[NetworkStructure],
    shared: Mapping[str, int],
    own_bias: bool = False,
    own_scale: bool = False,
    trunk: Collection[str] = (),
) -> ParameterCounts:
    """Count the parameters of a zip before it is made.

    Args:
        networks: one per task (dense weights are assumed).
        shared: name of a joint group (that of the first network's own group, if it has one) → number of channels
            shared by all tasks that have it. Groups that are not named share none.
        own_bias: whether shared neurons have a bias for each task.
        own_scale: whether shared neurons of layers that aren't grouped have a scale for each task but the first.
        trunk: layers whose neurons have neither (the first network's names).

    Returns:
        Exact counts for dense parents: a weight is shared if its row and its column are. Where a layer writes or
        reads a part of a group (a residual stream that widens), the shared channels are taken to be spread evenly,
        which is exact if none or all are shared.
    """
    joint = joined(networks)
    shared = {**shared, **_effective(joint, shared)[0]}
    common, parents = 0, tuple(network.parameters for network in joint.networks)
    private = list(parents)
    for layer in joint.layers:
        rows, writing = _rows(joint, layer, shared)
        own = not layer.inside(trunk)
        columns: dict[frozenset[int], float] = {
            writing: joint.raw(layer) + int(not (own and own_bias) and _biased(layer))
        }
        for group, per in joint.reads(layer):
            tasks = writing & frozenset(per)
            columns[tasks] = columns.get(tasks, 0) + shared.get(group.name, 0) * min(per.values())
        for tasks, count in columns.items():
            if len(tasks) > 1:
                common += rows * round(count)
                for t in tasks:
                    private[t] -= rows * round(count)
        scaled = own and own_scale and _ungrouped(layer) and any(n for tasks, n in columns.items() if len(tasks) > 1)
        for t in sorted(writing)[1:] if scaled else ():
            private[t] += rows
    return ParameterCounts(common, tuple(private), parents)


def plan_range(
    networks: Sequence[NetworkStructure],
    shared: Mapping[str, int],
    own_bias: bool = False,
    own_scale: bool = False,
    trunk: Collection[str] = (),
) -> tuple[int, int]:
    """Return bounds of the zipped network's size where any subset of the tasks may share a neuron.

    A share of s channels then stands for (T - 1)·s channels saved, in slots of two to T tasks. How many weights that
    saves depends on the slots: let rows of N = Σ n_t channels save A of them, and columns of N' save B of N'. A row
    slot R and a column slot C store one weight if they have a task in common, so at most (N - A)(N' - B) are stored.
    On the other hand C saves |R ∩ C| - 1 at each R, and over all R no more than A, and no more than (|C| - 1)·w if w
    is the second largest width; and likewise for R. With two tasks, and at share 1 of equal widths, the bounds meet.
    """
    joint = joined(networks)
    shared = {**shared, **_effective(joint, shared)[0]}
    least = most = 0
    for layer in joint.layers:
        rows, writing = _rows(joint, layer, shared)
        target = joint.groups[layer.group]
        part = next(own.width / target.members[t].width for t, own in sorted(layer.members.items()))
        if len(writing) < 2:
            continue
        low, high = _saved(target, rows, writing, part)
        own = not layer.inside(trunk)
        common = joint.raw(layer) + int(not (own and own_bias) and _biased(layer))
        reads = common or any(shared.get(source, 0) for source in joint.sources(layer))
        common -= int(bool(reads) and own and own_scale and _ungrouped(layer))
        bounds = sorted((low * common, high * common))
        least, most = least + bounds[0], most + bounds[1]
        for group, per in joint.reads(layer):
            tasks = writing & frozenset(per)
            if len(tasks) < 2:
                continue
            a, b = _saved(target, rows, tasks, part), _saved(group, shared.get(group.name, 0), tasks, 1.0)
            n, m = _widths(target, tasks, part), _widths(group, tasks, 1.0)
            low, high = _saved_weights(a, b, n, m)
            least, most = least + round(low * min(per.values())), most + round(high * min(per.values()))
    total = sum(network.parameters for network in joint.networks)
    return total - most, total - least


def _widths(group: JointGroup, tasks: Iterable[int], part: float) -> list[int]:
    """Widths of the tasks, of a layer that writes this part of the group."""
    return [round(group.members[t].width * part) for t in sorted(tasks)]


def _saved(group: JointGroup, count: int, tasks: frozenset[int], part: float) -> tuple[int, int]:
    """Bounds of the channels saved among some of the tasks that share `count` channels in a group."""
    saved = (len(group.sharing) - 1) * count
    if len(tasks) == len(group.sharing):
        return saved, saved
    others = sum(_widths(group, set(group.sharing) - tasks, part))
    return max(0, saved - others), min(saved, (len(tasks) - 1) * sorted(_widths(group, tasks, part))[-2])


def _saved_weights(a: tuple[int, int], b: tuple[int, int], n: list[int], m: list[int]) -> tuple[int, int]:
    """Bounds of the weights saved where rows of widths n save a channels and columns of widths m save b."""
    if len(n) == 2:
        return a[0] * b[0], a[1] * b[1]
    low = sum(x * y for x, y in zip(n, m, strict=True)) - (sum(n) - a[0]) * (sum(m) - b[0])
    most_rows, most_columns = min(a[1], sum(n) - a[0]), min(b[1], sum(m) - b[0])
    high = min(a[1] * most_columns, b[1] * most_rows, b[1] * sorted(n)[-2], a[1] * sorted(m)[-2])
    return max(0, low), high


def _rows(joint: JointStructure, layer: JointLayer, shared: Mapping[str, int]) -> tuple[int, frozenset[int]]:
    """Rows of a layer that its tasks share, and which tasks do."""
    group = joint.groups[layer.group]
    u, first = min(layer.members.items())
    return round(shared.get(group.name, 0) * first.width / group.members[u].width), frozenset(
        t for t in group.sharing if t in layer.members
    )


def _biased(layer: JointLayer) -> bool:
    return all(own.bias for own in layer.members.values())


def _ungrouped(layer: JointLayer) -> bool:
    return all(own.groups == 1 for own in layer.members.values())
