"""One layer's calibration: moments of its inputs, what it should put out, and the images that excite its neurons."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core.calibration.moments import GroupedMoments, LayerMoments, Moments
from mtz_core.calibration.rows import by_image, output_space, rows_at, sample_positions, values_at
from mtz_core.calibration.stream import Twin
from mtz_core.graph.channels import ChannelGraph, WeightLayer
from mtz_core.graph.recurrent import Recurrence

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


@dataclass(frozen=True)
class Sample:
    """Input rows (m, d) or (m, groups, d) of part `part`; what the layer gives `now`, and should give, (m, n)."""

    part: int
    rows: Tensor
    now: Tensor
    goal: Tensor | None


@dataclass
class Goals:
    """What the layers of a parent give at sampled places, batch by batch, up to `budget` bytes.

    A planner merges one layer after another for trial; the parent gives the same every time.
    """

    budget: int
    known: dict[tuple[Any, ...], list[Tensor]] = field(default_factory=dict)

    def keep(self, key: tuple[Any, ...], found: list[Tensor]) -> None:
        """Keep a layer's, if there is room."""
        size = sum(x.nbytes for x in found)
        if size <= self.budget:
            self.known[key], self.budget = found, self.budget - size


@dataclass(frozen=True)
class Seen:
    """What calibration saw of a layer in one task (see `LayerSamples`)."""

    moments: LayerMoments
    spread: float
    floor: float | None
    ceiling: float | None


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
        budget: bytes of input rows that may be kept, where targets will be renewed; beyond, they are computed again.
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
    goals: Goals | None = None
    """What the parent's layers give, where it is asked for again and again."""
    exact: bool = True
    """Whether moments are summed in double precision (see `Accumulator`)."""
    moments: LayerMoments = field(init=False)
    spread: float = 1.0
    """Variance of the wanted outputs on the calibration images, mean over neurons."""
    floor: float | None = None
    """Outputs below it count as if they were equal to it (a ReLU follows), those above `ceiling` likewise."""
    ceiling: float | None = None
    _kept: list[Sample] | None = None

    @property
    def seen(self) -> Seen:
        """What was seen, for who comes to the same layer with the same images again."""
        return Seen(self.moments, self.spread, self.floor, self.ceiling)

    def calibrate(self, peaks: bool, known: Seen | None = None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Accumulate moments; return the images on which each neuron fires most, and how much, (n, m) each.

        What is `known` is taken over, and then no image is looked at.
        """
        layer = self.layer
        if known is not None:
            self.moments, self.spread, self.floor, self.ceiling = (
                known.moments,
                known.spread,
                known.floor,
                known.ceiling,
            )
            return np.empty((layer.width, 0), dtype=np.int64), np.empty((layer.width, 0), dtype=np.float32)
        self.moments = Moments(len(self.columns), self.exact) if layer.banks == 1 else GroupedMoments()
        pool = min(TOP_POOL, len(self.halves)) if peaks else 0
        best_values = torch.full((pool, layer.width), -torch.inf)
        count, total, squares = 0, torch.zeros(layer.width), torch.zeros(layer.width)
        for sample in self._samples(best_values):
            residuals = None
            if sample.goal is not None:
                residuals = sample.goal - sample.now
                if sample.part != EVALUATION:
                    seen = sample.goal.double().cpu()
                    count, total, squares = count + len(seen), total + seen.sum(0), squares + seen.square().sum(0)
            self.moments.add(sample.part, sample.rows, residuals)
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
        return (self.floor is not None or self.ceiling is not None) and self.twin.parent is not None

    def renew(self, matrix: Tensor) -> None:
        """Aim anew, given the weights `matrix` (n, d) that the layer is to have.

        Where the wanted value is below the floor, any value below it will do: the target becomes the one that
        `matrix` gives, or the floor if that is higher.
        """
        moments = self.moments.renewed()
        moved = (matrix - self.matrix)[:, self._columns()] if self.layer.banks == 1 else matrix - self.matrix
        for sample in self._samples():
            assert sample.goal is not None
            now, goal = sample.now + _outputs(sample.rows, moved, self.layer.banks > 1), sample.goal
            if self.floor is not None:
                goal = torch.where(goal > self.floor, goal, now.clamp(max=self.floor))
            if self.ceiling is not None:
                goal = torch.where(goal < self.ceiling, goal, now.clamp(min=self.ceiling))
            moments.add_residuals(sample.part, sample.rows, goal - sample.now)
        self.moments = moments

    def forget(self) -> None:
        """Free the input rows."""
        self._kept = None

    def _columns(self) -> Tensor:
        return torch.as_tensor(self.columns, device=self.matrix.device)

    def _samples(self, peaks: Tensor | None = None) -> Iterator[Sample]:
        """All rows, part by part; those that fit into the budget are computed once.

        `peaks` (images, n) takes each neuron's largest output on the first images.
        """
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Sample] | None = []
        size = 0
        for batch in self._batches():
            now = _outputs(batch.rows, self.matrix, self.layer.banks > 1)
            if peaks is not None and batch.where.start < len(peaks):
                known = peaks[batch.where]
                known.copy_(torch.maximum(known, now[: len(known)].amax(1).float().cpu()))
            if batch.summand is not None:
                now = now + batch.summand
            for sample in self._by_part(batch, now):
                tensors = (sample.rows, sample.now, sample.goal)
                size += sum(x.numel() * x.element_size() for x in tensors if x is not None)
                if kept is not None and self.bounded and size <= self.budget:
                    kept.append(sample)
                else:
                    kept = None
                yield sample
        self._kept = kept

    def _by_part(self, batch: Batch, now: Tensor) -> Iterator[Sample]:
        """Rows (m, d) over the columns that take part, what the layer and a summand give now, and should give."""
        every = self.layer.banks > 1 or np.array_equal(self.columns, np.arange(self.layer.columns))
        for k in range(3):
            inside = (batch.part == k).to(now.device)
            if bool(inside.any()):
                rows = batch.rows[inside].flatten(0, 1)
                goal = None if batch.goal is None else batch.goal[inside].flatten(0, 1)
                yield Sample(k, rows if every else rows[:, self._columns()], now[inside].flatten(0, 1), goal)

    def _batches(self) -> Iterator[Batch]:
        layer, module = self.layer, self.graph.network.module.get_submodule(self.layer.name)
        original = self.matrix if self.twin.parent is None else self.graph.matrix(layer).to(self.matrix)
        generator = torch.Generator().manual_seed(self.seed)
        for node in layer.nodes:
            follows = self.twin.sequel(node)
            if len(layer.nodes) == 1 and not isinstance(module, Recurrence):
                self.floor, self.ceiling = follows.floor, follows.ceiling
            key = (node, self.seed, self.positions, self.twin.zipped.batch_size, len(self.twin.zipped.images))
            known = None if self.goals is None else self.goals.known.get(key)
            found: list[Tensor] = []
            for where, (x, other), before in self.twin.inputs(node, follows.summand, known is None):
                images = where.stop - where.start
                each = None if self.positions is None else max(1, self.positions * images // len(x))
                positions = sample_positions(layer, module, x, each, generator)
                rows = by_image(rows_at(layer, module, x, positions, self.matrix), images)
                goal = summand = None
                joins = self.twin.parent is not None and _joins(layer, module, x, other)
                if before is not None:
                    wanted = by_image(rows_at(layer, module, before[0], positions, original), images)
                    goal = _outputs(wanted, original, layer.banks > 1)
                    if joins:
                        assert before[1] is not None
                        goal = goal + follows.sign * by_image(values_at(module, before[1], positions), images)
                    found.append(goal)
                elif known is not None:
                    goal = known[len(found)]
                    found.append(goal)
                if joins:
                    assert other is not None
                    summand = follows.sign * by_image(values_at(module, other, positions), images)
                elif goal is not None and follows.summand is not None:
                    self.floor = self.ceiling = None
                part = torch.full((images,), EVALUATION)
                part[: len(self.halves[where])] = self.halves[where]
                yield Batch(where, part, rows, goal, summand)
            if self.goals is not None and known is None and found:
                self.goals.keep(key, found)


def _joins(layer: WeightLayer, module: nn.Module, x: Tensor, other: Tensor | None) -> bool:
    """Whether a summand has the shape of the layer's output (and is not broadcast)."""
    if other is None or len(other) != len(x):
        return False
    if isinstance(module, nn.Linear):
        return other.shape[-1] == layer.width and other.shape[:-1] == x.shape[:-1]
    return other.shape[1] == layer.width and math.prod(other.shape[2:]) == math.prod(output_space(module, x))


def _outputs(rows: Tensor, matrix: Tensor, grouped: bool) -> Tensor:
    """Outputs (..., n) for input rows (..., d), or (..., B, d) of a grouped convolution; `matrix` is (n, d)."""
    if not grouped:
        return rows @ matrix.mT
    banks = matrix.reshape(rows.shape[-2], -1, matrix.shape[1])
    return torch.einsum("...bd,bkd->...bk", rows, banks).flatten(-2)
