"""The numbers of one layer: shared weights, Grams, ridge, differences, merging, predicted and measured loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.difference import euclidean_gram, pairwise_difference
from mtz_core.linalg import DenseGram, Gram, same_kind, to_dense
from mtz_core.moments import Moments
from mtz_core.pairing import pair_neurons
from mtz_core.partial import merge_partial
from mtz_core.slots import Members, Table, by_members
from mtz_core.spec import ZipSpec
from mtz_core.validation import RIDGES, START, walk_downhill

EXACT_UP_TO = 2048
"""Layers of at most this many inputs are solved in double precision; wider ones in single, for memory and speed
(the difference then is within 1e-6 of the exact one, relative to the largest)."""
JUDGED_SLOTS = 256
"""How many merged neurons, evenly spread, judge a ridge."""

Source = Literal["half 0", "half 1", "calibration", "evaluation"]


@dataclass(frozen=True)
class Outcome:
    """A merged layer; see `mtz_core.events.LayerZipped` for the meaning of each number.

    `weights` are every task's (n_t, d_t) matrices after merging, over all columns.
    """

    pairs: Table
    costs: Tensor
    merged: Tensor
    columns: Table
    predicted: float
    measured: float
    scale: float
    measured_on: Literal["evaluation", "calibration"]
    weights: tuple[Tensor, ...] = field(repr=False)


class Work(ABC):
    """What the zipper needs of one layer, whatever kind the layer is of."""

    alphas: tuple[float, ...]
    ridge: float = START

    @abstractmethod
    def difference(self, t: int, u: int) -> Tensor:
        """Functional difference of all rows of tasks t and u, (n_t, n_u); infinite where they cannot be paired."""

    @abstractmethod
    def choose_ridge(self, rows: Table) -> None:
        """Settle the ridge for a (provisional) pairing `rows` (k, T), unless the specification gives one."""

    @abstractmethod
    def merge(self, rows: Table) -> Outcome:
        """Merge the rows `rows` (k, T); -1 where a task has no part in a slot."""

    @abstractmethod
    def power(self, t: int) -> float:
        """Task-weighted half mean square of the layer's outputs, summed over its rows."""


@dataclass
class LayerWork(Work):
    """A layer whose neurons all read the same inputs.

    `columns` (U, T) are the layer's columns that two or more of `tasks` share. Weights (n_t, d_t), masks and Grams of
    task t are over its own d_t of these, which stand at `places[t]` (d_t,) among the U.
    """

    tasks: Members
    columns: Table
    places: dict[int, Tensor]
    matrices: list[Tensor]
    weights: dict[int, Tensor]
    masks: dict[int, Tensor]
    grams: dict[Source, dict[int, Gram]]
    alphas: tuple[float, ...]
    spec: ZipSpec
    ridge: float = START

    @classmethod
    def prepare(
        cls,
        tasks: Members,
        matrices: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        columns: Table,
        moments: Mapping[int, Moments],
        alphas: tuple[float, ...],
        spec: ZipSpec,
    ) -> LayerWork:
        """Restrict everything to the shared columns (U, T) and bring it to one precision."""
        device = matrices[tasks[0]].device
        double = len(columns) <= EXACT_UP_TO and device.type != "mps"
        dtype = torch.float64 if double else torch.float32
        own = {t: columns[columns[:, t] >= 0, t] for t in tasks}

        def cut(source: Tensor, t: int) -> Tensor:
            return source[:, torch.as_tensor(own[t], device=device)]

        grams: dict[Source, dict[int, Gram]] = {
            "half 0": {t: moments[t].half(0).to(device, dtype) for t in tasks},
            "half 1": {t: moments[t].half(1).to(device, dtype) for t in tasks},
            "calibration": {t: moments[t].calibration().to(device, dtype) for t in tasks},
        }
        if isinstance(same_kind([grams["calibration"][t] for t in tasks])[0], DenseGram):
            # With as many rows as inputs the matrices are cheaper; build them once, not in every product.
            grams = {source: {t: to_dense(g) for t, g in each.items()} for source, each in grams.items()}
        held_out = {t: moments[t].evaluation() for t in tasks}
        known = {t: g.to(device, dtype) for t, g in held_out.items() if g is not None}
        if len(known) == len(tasks):
            grams["evaluation"] = known
        return cls(
            tasks=tasks,
            columns=columns,
            places={t: torch.as_tensor(np.flatnonzero(columns[:, t] >= 0), device=device) for t in tasks},
            matrices=[matrix.detach() for matrix in matrices],
            weights={t: cut(matrices[t].detach(), t).to(dtype) for t in tasks},
            masks={t: cut(mask, t) for t in tasks if (mask := masks[t]) is not None},
            grams=grams,
            alphas=alphas,
            spec=spec,
        )

    def _weighted(self, source: Source, t: int, ridge: float) -> Gram:
        return self.grams[source][t].relative_ridge(ridge).scaled(self.alphas[t])

    def difference(self, t: int, u: int) -> Tensor:
        total = self.alphas[t] + self.alphas[u]
        both = (self.columns[:, t] >= 0) & (self.columns[:, u] >= 0)
        sides = []
        for task in (t, u):
            place = self.places[task]
            inside = torch.as_tensor(both, device=place.device)[place]
            gram = self._weighted("calibration", task, self.ridge).scaled(1.0 / total)
            weights = self.weights[task]
            if not bool(inside.all()):
                chosen = torch.nonzero(inside)[:, 0]
                gram, weights = gram.select(chosen), weights[:, chosen]
            sides.append((weights, euclidean_gram(gram, 0.5) if self.spec.metric == "euclidean" else gram))
        return pairwise_difference(sides[0][0], sides[1][0], sides[0][1], sides[1][1])

    def common(self) -> tuple[dict[int, Tensor], dict[int, Gram]]:
        """Weights and weighted Grams of every task over the columns that all tasks share."""
        everywhere = (self.columns[:, self.tasks] >= 0).all(axis=1)
        weights, grams = {}, {}
        for t in self.tasks:
            place = self.places[t]
            chosen = torch.nonzero(torch.as_tensor(everywhere, device=place.device)[place])[:, 0]
            gram = self._weighted("calibration", t, self.ridge).select(chosen)
            weights[t] = self.weights[t][:, chosen]
            grams[t] = euclidean_gram(gram, self.alphas[t]) if self.spec.metric == "euclidean" else gram
        return weights, grams

    def power(self, t: int) -> float:
        weights = self.weights[t]
        return float(self.grams["calibration"][t].scaled(self.alphas[t]).loss(weights).sum())

    def provisional(self, fresh: Mapping[int, NDArray[np.int64]]) -> Table:
        """A quick pairing of the rows `fresh[t]` of the first two tasks, to judge a ridge by."""
        t, u = self.tasks[:2]
        count = min(len(fresh[t]), len(fresh[u]))
        difference = self.difference(t, u).cpu().numpy()[np.ix_(fresh[t], fresh[u])]
        local = pair_neurons(difference, count, "greedy")
        rows = np.full((count, len(self.matrices)), -1, dtype=np.int64)
        rows[:, t], rows[:, u] = fresh[t][local[:, 0]], fresh[u][local[:, 1]]
        return rows

    def choose_ridge(self, rows: Table) -> None:
        if self.spec.ridge != "auto":
            self.ridge = float(self.spec.ridge)
        elif len(rows) and len(self.columns):
            chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), JUDGED_SLOTS)).astype(np.int64)]
            parts = self._parts(chosen)
            self.ridge = walk_downhill(RIDGES, START, lambda ridge: self._cross_validated(parts, ridge))

    def _parts(self, rows: Table) -> list[_Part]:
        return [self._part(members, rows[slots], slots) for members, slots in by_members(rows)]

    def _part(self, members: Members, rows: Table, slots: NDArray[np.int64]) -> _Part:
        """The rows that exactly `members` share, over the inputs that at least two of these have."""
        used = (self.columns[:, members] >= 0).sum(axis=1) > 1
        compact = np.cumsum(used) - 1
        inside: dict[int, Tensor | None] = {}
        places: list[Tensor] = []
        for t in members:
            place = self.places[t].cpu().numpy()
            kept = used[place]
            inside[t] = None if kept.all() else torch.as_tensor(np.flatnonzero(kept), device=self.places[t].device)
            places.append(torch.as_tensor(compact[place[kept]], device=self.places[t].device))
        weights = [_columns(self.weights[t][self._index(rows, t)], inside[t]) for t in members]
        union = None
        if self.masks:
            union = torch.zeros(len(rows), int(used.sum()), dtype=torch.bool, device=weights[0].device)
            for t, where in zip(members, places, strict=True):
                union[:, where] |= _columns(self.masks[t][self._index(rows, t)], inside[t])
        return _Part(members, rows, slots, np.flatnonzero(used), weights, inside, places, union)

    def _index(self, rows: Table, t: int) -> Tensor:
        return torch.as_tensor(rows[:, t], device=self.matrices[t].device)

    def _solve(self, part: _Part, source: Source, ridge: float) -> Tensor:
        grams = [part.view(t, self._weighted(source, t, ridge)) for t in part.members]
        return merge_partial(part.weights, grams, part.places, len(part.used), part.union)

    def _loss(self, part: _Part, merged: Tensor, source: Source, ridge: float) -> Tensor:
        losses = [
            part.view(t, self._weighted(source, t, ridge)).loss(merged[:, place] - w)
            for t, w, place in zip(part.members, part.weights, part.places, strict=True)
        ]
        return torch.stack(losses).sum(0)

    def _cross_validated(self, parts: Sequence[_Part], ridge: float) -> float:
        """Expected loss on unseen samples: weights fitted to one half's moments, judged by the other's."""
        total = 0.0
        for part in parts:
            total += float(self._loss(part, self._solve(part, "half 0", ridge), "half 1", 0.0).sum()) / 2
            total += float(self._loss(part, self._solve(part, "half 1", ridge), "half 0", 0.0).sum()) / 2
        return total

    def merge(self, rows: Table) -> Outcome:
        measured_on: Literal["evaluation", "calibration"] = (
            "evaluation" if "evaluation" in self.grams else "calibration"
        )
        matrices = [matrix.clone() for matrix in self.matrices]
        some = self.weights[self.tasks[0]]
        costs, merged = some.new_zeros(len(rows)), some.new_zeros(len(rows), len(self.columns))
        measured = scale = 0.0
        parts = self._parts(rows)
        for part in parts:
            values = self._solve(part, "calibration", self.ridge)
            where = torch.as_tensor(part.slots, device=some.device)
            costs[where] = self._loss(part, values, "calibration", self.ridge)
            merged[where[:, None], torch.as_tensor(part.used, device=some.device)] = values
            measured += float(self._loss(part, values, measured_on, 0.0).sum())
            scale += float(self._loss(part, torch.zeros_like(values), "calibration", 0.0).sum())
            for t, place in zip(part.members, part.places, strict=True):
                own = self.columns[part.used[place.cpu().numpy()], t]
                columns = torch.as_tensor(own, device=some.device)
                matrices[t][self._index(part.rows, t)[:, None], columns] = values[:, place].to(matrices[t])
        predicted = self._cross_validated(parts, self.ridge)
        order = torch.argsort(costs, stable=True)
        return Outcome(
            rows[order.cpu().numpy()],
            costs[order],
            merged[order],
            self.columns,
            predicted,
            measured,
            scale,
            measured_on,
            tuple(matrices),
        )


@dataclass(frozen=True)
class _Part:
    """Rows (k, T) that the same tasks share: their weights over the inputs `used`, and where each task's stand."""

    members: Members
    rows: Table
    slots: NDArray[np.int64]
    used: NDArray[np.int64]
    weights: list[Tensor]
    inside: Mapping[int, Tensor | None]
    places: list[Tensor]
    union: Tensor | None

    def view(self, t: int, gram: Gram) -> Gram:
        """A Gram of task t over the inputs in use."""
        chosen = self.inside[t]
        return gram if chosen is None else gram.select(chosen)


def _columns(matrix: Tensor, chosen: Tensor | None) -> Tensor:
    return matrix if chosen is None else matrix[:, chosen]
