"""Slot tables of a layer's rows and columns, from those of the channel groups that it writes and reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtz_core.graph.channels import PRIVATE, WeightLayer
from mtz_core.graph.layout import COMMON
from mtz_core.pairing.slots import Table, slot_of


def own_entries(layer: WeightLayer, keys: Table) -> Table:
    """What every entry of a layer's matrix reads, (n, d), from the numbers of all its input columns."""
    if layer.depthwise:
        return np.broadcast_to(keys, (layer.width, len(keys)))
    count = len(layer.column_groups) * layer.kernel_size
    per_group = keys[:count].reshape(layer.banks, -1)
    entries = np.repeat(per_group, layer.width // layer.banks, axis=0)
    return np.concatenate([entries, np.full((layer.width, 1), keys[-1])], axis=1) if layer.bias else entries


BIAS = np.iinfo(np.int64).max


def row_keys(layers: Sequence[WeightLayer], table: Table, widths: Sequence[int]) -> list[Table]:
    """A number for every row of a layer in every task; rows with the same number share a slot."""
    keys = [slot_of(table, t, widths[t])[layer.rows] for t, layer in enumerate(layers)]
    return [_with_occurrence(k) for k in keys]


def row_table(layers: Sequence[WeightLayer], table: Table, widths: Sequence[int]) -> Table:
    """Slot table of a layer's rows; `layers[t]` is the layer in task t, `table` belongs to the group it writes."""
    return _align(row_keys(layers, table, widths))


def column_keys(
    layers: Sequence[WeightLayer],
    tables: Sequence[Table],
    widths: Sequence[Sequence[int]],
    own_bias: bool = False,
) -> list[Table]:
    """A number for every input column of a layer in every task; -1 for columns that are never shared.

    A column's identity is the slot of the channel that it reads, which of that channel's positions it is, and the
    kernel position. Raw inputs are common to all tasks, and so is the one channel that a neuron of a depthwise
    convolution reads, wherever the neuron itself is shared. For a grouped convolution these are the columns of all
    its groups, one after the other. The bias has a number of its own (`BIAS`), -1 if every task keeps its bias.
    """
    offsets = np.cumsum([0] + [len(table) for table in tables])
    keys: list[Table] = []
    for t, layer in enumerate(layers):
        groups = np.array([COMMON]) if layer.depthwise else layer.column_groups
        slots = np.full(len(groups), -1, dtype=np.int64)
        slots[groups == COMMON] = offsets[-1]
        for g in np.unique(groups[groups >= 0]):
            mine = groups == g
            held = slot_of(tables[int(g)], t, widths[t][int(g)])
            slots[mine] = offsets[int(g)] + held[layer.column_channels[mine]]
        assert not ((groups == PRIVATE) & (slots >= 0)).any()
        key = _with_occurrence(slots)
        kernel = np.arange(layer.kernel_size)
        expanded = np.where(key[:, None] >= 0, key[:, None] * layer.kernel_size + kernel, -1).reshape(-1)
        keys.append(np.append(expanded, -1 if own_bias else BIAS) if layer.bias else expanded)
    return keys


def column_table(
    layers: Sequence[WeightLayer],
    tables: Sequence[Table],
    widths: Sequence[Sequence[int]],
    own_bias: bool = False,
) -> Table:
    """Slot table of a layer's columns; `tables[g]` and `widths[t][g]` belong to channel group g (see `column_keys`)."""
    return _align(column_keys(layers, tables, widths, own_bias))


def _with_occurrence(slots: Table) -> Table:
    """A key per position that tells apart several positions with the same slot (by order); -1 stays -1."""
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(slots) else np.empty(0, dtype=np.int64)
    rank = np.arange(len(slots)) - np.repeat(starts, np.diff(np.r_[starts, len(slots)]))
    occurrence = np.empty_like(slots)
    occurrence[order] = rank
    return np.where(slots >= 0, slots * (1 << 31) + occurrence, -1)


def _align(keys: Sequence[Table]) -> Table:
    """Positions of equal key share a row of the table; a position with key -1 gets a row of its own."""
    tasks = len(keys)
    known = np.unique(np.concatenate([k[k >= 0] for k in keys]))
    table = np.full((len(known), tasks), -1, dtype=np.int64)
    parts = [table]
    for t, key in enumerate(keys):
        owned = np.flatnonzero(key >= 0)
        table[np.searchsorted(known, key[owned]), t] = owned
        alone = np.full((int((key < 0).sum()), tasks), -1, dtype=np.int64)
        alone[:, t] = np.flatnonzero(key < 0)
        parts.append(alone)
    return np.concatenate(parts)
