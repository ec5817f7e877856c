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
        carried, first = np.unique(np.concatenate(columns), return_index=True)
        # Columns stand in the order of the input positions that represent them, network by network.
        order = np.empty(len(carried), dtype=np.int64)
        order[np.argsort(first)] = np.arange(len(carried))
        starts = np.cumsum([0, *(len(part) for part in columns)])
        first = np.sort(first)
        representatives = [first[(first >= a) & (first < b)] - a for a, b in itertools.pairwise(starts)]
        self.layer = replace(layers[0], width=features)
        size = layers[0].kernel_size
        shape = (features, len(carried) * size + int(layers[0].bias))
        total = torch.zeros(shape, dtype=matrices[0].dtype)
        owners = torch.zeros(len(layers), *shape, dtype=torch.bool)
        for t, (matrix, mask) in enumerate(zip(matrices, masks, strict=True)):
            positions = order[np.searchsorted(carried, columns[t])]
            expanded = (positions[:, None] * size + np.arange(size)).reshape(-1)
            if layers[t].bias:
                expanded = np.append(expanded, shape[1] - 1)
            i, j = torch.as_tensor(rows[t]), torch.as_tensor(expanded)
            counted = torch.ones_like(matrix) if mask is None else mask.to(matrix)
            total += _summed(matrix, i, j, shape).to(total)
            owners[t] = _summed(counted, i, j, shape) > 0
        self.weight = nn.Parameter(total / self.members[:, None].to(total), requires_grad=False)
        for t, (row, representative) in enumerate(zip(rows, representatives, strict=True)):
            self.register_buffer(f"rows_{t}", torch.as_tensor(row), persistent=False)
            self.register_buffer(f"columns_{t}", torch.as_tensor(representative), persistent=False)
        self.tasks = len(layers)
        stored = owners.sum(0)
        self.shared = int((stored > 1).sum())
        self.private = tuple(int((owners[t] & (stored == 1)).sum()) for t in range(self.tasks))

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


class MergedNetwork(nn.Module):
    """T networks merged into one trunk with a head for each task; `forward(x, task)` returns task's outputs.

    Args:
        private: the parents with nothing shared; their bodies run here.
        slots: for every channel group, which feature each channel becomes.
    """

    def __init__(self, private: ZippedNetwork, slots: Sequence[Slots]) -> None:
        super().__init__()
        self.tasks = private.tasks
        self.bodies = private.bodies
        self.parent_sizes = private.parent_sizes
        self.lockstep = Lockstep(private.graphs, [private.program(t) for t in range(self.tasks)])
        self.layers = nn.ModuleList()
        for index, common in enumerate(private.joint.layers):
            layers = common.members
            self.layers.append(
                MergedLayer(
                    layers,
                    [private.matrix(index, t).detach() for t in range(self.tasks)],
                    [private.mask(index, t) for t in range(self.tasks)],
                    [slots[layer.group][t][layer.rows] for t, layer in enumerate(layers)],
                    _column_features(layers, slots),
                )
            )
        self.eval()

    def layer(self, index: int) -> MergedLayer:
        """Weight layer number `index`."""
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
        return self.lockstep.run(x, lambda call, given: self.copies(call, self.features(call, given)))[task]

    def counts(self) -> ParameterCounts:
        """Stored numbers by the rule of `ZippedNetwork.counts`: what two or more tasks' weights went into is shared."""
        private = [sum(parameter.numel() for parameter in body.parameters()) for body in self.bodies]
        shared = 0
        for index in range(len(self.layers)):
            shared += self.layer(index).shared
            private = [a + b for a, b in zip(private, self.layer(index).private, strict=True)]
        return ParameterCounts(shared, tuple(private), self.parent_sizes)


def _summed(matrix: Tensor, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """Entries of a matrix (n, d) summed where their rows and columns go, of the given shape."""
    tall = matrix.new_zeros(shape[0], matrix.shape[1]).index_add_(0, rows, matrix)
    return matrix.new_zeros(shape).index_add_(1, columns, tall)


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
