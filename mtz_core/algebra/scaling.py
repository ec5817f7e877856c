"""Merging neurons of which every task keeps a scale of its own.

Task t's neuron is s_t · w: all tasks share w and the bias is private, as if the shared convolution were followed by a
normalisation of each task's own. The least squares problem of `merging` then has the scales as further unknowns:

    min over w, s of Σ_t ½ (s_t w - w_t)ᵀ P_t (s_t w - w_t).

Given w every s_t has a closed form, and given s the optimum w solves Σ_t s_t² P_t w = Σ_t s_t P_t w_t, a system of
its own for every neuron. Scales begin in proportion to the sizes that the neurons' outputs would have on the inputs of
all tasks; alternating between the two then never raises the loss. The systems of all neurons differ little from
Σ_t P_t, whose inverse makes a few conjugate gradient steps enough for all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from mtz_core.algebra.gram import (
    SINGLE_FROM,
    Gram,
    Index,
    RowGram,
    RowSum,
    cholesky,
    index_of,
    precise,
    to_dense,
)

ROUNDS = 3
LIMIT = 5.0
"""Scales lie between 1 / LIMIT and LIMIT."""
STEPS = 8
TOLERANCE = 0.1
"""How far conjugate gradients bring down what a round leaves open."""


class ScaledMerge:
    """Merges neurons under given Grams, for any weights.

    Where all Grams are kept as rows that are few, nothing of size × size is built.

    Args:
        grams: one Gram per task over its own d_t inputs, with task weight and ridge.
        indices: for every task the indices (d_t,) of its inputs among the `size` inputs (see `merge_partial`).
        size: how many inputs there are; each must be had by some task.
    """

    def __init__(self, grams: Sequence[Gram], indices: Sequence[Tensor], size: int) -> None:
        self.size = size
        self.indices = list(map(index_of, indices))
        rows = [gram for gram in grams if isinstance(gram, RowGram)]
        few = len(rows) == len(grams) and 2 * sum(len(gram.rows) for gram in rows) < size
        self.products = _Rows(rows, self.indices, size) if few else _Matrices(grams, self.indices, size)

    def bytes(self) -> int:
        """Memory that it takes beside the Grams that it was given."""
        return self.products.bytes()

    def __call__(self, weights: Sequence[Tensor], scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return merged neurons w (k, size) of weights (k, d_t), and scales (T, k); the first task's are one.

        With `scales` only the neurons are looked for.
        """
        given, weights = weights[0], [w.to(self.products.dtype) for w in weights]
        rounds = ROUNDS if scales is None else 1
        scales = _bounded(self._proportion(weights)) if scales is None else _centred(scales.to(weights[0]))
        merged = self._average(weights, scales)
        merged = merged + self.products.solved(self._left(self._gaps(weights, merged, scales), scales))
        pulls = [self.products.product(t, w) for t, w in enumerate(weights)] if rounds > 1 else []
        for number in range(rounds):
            gaps = self._gaps(weights, merged, scales)
            if number:
                scales, gaps = self._rescaled(pulls, gaps, merged, scales)
            system = partial(self._applied, squares=scales.square().to(self.products.rough))
            merged = _conjugate_gradients(system, self._left(gaps, scales), merged, self.products)
        return (merged * scales[0][:, None]).to(given), (scales / scales[0]).to(given)

    def _proportion(self, weights: Sequence[Tensor]) -> Tensor:
        """Scales (T, k) in proportion to the sizes of the neurons' outputs, had all tasks the same inputs."""
        sizes = []
        for w, index in zip(weights, self.indices, strict=True):
            rough = w.to(self.products.rough)
            everywhere = rough.new_zeros(len(w), self.size)
            everywhere[:, index] = rough
            sizes.append((self.products.total(everywhere) * everywhere).sum(1).clamp(min=0.0).sqrt())
        found = torch.stack(sizes).to(weights[0])
        return found / found.mean(0).clamp(min=torch.finfo(torch.float32).tiny)

    def _average(self, weights: Sequence[Tensor], scales: Tensor) -> Tensor:
        """Mean (k, size) of what the tasks' weights would be at a scale of one."""
        total, count = weights[0].new_zeros(len(weights[0]), self.size), weights[0].new_zeros(self.size)
        for w, index, scale in zip(weights, self.indices, scales, strict=True):
            total[:, index] += w / scale[:, None]
            count[index] += 1.0
        return total / count

    def _gaps(self, weights: Sequence[Tensor], merged: Tensor, scales: Tensor) -> list[Tensor]:
        """What the tasks' neurons are wanted to be beyond what they are, P_t (w_t - s_t w), (k, d_t) each.

        The nearer the tasks agree, the less its rounding.
        """
        lacking = [
            w - merged[:, index] * scale[:, None] for w, index, scale in zip(weights, self.indices, scales, strict=True)
        ]
        return [self.products.product(t, lack) for t, lack in enumerate(lacking)]

    def _rescaled(
        self, pulls: Sequence[Tensor], gaps: Sequence[Tensor], merged: Tensor, scales: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The best scales for the neurons `merged`, and the gaps at these; `pulls` are P_t w_t."""
        reached = [pull - gap for pull, gap in zip(pulls, gaps, strict=True)]  # s_t P_t w
        best = []
        for pull, reach, index, scale in zip(pulls, reached, self.indices, scales, strict=True):
            own = merged[:, index]
            best.append(_fitted((pull * own).sum(1), (reach * own).sum(1) / scale))
        found = _bounded(torch.stack(best))
        change = (scales - found) / scales
        return found, [gap + reach * c[:, None] for gap, reach, c in zip(gaps, reached, change, strict=True)]

    def _left(self, gaps: Sequence[Tensor], scales: Tensor) -> Tensor:
        """What pulls at w, Σ_t s_t P_t (w_t - s_t w), (k, size)."""
        result = gaps[0].new_zeros(len(gaps[0]), self.size)
        for gap, index, scale in zip(gaps, self.indices, scales, strict=True):
            result[:, index] += gap * scale[:, None]
        return result

    def _applied(self, w: Tensor, rows: Tensor, squares: Tensor) -> Tensor:
        """Σ_t s_t² P_t w, w (r, d) of the neurons `rows` (r,)."""
        result = torch.zeros_like(w)
        for t, (index, square) in enumerate(zip(self.indices, squares, strict=True)):
            result[:, index] += self.products.quick(t, w[:, index] * square[rows, None])
        return result


class _Products(Protocol):
    """Products with the tasks' Grams P_t and with their sum."""

    dtype: torch.dtype
    """Of all weights."""
    rough: torch.dtype
    """Of what `quick`, `total` and `roughly_solved` are given and return."""

    def product(self, t: int, w: Tensor) -> Tensor:
        """`w` (k, d_t) times P_t."""

    def quick(self, t: int, w: Tensor) -> Tensor:
        """The same, rough."""

    def total(self, w: Tensor) -> Tensor:
        """`w` (k, size) times Σ_t P_t."""

    def solved(self, left: Tensor) -> Tensor:
        """`left` (k, size) times the inverse of Σ_t P_t."""

    def roughly_solved(self, left: Tensor) -> Tensor:
        """The same, rough."""

    def bytes(self) -> int:
        """Memory that all this takes beside the Grams."""


class _Matrices:
    """Grams are used as they are, since several sums have them in common."""

    def __init__(self, grams: Sequence[Gram], indices: Sequence[Index], size: int) -> None:
        self.grams = [to_dense(gram) for gram in grams]
        self.own = sum(gram.matrix.nbytes for gram, given in zip(self.grams, grams, strict=True) if gram is not given)
        self.dtype = self.grams[0].matrix.dtype
        self.rough = torch.float32 if size >= SINGLE_FROM else self.dtype
        total = self.grams[0].matrix.new_zeros(size, size)
        for gram, index in zip(self.grams, indices, strict=True):
            if isinstance(index, slice):
                part = total[index, index]
                part.add_(gram.matrix, alpha=gram.scale).diagonal().add_(gram.ridge)
            else:
                total[index[:, None], index] += gram.full()
        self.whole = total.to(self.rough, copy=True)
        self.factor = cholesky(total)
        self.rough_factor = self.factor.to(self.rough)
        self.alike = [gram.single if self.rough == torch.float32 else gram for gram in self.grams]

    def bytes(self) -> int:
        return self.own + sum({id(x): x.nbytes for x in (self.whole, self.factor, self.rough_factor)}.values())

    def product(self, t: int, w: Tensor) -> Tensor:
        return self.grams[t].apply(w)

    def quick(self, t: int, w: Tensor) -> Tensor:
        return self.alike[t].apply(w)

    def total(self, w: Tensor) -> Tensor:
        return w @ self.whole

    def solved(self, left: Tensor) -> Tensor:
        return torch.cholesky_solve(left.mT, self.factor).mT

    def roughly_solved(self, left: Tensor) -> Tensor:
        return torch.cholesky_solve(left.mT, self.rough_factor).mT


class _Rows:
    """Inverses are formed in double precision: the small difference of large numbers that they are needs it."""

    def __init__(self, grams: Sequence[RowGram], indices: Sequence[Index], size: int) -> None:
        device, self.grams, self.indices = grams[0].rows.device, grams, indices
        self.dtype = grams[0].rows.dtype
        self.rough = torch.float32 if size >= SINGLE_FROM else self.dtype
        self.alike = [gram.to(device, self.rough) for gram in grams]
        least = 8 * torch.finfo(self.rough).eps  # as a matrix needs that is factored in this precision
        ridged = [replace(gram, ridge=max(gram.ridge, least * gram.mean_diagonal())) for gram in grams]
        self.sum = RowSum([gram.to(device, precise(device)) for gram in ridged], indices, size)

    def product(self, t: int, w: Tensor) -> Tensor:
        return self.grams[t].apply(w)

    def quick(self, t: int, w: Tensor) -> Tensor:
        return self.alike[t].apply(w)

    def total(self, w: Tensor) -> Tensor:
        result = torch.zeros_like(w)
        for gram, index in zip(self.alike, self.indices, strict=True):
            result[:, index] += gram.apply(w[:, index])
        return result

    def solved(self, left: Tensor) -> Tensor:
        return self.sum.solved(left.to(self.sum.wide)).to(left)

    def roughly_solved(self, left: Tensor) -> Tensor:
        return self.solved(left)

    def bytes(self) -> int:
        return sum(x.nbytes for x in (self.sum.wide, self.sum.scaled, self.sum.factor))


def _fitted(pull: Tensor, length: Tensor) -> Tensor:
    """Scales of neurons with squared lengths `length` whose wanted weights pull them with `pull`, (k,) each."""
    tiny = torch.finfo(length.dtype).tiny
    return torch.where(length > tiny, pull / length.clamp(min=tiny), 1.0)


def _bounded(scales: Tensor) -> Tensor:
    """Scales (T, k) within the limit, their geometric mean one."""
    return _centred(scales.clamp(1.0 / LIMIT, LIMIT))


def _centred(scales: Tensor) -> Tensor:
    """Scales (T, k) with a geometric mean of one."""
    return scales / scales.log().mean(0).exp()


def _conjugate_gradients(
    system: Callable[[Tensor, Tensor], Tensor], left: Tensor, start: Tensor, products: _Products
) -> Tensor:
    """Solve the rows' systems for x, `system`(x - start, rows) = `left` (k, d), preconditioned by the Grams' sum.

    Rows that are done, most of them after a step or two, take no further part.
    """
    x = start.clone()
    tiny = torch.finfo(torch.float32).tiny
    rows, residual = torch.arange(len(x), device=x.device), left.to(products.rough)
    direction = scaled = products.roughly_solved(residual)
    strength = (residual * scaled).sum(1)
    enough = TOLERANCE**2 * strength
    for _ in range(STEPS):
        going = strength > enough
        if not bool(going.any()):
            break
        if not bool(going.all()):
            rows, residual, direction, strength, enough = (
                each[going] for each in (rows, residual, direction, strength, enough)
            )
        moved = system(direction, rows)
        slope = (direction * moved).sum(1)
        step = torch.where(slope > 0, strength / slope.clamp(min=tiny), 0.0)[:, None]
        x.index_add_(0, rows, (step * direction).to(x))
        residual = residual - step * moved
        scaled = products.roughly_solved(residual)
        renewed = (residual * scaled).sum(1)
        ratio = torch.where(strength > 0, renewed / strength.clamp(min=tiny), 0.0)
        direction, strength = scaled + ratio[:, None] * direction, renewed
    return x
