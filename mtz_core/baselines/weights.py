"""The weights of corresponding networks, compared under a pairing of their channels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mtz_core.baselines.parents import Parents
from mtz_core.graph.channels import PRIVATE, WeightLayer

Indices = NDArray[np.int64]
Table = NDArray[np.float64]
Partners = Mapping[int, Indices]
"""Channel group → for every channel of the first network its partner in another, or -1, (n,)."""


class Weights:
    """Merged layers' weights (n, positions, kernel) and biases (n, 1) of every network, in double precision.

    Those of the first network are what others are compared with; `average` mixes others in.
    """

    def __init__(self, parents: Parents) -> None:
        self.layers = {index: parents.joint.layers[index].members for index in sorted(parents.extent.layers)}
        self.widths = [group.widths for group in parents.joint.groups]
        self.places = {index: [_places(layer) for layer in members] for index, members in self.layers.items()}
        self.tables: dict[int, list[Table]] = {}
        self.biases: dict[int, list[Table]] = {}
        for index, members in self.layers.items():
            apart = [
                _apart(matrix.double().cpu().numpy(), layer)
                for matrix, layer in zip(parents.matrices(index), members, strict=True)
            ]
            self.tables[index], self.biases[index] = [w for w, _ in apart], [bias for _, bias in apart]

    def similarity(self, group: int, t: int, partners: Partners) -> Table:
        """Inner products of the first network's channels with network t's (n_0, n_t), all that touches them added up.

        What they read and what reads them counts as far as it has partners.
        """
        total = np.zeros((self.widths[group][0], self.widths[group][t]))
        for index, members in self.layers.items():
            a, b = self.tables[index][0], self.tables[index][t]
            if members[0].group == group:
                mine, its = self._columns(index, t, partners)
                both = _flat(a[:, mine]) @ _flat(b[:, its]).T + self.biases[index][0] @ self.biases[index][t].T
                total[np.ix_(members[0].rows, members[t].rows)] += both
            if group in self.places[index][0] and group in self.places[index][t]:
                rows, partner = self._rows(index, t, partners)
                (channels, places), (others, theirs) = (self.places[index][s][group] for s in (0, t))
                depth = min(places.shape[1], theirs.shape[1])
                left, right = a[rows][:, places[:, :depth]], b[partner][:, theirs[:, :depth]]
                total[np.ix_(channels, others)] += _flat(left.swapaxes(0, 1)) @ _flat(right.swapaxes(0, 1)).T
        return total

    def agreement(self, t: int, partners: Partners, group: int | None = None) -> float:
        """Inner product of all weights (of those that touch a group), as they are paired."""
        total = 0.0
        for index, members in self.layers.items():
            if group is None or members[0].group == group or group in self.places[index][0]:
                (rows, partner), (mine, its) = self._rows(index, t, partners), self._columns(index, t, partners)
                total += float(np.vdot(self.tables[index][0][rows][:, mine], self.tables[index][t][partner][:, its]))
                total += float(np.vdot(self.biases[index][0][rows], self.biases[index][t][partner]))
        return total

    def average(self, t: int, partners: Partners) -> None:
        """Take network t into the average that stands for the first network."""
        for index in self.layers:
            (rows, partner), (mine, its) = self._rows(index, t, partners), self._columns(index, t, partners)
            (table, other), (bias, another) = (
                (known[index][0], known[index][t]) for known in (self.tables, self.biases)
            )
            table[np.ix_(rows, mine)] = (t * table[np.ix_(rows, mine)] + other[np.ix_(partner, its)]) / (t + 1)
            bias[rows] = (t * bias[rows] + another[partner]) / (t + 1)

    def _rows(self, index: int, t: int, partners: Partners) -> tuple[Indices, Indices]:
        """Rows of a layer in the first network that have partners in network t, and those."""
        mine, its = self.layers[index][0], self.layers[index][t]
        if mine.group not in partners:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        row_of = np.full(self.widths[mine.group][t] + 1, -1)
        row_of[its.rows] = np.arange(len(its.rows))
        found = row_of[partners[mine.group][mine.rows]]
        return np.flatnonzero(found >= 0), found[found >= 0]

    def _columns(self, index: int, t: int, partners: Partners) -> tuple[Indices, Indices]:
        """Input positions of a layer in the first network that have partners in network t, and those."""
        mine, its = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for group, (channels, places) in self.places[index][0].items():
            if group not in self.places[index][t] or (group >= 0 and group not in partners):
                continue
            others, theirs = self.places[index][t][group]
            wanted = channels if group < 0 else partners[group][channels]
            where = np.searchsorted(others, wanted).clip(max=len(others) - 1)
            known = others[where] == wanted
            depth = min(places.shape[1], theirs.shape[1])
            mine.append(places[known, :depth].reshape(-1))
            its.append(theirs[where[known], :depth].reshape(-1))
        return np.concatenate(mine), np.concatenate(its)


def _places(layer: WeightLayer) -> dict[int, tuple[Indices, Indices]]:
    """Group (or what the raw input is) → channels that a layer reads of it (c,), and where it does (c, times)."""
    found = {}
    for group in np.unique(layer.column_groups):
        if group == PRIVATE:
            continue
        positions = np.flatnonzero(layer.column_groups == group)
        positions = positions[np.argsort(layer.column_channels[positions], kind="stable")]
        channels, first, counts = np.unique(layer.column_channels[positions], return_index=True, return_counts=True)
        found[int(group)] = channels, positions[first[:, None] + np.arange(counts.min())]
    return found


def _apart(matrix: Table, layer: WeightLayer) -> tuple[Table, Table]:
    """Weights (n, positions, kernel) and bias (n, 1) of a matrix (n, d)."""
    bias = matrix[:, -1:].copy() if layer.bias else np.zeros((len(matrix), 1))
    return matrix[:, : matrix.shape[1] - int(layer.bias)].reshape(len(matrix), -1, layer.kernel_size).copy(), bias


def _flat(table: Table) -> Table:
    return table.reshape(len(table), -1)
