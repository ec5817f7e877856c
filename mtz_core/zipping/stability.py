"""Would other calibration inputs have paired the same neurons? A layer is paired again on each half of them."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np

from mtz_core.layerwise.ahead import pair_layer
from mtz_core.layerwise.ledger import Fresh
from mtz_core.methods.kinds import PAIRING
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.pairing.slots import Table, shared_rows
from mtz_core.zipping.findings import Stability

if TYPE_CHECKING:
    from mtz_core.zipping.before import Before

Couple = tuple[int, int]
Pairs = set[Couple]


def paired_again(before: Before, saying: str) -> Generator[str, None, Table]:
    """Pair a layer's fresh neurons by its own method, `saying` so at every step; return the shared rows (K, T)."""
    yield saying
    seen = before.compared()
    for _ in pair_layer(before.walk, before.index, seen, before.streams):
        yield saying
    return before.walk.rows(before.index)


def why_not(before: Before, zipped: ZippedNetwork) -> str:
    """Say why there is nothing to pair again; empty if there is."""
    walk, joint = before.walk, before.walk.network.joint
    layer, fresh = joint.layers[before.index], walk.ledger.fresh(before.index)
    if PAIRING.find(walk.spec.pairing).random:
        return "The pairs of this run were drawn, not found, so other inputs would not change them."
    if not all(len(channels) for channels in fresh.values()):
        first = next((k for k in walk.ledger.hidden() if joint.layers[k].group == layer.group), before.index)
        return f"These neurons were paired before, in {joint.layers[first].name}, which writes the same channels."
    if not len(_rows(before, shared_rows(zipped.row_slots(before.index)), fresh)):
        return "No neuron of this layer is shared."
    return ""


def compared_halves(before: Before, run: Table, halves: tuple[Table, Table], couple: Couple, cell: Couple) -> Stability:
    """Compare what the run paired with what either half did, all as rows (K, T).

    Args:
        before: the layer.
        run, halves: rows that were paired.
        couple: the two tasks.
        cell: the two neurons.
    """
    fresh = before.walk.ledger.fresh(before.index)
    own, first, second = (_of(_rows(before, rows, fresh), couple) for rows in (run, *halves))
    members = before.walk.network.joint.layers[before.index].members
    places = np.prod([np.isin(members[t].rows, fresh[t]).sum() for t in couple])
    return Stability(
        pairs=len(own),
        halves=(len(first), len(second)),
        again=(len(own & first), len(own & second)),
        common=len(first & second),
        chance=len(first) * len(second) / float(max(1, places)),
        found=(cell in first, cell in second),
    )


def _rows(before: Before, rows: Table, fresh: Fresh) -> Table:
    """Those rows whose channels were still to be decided when the layer's turn came."""
    members = before.walk.network.joint.layers[before.index].members
    kept = np.ones(len(rows), dtype=bool)
    for t, channels in fresh.items():
        kept &= (rows[:, t] < 0) | np.isin(members[t].rows[rows[:, t]], channels)
    return rows[kept]


def _of(rows: Table, couple: Couple) -> Pairs:
    both = rows[:, list(couple)]
    return {(int(a), int(b)) for a, b in both[(both >= 0).all(axis=1)]}
