"""What a zipped network will store, before it is made: which shares take effect, and how many numbers they save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mtz_core.structure.joint import JointGroup, JointLayer, JointStructure, joined
from mtz_core.structure.networks import NetworkStructure
from mtz_core.structure.savings import NOTHING, Keeping, Reading, stored_once


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


def effective_shares(joint: JointStructure, shared: Mapping[str, int]) -> dict[str, int]:
    """Return the shares that can take effect, by name of the joint group.

    Neurons are compared over the inputs that they have in common. Where a group's first layer reads nothing in common
    but a bias, all pairs are alike. Then sharing has a point only if a later layer reads the group: its weights are
    what is shared (see `unfounded`). Without such a layer the group shares none, whatever was asked.
    """
    return _effective(joint, shared)[0]


def unfounded(joint: JointStructure, shared: Mapping[str, int]) -> list[str]:
    """Groups that share channels although the layer that writes them reads nothing in common: any pairs will do."""
    return _effective(joint, shared)[1]


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
    joint: JointStructure,
    shared: Mapping[str, int],
    keeping: Keeping = NOTHING,
) -> ParameterCounts:
    """Count the parameters of a zip before it is made.

    Args:
        joint: the networks side by side (dense weights are assumed).
        shared: name of a joint group (that of the first network's own group, if it has one) → number of channels
            shared by all tasks that have it. Groups that are not named share none.
        keeping: what every task keeps of its own; in grouped layers at most a bias.

    Returns:
        Exact counts for dense parents: a weight is shared if its row and its column are. Where a layer writes or
        reads a part of a group (a residual stream that widens), the shared channels are taken to be spread evenly,
        which is exact if none or all are shared.
    """
    parents = tuple(network.parameters for network in joint.networks)
    found = layer_counts(joint, shared, keeping)
    private = tuple(parent - sum(layer.saved[t] for layer in found) for t, parent in enumerate(parents))
    return ParameterCounts(sum(layer.shared for layer in found), private, parents)


@dataclass(frozen=True)
class LayerCounts:
    """What one layer stores in common (`shared`), and by how much less each task stores alone for it (`saved`).

    `saved` counts what a task keeps for itself beside what it shares (scales) against it.
    """

    shared: int
    saved: tuple[int, ...]


def layer_counts(
    joint: JointStructure,
    shared: Mapping[str, int],
    keeping: Keeping = NOTHING,
) -> tuple[LayerCounts, ...]:
    """Count what every one of `joint.layers` shares; arguments as those of `plan_counts`, whose terms these are."""
    shared = {**shared, **_effective(joint, shared)[0]}
    found = []
    for layer in joint.layers:
        reading = Reading.of(joint, layer, keeping)
        rows = shared_rows(joint, layer, shared)
        columns = reading.columns(shared)
        common, saved = 0, [0] * len(joint.networks)
        for tasks, count in stored_once({reading.tasks: rows}, columns):
            common += int(count)
            for t in tasks:
                saved[t] += int(count)
        if reading.kept and any(count for tasks, count in columns.items() if len(tasks) > 1):
            for t in reading.tasks[1:]:
                saved[t] -= rows
        for tasks, count in columns.items() if reading.gained and rows else ():
            for t in tasks[1:]:
                saved[t] -= count
        found.append(LayerCounts(common, tuple(saved)))
    return tuple(found)


def plan_range(
    joint: JointStructure,
    shared: Mapping[str, int],
    keeping: Keeping = NOTHING,
) -> tuple[int, int]:
    """Return bounds of the zipped network's size where any subset of the tasks may share a neuron.

    A share of s channels then stands for (T - 1)·s channels saved, in slots of two to T tasks. How many weights that
    saves depends on the slots: let rows of N = Σ n_t channels save A of them, and columns of N' save B of N'. A row
    slot R and a column slot C store one weight if they have a task in common, so at most (N - A)(N' - B) are stored.
    On the other hand C saves |R ∩ C| - 1 at each R, and over all R no more than A, and no more than (|C| - 1)·w if w
    is the second largest width; and likewise for R. With two tasks, and at share 1 of equal widths, the bounds meet.
    """
    shared = {**shared, **_effective(joint, shared)[0]}
    least = most = 0
    for layer in joint.layers:
        reading = Reading.of(joint, layer, keeping)
        if len(reading.tasks) < 2:
            continue
        target, rows = joint.groups[layer.group], shared_rows(joint, layer, shared)
        low, high = _saved(target, rows, reading.tasks, reading.part)
        reads = reading.common or any(shared.get(source, 0) for source in joint.sources(layer))
        constant = reading.constant if reads else reading.common
        bounds = sorted((low * constant, high * constant))
        least, most = least + bounds[0], most + bounds[1]
        gained = reading.gained and rows > 0
        if gained:
            least, most = (bound - (len(reading.tasks) - 1) * reading.common for bound in (least, most))
        for group, per, tasks in reading.groups:
            if len(tasks) < 2:
                continue
            a = _saved(target, rows, tasks, reading.part)
            b = _saved(group, shared.get(group.name, 0), tasks, 1.0)
            low, high = _saved_weights(a, b, group_widths(target, tasks, reading.part), group_widths(group, tasks, 1.0))
            least, most = least + round(low * per), most + round(high * per)
            if gained:
                surely = len(tasks) == 2 or a[0] == (len(tasks) - 1) * min(group_widths(target, tasks, reading.part))
                least, most = least - round(b[1] * per), most - round(b[0] * per if surely else 0)
    total = sum(network.parameters for network in joint.networks)
    return total - most, total - least


def group_widths(group: JointGroup, tasks: Iterable[int], part: float) -> list[int]:
    """Return the widths of the tasks, in a layer that writes this part of the group."""
    return [round(group.members[t].width * part) for t in sorted(tasks)]


def _saved(group: JointGroup, count: int, tasks: Sequence[int], part: float) -> tuple[int, int]:
    """Bounds of the channels saved among some of the tasks that share `count` channels in a group."""
    saved = (len(group.sharing) - 1) * count
    if len(tasks) == len(group.sharing):
        return saved, saved
    others = sum(group_widths(group, set(group.sharing) - set(tasks), part))
    return max(0, saved - others), min(saved, (len(tasks) - 1) * sorted(group_widths(group, tasks, part))[-2])


def _saved_weights(a: tuple[int, int], b: tuple[int, int], n: list[int], m: list[int]) -> tuple[int, int]:
    """Bounds of the weights saved where rows of widths n save a channels and columns of widths m save b."""
    if len(n) == 2:
        return a[0] * b[0], a[1] * b[1]
    low = sum(x * y for x, y in zip(n, m, strict=True)) - (sum(n) - a[0]) * (sum(m) - b[0])
    most_rows, most_columns = min(a[1], sum(n) - a[0]), min(b[1], sum(m) - b[0])
    high = min(a[1] * most_columns, b[1] * most_rows, b[1] * sorted(n)[-2], a[1] * sorted(m)[-2])
    return max(0, low), high


def shared_rows(joint: JointStructure, layer: JointLayer, shared: Mapping[str, int]) -> int:
    """Rows of a layer that its tasks share, from the shared channels of each group."""
    part = Reading.of(joint, layer, NOTHING).part
    return round(shared.get(joint.groups[layer.group].name, 0) * part)


def why_not_zippable(networks: Sequence[NetworkStructure], names: Sequence[str]) -> str | None:
    """Return why networks cannot be zipped together, in words, or `None` if nothing speaks against it.

    Some hidden layers must correspond and read something in common; depths, widths and classes may differ.
    """
    if len(networks) < 2:
        return "Choose at least two networks."
    joint = joined(networks)
    for t in joint.alignment.apart:
        return (
            f"No hidden layer of {names[t]} corresponds to one of {' or '.join(names[:t])}: layers correspond if they "
            "are of one kind, with the same kernel, stride, padding and bias, at the same scale of the image. Choose "
            "networks of one family."
        )
    full = {group.name: min(group.widths) for group in joint.groups if group.sharing}
    if not full:
        reasons = dict.fromkeys(group.frozen for group in networks[0].groups if group.frozen)
        return "None of their layers can be shared: " + "; ".join(map(str, reasons))
    if not any((full | effective_shares(joint, full)).values()):
        return "None of their layers can be shared: those that correspond read nothing in common."
    return None
