"""The numbers of a layer whose neurons all read the same inputs: differences and merged weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.difference import euclidean_gram, pairwise_difference
from mtz_core.linalg import DenseGram, Gram, RowGram, same_kind
from mtz_core.moments import SOURCES, BankMoments, Moments, Source
from mtz_core.objective import LayerObjective, Objective
from mtz_core.pairing import pair_neurons
from mtz_core.partial import merge_partial
from mtz_core.slots import Members, Table, shared_rows
from mtz_core.spec import ZipSpec
from mtz_core.work import Part, Work

EXACT_UP_TO = 2048
"""Layers of at most this many inputs are solved in double precision; wider ones in single, for memory and speed
(the difference then is within 1e-6 of the exact one, relative to the largest)."""


@dataclass
class LayerWork(Work):
    """A layer whose neurons all read the same inputs.

    `inputs` (U, T) are the columns that take part: those that two or more tasks share, and with compensation all.
    Weights of task t are over its own d_t of these, which stand at `places[t]` (d_t,) among the U.
    """

    inputs: Table = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))
    places: dict[int, Tensor] = field(default_factory=dict)
    base: dict[int, Tensor] = field(default_factory=dict)
    dense: bool = True

    @classmethod
    def prepare(
        cls,
        tasks: Members,
        matrices: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        inputs: Table,
        moments: Mapping[int, Moments],
        alphas: tuple[float, ...],
        spec: ZipSpec,
    ) -> LayerWork:
        """Restrict everything to the columns `inputs` (U, T) and bring it to one precision."""
        device = matrices[tasks[0]].device
        double = len(inputs) <= EXACT_UP_TO and device.type != "mps"
        dtype = torch.float64 if double else torch.float32
        own = {t: inputs[inputs[:, t] >= 0, t] for t in tasks}

        def cut(source: Tensor, t: int) -> Tensor:
            return source[:, torch.as_tensor(own[t], device=device)]

        base = {t: cut(matrices[t].detach(), t).to(dtype) for t in tasks}
        whole = [moments[t].parts[k].gram() for t in tasks for k in range(2)]
        work = cls(
            tasks=tasks,
            matrices=[matrix.detach() for matrix in matrices],
            own=own,
            objectives={},
            alphas=alphas,
            spec=spec,
            masks={t: cut(mask, t) for t in tasks if (mask := masks[t]) is not None},
            inputs=inputs,
            places={t: torch.as_tensor(np.flatnonzero(inputs[:, t] >= 0), device=device) for t in tasks},
            base=base,
            dense=not all(isinstance(gram, RowGram) for gram in whole) or isinstance(same_kind(whole)[0], DenseGram),
        )
        for source in SOURCES:
            found = {t: o for t in tasks if (o := work.objective(source, t, moments[t])) is not None}
            if len(found) == len(tasks):
                work.objectives[source] = found
        return work

    def objective(self, source: Source, t: int, moments: Moments | BankMoments) -> Objective | None:
        assert isinstance(moments, Moments)
        moment, base = moments.mean(source), self.base[t]
        if moment is None:
            return None
        moment = moment.to(base.device, base.dtype)
        # With as many rows as inputs the matrices are cheaper; build them once, not in every product.
        return LayerObjective(moment.dense() if self.dense and source != "evaluation" else moment, base)

    @property
    def columns(self) -> Table:
        return shared_rows(self.inputs)

    def _gram(self, source: Source, t: int, ridge: float) -> Gram:
        """Task-weighted Gram of task t over its own inputs."""
        objective = self.objectives[source][t]
        assert isinstance(objective, LayerObjective)
        return objective.moment.gram.relative_ridge(ridge).scaled(self.alphas[t])

    def _inside(self, t: int, chosen: NDArray[np.bool_]) -> Tensor | None:
        """Numbers of task t's own inputs among the `chosen` (U,); `None`: all of them."""
        kept = chosen[self.places[t].cpu().numpy()]
        return None if kept.all() else torch.as_tensor(np.flatnonzero(kept), device=self.places[t].device)

    def _over(self, t: int, chosen: NDArray[np.bool_]) -> tuple[Tensor, Gram]:
        """Weights and Gram of task t over `chosen` inputs, all its other weights free to follow."""
        inside, weights = self._inside(t, chosen), self.best("calibration", t)
        gram = self._gram("calibration", t, self.ridge)
        if inside is not None:
            weights = weights[:, inside]
            gram = gram.schur(inside) if self.spec.compensate else gram.select(inside)
        return weights, euclidean_gram(gram, self.alphas[t]) if self.spec.metric == "euclidean" else gram

    def difference(self, t: int, u: int) -> Tensor:
        both = (self.inputs[:, t] >= 0) & (self.inputs[:, u] >= 0)
        (w_t, gram_t), (w_u, gram_u) = self._over(t, both), self._over(u, both)
        total = self.alphas[t] + self.alphas[u]
        return pairwise_difference(w_t, w_u, gram_t.scaled(1.0 / total), gram_u.scaled(1.0 / total))

    def common(self, tasks: Members) -> tuple[dict[int, Tensor], dict[int, Gram]]:
        """Weights and weighted Grams of `tasks` over the columns that all of them share."""
        everywhere = (self.inputs[:, tasks] >= 0).all(axis=1)
        found = {t: self._over(t, everywhere) for t in tasks}
        return {t: w for t, (w, _) in found.items()}, {t: gram for t, (_, gram) in found.items()}

    def provisional(self, fresh: Mapping[int, NDArray[np.int64]]) -> Table:
        """A quick pairing of the rows `fresh[t]` of the first two tasks, to judge a ridge by."""
        t, u = list(fresh)[:2]
        count = min(len(fresh[t]), len(fresh[u]))
        difference = self.difference(t, u).cpu().numpy()[np.ix_(fresh[t], fresh[u])]
        local = pair_neurons(difference, count, "greedy")
        rows = np.full((count, len(self.matrices)), -1, dtype=np.int64)
        rows[:, t], rows[:, u] = fresh[t][local[:, 0]], fresh[u][local[:, 1]]
        return rows

    def _used(self, part: Part) -> NDArray[np.bool_]:
        """Inputs (U,) whose weights may change: with compensation all that the members have, else what they share."""
        counts: NDArray[np.int64] = (self.inputs[:, part.members] >= 0).sum(axis=1)
        return counts > (0 if self.spec.compensate else 1)

    def solve(self, part: Part, source: Source, ridge: float) -> list[Tensor]:
        rows = [self.index(part.rows, t) for t in part.members]
        best = [self.best(source, t)[row] for t, row in zip(part.members, rows, strict=True)]
        if len(part.members) == 1:
            return best
        used = self._used(part)
        compact = torch.as_tensor(np.cumsum(used) - 1, device=rows[0].device)
        insides = [self._inside(t, used) for t in part.members]
        places, weights, grams = [], [], []
        union = None
        if self.masks:
            union = torch.zeros(len(part.rows), int(used.sum()), dtype=torch.bool, device=rows[0].device)
        for t, w, row, inside in zip(part.members, best, rows, insides, strict=True):
            place, gram = self.places[t], self._gram(source, t, ridge)
            mask = self.masks[t][row] if t in self.masks else None
            if inside is not None:
                place, w, gram = place[inside], w[:, inside], gram.select(inside)
                mask = None if mask is None else mask[:, inside]
            places.append(compact[place])
            weights.append(w)
            grams.append(gram)
            if union is not None:
                union[:, places[-1]] |= True if mask is None else mask
        merged = merge_partial(weights, grams, places, int(used.sum()), union)
        values = []
        for w, place, inside in zip(best, places, insides, strict=True):
            if inside is None:
                values.append(merged[:, place])
            else:
                values.append(w.clone())
                values[-1][:, inside] = merged[:, place]
        return values

    def cost(self, part: Part, values: Sequence[Tensor]) -> Tensor:
        losses = [
            self._gram("calibration", t, self.ridge).loss(w - self.best("calibration", t)[self.index(part.rows, t)])
            for t, w in zip(part.members, values, strict=True)
        ]
        return torch.stack(losses).sum(0)

    def shared(self, part: Part, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        several = (self.inputs >= 0).sum(axis=1) > 1
        number = np.cumsum(several) - 1
        mine = several & ((self.inputs[:, part.members] >= 0).sum(axis=1) > 1)
        merged = values[0].new_zeros(len(part.rows), int(mine.sum()))
        compact = np.cumsum(mine) - 1
        for t, w in zip(part.members, values, strict=True):
            place = self.places[t].cpu().numpy()
            kept = np.flatnonzero(mine[place])
            target = torch.as_tensor(compact[place[kept]], device=merged.device)
            merged[:, target] = w[:, torch.as_tensor(kept, device=merged.device)]
        return merged, torch.as_tensor(number[mine], device=merged.device)
