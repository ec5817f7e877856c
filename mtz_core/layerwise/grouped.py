"""The numbers of one grouped or depthwise convolution.

Its neurons fall into banks that read different channels: the groups of a grouped convolution, the single channels of
a depthwise one. Every bank has a small Gram of its own, and every merged neuron is a small system of its own; all of
them are solved at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.algebra.difference import pairwise_difference
from mtz_core.algebra.gram import DenseGram, Gram, chunks, factored, precise
from mtz_core.algebra.quadratic import PairForm
from mtz_core.algebra.ridge import START
from mtz_core.calibration.moments import GroupedMoments, LayerMoments, Source
from mtz_core.errors import SpecError
from mtz_core.layerwise.objective import GroupedObjective, Objective
from mtz_core.layerwise.problem import Compared, Given, LayerProblem, Part, Solution
from mtz_core.methods.kinds import METRICS
from mtz_core.pairing.slots import Members, Table


@dataclass
class GroupedProblem(LayerProblem):
    """A grouped convolution.

    `entries[t]` (n_t, d) says what each weight reads: tasks can share weights of one neuron that read the same.
    """

    entries: Sequence[Table] = ()
    depthwise: bool = False
    known: dict[Members, tuple[Table, list[Tensor], Tensor]] = field(default_factory=dict)
    """Members → rows, their columns in common for every member, and which of these are real (see `aligned`)."""

    @classmethod
    def of(cls, given: Given) -> GroupedProblem:
        """Collect the moments of all tasks."""
        tasks, matrices = given.tasks, given.matrices
        dtype = precise(matrices[tasks[0]].device)
        problem = cls(
            tasks=tasks,
            matrices=[matrix.detach() for matrix in matrices],
            own={t: np.arange(matrices[t].shape[1]) for t in tasks},
            base={t: matrices[t].detach().to(dtype) for t in tasks},
            alphas=given.alphas,
            spec=given.spec,
            unit=given.unit,
            masks={t: mask for t in tasks if (mask := given.masks[t]) is not None},
            ridge=START if given.spec.ridge == "auto" else float(given.spec.ridge),
            entries=given.entries,
            depthwise=given.depthwise,
        )
        problem.observe(given.moments)
        return problem

    def objective(self, source: Source, t: int, moments: LayerMoments) -> Objective | None:
        values, base = cast(GroupedMoments, moments).mean(source), self.base[t]
        if values is None:
            return None
        gram, *rest = (value.to(base.device, base.dtype) for value in values)
        return GroupedObjective(gram, base, *rest)

    @property
    def columns(self) -> Table:
        width = max(matrix.shape[1] for matrix in self.matrices)
        own = [np.arange(width) if m.shape[1] == width else np.full(width, -1) for m in self.matrices]
        return np.stack(own, axis=1)

    def _of(self, source: Source, t: int) -> GroupedObjective:
        objective = self.objectives[source][t]
        assert isinstance(objective, GroupedObjective)
        return objective

    def difference(self, t: int, u: int) -> Tensor:
        p, q = self._compared_under(t, u)
        compared = METRICS.find(self.spec.metric).of
        w_t, w_u = self.best("calibration", t), self.best("calibration", u)
        if self.depthwise:
            return _depthwise_difference(compared(w_t), compared(w_u), p, q)
        result = w_t.new_full((len(w_t), len(w_u)), torch.inf)
        banks = [np.arange(len(w)) // max(1, len(w) // len(gram)) for w, gram in ((w_t, p), (w_u, q))]
        for g in range(len(p)):
            mine = np.flatnonzero(banks[0] == g)
            reads = self.entries[t][mine[0]]
            for h in range(len(q)):
                theirs = np.flatnonzero(banks[1] == h)
                common, a, b = np.intersect1d(reads, self.entries[u][theirs[0]], return_indices=True)
                a, b = a[common >= 0], b[common >= 0]
                if not (common[common >= 0] != np.iinfo(np.int64).max).any():
                    continue  # nothing in common but the bias
                w_a, w_b = compared(w_t[mine][:, a]), compared(w_u[theirs][:, b])
                difference = pairwise_difference(w_a, w_b, self._cut(p[g], a), self._cut(q[h], b))
                result[np.ix_(mine, theirs)] = difference
        return result

    def form(self, t: int, u: int, i: int, j: int) -> Compared:
        p, q = self._compared_under(t, u)
        compared = METRICS.find(self.spec.metric).of
        w_t, w_u = (self.best("calibration", x)[[row]] for x, row in ((t, i), (u, j)))
        g, h = (int(self._of("calibration", x).bank(torch.tensor(row))) for x, row in ((t, i), (u, j)))
        if self.depthwise:
            every = np.arange(w_t.shape[1])
            delta = (compared(w_t) - compared(w_u))[0]
            return Compared(PairForm(delta, DenseGram(p[g]), DenseGram(q[h]), mean=True), np.stack([every] * 2, 1))
        common, a, b = np.intersect1d(self.entries[t][i], self.entries[u][j], return_indices=True)
        a, b = a[common >= 0], b[common >= 0]
        if not (common[common >= 0] != np.iinfo(np.int64).max).any():
            raise SpecError(f"neuron {i} of task {t} and neuron {j} of task {u} read no input that is shared")
        delta = (compared(w_t[:, a]) - compared(w_u[:, b]))[0]
        return Compared(PairForm(delta, self._cut(p[g], a), self._cut(q[h], b)), np.stack([a, b], axis=1))

    def _compared_under(self, t: int, u: int) -> tuple[Tensor, Tensor]:
        """Grams (B, d, d) under which the neurons of two tasks are compared, with weights relative to each other."""
        total = self.alphas[t] + self.alphas[u]
        mine, theirs = self.alphas[t] / total, self.alphas[u] / total
        p, q = (self._of("calibration", x).ridged(self.ridge) for x in (t, u))
        if not METRICS.find(self.spec.metric).of_outputs:
            # Of equal Grams c I the difference is ¼ c |Δ|²; with c = 2 a b it is that of a I and b I.
            p, q = (torch.eye(x.shape[1]).to(x).expand_as(x) * (2.0 * mine * theirs) for x in (p, q))
            return p, q
        return p * mine, q * theirs

    def _cut(self, gram: Tensor, kept: NDArray[np.int64]) -> Gram:
        """Gram of the inputs `kept`; with compensation the other weights follow."""
        chosen, whole = torch.as_tensor(kept, device=gram.device), DenseGram(gram)
        return whole.schur(chosen) if self.spec.compensate else whole.select(chosen)

    def _aligned(self, part: Part) -> tuple[list[Tensor], Tensor]:
        """Columns (k, w) that the members have in common in every row, and which of them are real."""
        found = self.known.get(part.members)
        if found is None or not np.array_equal(found[0], part.rows):
            columns, real = aligned(part.members, part.rows, self.entries)
            device = self.matrices[part.members[0]].device
            tensors = [torch.as_tensor(each, device=device) for each in columns]
            found = self.known[part.members] = (part.rows, tensors, torch.as_tensor(real, device=device))
        return found[1], found[2]

    def solve(
        self, part: Part, source: Source, ridge: float, scaled: bool | None = None, like: Solution | None = None
    ) -> Solution:
        rows = [self.index(part.rows, t) for t in part.members]
        best = [self.best(source, t)[row] for t, row in zip(part.members, rows, strict=True)]
        if len(part.members) == 1:
            return Solution(best)
        columns, real = self._aligned(part)
        grams = [self._of(source, t).ridged(ridge) * self.alphas[t] for t in part.members]
        banks = [self._of(source, t).bank(row) for t, row in zip(part.members, rows, strict=True)]
        values = [w.clone() for w in best]
        real, free = self._supports(part, rows, columns, real)
        # Every member has systems of its own, which are in memory together.
        for chunk in chunks(len(part.rows), max(w.shape[1] for w in best) * math.isqrt(len(part.members))):
            valid = real[chunk]
            systems, follows = [], []
            for m in range(len(part.members)):
                each = grams[m][banks[m][chunk]]
                each = each if free is None else _supported(each, free[m][chunk])
                system, follow = self._system(each, columns[m][chunk], valid)
                systems.append(system)
                follows.append(follow)
            common = [best[m][chunk].gather(1, columns[m][chunk]) * valid for m in range(len(part.members))]
            total = torch.stack(systems).sum(0)
            pull = sum(torch.einsum("kij,kj->ki", s, w) for s, w in zip(systems, common, strict=True))
            assert isinstance(pull, Tensor)
            total.diagonal(dim1=1, dim2=2).add_((~valid).to(total.dtype))
            merged = torch.cholesky_solve(pull[:, :, None], factored(total))[:, :, 0] * valid
            for m in range(len(part.members)):
                moved = torch.einsum("kij,kj->ki", follows[m], (merged - common[m]) * valid)
                values[m][chunk] += moved
                # What is shared is one number for all: take it as it is, not as a sum.
                values[m][chunk] = _written(values[m][chunk], merged, columns[m][chunk], valid)
        return Solution(values)

    def _supports(
        self, part: Part, rows: Sequence[Tensor], columns: Sequence[Tensor], real: Tensor
    ) -> tuple[Tensor, list[Tensor] | None]:
        """Where shared weights (k, w), and every member's (k, d), may differ from zero; `None`: everywhere.

        A shared weight may where any of its parents' does.
        """
        if not self.masks:
            return real, None
        own = [self.masks[t][row] for t, row in zip(part.members, rows, strict=True)]
        union = torch.stack([mask.gather(1, each) for mask, each in zip(own, columns, strict=True)]).any(0) & real
        # Padding repeats a column: what is said there must not undo what is said of the column itself.
        everywhere = [
            mask.to(torch.uint8).scatter_reduce(1, each, union.to(torch.uint8), "amax").bool()
            for mask, each in zip(own, columns, strict=True)
        ]
        return union, everywhere

    def _system(self, grams: Tensor, columns: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Grams (k, w, w) over aligned columns, zero at padding; and how all weights (k, d, w) follow these."""
        width = grams.shape[1]
        both = real[:, :, None] & real[:, None, :]
        if columns.shape[1] == width and bool(real.all()):
            chosen = _gathered(grams, columns)
            return chosen, _one_hot(columns, real, width, grams.dtype)
        if not self.spec.compensate:
            return _gathered(grams, columns) * both, _one_hot(columns, real, width, grams.dtype)
        inverse = torch.cholesky_inverse(factored(grams.clone()))
        inner = _gathered(inverse, columns) * both
        inner.diagonal(dim1=1, dim2=2).add_((~real).to(inner.dtype))
        schur = torch.cholesky_inverse(factored(inner)) * both
        follow = inverse.gather(2, columns[:, None, :].expand(-1, width, -1)) * real[:, None, :]
        return schur, follow @ schur

    def cost(self, part: Part, values: Sequence[Tensor]) -> Tensor:
        losses = values[0].new_zeros(len(values[0]))
        for t, w in zip(part.members, values, strict=True):
            row, objective = self.index(part.rows, t), self._of("calibration", t)
            delta, gram = w - self.best("calibration", t)[row], objective.ridged(self.ridge)
            for chunk in chunks(len(delta), delta.shape[1]):
                picked = gram[objective.bank(row[chunk])]
                each = torch.einsum("ki,kij,kj->k", delta[chunk], picked, delta[chunk])
                losses[chunk] += 0.5 * self.alphas[t] * each
        return losses

    def shared(self, part: Part, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        columns, real = self._aligned(part)
        merged = values[0].gather(1, columns[0]) * real
        return merged, torch.arange(merged.shape[1], device=merged.device)


def _supported(grams: Tensor, free: Tensor) -> Tensor:
    """Grams (k, d, d) of weights that may move where `free` (k, d) says; the others stay what they are."""
    held = grams * (free[:, :, None] & free[:, None, :])
    held.diagonal(dim1=1, dim2=2).add_((~free).to(held.dtype))
    return held


def _gathered(grams: Tensor, columns: Tensor) -> Tensor:
    """Rows and columns `columns` (k, w) of Grams (k, d, d)."""
    size = columns.shape[1]
    picked = grams.gather(1, columns[:, :, None].expand(-1, -1, grams.shape[2]))
    return picked.gather(2, columns[:, None, :].expand(-1, size, -1))


def _one_hot(columns: Tensor, real: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """(k, width, w): one where weight i is the aligned column j."""
    hot = torch.nn.functional.one_hot(columns, width).mT.to(dtype)
    return hot * real[:, None, :]


def _written(values: Tensor, merged: Tensor, columns: Tensor, real: Tensor) -> Tensor:
    """`values` (k, d) with `merged` (k, w) at `columns`; padding repeats the row's first real column.

    Rows without a real column stay as they are.
    """
    first = real.to(torch.uint8).argmax(dim=1, keepdim=True)
    columns = torch.where(real, columns, columns.gather(1, first))
    written = values.scatter(1, columns, torch.where(real, merged, merged.gather(1, first)))
    return torch.where(real.any(dim=1, keepdim=True), written, values)


def _depthwise_difference(w_a: Tensor, w_b: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """½ Δᵀ ((P + Q) / 4) Δ for all pairs of channels.

    The exact form is ½ Δᵀ (P⁻¹ + Q⁻¹)⁻¹ Δ with a system of its own for every pair; this is an upper bound of it
    (harmonic and arithmetic mean of matrices), exact where P = Q, and costs three matrix products.
    """
    d = w_a.shape[1]
    own_a = torch.einsum("ni,nij,nj->n", w_a, p, w_a)[:, None]
    own_b = torch.einsum("ni,nij,nj->n", w_b, q, w_b)[None, :]
    crossed_b = p.reshape(len(p), d * d) @ (w_b[:, :, None] * w_b[:, None, :]).reshape(len(w_b), d * d).mT
    crossed_a = (w_a[:, :, None] * w_a[:, None, :]).reshape(len(w_a), d * d) @ q.reshape(len(q), d * d).mT
    mixed = torch.einsum("nij,nj->ni", p, w_a) @ w_b.mT + w_a @ torch.einsum("nij,nj->ni", q, w_b).mT
    return (0.125 * (own_a + crossed_b + crossed_a + own_b - 2.0 * mixed)).clamp_(min=0.0)


def aligned(
    members: Sequence[int], slots: Table, rows: Sequence[Table]
) -> tuple[list[NDArray[np.int64]], NDArray[np.bool_]]:
    """Columns that the tasks `members` have in common in every row.

    Args:
        members: tasks that share the rows.
        slots: row numbers (K, T); of the members all are ≥ 0.
        rows: per task what every entry reads, (n_t, d_t).

    Returns:
        For every member (K, d) column numbers, the same input at the same index; and where these are real, (K, d).
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
