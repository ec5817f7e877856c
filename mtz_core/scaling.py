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
from functools import partial

import torch
from torch import Tensor

from mtz_core.linalg import SINGLE_FROM, DenseGram, cholesky

ROUNDS = 3
LIMIT = 5.0
"""Scales lie between 1 / LIMIT and LIMIT."""
STEPS = 8
TOLERANCE = 0.1
"""How far conjugate gradients bring down what a round leaves open."""


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
        rough = torch.float32 if size >= SINGLE_FROM else total.dtype
        self.whole = total.to(rough, copy=True)
        self.factor = cholesky(total)
        self.inverse = torch.cholesky_inverse(self.factor).to(rough)
        self.rough = [matrix.to(rough) for matrix in self.matrices]

    def __call__(self, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return merged neurons w (k, size) of weights (k, d_t), and scales (T, k); the first task's are one."""
        pulls = [w @ p for w, p in zip(weights, self.matrices, strict=True)]
        scales = _bounded(self._proportion(weights))
        merged = self._average(weights, scales)
        merged = merged + torch.cholesky_solve(self._left(weights, merged, scales).mT, self.factor).mT
        for number in range(ROUNDS):
            if number:
                for t, (matrix, pull, place) in enumerate(zip(self.rough, pulls, self.places, strict=True)):
                    own = merged[:, place]
                    scales[t] = _fitted((pull * own).sum(1), ((own.to(matrix) @ matrix) * own).sum(1))
                scales = _bounded(scales)
            system = partial(self._applied, squares=scales.square().to(self.whole))
            merged = _conjugate_gradients(system, self._left(weights, merged, scales), merged, self.inverse)
        return merged * scales[0][:, None], scales / scales[0]

    def _proportion(self, weights: Sequence[Tensor]) -> Tensor:
        """Scales (T, k) in proportion to the sizes of the neurons' outputs, had all tasks the same inputs."""
        sizes = []
        for w, place in zip(weights, self.places, strict=True):
            everywhere = self.whole.new_zeros(len(w), self.size).index_copy_(1, place, w.to(self.whole))
            sizes.append(((everywhere @ self.whole) * everywhere).sum(1).clamp(min=0.0).sqrt())
        found = torch.stack(sizes).to(weights[0])
        return found / found.mean(0).clamp(min=torch.finfo(torch.float32).tiny)

    def _average(self, weights: Sequence[Tensor], scales: Tensor) -> Tensor:
        """Mean (k, size) of what the tasks' weights would be at a scale of one."""
        total, count = weights[0].new_zeros(len(weights[0]), self.size), weights[0].new_zeros(self.size)
        for w, place, scale in zip(weights, self.places, scales, strict=True):
            total[:, place] += w / scale[:, None]
            count[place] += 1.0
        return total / count

    def _left(self, weights: Sequence[Tensor], merged: Tensor, scales: Tensor) -> Tensor:
        """What pulls at w, Σ_t s_t P_t (w_t - s_t w), (k, size); the nearer the tasks agree, the less its rounding."""
        result = torch.zeros_like(merged)
        for w, matrix, place, scale in zip(weights, self.matrices, self.places, scales, strict=True):
            result[:, place] += ((w - merged[:, place] * scale[:, None]) * scale[:, None]) @ matrix
        return result

    def _applied(self, w: Tensor, rows: Tensor, squares: Tensor) -> Tensor:
        """Σ_t s_t² P_t w, w (r, d) of the neurons `rows` (r,)."""
        result = torch.zeros_like(w)
        for matrix, place, square in zip(self.rough, self.places, squares, strict=True):
            result[:, place] += (w[:, place] * square[rows, None]) @ matrix
        return result


def _fitted(pull: Tensor, length: Tensor) -> Tensor:
    """Scales of neurons with squared lengths `length` whose wanted weights pull them with `pull`, (k,) each."""
    tiny = torch.finfo(length.dtype).tiny
    return torch.where(length > tiny, pull / length.clamp(min=tiny), 1.0)


def _bounded(scales: Tensor) -> Tensor:
    """Scales (T, k) within the limit, their geometric mean one."""
    scales = scales.clamp(1.0 / LIMIT, LIMIT)
    return scales / scales.log().mean(0).exp()


def _conjugate_gradients(
    system: Callable[[Tensor, Tensor], Tensor], left: Tensor, start: Tensor, inverse: Tensor
) -> Tensor:
    """Solve the rows' systems for x, `system`(x - start, rows) = `left` (k, d), preconditioned by `inverse` (d, d).

    Rows that are done, most of them after a step or two, take no further part.
    """
    x = start.clone()
    tiny = torch.finfo(torch.float32).tiny
    rows, residual = torch.arange(len(x), device=x.device), left.to(inverse)
    direction = scaled = residual @ inverse
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
        scaled = residual @ inverse
        renewed = (residual * scaled).sum(1)
        ratio = torch.where(strength > 0, renewed / strength.clamp(min=tiny), 0.0)
        direction, strength = scaled + ratio[:, None] * direction, renewed
    return x
