"""How large a network would be that shares so many channels, by slots as they would lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mtz_core.layerwise.ledger import Fresh, Ledger, with_slots
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.pairing.slots import Table, sharing_of
from mtz_core.spec import ZipSpec
from mtz_core.structure.savings import saved
from mtz_core.structure.sizes import effective_shares


def size_with(network: ZippedNetwork, spec: ZipSpec, ledger: Ledger, shares: Mapping[str, int]) -> int:
    """Stored numbers of a network that shares so many channels, as far as it can.

    Exact for dense networks without grouped convolutions whose neurons are shared by all or none. Where any subset
    may share, as many weights are saved, but for residual streams, where it comes close.

    Args:
        network: the parents, nothing shared.
        spec: how they are to be zipped.
        ledger: of the groups that can be shared.
        shares: channels by group name.
    """
    joint = network.joint
    ledger = replace(ledger, shares={**shares, **effective_shares(joint.structure, shares)}, decided={})
    tables = list(network.tables)
    for index in ledger.hidden():
        fresh = ledger.fresh(index)
        if all(len(channels) for channels in fresh.values()):
            tables = with_slots(joint, tables, index, _some(joint.tasks, ledger.wanted(index, fresh), fresh))
            ledger.mark(index, fresh)
    total = sum(network.parent_sizes)
    for index in ledger.hidden():
        layer = joint.layers[index]
        rows = sharing_of(network.row_slots(index, tables[layer.group]))
        if layer.banked:
            total -= round(saved(rows) * min(own.columns for own in layer.members))
            continue
        columns = sharing_of(network.column_slots(index, tables))
        total -= round(saved(rows, columns))
        if spec.own_scale and columns and index not in network.common:
            total += round(saved(rows))
        if spec.own_input_scale and index >= network.trunk:
            total += round(saved({c: count for c, count in columns.items() if any(len({*r} & {*c}) > 1 for r in rows)}))
    return total


def _some(tasks: int, count: int, fresh: Fresh) -> Table:
    """So many slots (S, T) of fresh channels; which ones, does not matter to the size."""
    slots = np.full((count, tasks), -1, dtype=np.int64)
    for t, channels in fresh.items():
        slots[:, t] = channels[:count]
    return slots
