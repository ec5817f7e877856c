"""A network's layers as plain data: enough to draw it and to count a zipped network's parameters without torch.

A layer reads *input columns*: `inputs` names, for every channel group that it reads, how many of its columns each
channel of that group owns (kernel positions times flattened positions). Columns owned by no group (the raw input,
the bias) are common to all tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


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
    unexplained: int = 0
    """Columns that read values which no rule explains: they are never shared."""
    alone: bool = False
    """Whether no other of the networks has a layer that corresponds: its weights are never shared."""


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


def effective_shares(structures: Sequence[NetworkStructure], shared: Mapping[str, int]) -> dict[str, int]:
    """Return the shares that can take effect, by group name.

    Neurons are compared over the inputs that they have in common. A group whose first layer reads nothing in common
    but a bias cannot be paired by what its neurons do, so it shares none, whatever was asked.
    """
    first = structures[0]
    effective: dict[str, int] = {}
    for layer in first.layers:
        if layer.group is None or layer.alone or layer.group in effective:
            continue
        owned = sum(first.group(name).width * per for name, per in layer.inputs.items())
        raw = layer.columns - int(layer.bias) - layer.unexplained - round(owned)
        reads = sum(effective.get(name, 0) * per for name, per in layer.inputs.items())
        effective[layer.group] = shared.get(layer.group, 0) if raw > 0 or reads > 0 else 0
    return effective


def plan_counts(
    structures: Sequence[NetworkStructure], shared: Mapping[str, int], own_bias: bool = False
) -> ParameterCounts:
    """Count the parameters of a zip before it is made.

    Args:
        structures: one per task, corresponding layer by layer (dense weights are assumed).
        shared: group name of the first structure → number of channels shared by all tasks. Groups that are not
            named share none.
        own_bias: whether shared neurons have a bias for each task.

    Returns:
        Exact counts for dense parents: a weight is shared if its row and its column are. Where a layer writes or
        reads a part of a group (a residual stream that widens), the shared channels are taken to be spread evenly,
        which is exact if none or all are shared.
    """
    first = structures[0]
    shared = effective_shares(structures, shared)
    common = 0
    for layer in first.layers:
        if layer.group is None or layer.alone:
            continue
        rows = round(shared.get(layer.group, 0) * layer.width / first.group(layer.group).width)
        private = sum((first.group(name).width - shared.get(name, 0)) * per for name, per in layer.inputs.items())
        apart = layer.unexplained + round(private) + int(own_bias and layer.bias)
        common += rows * (layer.columns - apart)
    parents = tuple(structure.parameters for structure in structures)
    return ParameterCounts(common, tuple(size - common for size in parents), parents)
