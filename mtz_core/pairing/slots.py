"""Slots: which channel of which task shares a slot with which.

A *slot table* is an integer array (S, T): row s says that slot s holds channel `table[s, t]` of task t, or none (-1).
A slot of several tasks is shared by them, one of a single task is private. Rows and columns of a weight matrix get
slot tables from those of the channel groups that they belong to; a weight is shared by the tasks that its row's
slot and its column's slot have in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64]
Members = tuple[int, ...]


def private_table(widths: Sequence[int]) -> Table:
    """Every channel on its own."""
    return complete(np.empty((0, len(widths)), dtype=np.int64), widths)


def complete(shared: Table, widths: Sequence[int]) -> Table:
    """`shared` slots (k, T) followed by a private slot for every channel that none of them holds."""
    parts = [np.asarray(shared, dtype=np.int64).reshape(-1, len(widths))]
    for t, width in enumerate(widths):
        rest = np.setdiff1d(np.arange(width), shared[:, t])
        private = np.full((len(rest), len(widths)), -1, dtype=np.int64)
        private[:, t] = rest
        parts.append(private)
    return np.concatenate(parts)


def slot_of(table: Table, t: int, width: int) -> Table:
    """Slot that holds each of task t's channels, (width,)."""
    inverse = np.full(width, -1, dtype=np.int64)
    held = np.flatnonzero(table[:, t] >= 0)
    inverse[table[held, t]] = held
    return inverse


def shared_rows(table: Table) -> Table:
    """The slots that two or more tasks share, (k, T)."""
    several: Table = table[(table >= 0).sum(axis=1) > 1]
    return several


def by_members(table: Table) -> Iterator[tuple[Members, NDArray[np.int64]]]:
    """Sets of tasks that share slots, with the numbers of their slots, in order of first appearance."""
    if not len(table):
        return
    patterns, first, number = np.unique(table >= 0, axis=0, return_index=True, return_inverse=True)
    number = number.ravel()
    slots = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    for k in np.argsort(first):
        yield tuple(int(t) for t in np.flatnonzero(patterns[k])), slots[k].astype(np.int64)


def sharing_of(table: Table) -> dict[Members, float]:
    """How many slots each set of two or more tasks shares."""
    patterns, counts = np.unique(shared_rows(table) >= 0, axis=0, return_counts=True)
    return {tuple(int(t) for t in np.flatnonzero(p)): float(n) for p, n in zip(patterns, counts, strict=True)}
