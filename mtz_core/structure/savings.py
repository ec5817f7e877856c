"""What sharing saves: the one rule, from which all counts of planned and of found slots follow.

A weight is stored once for the tasks that share both its row and its column. So where rows are shared by a set R of
tasks and columns by a set C, each of their weights is stored once for R ∩ C, and |R ∩ C| - 1 numbers are saved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mtz_core.structure.joint import JointGroup, JointLayer, JointStructure

if TYPE_CHECKING:
    from mtz_core.structure.trunks import Trunk

Sharing = Mapping[tuple[int, ...], float]
"""Tasks → how many rows (or columns) exactly these share."""


def stored_once(rows: Sharing, columns: Sharing) -> Iterator[tuple[tuple[int, ...], float]]:
    """Tasks that store numbers in common, and how many.

    >>> dict(stored_once({(0, 1): 3, (0, 1, 2): 1}, {(1, 2): 2}))
    {(1, 2): 2}
    """
    for r, n in rows.items():
        for c, m in columns.items():
            both = tuple(sorted(set(r) & set(c)))
            if len(both) > 1:
                yield both, n * m


def saved(rows: Sharing, columns: Sharing | None = None) -> float:
    """Numbers that are saved; `columns` may be left out: one column that all tasks have in common.

    >>> saved({(0, 1): 3, (0, 1, 2): 1}, {(1, 2): 2, (0, 1, 2): 5})
    27
    """
    if columns is None:
        return sum(n * (len(tasks) - 1) for tasks, n in rows.items())
    return sum(n * (len(tasks) - 1) for tasks, n in stored_once(rows, columns))


@dataclass(frozen=True)
class Keeping:
    """What every task keeps of its own beside what it shares.

    Its own `bias` of shared neurons, and if it isn't the first of those that share them, a `scale` of each and of each
    of their `inputs`. Layers are named as in the first network.
    """

    bias: bool = False
    scale: bool = False
    inputs: bool = False
    common: Collection[str] = ()
    """Layers in which nothing is kept."""
    once: Collection[str] = ()
    """Layers that are computed once for all tasks, so that inputs have no scales."""

    @classmethod
    def all(cls, trunk: Trunk | None = None, kept: bool = True) -> Keeping:
        """All of it, if anything is `kept`."""
        return cls(kept, kept, kept).beside(trunk)

    def beside(self, trunk: Trunk | None) -> Keeping:
        """The same of networks that have a trunk."""
        return replace(self, common=trunk.common, once=trunk.layers) if trunk else self


NOTHING = Keeping()


@dataclass(frozen=True)
class Reading:
    """What a layer of several networks reads, as far as it can be shared.

    `tasks` share its rows, which are the `part` of the channels of their group. `common` columns are shared wherever
    the rows are (raw inputs, and the bias unless each task keeps its own). `kept` numbers are stored for every further
    task and shared row (a scale), and if `gained` one for every further task and column that it shares. `groups` are
    the channel groups that it reads: columns per channel, and who shares them.
    """

    tasks: tuple[int, ...]
    part: float
    common: int
    kept: int
    gained: bool
    groups: tuple[tuple[JointGroup, float, tuple[int, ...]], ...]

    @classmethod
    def of(cls, joint: JointStructure, layer: JointLayer, keeping: Keeping) -> Reading:
        """Of one layer of the networks side by side."""
        members, target = layer.members, joint.groups[layer.group]
        task, first = min(members.items())
        tasks = tuple(t for t in target.sharing if t in members)
        name = members[0].name if 0 in members else None
        own, whole = name not in keeping.common, all(each.groups == 1 for each in members.values())
        biased = all(each.bias for each in members.values()) and not (own and keeping.bias)
        groups = []
        for group, per in joint.reads(layer):
            groups.append((group, min(per.values()), tuple(t for t in tasks if t in per)))
        return cls(
            tasks,
            first.width / target.members[task].width,
            joint.raw(layer) + int(biased),
            int(own and keeping.scale and whole),
            keeping.inputs and whole and name not in keeping.once,
            tuple(groups),
        )

    @property
    def constant(self) -> int:
        """Numbers saved per shared row and further task, whatever groups are shared."""
        return self.common - self.kept

    def columns(self, shared: Mapping[str, int]) -> dict[tuple[int, ...], int]:
        """How many columns each set of tasks shares if groups share so many channels of all their tasks."""
        found: dict[tuple[int, ...], float] = {self.tasks: self.common}
        for group, per, tasks in self.groups:
            found[tasks] = found.get(tasks, 0) + shared.get(group.name, 0) * per
        return {tasks: round(count) for tasks, count in found.items()}
