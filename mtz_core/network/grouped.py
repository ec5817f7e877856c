"""A grouped convolution of several tasks, every shared number stored once.

Neurons of a grouped convolution read different channels, so shared weights form no rectangle as in `dense`. Here
every task has a table that says which stored number each entry of its matrix is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core.network.stored import StoredLayer
from mtz_core.pairing.slots import Table


class GroupedLayer(StoredLayer):
    """Weight matrices of T tasks, gathered from one vector of stored numbers.

    Args:
        matrices: one (n_t, d_t) matrix per task. Where tasks share an entry, the first task's value is kept.
        rows: a number for every row of every task (see `tables.row_keys`); equal numbers share, -1 never.
        entries: for every task (n_t, d_t) numbers of what each entry reads; an entry is stored once if its row is
            shared and all tasks of the row read the same there.
        masks: per task the entries that may differ from zero, or `None` for dense layers.
    """

    kept: Tensor

    def __init__(
        self,
        matrices: Sequence[Tensor],
        rows: Sequence[Table],
        entries: Sequence[Table],
        masks: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.tasks = len(matrices)
        self.masked = masks is not None
        numbers = _value_numbers(rows, entries)
        size = 1 + max((int(p.max()) for p in numbers if p.size), default=-1)
        first = next(m for m in matrices if m.numel())
        values = first.new_zeros(size)
        owners = np.zeros((size, self.tasks), dtype=bool)
        for t in reversed(range(self.tasks)):
            index = torch.as_tensor(numbers[t], device=matrices[t].device)
            values[index.reshape(-1)] = matrices[t].detach().reshape(-1).to(values)
            owners[numbers[t].reshape(-1), t] = True
            self.register_buffer(f"numbers_{t}", index, persistent=False)
        self.values = nn.Parameter(values)
        self._owners = owners
        self.register_buffer("kept", torch.ones_like(values, dtype=torch.bool), persistent=False)
        if masks is not None:
            self.remask(masks)

    def remask(self, masks: Sequence[Tensor]) -> None:
        self.kept = torch.zeros_like(self.kept)
        for t, mask in enumerate(masks):
            self.kept[self._numbers(t)[mask]] = True

    def _numbers(self, task: int) -> Tensor:
        numbers = getattr(self, f"numbers_{task}")
        assert isinstance(numbers, Tensor)
        return numbers

    def matrix(self, task: int) -> Tensor:
        return self.values[self._numbers(task)]

    def mask(self, task: int) -> Tensor | None:
        return self.kept[self._numbers(task)] if self.masked else None

    def means(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        total, count = torch.zeros_like(self.values), torch.zeros_like(self.values)
        for t, matrix in enumerate(matrices):
            numbers = self._numbers(t).reshape(-1)
            total.index_add_(0, numbers, matrix.reshape(-1))
            count.index_add_(0, numbers, torch.ones_like(matrix).reshape(-1))
        return [total / count.clamp_min(1)]

    def counts(self) -> tuple[int, list[int]]:
        owners = self._owners & self.kept.cpu().numpy()[:, None]
        several = owners.sum(axis=1) > 1
        return int(several.sum()), [int((owners[:, t] & ~several).sum()) for t in range(self.tasks)]


def _value_numbers(rows: Sequence[Table], entries: Sequence[Table]) -> list[NDArray[np.int64]]:
    """Number of the stored value in every entry of every task's matrix."""
    repeated = [
        np.repeat(r, e.shape[1]) if e.size else np.empty(0, dtype=np.int64) for r, e in zip(rows, entries, strict=True)
    ]
    written, reads = np.concatenate(repeated), np.concatenate([e.reshape(-1) for e in entries])
    owners, owner = np.unique(written, return_inverse=True)
    names, name = np.unique(reads, return_inverse=True)
    _, inverse, counts = np.unique(owner * len(names) + name, return_inverse=True, return_counts=True)
    readers = np.zeros(len(owners), dtype=np.int64)
    for r in rows:
        readers[np.isin(owners, r)] += 1
    wanted = np.where((written >= 0) & (reads >= 0), readers[owner], 0)
    shared = (wanted > 1) & (counts[inverse] == wanted)
    numbers = np.empty(len(written), dtype=np.int64)
    kept = np.unique(inverse[shared])
    numbers[shared] = np.searchsorted(kept, inverse[shared])
    numbers[~shared] = len(kept) + np.arange(int((~shared).sum()))
    cuts = np.cumsum([len(k) for k in repeated])[:-1]
    return [p.reshape(e.shape) for p, e in zip(np.split(numbers, cuts), entries, strict=True)]
