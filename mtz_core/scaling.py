"""Merging neurons of which every task keeps a scale of its own.

Task t's neuron is s_t · w: all tasks share w and the bias is private, as if the shared convolution were followed by a
normalisation of each task's own. The least squares problem of `merging` then has the scales as further unknowns:

    min over w, s of Σ_t ½ (s_t w - w_t)ᵀ P_t (s_t w - w_t).

Given w every s_t has a closed form, and given s the optimum w solves Σ_t s_t² P_t w = Σ_t s_t P_t w_t, a system of
its own for every neuron. Alternating between the two never raises the loss. The systems of all neurons differ little
from Σ_t P_t, whose factor makes a few conjugate gradient steps enough for all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from mtz_core.linalg import DenseGram, cholesky

ROUNDS = 3
LIMIT = 5.0
"""Scales lie between 1 / LIMIT and LIMIT."""
BASIS_UP_TO = 1024
"""Wider systems of two tasks are solved by conjugate gradients, too: eigenvectors cost more than they save."""
STEPS = 8
TOLERANCE = 1e-4


class ScaledMerge:
    """Merges neurons under given Grams, for any weights.

    Args:
        grams: one Gram per task over its own d_t inputs, with task weight and ridge.
        places: for every task the places (d_t,) of its inputs among the `size` inputs (see `merge_partial`).
        size: how many inputs there are; each must be had by some task.
    """

    def __init__(self, grams: Sequence[DenseGram], places: Sequence[Tensor], size: int) -> None:
        self.places, self.size = places, size
        self.matrices = [gram.full() for gram in grams]
        total = self.matrices[0].new_zeros(size, size)
        for matrix, place in zip(self.matrices, places, strict=True):
            total[place[:, None], place] += matrix
        self.factor = cholesky(total)
        self.basis: tuple[Tensor, Tensor] | None = None
        # Places are in ascending order, so all of them are all inputs as they stand.
        if len(grams) == 2 and all(len(place) == size for place in places) and 0 < size <= BASIS_UP_TO:
            self.basis = _joint_basis(self.matrices[0], self.factor)

    def __call__(self, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return merged neurons w (k, size) of weights (k, d_t), and scales (T, k); the first task's are one."""
        pulls = [w @ p for w, p in zip(weights, self.matrices, strict=True)]
        merged, scales = self._by_turns(pulls) if self.basis is None else self._in_basis(pulls, *self.basis)
        return merged * scales[0][:, None], scales / scales[0]

    def _by_turns(self, pulls: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        scales = pulls[0].new_ones(len(pulls), len(pulls[0]))
        merged = torch.cholesky_solve(self._pulled(pulls, scales).mT, self.factor).mT
        for _ in range(ROUNDS):
            for t, (matrix, pull, place) in enumerate(zip(self.matrices, pulls, self.places, strict=True)):
                own = merged[:, place]
                scales[t] = _fitted((pull * own).sum(1), ((own @ matrix) * own).sum(1))
            scales = _bounded(scales)
            system = partial(self._applied, squares=scales.square())
            merged = _conjugate_gradients(system, self._pulled(pulls, scales), merged, self.factor)
        return merged, scales

    def _in_basis(self, pulls: Sequence[Tensor], basis: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """The same for two tasks, whose Grams are both diagonal in `basis`: entry by entry."""
        scales = pulls[0].new_ones(2, len(pulls[0]))
        curvatures, turned = (first, 1.0 - first), [pull @ basis for pull in pulls]
        entries = turned[0] + turned[1]
        for _ in range(ROUNDS):
            for t in range(2):
                scales[t] = _fitted((turned[t] * entries).sum(1), (entries.square() * curvatures[t]).sum(1))
            scales = _bounded(scales)
            wanted = turned[0] * scales[0][:, None] + turned[1] * scales[1][:, None]
            squares = scales.square()
            entries = wanted / (squares[0][:, None] * curvatures[0] + squares[1][:, None] * curvatures[1])
        return entries @ basis.mT, scales

    def _pulled(self, pulls: Sequence[Tensor], scales: Tensor) -> Tensor:
        result = pulls[0].new_zeros(len(pulls[0]), self.size)
        for pull, place, scale in zip(pulls, self.places, scales, strict=True):
            result[:, place] += pull * scale[:, None]
        return result

    def _applied(self, w: Tensor, squares: Tensor) -> Tensor:
        result = torch.zeros_like(w)
        for matrix, place, square in zip(self.matrices, self.places, squares, strict=True):
            result[:, place] += (w[:, place] * square[:, None]) @ matrix
        return result


def _fitted(pull: Tensor, length: Tensor) -> Tensor:
    """Scales of neurons with squared lengths `length` whose wanted weights pull them with `pull`, (k,) each."""
    tiny = torch.finfo(length.dtype).tiny
    return torch.where(length > tiny, pull / length.clamp(min=tiny), 1.0)


def _bounded(scales: Tensor) -> Tensor:
    """Scales (T, k) within the limit, their geometric mean one."""
    scales = scales.clamp(1.0 / LIMIT, LIMIT)
    return scales / scales.log().mean(0).exp()


def _joint_basis(first: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """V (d, d) and a (d,) with Vᵀ P V = diag(a), Vᵀ (P + Q) V = I; `factor` is the Cholesky factor of P + Q."""
    half = torch.linalg.solve_triangular(factor, first, upper=False)
    whole = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    values, vectors = torch.linalg.eigh((whole + whole.mT) / 2)
    return torch.linalg.solve_triangular(factor.mT, vectors, upper=True), values.clamp(0.0, 1.0)


def _conjugate_gradients(system: Callable[[Tensor], Tensor], wanted: Tensor, start: Tensor, factor: Tensor) -> Tensor:
    """Solve `system`(x) = `wanted` (k, d) row by row, preconditioned by `factor`."""
    x = start
    residual = wanted - system(x)
    scaled = torch.cholesky_solve(residual.mT, factor).mT
    direction = scaled
    strength = (residual * scaled).sum(1)
    first = (wanted * torch.cholesky_solve(wanted.mT, factor).mT).sum(1)
    for _ in range(STEPS):
        if bool((strength <= TOLERANCE**2 * first).all()):
            break
        moved = system(direction)
        slope = (direction * moved).sum(1)
        step = torch.where(slope > 0, strength / slope.clamp(min=torch.finfo(x.dtype).tiny), 0.0)[:, None]
        x = x + step * direction
        residual = residual - step * moved
        scaled = torch.cholesky_solve(residual.mT, factor).mT
        renewed = (residual * scaled).sum(1)
        ratio = torch.where(strength > 0, renewed / strength.clamp(min=torch.finfo(x.dtype).tiny), 0.0)
        direction, strength = scaled + ratio[:, None] * direction, renewed
    return x
