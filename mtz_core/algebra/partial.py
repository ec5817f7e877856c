"""Merging neurons of tasks that do not all read the same shared inputs.

With three or more tasks an input may be shared by some of them only. The merged neuron has one weight for every input
that at least two of its tasks share; a task that lacks an input has no say in that weight. It is the same least
squares problem as in `merging`, with each task's Gram put at the indices of the inputs that it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtz_core.algebra.gram import DenseGram, Gram, RowGram, RowSum, cholesky, to_dense
from mtz_core.algebra.merging import merge, solve_masked

DENSE_UP_TO = 6144
"""Above so many inputs, Grams that are kept as rows stay rows."""


def merge_partial(
    weights: Sequence[Tensor], grams: Sequence[Gram], indices: Sequence[Tensor], size: int, mask: Tensor | None = None
) -> Tensor:
    """Return arg-min_w Σ_t ½ (w|_t - w_t)ᵀ P_t (w|_t - w_t) row by row, (k, size).

    Args:
        weights: one (k, d_t) matrix per task.
        grams: one Gram per task over its own d_t inputs, with task weight and ridge.
        indices: for every task the indices (d_t,), in ascending order, of its inputs among the `size` inputs; w|_t are
            these entries of w.
        size: how many inputs there are; each must be had by some task.
        mask: (k, size) bool, where a merged weight may differ from zero; `None`: everywhere.
    """
    if all(len(index) == size for index in indices):
        return merge(weights, grams, mask)
    rows = [gram for gram in grams if isinstance(gram, RowGram)]
    if mask is None and size > DENSE_UP_TO and len(rows) == len(grams):
        return _from_rows(weights, rows, indices, size)
    total, pull = weights[0].new_zeros(size, size), weights[0].new_zeros(len(weights[0]), size)
    for w, gram, index in zip(weights, grams, indices, strict=True):
        own = to_dense(gram)
        total[index[:, None], index] += own.full()
        pull[:, index] += own.apply(w)
    if mask is not None:
        return solve_masked(DenseGram(total), pull, mask)
    return torch.cholesky_solve(pull.mT, cholesky(total)).mT


def _from_rows(weights: Sequence[Tensor], grams: Sequence[RowGram], indices: Sequence[Tensor], size: int) -> Tensor:
    """As the merge from rows in `algebra.merging`, with a ridge that differs from input to input."""
    total = RowSum(grams, indices, size)
    base = weights[0].new_zeros(len(weights[0]), size)
    for w, ridge, index in zip(weights, total.ridges, indices, strict=True):
        base[:, index] += ridge * w
    base /= total.diagonal
    pulls = [
        gram.weighted_rows() @ (w - base[:, index]).mT for w, gram, index in zip(weights, grams, indices, strict=True)
    ]
    return base + torch.cholesky_solve(torch.cat(pulls), total.factor).mT @ total.scaled
