"""A network merged by averaging channels: one trunk that computes every feature for whatever comes in.

With U_t (features × channels of network t, ones and zeros) and M its transpose with rows divided by how many channels
a feature stands for, a merged layer's weights are M · blockdiag(W_1 … W_T) · U. Weights between a feature of A
alone and one of B alone are zero by construction and are not stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core.baselines.extent import Extent
from mtz_core.baselines.kinds import Slots
from mtz_core.baselines.lockstep import Lockstep, channel_axis
from mtz_core.errors import SpecError
from mtz_core.graph.channels import PRIVATE, WeightLayer
from mtz_core.graph.execution import apply_layer
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.structure.sizes import ParameterCounts


class MergedLayer(nn.Module):
    """One weight layer of all networks on merged features.

    Args:
        layers: the layer in each network.
        matrices: its weights there, (n_t, d_t).
        masks: entries that count as stored, one per network; `None` for a dense layer.
        rows: feature that each row becomes, per network.
        columns: feature that each input position carries, per network.
    """

    def __init__(
        self,
        layers: Sequence[WeightLayer],
        matrices: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        rows: Slots,
        columns: Slots,
    ) -> None:
        super().__init__()
        self.members = torch.as_tensor(np.bincount(np.concatenate(rows)))
        features = len(self.members)
        order, representatives = _carried(columns)
        self.rows = [torch.as_tensor(row) for row in rows]
        self.columns = [torch.as_tensor(order[part]) for part in columns]
        self.layer = replace(layers[0], width=features)
        self.inputs = len(order)
        self.shapes = [tuple(matrix.shape) for matrix in matrices]
        total = torch.stack([self.summed(matrix, t).to(matrices[0].dtype) for t, matrix in enumerate(matrices)]).sum(0)
        self.weight = nn.Parameter(total / self.members[:, None].to(total), requires_grad=False)
        for t, (row, representative) in enumerate(zip(rows, representatives, strict=True)):
            self.register_buffer(f"rows_{t}", torch.as_tensor(row), persistent=False)
            self.register_buffer(f"columns_{t}", torch.as_tensor(representative), persistent=False)
        self.tasks = len(layers)
        self.count(masks)

    def count(self, masks: Sequence[Tensor | None]) -> None:
        """Count what is stored, given the entries that count in each network; `None` for all."""
        marks = [torch.ones(shape) if m is None else m.float() for shape, m in zip(self.shapes, masks, strict=True)]
        stored = torch.stack([self.summed(mark, t) > 0 for t, mark in enumerate(marks)])
        owners = stored.sum(0)
        self.shared = int((owners > 1).sum())
        self.private = tuple(int((mine & (owners == 1)).sum()) for mine in stored)

    def take(self, weight: Tensor) -> None:
        """Have other weights (features, d), none of which is left out for being zero in the networks."""
        with torch.no_grad():
            self.weight.copy_(weight)
        self.count([None] * self.tasks)

    def summed(self, matrix: Tensor, task: int) -> Tensor:
        """Entries of a network's matrix (n_t, d_t) summed where its channels go, (features, d)."""
        size, inputs = self.layer.kernel_size, self.inputs
        columns = (self.columns[task][:, None] * size + torch.arange(size)).reshape(-1)
        if self.layer.bias:
            columns = torch.cat([columns, torch.tensor([inputs * size])])
        tall = matrix.new_zeros(len(self.members), matrix.shape[1]).index_add_(0, self.rows[task], matrix)
        return matrix.new_zeros(len(self.members), inputs * size + int(self.layer.bias)).index_add_(1, columns, tall)

    def forward(self, given: list[Tensor], module: nn.Module) -> Tensor:
        """Output of every feature, from what the networks' layers read; channels of a feature are equal copies."""
        axis = channel_axis(self.layer, given[0])
        parts = [x.index_select(axis, cast(Tensor, getattr(self, f"columns_{t}"))) for t, x in enumerate(given)]
        return apply_layer(module, self.layer, self.weight, torch.cat(parts, dim=axis))

    def unmerge(self, y: Tensor) -> list[Tensor]:
        """Every network's own channels, copied from their features."""
        axis = channel_axis(self.layer, y)
        return [y.index_select(axis, cast(Tensor, getattr(self, f"rows_{t}"))) for t in range(self.tasks)]

    def rescale(self, gain: Tensor, shift: Tensor) -> None:
        """Replace every feature's output y by gain·y + shift, (n,) each; without a bias the shift is left out."""
        with torch.no_grad():
            self.weight.mul_(gain.to(self.weight)[:, None])
            if self.layer.bias:
                self.weight[:, -1] += shift.to(self.weight)

    def average(self, values: Sequence[Tensor]) -> Tensor:
        """Mean over each feature's channels of per-channel `values[t]` (n_t,), (features,)."""
        total = values[0].new_zeros(len(self.members))
        for t, mine in enumerate(values):
            total.index_add_(0, cast(Tensor, getattr(self, f"rows_{t}")), mine)
        return total / self.members.to(total)


class ApartLayer(nn.Module):
    """One weight layer behind the merged ones: every task keeps its own matrix (n_t, d_t)."""

    def __init__(
        self, layers: Sequence[WeightLayer], matrices: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> None:
        super().__init__()
        self.members = tuple(layers)
        self.weights = nn.ParameterList([nn.Parameter(matrix, requires_grad=False) for matrix in matrices])
        self.shared = 0
        self.private = tuple(
            matrix.numel() if mask is None else int((mask != 0).sum())
            for matrix, mask in zip(matrices, masks, strict=True)
        )

    def forward(self, x: Tensor, module: nn.Module, task: int) -> Tensor:
        """What the task's own layer writes for what it reads."""
        return apply_layer(module, self.members[task], self.weights[task], x)


class MergedNetwork(nn.Module):
    """T networks merged into one trunk with a head for each task; `forward(x, task)` returns task's outputs.

    Args:
        private: the parents with nothing shared; their bodies run here.
        slots: for every channel group, which feature each channel becomes.
        merged: which layers are merged; each task keeps what is behind them.
    """

    def __init__(self, private: ZippedNetwork, slots: Sequence[Slots], merged: Extent) -> None:
        super().__init__()
        self.tasks = private.tasks
        self.bodies = private.bodies
        self.parent_sizes = private.parent_sizes
        self.lockstep = Lockstep(private.graphs, [private.program(t) for t in range(self.tasks)])
        self.cut = merged.cut
        self.structures = [graph.structure() for graph in private.joint.graphs]
        self.layers = nn.ModuleList()
        for index, common in enumerate(private.joint.layers):
            layers = common.members
            matrices = [private.matrix(index, t).detach() for t in range(self.tasks)]
            masks = [private.mask(index, t) for t in range(self.tasks)]
            if index in merged.layers:
                rows = [slots[layer.group][t][layer.rows] for t, layer in enumerate(layers)]
                self.layers.append(MergedLayer(layers, matrices, masks, rows, _column_features(layers, slots)))
            else:
                self.layers.append(ApartLayer(layers, matrices, masks))
        self.eval()

    def layer(self, index: int) -> MergedLayer:
        """Merged layer number `index`."""
        return cast(MergedLayer, self.layers[index])

    def features(self, call: int, given: list[Tensor]) -> Tensor:
        """What a call writes, one channel per feature."""
        return cast(Tensor, self.layer(self.lockstep.order[call])(given, self.lockstep.module(call)))

    def copies(self, call: int, y: Tensor) -> list[Tensor]:
        """Every network's own channels of what a call wrote."""
        return self.layer(self.lockstep.order[call]).unmerge(y)

    def forward(self, x: Tensor, task: int = 0) -> Tensor:
        """Return task's outputs for inputs `x` (N, ...)."""
        if not 0 <= task < self.tasks:
            raise SpecError(f"task {task} was asked of a network that answers tasks 0 to {self.tasks - 1}")
        return self.lockstep.run(x, lambda call, given: self._written(call, given, [task]), self.cut, task)[0]

    def answers(self, x: Tensor) -> list[Tensor]:
        """All tasks' outputs for inputs `x` (N, ...): merged layers run once, those behind them once per task."""
        return self.lockstep.run(x, lambda call, given: self._written(call, given, range(self.tasks)))

    def _written(self, call: int, given: list[Tensor], tasks: Sequence[int]) -> list[Tensor]:
        """What a call writes in every network that is run; behind the merged layers these are `tasks`."""
        if call < self.cut:
            return self.copies(call, self.features(call, given))
        layer = cast(ApartLayer, self.layers[self.lockstep.order[call]])
        return [layer(x, self.lockstep.module(call, t), t) for t, x in zip(tasks, given, strict=True)]

    def counts(self) -> ParameterCounts:
        """Stored numbers by the rule of `ZippedNetwork.counts`: what two or more tasks' weights went into is shared."""
        private = [sum(parameter.numel() for parameter in body.parameters()) for body in self.bodies]
        shared = 0
        for layer in cast(Sequence[MergedLayer | ApartLayer], self.layers):
            shared += layer.shared
            private = [a + b for a, b in zip(private, layer.private, strict=True)]
        return ParameterCounts(shared, tuple(private), self.parent_sizes)


def _carried(columns: Slots) -> tuple[NDArray[np.int64], Slots]:
    """Which position of the merged layer carries what each number of `columns` stands for, and which positions do.

    Positions stand in the order of the input positions that represent them, network by network: the second result has
    these for every network.
    """
    _, first = np.unique(np.concatenate(columns), return_index=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    starts = np.cumsum([0, *(len(part) for part in columns)])
    first = np.sort(first)
    return order, [first[(first >= a) & (first < b)] - a for a, b in itertools.pairwise(starts)]


def _column_features(layers: Sequence[WeightLayer], slots: Sequence[Slots]) -> Slots:
    """For every input position of every network, the number of what it carries.

    Positions carry the same if they read channels of one feature at the same place of an image, or the same raw
    input. What no rule explains is like nothing else.
    """
    keys = []
    for t, layer in enumerate(layers):
        group, channel = layer.column_groups.copy(), layer.column_channels.copy()
        for g in np.unique(group[group >= 0]):
            mine = group == g
            channel[mine] = slots[int(g)][t][channel[mine]]
        unexplained = group == PRIVATE
        group[unexplained] = PRIVATE - t
        keys.append(np.stack([group, channel, _occurrences(layer)], axis=1))
    _, numbers = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
    ends = np.cumsum([len(key) for key in keys])
    parts: list[NDArray[np.int64]] = np.split(numbers.reshape(-1).astype(np.int64), ends[:-1])
    return parts


def _occurrences(layer: WeightLayer) -> NDArray[np.int64]:
    """For every input position, how many earlier positions read the same channel, (P,)."""
    seen: dict[tuple[int, int], int] = {}
    rank = np.zeros(len(layer.column_groups), dtype=np.int64)
    for position, key in enumerate(zip(layer.column_groups.tolist(), layer.column_channels.tolist(), strict=True)):
        rank[position] = seen.get(key, 0)
        seen[key] = seen.get(key, 0) + 1
    return rank
