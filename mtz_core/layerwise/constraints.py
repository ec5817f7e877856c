"""Pairs that the user decides: pinned together, forbidden, or kept apart (see `PairRules` in `mtz_core.spec`).

Rules are written by layer and neuron. What they come to is a matter of channels: all layers that write one channel
group share one pairing, so a rule for one of them holds for all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mtz_core.errors import SpecError
from mtz_core.graph.correspondence import CommonGroup, JointGraph
from mtz_core.layerwise.ledger import Fresh
from mtz_core.pairing.slots import Table
from mtz_core.pairing.subsets import Costs
from mtz_core.spec import ZipSpec

KINDS = ("pin", "forbid", "apart")
Slot = dict[int, int]
"""Task → channel."""


@dataclass(frozen=True)
class Rules:
    """Rules for the channels of one group: tasks and channels of each."""

    pin: tuple[Slot, ...] = ()
    forbid: tuple[Slot, ...] = ()
    apart: tuple[Slot, ...] = ()

    def among(self, fresh: Fresh) -> Rules:
        """Those rules that fresh channels alone are concerned by."""
        kept = {
            kind: tuple(s for s in getattr(self, kind) if all(t in fresh and c in fresh[t] for t, c in s.items()))
            for kind in KINDS
        }
        return Rules(**kept)

    def wanted(self, count: int, fresh: Fresh) -> int:
        """How many slots are left to share of `count`: one fewer for each that is kept apart."""
        lost = [sum(t in slot for slot in self.apart) for t in fresh]
        widths = [len(channels) for channels in fresh.values()]
        return max(0, min(count - len(self.apart), *(w - x for w, x in zip(widths, lost, strict=True))))

    def applied(self, costs: Costs, fresh: Fresh) -> Costs:
        """Costs (n_t, n_u) of fresh channels: infinite where a pair is ruled out, nothing where it is pinned."""
        found = {pair: cost.astype(np.float64, copy=True) for pair, cost in costs.items()}
        place = {t: {int(c): k for k, c in enumerate(channels)} for t, channels in fresh.items()}
        for (t, u), cost in found.items():
            for slot in self.forbid:
                if t in slot and u in slot:
                    cost[place[t][slot[t]], place[u][slot[u]]] = np.inf
            for slot in self.apart:
                if t in slot:
                    cost[place[t][slot[t]]] = np.inf
                if u in slot:
                    cost[:, place[u][slot[u]]] = np.inf
            for slot in self.pin:
                if t in slot and u in slot:
                    i, j = place[t][slot[t]], place[u][slot[u]]
                    cost[i], cost[:, j] = np.inf, np.inf
                    cost[i, j] = 0.0
        return found

    def require(self, slots: Table, where: str) -> None:
        """Raise `SpecError` unless every pinned slot is among the chosen ones (S, T)."""
        for slot in self.pin:
            tasks = list(slot)
            if not (slots[:, tasks] == [slot[t] for t in tasks]).all(axis=1).any():
                raise SpecError(
                    f"constraints: {where}: neurons {list(slot.values())} were pinned together but cannot be paired; "
                    "either the layer shares too few neurons, or they belong to blocks (attention heads, groups of "
                    "a convolution) or roles that go with others. Share more, or pin others"
                )


def rules_of(spec: ZipSpec, joint: JointGraph, group: int) -> Rules:
    """The rules for a group's channels."""
    found: dict[str, list[Slot]] = {kind: [] for kind in KINDS}
    for index, kind, neurons in _written(spec, joint):
        layer = joint.layers[index]
        if layer.group == group:
            found[kind].append({t: int(layer.members[t].rows[n]) for t, n in enumerate(neurons) if n is not None})
    return Rules(*(tuple(found[kind]) for kind in KINDS))


def require_possible(spec: ZipSpec, joint: JointGraph, whole: Collection[str] = ()) -> None:
    """Raise `SpecError` for rules about neurons that are not there or cannot be shared, or that contradict another.

    `whole` are groups that are shared fully in any case: those of a trunk.
    """
    for index, kind, neurons in _written(spec, joint):
        layer = joint.layers[index]
        where = f"constraints: {layer.name}: {kind} {[*neurons]}"
        if len(neurons) != joint.tasks:
            raise SpecError(
                f"{where} names {len(neurons)} neurons for {joint.tasks} networks; give one for each, null for none"
            )
        if kind == "apart" and joint.group_of(index).name in whole:
            raise SpecError(f"{where}: the layer is computed once for all tasks; leave the trunk or the rule out")
        for t, neuron in enumerate(neurons):
            if neuron is not None and neuron >= layer.widths[t]:
                raise SpecError(f"{where}: network {t} has neurons 0 to {layer.widths[t] - 1} in that layer")
            if neuron is not None and t not in joint.sharing(index):
                raise SpecError(f"{where}: network {t} shares nothing in that layer; name another layer, or null")
    for group in joint.groups:
        rules = rules_of(spec, joint, group.number)
        _require_consistent(rules, group.name)
        _require_one_role(rules, joint, group)


def _require_consistent(rules: Rules, where: str) -> None:
    seen: dict[tuple[int, int], Slot] = {}
    for slot in (*rules.pin, *rules.apart):
        for t, channel in slot.items():
            if seen.setdefault((t, channel), slot) is not slot:
                raise SpecError(
                    f"constraints: {where}: neuron {channel} of network {t} is pinned or kept apart twice; say one"
                )
    for pinned in rules.pin:
        for t, u in combinations(pinned, 2):
            if any(other.get(t) == pinned[t] and other.get(u) == pinned[u] for other in rules.forbid):
                raise SpecError(f"constraints: {where}: neurons {list(pinned.values())} are pinned and forbidden")


def _require_one_role(rules: Rules, joint: JointGraph, group: CommonGroup) -> None:
    """Channels that are pinned together are written and read by the same layers."""
    for slot in rules.pin:
        for t, u in combinations(slot, 2):
            mine, theirs = joint.roles(group.number, t, u)
            if mine[slot[t]] != theirs[slot[u]]:
                raise SpecError(
                    f"constraints: {group.name}: channels {list(slot.values())} cannot be pinned together: they are "
                    "written or read by other layers; pin channels of one role"
                )


def _written(spec: ZipSpec, joint: JointGraph) -> Iterator[tuple[int, str, Sequence[int | None]]]:
    """Number of the layer, kind and neurons of every rule. Raises `SpecError` for a layer that is not there."""
    numbers = {layer.name: layer.index for layer in joint.layers}
    for name, rules in (spec.constraints or {}).items():
        if name not in numbers or not joint.group_of(numbers[name]).open:
            possible = [layer.name for layer in joint.layers if joint.group_of(layer.index).open]
            raise SpecError(f"constraints: no layer {name!r} can be shared; those that can: {', '.join(possible)}")
        for kind in KINDS:
            for neurons in getattr(rules, kind):
                yield numbers[name], kind, neurons
