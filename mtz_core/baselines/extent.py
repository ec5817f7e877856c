"""How far networks are merged: layers up to one, in order of execution, and every task goes on alone behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtz_core.baselines.lockstep import Lockstep
from mtz_core.errors import SpecError
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.correspondence import JointGraph
from mtz_core.structure.networks import HEAD


@dataclass(frozen=True)
class Extent:
    """`layers` are merged, by number; calls of weight layers from number `cut` on are each task's own."""

    layers: frozenset[int]
    cut: int

    def groups(self, joint: JointGraph) -> list[int]:
        """Channel groups that merged layers write and no network keeps to itself."""
        written = {joint.layers[index].group for index in self.layers}
        return [group.number for group in joint.groups if len(group.sharing) == joint.tasks and group.number in written]


def extent(joint: JointGraph, lockstep: Lockstep, until: str | None) -> Extent:
    """Merge everything, or the layers up to the one that the first network calls `until`.

    Raises `SpecError` if it has no such hidden layer, or if a layer is called on both sides of it.
    """
    order = lockstep.order
    if until is None:
        return Extent(frozenset(order), len(order))
    last = {index: call for call, index in enumerate(order)}
    first = [layer.members[0].name for layer in joint.layers]
    names = {first[i]: i for i in sorted(last, key=lambda i: last[i]) if _hidden(joint, i)}
    if until not in names:
        raise SpecError(f"until is {until!r}, which is no hidden layer; choose from {', '.join(names)}")
    cut = last[names[until]] + 1
    both = set(order[:cut]) & set(order[cut:])
    if both:
        listed = ", ".join(first[index] for index in sorted(both))
        raise SpecError(f"until is {until!r}, but {listed} is called before and behind it; choose another layer")
    return Extent(frozenset(order[:cut]), cut)


def untouched(graphs: Sequence[ChannelGraph], order: Sequence[int], cut: int) -> set[int]:
    """Layers behind a cut that read what merged layers have written, before another layer adds to it."""
    behind, touched = set[int](), set[int]()
    for index in order[cut:]:
        layers = [graph.layers[index] for graph in graphs]
        if any(behind & set(layer.column_groups.tolist()) for layer in layers):
            touched.add(index)
        behind |= {layer.group for layer in layers}
    return set(order[cut:]) - touched


def _hidden(joint: JointGraph, index: int) -> bool:
    return joint.groups[joint.layers[index].group].frozen != HEAD
