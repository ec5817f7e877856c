"""The numbers of a layer whose neurons all read the same inputs: differences and merged weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.algebra.difference import identity_gram, pairwise_difference
from mtz_core.algebra.gram import DenseGram, Eliminated, Gram, RowGram, add, few_rows, precise, to_dense
from mtz_core.algebra.kept import Kept
from mtz_core.algebra.partial import DENSE_UP_TO, merge_partial
from mtz_core.algebra.quadratic import PairForm
from mtz_core.algebra.scaling import ScaledMerge
from mtz_core.calibration.moments import SOURCES, LayerMoments, Moment, Moments, Source
from mtz_core.layerwise.coupling import coupled_solutions
from mtz_core.layerwise.objective import DenseObjective, Objective
from mtz_core.layerwise.problem import FITTED, JUDGING, Compared, Given, LayerProblem, Part, Solution
from mtz_core.methods.kinds import METRICS
from mtz_core.pairing.assignment import pair_neurons
from mtz_core.pairing.folding import pair_tasks
from mtz_core.pairing.slots import Members, Table, shared_rows
from mtz_core.pairing.subsets import worth_of

EXACT_UP_TO = 2048
"""Layers of at most this many inputs are solved in double precision; wider ones in single, for memory and speed
(the difference then is within 1e-6 of the exact one, relative to the largest)."""


@dataclass
class DenseProblem(LayerProblem):
    """A layer whose neurons all read the same inputs.

    `inputs` (U, T) are the columns that take part: those that two or more tasks share, and with compensation all.
    Weights of task t are over its own d_t of these, which stand at `indices[t]` (d_t,) among the U.
    """

    outputs: Mapping[int, Tensor] = field(default_factory=dict)
    """What the outputs of some tasks weigh (n_t, n_t), see `sensitivity`; all alike where it is not known."""
    inputs: Table = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))
    indices: dict[int, Tensor] = field(default_factory=dict)
    dense: bool = True
    """Whether there are as many rows as inputs, so that Grams are kept as matrices."""
    matrix: bool = False
    """Whether the Grams of all calibration images are, in any case."""
    known: Kept[_Held] = field(default_factory=Kept)
    differences: dict[tuple[int, int, float], Tensor] = field(default_factory=dict)
    """The latest: quick pairs are compared by the ridge that is chosen, often."""
    mergers: Kept[ScaledMerge] = field(default_factory=Kept)

    @classmethod
    def of(cls, given: Given) -> DenseProblem:
        """Restrict everything to the columns that take part and bring it to one precision."""
        tasks, inputs, matrices = given.tasks, given.inputs, given.matrices
        device = matrices[tasks[0]].device
        own = {t: inputs[inputs[:, t] >= 0, t] for t in tasks}
        double = max(map(len, own.values())) <= EXACT_UP_TO and device.type != "mps"
        dtype = torch.float64 if double else torch.float32

        def cut(source: Tensor, t: int) -> Tensor:
            if np.array_equal(own[t], np.arange(source.shape[1])):
                return source
            return source[:, torch.as_tensor(own[t], device=device)]

        problem = cls(
            tasks=tasks,
            matrices=[matrix.detach() for matrix in matrices],
            own=own,
            base={t: cut(matrices[t].detach(), t).to(dtype) for t in tasks},
            alphas=given.alphas,
            spec=given.spec,
            unit=given.unit,
            masks={t: cut(mask, t) for t in tasks if (mask := given.masks[t]) is not None},
            outputs={t: weights.to(device, dtype) for t, weights in given.outputs.items()},
            inputs=inputs,
            indices={t: torch.as_tensor(np.flatnonzero(inputs[:, t] >= 0), device=device) for t in tasks},
            dense=not few_rows([gram for t in tasks for gram in _halves(given.moments[t])]),
            matrix=_pays_as_matrix(own, given.moments),
            known=Kept(recent=len(tasks)),
        )
        problem.observe(given.moments)
        return problem

    def objective(self, source: Source, t: int, moments: LayerMoments) -> Objective | None:
        moments = cast(Moments, moments)
        base, before = self.base[t], self.objectives.get(source, {}).get(t)
        if isinstance(before, DenseObjective) and isinstance(before.moment.gram, DenseGram):
            moment = moments.mean(source, before.moment.gram)
            assert moment is not None
            cross, power = (None if x is None else x.to(base) for x in (moment.cross, moment.power))
            return DenseObjective(Moment(before.moment.gram, None, cross, power), base, before.factors)
        moment = moments.mean(source, _sum(self, t, moments) if self.dense and source == "calibration" else None)
        if moment is None:
            return None
        moment = moment.to(base.device, base.dtype)
        # With as many rows as inputs the matrices are cheaper for what is solved; build them once.
        if (source == FITTED and self.dense) or (source == "calibration" and self.matrix):
            return DenseObjective(moment.dense(), base, few=moment if _few(moment) else None)
        return DenseObjective(moment, base)

    @property
    def columns(self) -> Table:
        return shared_rows(self.inputs)

    def gram(self, source: Source, t: int, ridge: float) -> Gram:
        """Task-weighted Gram of task t over its own inputs."""
        objective = self.objectives[source][t]
        assert isinstance(objective, DenseObjective)
        return objective.moment.gram.relative_ridge(ridge).scaled(self.alphas[t])

    def inside(self, t: int, chosen: NDArray[np.bool_]) -> Tensor | None:
        """Numbers of task t's own inputs among the `chosen` (U,); `None`: all of them."""
        kept = chosen[self.indices[t].cpu().numpy()]
        return None if kept.all() else torch.as_tensor(np.flatnonzero(kept), device=self.indices[t].device)

    def _over(self, t: int, chosen: NDArray[np.bool_]) -> tuple[Tensor, Gram]:
        """What is compared of task t over `chosen` inputs, and its Gram: all its other weights are free to follow."""
        # What two tasks share now, merging will need.
        held = self._held(t, "calibration", self.ridge, chosen, keep=len(self.tasks) == 2)
        weights = self.best("calibration", t)[:, held.kept]
        metric = METRICS.find(self.spec.metric)
        return metric.of(weights), held.gram if metric.of_outputs else identity_gram(held.gram, self.alphas[t])

    def difference(self, t: int, u: int) -> Tensor:
        key = (t, u, self.ridge)
        if key not in self.differences:
            (w_t, gram_t), (w_u, gram_u) = self._both(t, u)
            found = pairwise_difference(w_t, w_u, gram_t, gram_u)
            factor = self._factor(t, u)
            self.differences = {key: found if factor is None else found.mul_(factor.to(found))}
        return self.differences[key]

    def form(self, t: int, u: int, i: int, j: int) -> Compared:
        return _form(self, (t, u), (i, j), self._both(t, u), self._factor(t, u))

    def _both(self, t: int, u: int) -> tuple[Side, Side]:
        """What is compared of two tasks over the inputs they share, with Grams weighted relative to each other."""
        both: NDArray[np.bool_] = np.all(self.inputs[:, [t, u]] >= 0, axis=1)
        (w_t, gram_t), (w_u, gram_u) = self._over(t, both), self._over(u, both)
        total = self.alphas[t] + self.alphas[u]
        return (w_t, gram_t.scaled(1.0 / total)), (w_u, gram_u.scaled(1.0 / total))

    def _factor(self, t: int, u: int) -> Tensor | None:
        """Harmonic means (n_t, n_u) of how much outputs matter; `None`: all alike."""
        if not METRICS.find(self.spec.metric).of_outputs or t not in self.outputs or u not in self.outputs:
            return None
        mine, theirs = self.outputs[t].diagonal()[:, None], self.outputs[u].diagonal()
        return 2 * mine * theirs / (mine + theirs)

    def common(self, tasks: Members) -> tuple[dict[int, Tensor], dict[int, Gram]]:
        """What is compared of `tasks`, and their weighted Grams, over the columns that all of them share."""
        everywhere: NDArray[np.bool_] = np.all(self.inputs[:, tasks] >= 0, axis=1)
        found = {t: self._over(t, everywhere) for t in tasks}
        return {t: w for t, (w, _) in found.items()}, {t: gram for t, (_, gram) in found.items()}

    @property
    def paired_first(self) -> bool:
        return False

    def quick_pairs(self, fresh: Mapping[int, NDArray[np.int64]]) -> Table | None:
        if not fresh or not all(len(rows) for rows in fresh.values()) or not len(self.columns):
            return None
        t, u = list(fresh)[:2]
        count = min(len(fresh[t]), len(fresh[u]))
        difference = self.difference(t, u).cpu().numpy()[np.ix_(fresh[t], fresh[u])]
        local = pair_neurons(difference, count, "greedy")
        rows = np.full((count, len(self.matrices)), -1, dtype=np.int64)
        rows[:, t], rows[:, u] = fresh[t][local[:, 0]], fresh[u][local[:, 1]]
        return rows

    def worth(self, tasks: Members) -> NDArray[np.float64] | None:
        return worth_of(self.inputs[:, tasks])

    def exact_slots(
        self, rows: Mapping[int, NDArray[np.int64]], count: int, method: str, seed: int
    ) -> NDArray[np.int64] | None:
        weights, grams = self.common(tuple(rows))
        chosen = [weights[t][torch.as_tensor(rows[t], device=weights[t].device)] for t in rows]
        return pair_tasks(chosen, [grams[t] for t in rows], count, method, seed)[0]

    def importance(self, t: int) -> Tensor | None:
        return self.outputs[t].diagonal() if t in self.outputs else None

    @property
    def scaled(self) -> bool:
        return self.spec.own_scale and not self.masks and len(self.columns) > 0

    def solve(
        self, part: Part, source: Source, ridge: float, scaled: bool | None = None, like: Solution | None = None
    ) -> Solution:
        scaled = self.scaled if scaled is None else scaled
        rows = [self.index(part.rows, t) for t in part.members]
        best = [self.best(source, t)[row] for t, row in zip(part.members, rows, strict=True)]
        if len(part.members) == 1:
            return Solution(best)
        if self.masks:
            return _solved_masked(self, part, source, ridge, best)
        used = (self.inputs[:, part.members] >= 0).sum(axis=1) > 1
        size = int(used.sum())
        compact = torch.as_tensor(np.cumsum(used) - 1, device=rows[0].device)
        held = [self._held(t, source, ridge, used, keep=scaled or source == "calibration") for t in part.members]
        indices = [compact[self.indices[t][h.kept]] for t, h in zip(part.members, held, strict=True)]
        weights = [w[:, h.kept] for w, h in zip(best, held, strict=True)]
        grams = [h.gram for h in held]
        scales: Sequence[Tensor] | None = None
        if scaled and (size <= DENSE_UP_TO or not all(isinstance(gram, RowGram) for gram in grams)):
            known = None if like is None or like.scales is None else torch.stack(list(like.scales))
            merger = self.mergers.get((source, ridge), part.members, partial(ScaledMerge, grams, indices, size))
            merged, each = merger(weights, known)
            scales = list(each)
        else:
            merged = merge_partial(weights, grams, indices, size)
        values = []
        for m, (w, index, h) in enumerate(zip(best, indices, held, strict=True)):
            shared = merged[:, index] if scales is None else merged[:, index] * scales[m][:, None]
            moved = w.clone()
            moved[:, h.kept] = shared
            if h.eliminated is not None:
                moved[:, h.eliminated.free] += h.eliminated.follow(shared - w[:, h.kept])
            values.append(moved)
        return Solution(values, scales)

    def renew(self, moments: Mapping[int, LayerMoments], sources: Sequence[Source] = SOURCES) -> None:
        super().renew(moments, sources)
        self.differences.clear()

    def forget(self, source: Source) -> None:
        super().forget(source)
        self.differences.clear()
        self.mergers.clear()
        self.known.clear()

    def pieces(self, parts: Sequence[Part]) -> list[Part]:
        return list(parts) if self.outputs or self.gained else super().pieces(parts)  # coupled rows go together

    def solutions(self, parts: Sequence[Part], source: Source, like: Sequence[Solution] = ()) -> Iterable[Solution]:
        alone = super().solutions(parts, source, like)
        tasks = {t for part in parts for t in part.members}
        grams = {t: self.gram(source, t, self.ridge) for t in tasks}
        shared = any(len(part.members) > 1 for part in parts)
        if not shared or self.masks or not (self.outputs or self.gained):
            return alone
        if not self.dense and not (self.gained and max(gram.dimension for gram in grams.values()) <= DENSE_UP_TO):
            return alone  # gains are worth a matrix
        wanted = {t: self.best(source, t) for t in tasks}
        known = next((solution.gains for solution in like), None)
        found = list(alone)
        self.mergers.clear()
        self.known.clear()
        return coupled_solutions(self, parts, found, wanted, grams, known)

    def _held(self, t: int, source: Source, ridge: float, used: NDArray[np.bool_], keep: bool) -> _Held:
        """Task t's part in merging over the inputs `used`; kept from round to round, as targets do not change it."""
        inside = self.inside(t, used)

        def make() -> _Held:
            gram = self.gram(source, t, ridge)
            if inside is None:
                return _Held(gram, torch.arange(gram.dimension, device=self.indices[t].device), None)
            if self.spec.compensate:
                eliminated = gram.eliminate(inside)
                return _Held(eliminated.gram, inside, eliminated)
            return _Held(gram.select(inside), inside, None)

        # A task has the same part in all sets of tasks with which it shares the same inputs.
        key = (t, None if inside is None else inside.cpu().numpy().tobytes())
        return self.known.get((source, ridge), key, make) if keep else make()

    def cost(self, part: Part, values: Sequence[Tensor]) -> Tensor:
        losses = [
            self.gram("calibration", t, self.ridge).loss(w - self.best("calibration", t)[self.index(part.rows, t)])
            for t, w in zip(part.members, values, strict=True)
        ]
        return torch.stack(losses).sum(0)

    def shared(self, part: Part, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return _shared(self, part, values)


@dataclass(frozen=True)
class _Held:
    """A task's Gram over the shared inputs, which of its own these are, and how the others follow."""

    gram: Gram
    kept: Tensor
    eliminated: Eliminated | None

    def bytes(self) -> int:
        """Memory that it takes beside the Gram of all inputs, that in single precision included."""
        gram, found = self.gram, self.eliminated
        size = 4 * gram.dimension**2 if isinstance(gram, DenseGram) else 0
        if found is None:
            return size
        own = [found.factor, found.half, gram.matrix if isinstance(gram, DenseGram) else found.rows]
        return size + sum(x.nbytes for x in own if x is not None)


Side = tuple[Tensor, Gram]
"""What is compared of a task, and its Gram."""


def _form(
    problem: DenseProblem, tasks: Members, rows: tuple[int, int], both: tuple[Side, Side], factor: Tensor | None
) -> Compared:
    """The form of one difference, in double precision."""
    (w_t, gram_t), (w_u, gram_u) = both
    exact = precise(w_t.device)
    p, q = (gram.to(w_t.device, exact) for gram in (gram_t, gram_u))
    delta = w_t[rows[0]].to(exact) - w_u[rows[1]].to(exact)
    columns = problem.inputs[:, list(tasks)]
    shared = columns[(columns >= 0).all(axis=1)]
    return Compared(PairForm(delta, p, q, 1.0 if factor is None else float(factor[rows])), shared)


def _sum(problem: DenseProblem, t: int, moments: Moments) -> DenseGram:
    """Task t's Gram of both halves, given those of each."""
    grams = []
    for source, part in zip((FITTED, JUDGING), moments.parts[:2], strict=True):  # the third is evaluation
        objective = problem.objectives[source][t]
        assert isinstance(objective, DenseObjective)
        grams.append(to_dense(objective.moment.gram.scaled(part.count / moments.rows)))
    total = add(grams)
    assert isinstance(total, DenseGram)
    return total


def _pays_as_matrix(own: Mapping[int, NDArray[np.int64]], moments: Mapping[int, LayerMoments]) -> bool:
    """Whether what is solved with the Grams of all images costs less with matrices than with rows."""
    size = max(map(len, own.values()))
    return size <= DENSE_UP_TO and 2 * sum(moments[t].rows for t in own) > size


def _few(moment: Moment) -> bool:
    """Whether weights are fitted at less cost by the products of rows than by the Gram as a matrix."""
    return isinstance(moment.gram, RowGram) and 2 * len(moment.gram.rows) <= moment.gram.dimension


def _shared(problem: DenseProblem, part: Part, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """See `LayerProblem.shared`."""
    several = (problem.inputs >= 0).sum(axis=1) > 1
    number = np.cumsum(several) - 1
    mine = several & ((problem.inputs[:, part.members] >= 0).sum(axis=1) > 1)
    merged = values[0].new_zeros(len(part.rows), int(mine.sum()))
    compact = np.cumsum(mine) - 1
    for t, w in reversed(list(zip(part.members, values, strict=True))):
        index = problem.indices[t].cpu().numpy()
        kept = np.flatnonzero(mine[index])
        target = torch.as_tensor(compact[index[kept]], device=merged.device)
        merged[:, target] = w[:, torch.as_tensor(kept, device=merged.device)]
    return merged, torch.as_tensor(number[mine], device=merged.device)


def _halves(moments: LayerMoments) -> list[Gram]:
    """Grams of the two halves."""
    return [cast(Moments, moments).parts[k].gram() for k in range(2)]


def _solved_masked(problem: DenseProblem, part: Part, source: Source, ridge: float, best: Sequence[Tensor]) -> Solution:
    """Every weight that may move is an unknown of one system, whose solution keeps the parents' zeros."""
    counts = (problem.inputs[:, part.members] >= 0).sum(axis=1)
    used = counts > (0 if problem.spec.compensate else 1)
    rows = [problem.index(part.rows, t) for t in part.members]
    compact = torch.as_tensor(np.cumsum(used) - 1, device=rows[0].device)
    union = torch.zeros(len(part.rows), int(used.sum()), dtype=torch.bool, device=rows[0].device)
    indices, weights, grams, insides = [], [], [], []
    for t, w, row in zip(part.members, best, rows, strict=True):
        inside = problem.inside(t, used)
        inside = torch.arange(w.shape[1], device=w.device) if inside is None else inside
        indices.append(compact[problem.indices[t][inside]])
        weights.append(w[:, inside])
        grams.append(problem.gram(source, t, ridge).select(inside))
        insides.append(inside)
        union[:, indices[-1]] |= problem.masks[t][row][:, inside] if t in problem.masks else True
    merged = merge_partial(weights, grams, indices, int(used.sum()), union)
    values = [w.clone() for w in best]
    for w, index, inside in zip(values, indices, insides, strict=True):
        w[:, inside] = merged[:, index]
    return Solution(values)
