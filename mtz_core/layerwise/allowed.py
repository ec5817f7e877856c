"""Which pairs of channels may become one: those of one role, and of blocks that belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mtz_core.graph.channels import Indices
from mtz_core.graph.correspondence import CommonGroup, JointGraph
from mtz_core.layerwise.ledger import Fresh
from mtz_core.pairing.blocks import block_partners, within_blocks
from mtz_core.pairing.slots import Table
from mtz_core.pairing.subsets import Costs

Blocks = dict[int, int]
"""Block of one task → the block of another task that it belongs to."""


def allowed(joint: JointGraph, group: CommonGroup, costs: Costs, fresh: Fresh, tables: Sequence[Table]) -> Costs:
    """The costs, infinite where roles, blocks of grouped convolutions or attention heads do not allow a pair.

    Blocks are paired between the first task and each other one; that decides which of the others' belong together.
    """
    found: dict[tuple[int, int], NDArray[np.floating]] = {}
    partners: dict[tuple[int, int], Blocks] = {}
    first = next(iter(fresh))
    for (t, u), cost in costs.items():
        cost = _of_one_role(joint, group, (t, u), cost, fresh)
        blocks_t, blocks_u = group.blocks(t), group.blocks(u)
        if blocks_t is None or blocks_u is None:
            found[t, u], partners[t, u] = cost, {}
            continue
        settled = _paired_blocks(joint, t, u, tables)
        if t != first:
            mine, theirs = partners[first, t], partners[first, u]
            settled = {a: theirs[block] for block, a in mine.items() if block in theirs} | settled
        partners[t, u] = _partners(cost, blocks_t[fresh[t]], blocks_u[fresh[u]], settled)
        found[t, u] = within_blocks(cost, blocks_t[fresh[t]], blocks_u[fresh[u]], partners[t, u])
    return found


def _partners(cost: NDArray[np.floating], mine: Indices, theirs: Indices, settled: Mapping[int, int]) -> Blocks:
    """Partner of every block of `mine`, the blocks of the rows of `cost`; some are settled."""
    partner = {a: b for a, b in settled.items() if a in mine}
    rows, columns = ~np.isin(mine, list(partner)), ~np.isin(theirs, list(partner.values()))
    if rows.any() and columns.any():
        partner |= block_partners(cost[np.ix_(rows, columns)], mine[rows], theirs[columns])
    return partner


def _of_one_role(
    joint: JointGraph, group: CommonGroup, pair: tuple[int, int], cost: NDArray[np.floating], fresh: Fresh
) -> NDArray[np.floating]:
    """Forbid pairs of channels that other layers read or write: sharing them would share no weight there."""
    roles = joint.roles(group.number, *pair)
    mine, theirs = (role[fresh[t]] for role, t in zip(roles, pair, strict=True))
    if len(np.unique(np.concatenate([mine, theirs]))) == 1:
        return cost
    return np.where(mine[:, None] == theirs[None, :], cost, np.inf)


def _paired_blocks(joint: JointGraph, t: int, u: int, tables: Sequence[Table]) -> Blocks:
    """Blocks of task t and task u that share channels in some group already."""
    partner: Blocks = {}
    for group, table in zip(joint.groups, tables, strict=True):
        blocks_t, blocks_u = group.blocks(t), group.blocks(u)
        if blocks_t is not None and blocks_u is not None:
            both = table[(table[:, t] >= 0) & (table[:, u] >= 0)]
            for a, b in zip(blocks_t[both[:, t]], blocks_u[both[:, u]], strict=True):
                partner.setdefault(int(a), int(b))
    return partner
