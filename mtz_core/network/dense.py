"""One weight layer of several tasks, every shared number stored once.

Rows and columns have slot tables (see `pairing.slots`). Slots of the same tasks form a band; where a band of rows
meets a band of columns lies a submatrix, which belongs to the tasks that both have in common. With two tasks these
are those of the paper (§3.2): shared→shared once, and per task specific→shared, shared→specific, specific→specific.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from mtz_core.network.stored import StoredLayer
from mtz_core.pairing.slots import Members, Table, by_members


class DenseLayer(StoredLayer):
    """Weight matrices of T tasks, assembled from submatrices.

    Args:
        matrices: one (n_t, d_t) matrix per task. Where tasks share an entry, the first task's value is kept.
        rows: slot table of the rows, (S_r, T).
        columns: slot table of the columns, (S_c, T).
        masks: per task the entries that may differ from zero, or `None` for dense layers.
        scales: per task a factor (n_t,) of what each row shares; `None`: one.
        gains: per task a factor (d_t,) of what each column shares; `None`: one.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        rows: Table,
        columns: Table,
        masks: Sequence[Tensor] | None = None,
        scales: Sequence[Tensor] | None = None,
        gains: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.tasks = len(matrices)
        self.row_bands, self.column_bands = _bands(rows), _bands(columns)
        self.blocks = nn.ParameterDict()  # so in files; see `submatrices`
        self.scales, self.gains = nn.ParameterDict(), nn.ParameterDict()
        self.masked, self.scaled, self.gained = masks is not None, scales is not None, gains is not None
        self._add_factors(self.scales, scales, rows, self.row_bands, matrices)
        self._add_factors(self.gains, gains, columns, self._gained_bands() if self.gained else {}, matrices)
        for r in self.row_bands:
            for c in self.column_bands:
                common = [t for t in r if t in c]
                if common:
                    self._add_submatrix(r, c, common, matrices)
        if masks is not None:
            self.remask(masks)
        for t in (t for t in range(self.tasks) if matrices[t].numel()):
            for what, bands in (("row", self.row_bands), ("column", self.column_bands)):
                table = rows if what == "row" else columns
                order = np.concatenate([table[slots, t] for members, slots in bands.items() if t in members])
                moved = bool((order != np.arange(len(order))).any())
                index = torch.as_tensor(np.argsort(order), device=matrices[t].device) if moved else None
                self.register_buffer(f"{what}_order_{t}", index, persistent=False)

    @property
    def submatrices(self) -> nn.ParameterDict:
        """What stands where two bands meet, by the tasks of both; files and state dicts call it `blocks`."""
        return self.blocks

    @staticmethod
    def _add_factors(
        stored: nn.ParameterDict,
        factors: Sequence[Tensor] | None,
        table: Table,
        bands: Mapping[Members, Table],
        matrices: Sequence[Tensor],
    ) -> None:
        """Keep every task's factors of rows or columns relative to those of the first task that shares them."""
        if factors is None:
            return
        for members, slots in bands.items():
            for t in members[1:]:
                first, own = (factors[x][torch.as_tensor(table[slots, x])] for x in (members[0], t))
                stored[_factor_name(members, t)] = nn.Parameter((own / first).to(matrices[t]))

    def _gained_bands(self) -> dict[Members, Table]:
        """Columns that two or more tasks share where these share rows, too."""
        return {
            c: slots for c, slots in self.column_bands.items() if any(len(set(r) & set(c)) > 1 for r in self.row_bands)
        }

    def _add_submatrix(self, r: Members, c: Members, common: list[int], matrices: Sequence[Tensor]) -> None:
        key = _key(r, c)
        numbers = self._cut(matrices[common[0]], common[0], r, c)
        if len(common) > 1:
            if (scale := _factor(self.scales, r, common[0])) is not None:
                numbers /= scale.detach()[:, None]
            if (gain := _factor(self.gains, c, common[0])) is not None:
                numbers /= gain.detach()
        self.submatrices[key] = nn.Parameter(numbers)

    def remask(self, masks: Sequence[Tensor]) -> None:
        for r in self.row_bands:
            for c in self.column_bands:
                if common := [t for t in r if t in c]:
                    union = self._cut(masks[common[0]], common[0], r, c)
                    for t in common[1:]:
                        union = union | self._cut(masks[t], t, r, c)
                    self.register_buffer(_mask_name(_key(r, c)), union, persistent=False)

    def _cut(self, source: Tensor, t: int, r: Members, c: Members) -> Tensor:
        """What a matrix of task t holds where two bands meet, as a new tensor; whole matrices are copied once."""
        part = source
        for axis, table in ((0, self.rows[self.row_bands[r], t]), (1, self.columns[self.column_bands[c], t])):
            if not np.array_equal(table, np.arange(part.shape[axis])):
                part = part.index_select(axis, torch.as_tensor(table, device=source.device))
        return part.clone() if part is source else part

    def means(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for r in self.row_bands:
            for c in self.column_bands:
                if common := [t for t in r if t in c]:
                    found.append(torch.stack([self._cut(matrices[t], t, r, c) for t in common]).mean(0))
        factors = (*self.scales.values(), *self.gains.values())
        return [*found, *(factor.detach().abs() for factor in factors)]

    def matrix(self, task: int) -> Tensor:
        bands = []
        if not any(task in r for r in self.row_bands):
            return cast(Tensor, next(iter(self.submatrices.values()))).new_zeros((0, 0))
        for r in self.row_bands:
            if task in r:
                parts = [self._part(r, c, task) for c in self.column_bands if task in c]
                bands.append(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))
        full = bands[0] if len(bands) == 1 else torch.cat(bands)
        for axis, what in enumerate(("row", "column")):
            index = getattr(self, f"{what}_order_{task}")
            full = full if index is None else full.index_select(axis, index)
        return full

    def _part(self, r: Members, c: Members, task: int) -> Tensor:
        """What a task's matrix holds where two bands meet."""
        part = cast(Tensor, self.submatrices[_key(r, c)])
        if len(set(r) & set(c)) < 2:
            return part
        if (scale := _factor(self.scales, r, task)) is not None:
            part = part * scale[:, None]
        if (gain := _factor(self.gains, c, task)) is not None:
            part = part * gain
        return part

    def scale(self, task: int) -> Tensor | None:
        return self._factors(self.scales, task, self.rows, self.row_bands) if self.scaled else None

    def gain(self, task: int) -> Tensor | None:
        return self._factors(self.gains, task, self.columns, self.column_bands) if self.gained else None

    def _factors(self, stored: nn.ParameterDict, task: int, table: Table, bands: Mapping[Members, Table]) -> Tensor:
        """Every row's or column's factor in a task, on the CPU."""
        full = torch.ones(int((table[:, task] >= 0).sum()), dtype=next(iter(self.submatrices.values())).dtype)
        for members, slots in bands.items():
            if task in members and (factor := _factor(stored, members, task)) is not None:
                full[torch.as_tensor(table[slots, task])] = factor.detach().cpu().to(full.dtype)
        return full

    def mask(self, task: int) -> Tensor | None:
        if not self.masked:
            return None
        shape = (int((self.rows[:, task] >= 0).sum()), int((self.columns[:, task] >= 0).sum()))
        some = next(iter(self.submatrices.values()))
        full = torch.zeros(shape, dtype=torch.bool, device=some.device)
        for r, row_slots in self.row_bands.items():
            for c, column_slots in self.column_bands.items():
                if task in r and task in c:
                    i = torch.as_tensor(self.rows[row_slots, task], device=some.device)
                    j = torch.as_tensor(self.columns[column_slots, task], device=some.device)
                    full[i[:, None], j] = self._mask(_key(r, c))
        return full

    def _mask(self, key: str) -> Tensor:
        mask = getattr(self, _mask_name(key))
        assert isinstance(mask, Tensor)
        return mask

    def counts(self) -> tuple[int, list[int]]:
        shared, private = 0, [0] * self.tasks
        for r in self.row_bands:
            for c in self.column_bands:
                common = [t for t in r if t in c]
                if common:
                    key = _key(r, c)
                    size = int(self._mask(key).sum()) if self.masked else self.submatrices[key].numel()
                    if len(common) > 1:
                        shared += size
                    else:
                        private[common[0]] += size
        for stored, bands in ((self.scales, self.row_bands), (self.gains, self.column_bands)):
            for members in bands:
                for t in members:
                    factor = _factor(stored, members, t)
                    private[t] += 0 if factor is None else len(factor)
        return shared, private


def _bands(table: Table) -> dict[Members, Table]:
    """Set of tasks → slots that hold exactly these, in order."""
    return dict(by_members(table))


def _key(rows: Members, columns: Members) -> str:
    return f"rows_{'_'.join(map(str, rows))}__columns_{'_'.join(map(str, columns))}"


def _factor_name(band: Members, task: int) -> str:
    return f"rows_{'_'.join(map(str, band))}__task_{task}"  # of columns, too


def _factor(stored: nn.ParameterDict, band: Members, task: int) -> Tensor | None:
    """Factors (k,) of a task in a band of rows or columns; `None` stands for one."""
    name = _factor_name(band, task)
    return cast(Tensor, stored[name]) if name in stored else None


def _mask_name(key: str) -> str:
    return f"mask_{key}"
