"""A grouped convolution of several tasks, every shared number stored once.

Neurons of a grouped convolution read different channels, so shared weights form no rectangle as in `blocks`. Here
every task has a table that says which stored number stands at each place of its matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core.graph.channels import WeightLayer
from mtz_core.slots import Table


class IndexedLayer(nn.Module):
    """Weight matrices of T tasks, gathered from one vector of stored numbers.

    Args:
        matrices: one (n_t, d_t) matrix per task. Where tasks share an entry, the first task's value is kept.
        rows: a number for every row of every task (see `slots.row_keys`); equal numbers share, -1 never.
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
        places = _places(rows, entries)
        size = 1 + max((int(p.max()) for p in places if p.size), default=-1)
        first = next(m for m in matrices if m.numel())
        values = first.new_zeros(size)
        owners = np.zeros((size, self.tasks), dtype=bool)
        for t in reversed(range(self.tasks)):
            index = torch.as_tensor(places[t], device=matrices[t].device)
            values[index.reshape(-1)] = matrices[t].detach().reshape(-1).to(values)
            owners[places[t].reshape(-1), t] = True
            self.register_buffer(f"place_{t}", index, persistent=False)
        self.values = nn.Parameter(values)
        self._owners = owners
        kept = torch.ones(size, dtype=torch.bool, device=values.device)
        if masks is not None:
            kept.zero_()
            for t, mask in enumerate(masks):
                kept[self._place(t)[mask]] = True
        self.register_buffer("kept", kept, persistent=False)

    def _place(self, task: int) -> Tensor:
        place = getattr(self, f"place_{task}")
        assert isinstance(place, Tensor)
        return place

    def matrix(self, task: int) -> Tensor:
        """Assembled (n_t, d_t) weights of a task, in the parent's own order of rows and columns."""
        return self.values[self._place(task)]

    def mask(self, task: int) -> Tensor | None:
        """Entries of a task's matrix that may differ from zero, (n_t, d_t) bool; `None` for a dense layer."""
        return self.kept[self._place(task)] if self.masked else None

    def apply_masks(self) -> None:
        """Set to zero what the parents' sparsity demands (after an optimiser step)."""
        if self.masked:
            with torch.no_grad():
                self.values.mul_(self.kept)

    def counts(self) -> tuple[int, list[int]]:
        """Stored numbers shared by two or more tasks, and private ones per task; masked zeros are not stored."""
        owners = self._owners & self.kept.cpu().numpy()[:, None]
        several = owners.sum(axis=1) > 1
        return int(several.sum()), [int((owners[:, t] & ~several).sum()) for t in range(self.tasks)]


def own_entries(layer: WeightLayer, keys: Table) -> Table:
    """What every entry of a layer's matrix reads, (n, d), from the numbers of all its input columns."""
    if layer.depthwise:
        return np.broadcast_to(keys, (layer.width, len(keys)))
    count = len(layer.column_groups) * layer.kernel_size
    per_group = keys[:count].reshape(layer.groups, -1)
    entries = np.repeat(per_group, layer.width // layer.groups, axis=0)
    return np.concatenate([entries, np.full((layer.width, 1), keys[-1])], axis=1) if layer.bias else entries


def aligned(
    members: Sequence[int], slots: Table, rows: Sequence[Table]
) -> tuple[list[NDArray[np.int64]], NDArray[np.bool_]]:
    """Columns that the tasks `members` have in common in every row.

    Args:
        members: tasks that share the rows.
        slots: row numbers (K, T); of the members all are ≥ 0.
        rows: per task what every entry reads, (n_t, d_t).

    Returns:
        For every member (K, d) column numbers, the same input at the same place; and where these are real, (K, d).
    """
    chosen = [rows[t][slots[:, t]] for t in members]
    ordered = [np.argsort(c, axis=1, kind="stable") for c in chosen]
    count, width = chosen[0].shape[0], min(c.shape[1] for c in chosen)
    columns = [np.zeros((count, width), dtype=np.int64) for _ in members]
    real = np.zeros((count, width), dtype=bool)
    alike = all(bool((c == c[:1]).all()) for c in chosen)
    for k in range(min(count, 1) if alike else count):
        common = chosen[0][k][chosen[0][k] >= 0]
        for c in chosen[1:]:
            common = np.intersect1d(common, c[k])
        common = np.sort(common)
        real[k, : len(common)] = True
        for m, (c, order) in enumerate(zip(chosen, ordered, strict=True)):
            columns[m][k, : len(common)] = order[k][np.searchsorted(c[k][order[k]], common)]
    if alike and count:
        real[:] = real[0]
        for each in columns:
            each[:] = each[0]
    return columns, real


def _places(rows: Sequence[Table], entries: Sequence[Table]) -> list[NDArray[np.int64]]:
    """Number of the stored value at every place of every task's matrix."""
    keys = [
        np.stack([np.repeat(r, e.shape[1]), e.reshape(-1)], axis=1) if e.size else np.empty((0, 2), dtype=np.int64)
        for r, e in zip(rows, entries, strict=True)
    ]
    readers: dict[int, int] = {}
    for r in rows:
        for number in np.unique(r[r >= 0]):
            readers[int(number)] = readers.get(int(number), 0) + 1
    stacked = np.concatenate(keys)
    _, inverse, counts = np.unique(stacked, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    wanted = np.array([readers.get(int(r), 0) if r >= 0 and e >= 0 else 0 for r, e in stacked])
    shared = (wanted > 1) & (counts[inverse] == wanted)
    places = np.empty(len(stacked), dtype=np.int64)
    kept = np.unique(inverse[shared])
    places[shared] = np.searchsorted(kept, inverse[shared])
    places[~shared] = len(kept) + np.arange(int((~shared).sum()))
    cuts = np.cumsum([len(k) for k in keys])[:-1]
    return [p.reshape(e.shape) for p, e in zip(np.split(places, cuts), entries, strict=True)]
