"""How layers of several tasks store their numbers, entry by entry: who holds what is looked up in dictionaries."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core import ZippedNetwork
from mtz_core.graph import channel_graph, correspond
from mtz_core.network.dense import DenseLayer
from mtz_core.network.grouped import GroupedLayer
from mtz_core.network.stored import StoredLayer
from mtz_core.network.tables import BIAS, column_keys, column_table, own_entries, row_keys, row_table
from mtz_core.pairing.slots import complete, private_table
from tests.networks import Perceptron, images, randomised

Table = NDArray[np.int64]
WIDTHS, COLUMNS = (5, 4, 5), (6, 7, 6)
Entry = tuple[int, int, int]
"""Task, row, column."""


def _table(seed: int, widths: Sequence[int], slots: int = 4) -> Table:
    """Every channel in a slot, some shared by two or three tasks; in no order."""
    rng = np.random.default_rng(seed)
    shared = np.stack([rng.permutation(width)[:slots] for width in widths], axis=1)
    shared[0, rng.integers(3)] = shared[1, rng.integers(3)] = -1
    return rng.permutation(complete(shared, widths))


def _holders(rows: Table, columns: Table) -> dict[tuple[int, int], list[Entry]]:
    """Row slot and column slot → the entries that are stored as one number, the first task's first."""
    found = {}
    for r, c in product(range(len(rows)), range(len(columns))):
        entries = [(t, int(rows[r, t]), int(columns[c, t])) for t in range(3) if rows[r, t] >= 0 and columns[c, t] >= 0]
        if entries:
            found[r, c] = entries
    return found


def _numbers(seed: int) -> list[Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=chance, dtype=torch.float64) for n, d in zip(WIDTHS, COLUMNS, strict=True)]


def _checked(
    layer: StoredLayer, holders: Sequence[Sequence[Entry]], given: Sequence[Tensor], masks: Sequence[Tensor] | None
) -> None:
    """Hold a layer against which entries are one number."""
    alone, shared = [0] * 3, 0
    other = _numbers(77)
    averages = layer.means(other)
    parameters = list(layer.parameters())
    assert [tuple(a.shape) for a in averages] == [tuple(p.shape) for p in parameters]
    assert layer.masked == (masks is not None)
    values = [layer.matrix(t).detach().clone() for t in range(3)]
    for t, value in enumerate(values):
        assert value.shape == given[t].shape
        assert value.dtype == torch.float64
    with torch.no_grad():
        for parameter, average in zip(parameters, averages, strict=True):
            parameter.copy_(average)
    for entries in holders:
        first = given[entries[0][0]][entries[0][1:]]
        on = masks is None or any(bool(masks[t][i, j]) for t, i, j in entries)
        mean = torch.stack([other[t][i, j] for t, i, j in entries]).mean()
        for t, i, j in entries:
            assert values[t][i, j] == first
            torch.testing.assert_close(layer.matrix(t)[i, j].detach(), mean)
            mask = layer.mask(t)
            assert mask is None if masks is None else bool(mask[i, j]) == on
        if on and len(entries) > 1:
            shared += 1
        elif on:
            alone[entries[0][0]] += 1
    assert layer.counts() == (shared, alone)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sparse", [False, True])
def test_a_dense_layer_stores_an_entry_once_for_all_tasks_that_share_its_row_and_column(
    seed: int, sparse: bool
) -> None:
    rows, columns, given = _table(seed, WIDTHS), _table(seed + 10, COLUMNS), _numbers(seed)
    chance = torch.Generator().manual_seed(seed)
    masks = [torch.rand(m.shape, generator=chance) < 0.5 for m in given] if sparse else None
    layer = DenseLayer(given, rows, columns, masks)
    assert not layer.scaled
    assert all(layer.scale(t) is None for t in range(3))
    _checked(layer, list(_holders(rows, columns).values()), given, masks)


def test_a_layer_holds_numbers_of_its_own() -> None:
    given = _numbers(0)
    before = [m.clone() for m in given]
    rows, columns = private_table(WIDTHS), private_table(COLUMNS)
    alone = [np.full(n, -1, dtype=np.int64) for n in WIDTHS]
    entries = [np.broadcast_to(np.arange(d), (n, d)) for n, d in zip(WIDTHS, COLUMNS, strict=True)]
    for layer in (DenseLayer(given, rows, columns), GroupedLayer(given, alone, entries)):
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
        for mine, kept in zip(given, before, strict=True):
            assert mine.equal(kept)


@pytest.mark.parametrize("seed", range(3))
def test_scales_multiply_what_a_row_shares_and_nothing_else(seed: int) -> None:
    rows, columns, given = _table(seed, WIDTHS), _table(seed + 10, COLUMNS), _numbers(seed)
    chance = torch.Generator().manual_seed(seed)
    scales = [torch.rand(n, generator=chance, dtype=torch.float64) + 0.5 for n in WIDTHS]
    layer = DenseLayer(given, rows, columns, None, scales)
    assert layer.scaled
    expected = [torch.ones(n, dtype=torch.float64) for n in WIDTHS]
    for slot in rows:
        held = [(t, int(i)) for t, i in enumerate(slot) if i >= 0]
        for t, i in held:
            expected[t][i] = scales[t][i] / scales[held[0][0]][held[0][1]]
    for t in range(3):
        torch.testing.assert_close(layer.scale(t), expected[t])
    for entries in _holders(rows, columns).values():
        first, i0, j0 = entries[0]
        for t, i, j in entries:
            factor = expected[t][i] / expected[first][i0] if len(entries) > 1 else 1.0
            torch.testing.assert_close(layer.matrix(t)[i, j].detach(), given[first][i0, j0] * factor)
    memberships = [[t for t in range(3) if slot[t] >= 0] for slot in rows]
    plain = DenseLayer(given, rows, columns).counts()
    more = [sum(t in held[1:] for held in memberships) for t in range(3)]
    assert layer.counts() == (plain[0], [a + b for a, b in zip(plain[1], more, strict=True)])
    sizes = [value.abs() for name, value in layer.named_parameters() if name.startswith("scales")]
    assert len(sizes) > 0
    for found, wanted in zip(layer.means(given)[-len(sizes) :], sizes, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sparse", [False, True])
def test_a_grouped_layer_stores_an_entry_once_if_all_tasks_of_its_row_read_the_same(seed: int, sparse: bool) -> None:
    rng, given = np.random.default_rng(seed), _numbers(seed)
    slots = _table(seed, WIDTHS)
    rows = [np.full(n, -1, dtype=np.int64) for n in WIDTHS]
    for number, slot in enumerate(slots):
        for t, i in enumerate(slot):
            if i >= 0:
                rows[t][i] = number if (slot >= 0).sum() > 1 or rng.random() < 0.5 else -1
    entries = [
        np.stack([rng.permutation(np.r_[np.arange(d - 2), -1, -1] if d == 6 else np.r_[np.arange(d - 1), -1])
                  for _ in range(n)])
        for n, d in zip(WIDTHS, COLUMNS, strict=True)
    ]  # fmt: skip
    chance = torch.Generator().manual_seed(seed)
    masks = [torch.rand(m.shape, generator=chance) < 0.5 for m in given] if sparse else None
    layer = GroupedLayer(given, rows, entries, masks)
    readers = {number: [t for t in range(3) if number in rows[t]] for number in {int(r) for own in rows for r in own}}
    holders: dict[Hashable, list[Entry]] = {}
    for t in range(3):
        for i, j in product(range(WIDTHS[t]), range(COLUMNS[t])):
            number, what = int(rows[t][i]), int(entries[t][i, j])
            everyone = number >= 0 and what >= 0 and all(
                what in entries[u][list(rows[u]).index(number)] for u in readers[number]
            )  # fmt: skip
            shared = everyone and len(readers[number]) > 1
            holders.setdefault(("shared", number, what) if shared else ("own", t, i, j), []).append((t, i, j))
    assert any(len(held) == 3 for held in holders.values())
    _checked(layer, list(holders.values()), given, masks)


class Shifted(nn.Module):
    """Channels that a layer reads at several positions each, and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.banks = nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 6, 2, groups=2)
        self.head = nn.Linear(6 * 3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.banks(torch.relu(self.stem(x)))).flatten(1))


def _joint(make: Any, x: Tensor, tasks: int = 2) -> tuple[list[nn.Module], Any]:
    parents = [randomised(make(), seed) for seed in range(tasks)]
    return parents, correspond([channel_graph(parent, x) for parent in parents])


def test_columns_share_a_slot_if_they_read_the_same_place_and_kernel_position_of_one_slot() -> None:
    _, joint = _joint(Shifted, torch.rand(2, 1, 4, dtype=torch.float64))
    stem, banks = joint.layers[0].group, joint.layers[1].group
    tables = [complete(np.array(shared).reshape(-1, 2), group.widths) for shared, group in zip(
        [[[2, 1], [0, 3]] if g == stem else [[1, 4], [5, 0]] if g == banks else [] for g in range(len(joint.groups))],
        joint.groups, strict=True,
    )]  # fmt: skip
    first = column_table(joint.layers[0].members, tables, joint.widths)
    assert sorted(map(tuple, first.tolist())) == [(0, 0), (1, 1), (2, 2), (3, 3)]  # raw inputs and the bias
    first = column_table(joint.layers[0].members, tables, joint.widths, own_bias=True)
    assert sorted(map(tuple, first.tolist())) == [(-1, 3), (0, 0), (1, 1), (2, 2), (3, -1)]
    # Each of six channels is read at three positions, and there is no bias.
    last = column_table(joint.layers[2].members, tables, joint.widths)
    shared = {(3 * a + k, 3 * b + k) for a, b in ((1, 4), (5, 0)) for k in range(3)}
    assert {tuple(row) for row in last.tolist() if min(row) >= 0} == shared
    assert sorted(last[last[:, 0] >= 0, 0]) == sorted(last[last[:, 1] >= 0, 1]) == list(range(18))
    assert len(last) == 2 * 18 - len(shared)
    rows = row_table(joint.layers[1].members, tables[banks], joint.groups[banks].widths)
    assert {tuple(row) for row in rows.tolist() if min(row) >= 0} == {(1, 4), (5, 0)}
    assert len(rows) == 10
    keys = row_keys(joint.layers[1].members, tables[banks], joint.groups[banks].widths)
    assert keys[0][1] == keys[1][4] != keys[0][5] == keys[1][0]
    # A grouped convolution: two columns a channel, the channels of both banks one after the other, the bias.
    keys = column_keys(joint.layers[1].members, tables, joint.widths)
    assert [len(k) for k in keys] == [9, 9]
    equal = {(i, j) for i, j in product(range(9), repeat=2) if keys[0][i] == keys[1][j]}
    assert equal == {(4, 2), (5, 3), (0, 6), (1, 7), (8, 8)}
    assert keys[0][8] == BIAS
    assert column_keys(joint.layers[1].members, tables, joint.widths, own_bias=True)[0][8] == -1
    entries = own_entries(joint.layers[1].members[0], keys[0])
    assert entries.shape == (6, 5)
    for neuron, row in enumerate(entries.tolist()):
        begin = 0 if neuron < 3 else 4
        assert row == [*keys[0][begin : begin + 4].tolist(), BIAS]


def test_a_network_counts_what_its_layers_store_and_what_its_parents_had() -> None:
    parents, joint = _joint(Perceptron, images(3), tasks=3)
    network = ZippedNetwork(parents, joint)
    sizes = tuple(sum(p.numel() for p in parent.parameters()) for parent in parents)
    before = network.counts()
    assert (before.shared, before.private, before.parents) == (0, sizes, sizes)
    network.pair(0, np.array([[3, 1, 2], [0, 5, -1]]))
    assert network.counts() == before  # columns are shared, but no row that reads them
    with torch.no_grad():
        matrices = [network.matrix(0, t).clone() for t in range(3)]
        matrices[1][1] = matrices[2][2] = matrices[0][3]
        matrices[1][5] = matrices[0][0]
    network.merge(0, matrices)
    for t in range(3):
        torch.testing.assert_close(network.matrix(0, t), matrices[t])
    after = network.counts()
    assert after.shared == 2 * 65
    assert after.private == (sizes[0] - 130, sizes[1] - 130, sizes[2] - 65)
    assert after.parents == sizes
    assert network.counts(parents=(1, 2, 3)).parents == (1, 2, 3)
    assert network.tables[0][:2].tolist() == [[3, 1, 2], [0, 5, -1]]
    assert network.merged == [True, False, False]
