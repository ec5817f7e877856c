"""From the costs of a layer's channels to slots: which channels of which tasks become one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtz_core.graph.channels import first_rows
from mtz_core.graph.correspondence import JointGraph
from mtz_core.layerwise.allowed import allowed
from mtz_core.layerwise.constraints import rules_of
from mtz_core.layerwise.ledger import Fresh
from mtz_core.layerwise.problem import LayerProblem
from mtz_core.methods.kinds import PAIRING
from mtz_core.pairing.blocks import pair_two
from mtz_core.pairing.slots import Members, Table
from mtz_core.pairing.subsets import Costs, pair_subsets
from mtz_core.spec import ZipSpec


def choose_slots(
    joint: JointGraph,
    spec: ZipSpec,
    index: int,
    wanted: int,
    costs: Costs,
    fresh: Fresh,
    problem: LayerProblem,
    tables: Sequence[Table],
    alone: bool = True,
) -> Table:
    """Choose slots among the fresh channels of layer `index`, as channels of its group (S, T).

    Args:
        joint: the networks side by side.
        spec: how neurons are paired and shared.
        index: number of the layer.
        wanted: how many slots of all tasks; where subsets of them may share, slots that save as many channels.
        costs: of every pair of fresh channels of two tasks.
        fresh: channels of every task that are to be paired.
        problem: the layer's, for what else it knows of them.
        tables: slot tables of all groups, for blocks that are paired already.
        alone: whether only this layer decides, so that slots of all tasks can be compared by their exact cost.
    """
    tasks = tuple(fresh)
    rules = rules_of(spec, joint, joint.layers[index].group).among(fresh)
    wanted = rules.wanted(wanted, fresh)
    if wanted == 0:
        rules.require(np.empty((0, joint.tasks), dtype=np.int64), joint.layers[index].name)
        return np.full((0, joint.tasks), -1, dtype=np.int64)
    method, random = spec.pairing, PAIRING.find(spec.pairing).random
    permitted = allowed(joint, joint.group_of(index), rules.applied(costs, fresh), fresh, tables)
    free = all(bool(np.isfinite(cost).all()) for cost in permitted.values())
    if random and not free:  # the best pairs by costs that are drawn, within what is allowed
        chance, method, random = np.random.default_rng(spec.seed), "optimal", False
        permitted = {p: np.where(np.isfinite(c), chance.random(c.shape), np.inf) for p, c in permitted.items()}
    if len(tasks) == 2:
        local = pair_two(permitted[tasks[0], tasks[1]], wanted, method, spec.seed)
    else:
        exact = None
        if free and (random or (alone and spec.sharing == "all")):
            rows = {t: first_rows(joint.layers[index].members[t], fresh[t]) for t in tasks}
            exact = problem.exact_slots(rows, wanted, method, spec.seed)
        local = _slots_of_several(spec, method, wanted, permitted, fresh, problem) if exact is None else exact
    local = _permitted(local, tasks, permitted)
    slots = np.full((len(local), joint.tasks), -1, dtype=np.int64)
    for k, t in enumerate(tasks):
        held = local[:, k] >= 0
        slots[held, t] = fresh[t][local[held, k]]
    rules.require(slots, joint.layers[index].name)
    return slots


def _slots_of_several(
    spec: ZipSpec, method: str, wanted: int, costs: Costs, fresh: Fresh, problem: LayerProblem
) -> Table:
    """Slots of three or more tasks, by indices among their fresh channels."""
    tasks = tuple(fresh)
    widths = [len(fresh[t]) for t in tasks]
    if PAIRING.find(method).random:
        chance = np.random.default_rng(spec.seed)
        return np.stack([chance.permutation(width)[:wanted] for width in widths], axis=1)
    numbered = {(tasks.index(t), tasks.index(u)): cost for (t, u), cost in costs.items()}
    weights = [problem.alphas[t] for t in tasks]
    savings = wanted * (len(tasks) - 1)
    return pair_subsets(numbered, widths, weights, savings, spec.sharing == "all", problem.worth(tasks), method)


def _permitted(slots: Table, tasks: Members, costs: Costs) -> Table:
    """The slots (S, tasks) without those that hold a pair which is not allowed: its cost is infinite."""
    kept = np.ones(len(slots), dtype=bool)
    for (t, u), cost in costs.items():
        pair = slots[:, [tasks.index(t), tasks.index(u)]]
        both = np.flatnonzero((pair >= 0).all(axis=1))
        kept[both] &= np.isfinite(cost[pair[both, 0], pair[both, 1]])
    return slots[kept]
