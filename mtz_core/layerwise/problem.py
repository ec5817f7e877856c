"""The numbers of one layer, whatever its kind: ridges, merging, predicted and measured loss.

Rows (neurons) that several tasks share get one set of weights over the inputs that these share; weights from a task's
own inputs into a shared neuron, and all weights of its own neurons, stay its own. With compensation all of them move
to where they best reproduce the parent's outputs; without, only shared weights do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.algebra.quadratic import PairForm
from mtz_core.algebra.ridge import RIDGES, START, walk_downhill
from mtz_core.calibration.moments import SOURCES, LayerMoments, Source
from mtz_core.layerwise.objective import Objective
from mtz_core.pairing.slots import Members, Table, by_members
from mtz_core.spec import ZipSpec

JUDGED_SLOTS = 256
"""How many merged neurons, evenly spread, judge a ridge."""
FITTED: Source = "half 0"
"""Weights fitted to these moments are judged by `JUDGING`; the other way round the loss is nearly the same."""
JUDGING: Source = "half 1"
Least = list[tuple[float, float, Tensor]]
"""Loss, ridge and weights of the least loss so far."""
PIECE = 64 * 2**20
"""Bytes of the weights that are merged at once where neurons can be merged one by one."""


@dataclass(frozen=True)
class Part:
    """Rows `rows` (k, T) that exactly the tasks `members` share; `slots` (k,) are their numbers among all rows."""

    members: Members
    rows: Table
    slots: NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """Merged rows: weights (k, d_t) of every member, and the scales (k,) of what they share (`None`: one).

    `gains[t]` (d_t,) are factors of task t's inputs where they are shared (`None`: one).
    """

    values: list[Tensor]
    scales: Sequence[Tensor] | None = None
    gains: Mapping[int, Tensor] | None = None


@dataclass(frozen=True)
class Given:
    """What is known of a layer in the tasks `tasks`, from which its problem is made.

    `matrices` (n_t, d_t) and `masks` are all tasks' weights now and where they may differ from zero; `inputs` (U, T)
    the columns that take part, `entries[t]` (n_t, d_t) what every weight reads; `outputs[t]` (n_t, n_t) what errors of
    its outputs weigh (see `calibration.sensitivity`), for the tasks of which it is known.
    """

    tasks: Members
    matrices: Sequence[Tensor]
    masks: Sequence[Tensor | None]
    inputs: Table
    entries: Sequence[Table]
    depthwise: bool
    moments: Mapping[int, LayerMoments]
    alphas: tuple[float, ...]
    spec: ZipSpec
    outputs: Mapping[int, Tensor] = field(default_factory=dict)
    unit: float = 1.0
    """What one unit of this layer's loss is worth beside other layers'."""


@dataclass(frozen=True)
class Compared:
    """The form whose value is the difference of two rows, and the columns (d, 2) of both tasks' matrices it is over."""

    form: PairForm
    columns: Table


@dataclass(frozen=True)
class Ridges:
    """Ridges of a layer: of each task's compensation, and of merging."""

    own: Mapping[int, float]
    merging: float


@dataclass
class LayerProblem(ABC):
    """The numbers of one layer.

    `matrices` are all tasks' weights now, `base[t]` those of task t over the columns `own[t]` of its matrix, in the
    precision of the solution; `objectives[source][t]` judges them.
    """

    tasks: Members
    matrices: list[Tensor]
    own: Mapping[int, NDArray[np.int64]]
    base: Mapping[int, Tensor]
    alphas: tuple[float, ...]
    spec: ZipSpec
    objectives: dict[Source, dict[int, Objective]] = field(default_factory=dict)
    masks: Mapping[int, Tensor] = field(default_factory=dict)
    unit: float = 1.0
    """What one unit of this layer's loss is worth beside other layers'."""
    ridge: float = START
    own_ridge: dict[int, float] = field(default_factory=dict)
    """Ridge of each task's compensation."""
    settled: bool = False
    """Whether ridges were given and are not searched for."""
    known_best: dict[tuple[Source, int], Tensor] = field(default_factory=dict)

    @classmethod
    @abstractmethod
    def of(cls, given: Given) -> Self:
        """Make the problem of a layer."""

    @property
    def scaled(self) -> bool:
        """Whether every task has a scale of its own for what its neurons share."""
        return False

    @property
    def gained(self) -> bool:
        """Whether every task has a factor of its own for each input that it shares."""
        return self.spec.own_input_scale and self.scaled

    @property
    def paired_first(self) -> bool:
        """Whether the ridge is judged by the pairs that are merged, not by quick ones before."""
        return True

    def quick_pairs(self, fresh: Mapping[int, NDArray[np.int64]]) -> Table | None:
        """Provisional pairs (k, T) of the rows `fresh[t]`, to judge a ridge by; `None`: there is nothing to compare."""
        return None

    def worth(self, tasks: Members) -> NDArray[np.float64] | None:
        """Weights that sharing a row saves, by the tasks that do (see `subsets.worth_of`); `None`: not known."""
        return None

    def exact_slots(
        self, rows: Mapping[int, NDArray[np.int64]], count: int, method: str, seed: int
    ) -> NDArray[np.int64] | None:
        """Slots (k, tasks) of all tasks by the exact cost of merging, as indices into `rows[t]`; `None`: not known."""
        return None

    def importance(self, t: int) -> Tensor | None:
        """How much an error of each of task t's neurons matters, (n_t,); `None`: not known."""
        return None

    @abstractmethod
    def difference(self, t: int, u: int) -> Tensor:
        """Functional difference of all rows of tasks t and u, (n_t, n_u); infinite where they cannot be paired.

        Where it is known how much rows' outputs matter, a and b, it counts 2 a b / (a + b) times: so much more two
        neurons with equal inputs would differ if their errors were weighed by a and b.
        """

    @abstractmethod
    def form(self, t: int, u: int, i: int, j: int) -> Compared:
        """What the difference of two rows is made of. Raises `SpecError` where they read nothing in common."""

    @abstractmethod
    def solve(
        self, part: Part, source: Source, ridge: float, scaled: bool | None = None, like: Solution | None = None
    ) -> Solution:
        """Every member's rows once these are merged.

        `scaled` overrules whether tasks have scales of their own; those of the solution `like` are taken over.
        """

    @abstractmethod
    def cost(self, part: Part, values: Sequence[Tensor]) -> Tensor:
        """Functional difference (k,) of the merged rows: what merging adds to the loss, ridge included."""

    @abstractmethod
    def shared(self, part: Part, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Merged weights over the shared columns (k, c), for scales of one, and which of `columns` these are (c,)."""

    @property
    @abstractmethod
    def columns(self) -> Table:
        """Columns (U, T) that two or more tasks share."""

    def power(self, t: int) -> float:
        """Task-weighted half mean square of the layer's wanted outputs, summed over its rows."""
        nothing = torch.zeros_like(self.base[t])
        return self.alphas[t] * float(self.objectives["calibration"][t].loss(nothing, self._every(t)).sum())

    def _every(self, t: int) -> Tensor:
        return torch.arange(len(self.base[t]), device=self.base[t].device)

    def best(self, source: Source, t: int) -> Tensor:
        """Weights (n_t, d_t) of task t alone that reproduce its parent best, by the moments of `source`."""
        if (source, t) not in self.known_best:
            ridge = self.own_ridge.get(t, START)
            self.known_best[source, t] = self.objectives[source][t].fit(ridge, self.masks.get(t))
        return self.known_best[source, t]

    def forget(self, source: Source) -> None:
        """Let go of what was found by the moments of `source`; it is found again where it is asked for."""
        for t in self.tasks:
            self.known_best.pop((source, t), None)

    def compared(self, t: int) -> Tensor:
        """Weights (n_t, d_t) of task t that pairing compares: its own, compensated if asked for."""
        matrix = self.matrices[t].clone()
        if t in self.tasks:
            columns = torch.as_tensor(self.own[t], device=matrix.device)
            matrix[:, columns] = self.best("calibration", t).to(matrix)
        return matrix

    def compensate(self, tasks: Sequence[int] | None = None) -> None:
        """Settle the ridge of each task's compensation by the loss on images that it was not fitted to."""
        for t in self.tasks if tasks is None else tasks:
            if not self.objectives["calibration"][t].compensated or (self.settled and t in self.own_ridge):
                continue
            if self.spec.ridge != "auto":
                self.own_ridge[t] = float(self.spec.ridge)
                continue
            fitted, judging = self.objectives[FITTED][t], self.objectives[JUDGING][t]
            least: Least = []

            def loss(
                ridge: float, t: int = t, fitted: Objective = fitted, judging: Objective = judging, least: Least = least
            ) -> float:
                weights = fitted.fit(ridge, self.masks.get(t))
                found = float(judging.loss(weights, self._every(t)).sum())
                if not least or found < least[0][0]:
                    least[:] = [(found, ridge, weights)]
                return found

            before = self.own_ridge.get(t)
            found = walk_downhill(RIDGES, START if before is None else before, loss)
            if before is not None and found <= before:
                continue
            self.own_ridge[t] = found
            self.known_best.pop(("calibration", t), None)
            self.known_best.pop((FITTED, t), None)
            if least[0][1] == found:
                self.known_best[FITTED, t] = least[0][2]

    def choose_ridge(self, rows: Table) -> None:
        """Settle the ridge of merging for a (provisional) pairing `rows` (k, T), unless the specification gives one."""
        if self.spec.ridge != "auto":
            self.ridge = float(self.spec.ridge)
        elif len(rows) and not self.settled:
            chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), JUDGED_SLOTS)).astype(np.int64)]
            parts = parts_of(chosen)
            self.ridge = walk_downhill(RIDGES, self.ridge, lambda ridge: self.cross_validated(parts, ridge))

    def loss(self, part: Part, values: Sequence[Tensor], source: Source) -> Tensor:
        """Task-weighted loss (k,) of weights `values` of the part's rows."""
        losses = [
            self.alphas[t] * self.objectives[source][t].loss(w, self.index(part.rows, t))
            for t, w in zip(part.members, values, strict=True)
        ]
        return torch.stack(losses).sum(0)

    def solutions(self, parts: Sequence[Part], source: Source, like: Sequence[Solution] = ()) -> Iterable[Solution]:
        """Every part's rows once all of them are merged, with the scales of the solutions `like`, if there are any."""
        both = zip_longest(parts, like)
        return (self.solve(part, source, self.ridge, like=known) for part, known in both)

    def cross_validated(self, parts: Sequence[Part], ridge: float) -> float:
        """Loss on unseen samples with each part on its own and no scales, by which a ridge is chosen."""
        return self._judged(parts, (self.solve(part, FITTED, ridge, scaled=False) for part in parts))

    def predicted(self, parts: Sequence[Part], like: Sequence[Solution] = ()) -> float:
        """Loss to expect on unseen samples; scales are those of the solutions `like`, if there are any."""
        return self._judged(parts, self.solutions(parts, FITTED, like))

    def _judged(self, parts: Sequence[Part], solutions: Iterable[Solution]) -> float:
        """Loss on half of the calibration images of weights fitted to the other half."""
        both = zip(parts, solutions, strict=True)
        return sum(float(self.loss(part, solution.values, JUDGING).sum()) for part, solution in both)

    def index(self, rows: Table, t: int) -> Tensor:
        """Rows of task t as a tensor."""
        return torch.as_tensor(rows[:, t], device=self.matrices[t].device)

    @property
    def compensated(self) -> bool:
        """Whether some task's layer does not give what it should any more."""
        return any(self.objectives["calibration"][t].compensated for t in self.tasks)

    @abstractmethod
    def objective(self, source: Source, t: int, moments: LayerMoments) -> Objective | None:
        """What task t's weights are judged by, given new moments."""

    def observe(self, moments: Mapping[int, LayerMoments]) -> None:
        """Judge all tasks' weights by these moments; evaluation images count where every task has some."""
        for source in SOURCES:
            found = {t: o for t in self.tasks if (o := self.objective(source, t, moments[t])) is not None}
            if len(found) == len(self.tasks):
                self.objectives[source] = found

    def renew(self, moments: Mapping[int, LayerMoments], sources: Sequence[Source] = SOURCES) -> None:
        """Judge the weights of some tasks by new targets, on the parts `sources` of the data."""
        self.known_best.clear()
        for source, objectives in self.objectives.items():
            if source not in sources:
                continue
            changed = {t: found for t, m in moments.items() if (found := self.objective(source, t, m)) is not None}
            self.objectives[source] = {**objectives, **changed}

    def merged_weights(self, rows: Table, ridge: float | None = None) -> list[Tensor]:
        """All tasks' matrices once `rows` (k, T) are merged, with the ridge that was settled unless one is given."""
        matrices = [matrix.clone() for matrix in self.matrices]
        for part in self.pieces([*parts_of(rows), *private_parts(self, rows)]):
            self.write(matrices, part, self.solve(part, "calibration", self.ridge if ridge is None else ridge).values)
        return matrices

    def pieces(self, parts: Sequence[Part]) -> list[Part]:
        """The same rows in parts that take little memory at once."""
        found: list[Part] = []
        for part in parts:
            size = sum(self.base[t].shape[1] * self.base[t].element_size() for t in part.members)
            step = max(1, PIECE // max(1, size))
            for first in range(0, len(part.rows), step):
                some = slice(first, first + step)
                found.append(Part(part.members, part.rows[some], part.slots[some]))
        return found

    def write(self, matrices: Sequence[Tensor], part: Part, values: Sequence[Tensor]) -> None:
        """Put the part's rows into all tasks' matrices."""
        for t, w in zip(part.members, values, strict=True):
            columns = torch.as_tensor(self.own[t], device=w.device)
            matrices[t][self.index(part.rows, t)[:, None], columns] = w.to(matrices[t])


def settled_ridges(problem: LayerProblem) -> Ridges:
    """The ridges that were settled for a layer."""
    return Ridges(dict(problem.own_ridge), problem.ridge)


def settle(problem: LayerProblem, ridges: Ridges) -> None:
    """Take these ridges instead of searching for some."""
    problem.own_ridge.update(ridges.own)
    problem.ridge, problem.settled = ridges.merging, True


def parts_of(rows: Table) -> list[Part]:
    """Rows (k, T) by the tasks that share them."""
    return [Part(members, rows[slots], slots) for members, slots in by_members(rows)]


def private_parts(problem: LayerProblem, rows: Table) -> list[Part]:
    """Rows of every task that `rows` do not hold, if these can move."""
    parts = []
    for t in problem.tasks:
        if not problem.objectives["calibration"][t].compensated:
            continue
        rest = np.setdiff1d(np.arange(len(problem.matrices[t])), rows[:, t])
        if len(rest):
            table = np.full((len(rest), len(problem.matrices)), -1, dtype=np.int64)
            table[:, t] = rest
            parts.append(Part((t,), table, np.arange(0)))
    return parts
