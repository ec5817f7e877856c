"""Which channels of every group are decided, paired or left private, and how many of the others are to be shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mtz_core.graph.channels import Indices
from mtz_core.graph.correspondence import JointGraph
from mtz_core.pairing.slots import Table, complete, shared_rows

Fresh = dict[int, Indices]
"""Task → channels of a group that are to be paired."""


@dataclass(frozen=True)
class Ledger:
    """What is decided: task t's channels `decided[g][t]` of group g. `shares` are channels per group name."""

    joint: JointGraph
    shares: Mapping[str, int]
    decided: dict[int, list[set[int]]] = field(default_factory=dict)

    def hidden(self) -> list[int]:
        """Layers that are zipped, in order."""
        joint = self.joint
        named = [layer.index for layer in joint.layers if joint.group_of(layer.index).name in self.shares]
        return [index for index in named if len(joint.sharing(index)) > 1]

    def fresh(self, index: int) -> Fresh:
        """Channels that layer number `index` writes and that are not decided yet."""
        layer = self.joint.layers[index]
        known = self.decided.setdefault(layer.group, [set() for _ in layer.members])
        found = {}
        for t in self.joint.sharing(index):
            channels = np.unique(layer.members[t].rows)
            found[t] = channels[[int(c) not in known[t] for c in channels]]
        return found

    def wanted(self, index: int, fresh: Fresh) -> int:
        """How many slots of all tasks the share asks for among the fresh channels.

        A layer that widens a residual stream decides its own portion of the stream's share.
        """
        group = self.joint.group_of(index)
        widths = [len(channels) for channels in fresh.values()]
        narrowest = min(group.widths[t] for t in fresh)
        return min(round(self.shares[group.name] * min(widths) / max(1, narrowest)), *widths)

    def mark(self, index: int, fresh: Fresh) -> None:
        """The fresh channels of layer number `index` are decided."""
        group = self.joint.layers[index].group
        for t, channels in fresh.items():
            self.decided[group][t].update(int(c) for c in channels)

    def data(self) -> dict[str, list[list[int]]]:
        """All decided channels, as JSON-able data."""
        return {str(g): [sorted(channels) for channels in per_task] for g, per_task in self.decided.items()}

    def take_over(self, data: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Go on from what `data()` wrote."""
        self.decided.clear()
        self.decided.update({int(g): [set(channels) for channels in per_task] for g, per_task in data.items()})


def with_slots(joint: JointGraph, tables: Sequence[Table], index: int, slots: Table) -> list[Table]:
    """The tables of all groups once layer number `index` shares the channels `slots` (k, T), too."""
    group = joint.group_of(index)
    changed = list(tables)
    changed[group.number] = complete(np.concatenate([shared_rows(tables[group.number]), slots]), group.widths)
    return changed
