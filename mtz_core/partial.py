"""Merging neurons of tasks that do not all read the same shared inputs.

With three or more tasks an input may be shared by some of them only. The merged neuron has one weight for every input
that at least two of its tasks share; a task that lacks an input has no say in that weight. It is the same least
squares problem as in `merging`, with each task's Gram put in the places of the inputs that it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtz_core.linalg import DenseGram, Gram, RowGram, cholesky, to_dense
from mtz_core.merging import merge

DENSE_UP_TO = 6144
"""Above so many inputs, Grams that are kept as rows stay rows."""


def merge_partial(
    weights: Sequence[Tensor], grams: Sequence[Gram], places: Sequence[Tensor], size: int, mask: Tensor | None = None
) -> Tensor:
    """Return arg-min_w Σ_t ½ (w|_t - w_t)ᵀ P_t (w|_t - w_t) row by row, (k, size).

    Args:
        weights: one (k, d_t) matrix per task.
        grams: one Gram per task over its own d_t inputs, with task weight and ridge.
        places: for every task the places (d_t,), in ascending order, of its inputs among the `size` inputs; w|_t are
            these entries of w.
        size: how many inputs there are; each must be had by some task.
        mask: (k, size) bool, where a merged weight may differ from zero; `None`: everywhere.
    """
    if all(len(place) == size for place in places):
        return merge(weights, grams, mask)
    rows = [gram for gram in grams if isinstance(gram, RowGram)]
    if mask is None and size > DENSE_UP_TO and len(rows) == len(grams):
        return _from_rows(weights, rows, places, size)
    spread = [_spread(w, place, size) for w, place in zip(weights, places, strict=True)]
    wide = []
    for gram, place in zip(grams, places, strict=True):
        matrix = spread[0].new_zeros(size, size)
        matrix[place[:, None], place] = to_dense(gram).full()
        wide.append(DenseGram(matrix))
    if mask is not None:
        return merge(spread, wide, mask)
    total, pull = torch.zeros_like(wide[0].matrix), torch.zeros_like(spread[0])
    for w, gram in zip(spread, wide, strict=True):
        total += gram.matrix
        pull += w @ gram.matrix
    return torch.cholesky_solve(pull.mT, cholesky(total)).mT


def _spread(weights: Tensor, place: Tensor | slice, size: int) -> Tensor:
    spread = weights.new_zeros(len(weights), size)
    spread[:, place] = weights
    return spread


def _from_rows(weights: Sequence[Tensor], grams: Sequence[RowGram], places: Sequence[Tensor], size: int) -> Tensor:
    """As `merging._merge_from_rows`, with a ridge that differs from input to input."""
    total = RowSum(grams, places, size)
    base = weights[0].new_zeros(len(weights[0]), size)
    for w, ridge, place in zip(weights, total.ridges, places, strict=True):
        base[:, place] += ridge * w
    base /= total.diagonal
    pulls = [
        gram.weighted_rows() @ (w - base[:, place]).mT for w, gram, place in zip(weights, grams, places, strict=True)
    ]
    return base + torch.cholesky_solve(torch.cat(pulls), total.factor).mT @ total.scaled


class RowSum:
    """Sum D + ZᵀZ of Grams that are kept as rows, each in the places of its inputs, by Woodbury's identity.

    `diagonal` (size,) are D's entries, `wide` (m, size) is Z, `scaled` is Z D⁻¹, `factor` that of I + Z D⁻¹ Zᵀ.
    """

    def __init__(self, grams: Sequence[RowGram], places: Sequence[Tensor | slice], size: int) -> None:
        some = grams[0].rows
        floor = torch.finfo(some.dtype).eps * max(max(g.mean_diagonal() for g in grams), 1e-30)
        self.ridges = [max(gram.ridge, floor) for gram in grams]
        self.diagonal = some.new_zeros(size)
        for ridge, place in zip(self.ridges, places, strict=True):
            self.diagonal[place] += ridge
        both = zip(grams, places, strict=True)
        self.wide = torch.cat([_spread(gram.weighted_rows(), place, size) for gram, place in both])
        self.scaled = self.wide / self.diagonal
        kernel = self.scaled @ self.wide.mT
        kernel.diagonal().add_(1.0)
        self.factor = cholesky(kernel)

    def solved(self, left: Tensor) -> Tensor:
        """`left` (k, size) times the inverse of the sum."""
        inner = torch.cholesky_solve(self.scaled @ left.mT, self.factor)
        return (left / self.diagonal).addmm_(inner.mT, self.scaled, alpha=-1.0)
