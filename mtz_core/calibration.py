"""One layer's calibration: moments of its inputs, what it should put out, and the images that excite its neurons."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core.graph.channels import ChannelGraph, WeightLayer
from mtz_core.graph.recurrent import Recurrence
from mtz_core.moments import BankMoments, Moments, output_space, rows_at, sample_places, values_at
from mtz_core.stream import Twin

TOP_IMAGES = 8
TOP_POOL = 512
"""How many calibration images take part in "on which images does this neuron fire most"."""
EVALUATION = 2
"""Part of the stream that holds evaluation images; 0 and 1 are the halves of the calibration set."""


@dataclass(frozen=True)
class Batch:
    """Some images at a layer: input rows (N, P, d) or (N, P, groups, d), and with compensation the wanted outputs.

    `goal` (N, P, n) is what the layer and, where it joins a sum, the other summand should give together; `summand`
    (N, P, n) is what the other gives now. `part` (N,) tells halves and evaluation images apart.
    """

    where: slice
    part: Tensor
    rows: Tensor
    goal: Tensor | None
    summand: Tensor | None


@dataclass
class LayerSamples:
    """One task's images on their way to one layer, as often as they are needed.

    Args:
        graph: channel graph of the task.
        layer: the layer, of that graph.
        twin: calibration images, then evaluation images, in the partly zipped network and in the parent.
        matrix: the layer's weights (n, d) in the partly zipped network.
        columns: the layer's columns that take part, (k,); a grouped convolution keeps the moments of all its columns.
        halves: half 0 or 1 of every calibration image.
        positions: see `ZipSpec.positions`.
        seed: of sampled positions.
        budget: bytes of input rows that may be kept; beyond, they are computed again when they are needed again.
    """

    graph: ChannelGraph
    layer: WeightLayer
    twin: Twin
    matrix: Tensor
    columns: NDArray[np.int64]
    halves: Tensor
    positions: int | None
    seed: int
    budget: int
    moments: Moments | BankMoments = field(init=False)
    spread: float = 1.0
    """Variance of the wanted outputs on the calibration images, mean over neurons."""
    floor: float | None = None
    """Outputs below it count as if they were equal to it (a ReLU follows), those above `ceiling` likewise."""
    ceiling: float | None = None
    _kept: list[Batch] | None = None

    def calibrate(self, peaks: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Accumulate moments; return the images on which each neuron fires most, and how much, (n, m) each."""
        layer = self.layer
        self.moments = Moments(len(self.columns)) if layer.groups == 1 else BankMoments()
        pool = min(TOP_POOL, len(self.halves)) if peaks else 0
        best_values = torch.full((pool, layer.width), -torch.inf)
        count, total, squares = 0, torch.zeros(layer.width), torch.zeros(layer.width)
        for batch in self._keeping():
            residuals = None
            if batch.goal is not None:
                residuals = batch.goal - self._sum(batch, self.matrix)
                seen = batch.goal[(batch.part != EVALUATION).to(batch.goal.device)].flatten(0, 1).double().cpu()
                count, total, squares = count + len(seen), total + seen.sum(0), squares + seen.square().sum(0)
            for k, rows, left in self._by_part(batch, residuals):
                if isinstance(self.moments, BankMoments):
                    self.moments.add(k, rows, left)
                else:
                    self.moments.parts[k].add(rows, left)
            where = batch.where
            shown = batch.rows[: max(0, pool - where.start)]
            if len(shown):
                known = best_values[where.start : where.start + len(shown)]
                known.copy_(torch.maximum(known, _outputs(shown, self.matrix).amax(1).float().cpu()))
        if count:
            self.spread = float((squares / count - (total / count).square()).mean())
        if not pool:
            nothing = np.empty((layer.width, 0), dtype=np.int64)
            return nothing, nothing.astype(np.float32)
        best = best_values.topk(min(TOP_IMAGES, pool), dim=0)
        return best.indices.mT.contiguous().numpy(), best.values.mT.contiguous().numpy()

    @property
    def bounded(self) -> bool:
        """Whether the outputs meet an activation that ignores a part of their range."""
        return self.floor is not None and self.twin.parent is not None

    def renew(self, matrix: Tensor) -> None:
        """Aim anew, given the weights `matrix` (n, d) that the layer is to have.

        Where the wanted value is below the floor, any value below it will do: the target becomes the one that
        `matrix` gives, or the floor if that is higher.
        """
        moments = self.moments.renewed()
        for batch in self._keeping():
            assert batch.goal is not None
            now, goal = self._sum(batch, matrix), batch.goal
            if self.floor is not None:
                goal = torch.where(goal > self.floor, goal, now.clamp(max=self.floor))
            if self.ceiling is not None:
                goal = torch.where(goal < self.ceiling, goal, now.clamp(min=self.ceiling))
            for k, rows, left in self._by_part(batch, goal - self._sum(batch, self.matrix)):
                assert left is not None
                if isinstance(moments, BankMoments):
                    moments.add_residuals(k, rows, left)
                else:
                    moments.parts[k].add_residuals(rows, left)
        self.moments = moments

    def forget(self) -> None:
        """Free the input rows."""
        self._kept = None

    def _sum(self, batch: Batch, matrix: Tensor) -> Tensor:
        own = _outputs(batch.rows, matrix)
        return own if batch.summand is None else own + batch.summand

    def _by_part(self, batch: Batch, residuals: Tensor | None) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """Rows (m, d) over the columns that take part, and residuals (m, n), of every part."""
        every = np.array_equal(self.columns, np.arange(self.layer.columns))
        for k in range(3):
            inside = (batch.part == k).to(batch.rows.device)
            if not bool(inside.any()):
                continue
            rows = batch.rows[inside].flatten(0, 1)
            if not every and self.layer.groups == 1:
                rows = rows[:, torch.as_tensor(self.columns, device=rows.device)]
            yield k, rows, None if residuals is None else residuals[inside].flatten(0, 1)

    def _keeping(self) -> Iterator[Batch]:
        """All batches; those that fit into the budget are computed once."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Batch] | None = []
        size = 0
        for batch in self._batches():
            if kept is not None:
                tensors = (batch.rows, batch.goal, batch.summand)
                size += sum(x.numel() * x.element_size() for x in tensors if x is not None)
                kept = [*kept, batch] if size <= self.budget else None
            yield batch
        self._kept = kept

    def _batches(self) -> Iterator[Batch]:
        layer, module = self.layer, self.graph.network.module.get_submodule(self.layer.name)
        original = self.matrix if self.twin.parent is None else self.graph.matrix(layer).to(self.matrix)
        generator = torch.Generator().manual_seed(self.seed)
        for node in layer.nodes:
            follows = self.twin.sequel(node)
            if len(layer.nodes) == 1 and not isinstance(module, Recurrence):
                self.floor, self.ceiling = follows.floor, follows.ceiling
            for where, (x, other), before in self.twin.inputs(node, follows.summand):
                places = sample_places(layer, module, x, self.positions, generator)
                rows = rows_at(layer, module, x, places, self.matrix)
                goal = summand = None
                if before is not None:
                    goal = _outputs(rows_at(layer, module, before[0], places, original), original)
                    if _joins(layer, module, x, other):
                        assert before[1] is not None
                        assert other is not None
                        summand = values_at(module, other, places)
                        goal = goal + values_at(module, before[1], places)
                    elif follows.summand is not None:
                        self.floor = self.ceiling = None
                part = torch.full((len(x),), EVALUATION)
                part[: len(self.halves[where])] = self.halves[where]
                yield Batch(where, part, rows, goal, summand)


def _joins(layer: WeightLayer, module: nn.Module, x: Tensor, other: Tensor | None) -> bool:
    """Whether a summand has the shape of the layer's output (and is not broadcast)."""
    if other is None or len(other) != len(x):
        return False
    if isinstance(module, nn.Linear):
        return other.shape[-1] == layer.width and other.shape[:-1] == x.shape[:-1]
    return other.shape[1] == layer.width and math.prod(other.shape[2:]) == math.prod(output_space(module, x))


def _outputs(rows: Tensor, matrix: Tensor) -> Tensor:
    """Pre-activations (N, P, n) for input rows (N, P, d), or (N, P, B, d) of a grouped convolution."""
    if rows.ndim == 3:
        return rows @ matrix.mT
    banks = matrix.reshape(rows.shape[2], -1, matrix.shape[1])
    return torch.einsum("npbd,bkd->npbk", rows, banks).flatten(2)
