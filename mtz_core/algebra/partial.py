"""Merging neurons of tasks that do not all read the same shared inputs.

With three or more tasks an input may be shared by some of them only. The merged neuron has one weight for every input
that at least two of its tasks share; a task that lacks an input has no say in that weight. It is the same least
squares problem as in `merging`, with each task's Gram put in the places of the inputs that it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtz_core.algebra.gram import DenseGram, Gram, RowGram, RowSum, cholesky, spread, to_dense
from mtz_core.algebra.merging import merge

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
    placed = [spread(w, place, size) for w, place in zip(weights, places, strict=True)]
    wide = []
    for gram, place in zip(grams, places, strict=True):
        matrix = placed[0].new_zeros(size, size)
        matrix[place[:, None], place] = to_dense(gram).full()
        wide.append(DenseGram(matrix))
    if mask is not None:
        return merge(placed, wide, mask)
    total, pull = torch.zeros_like(wide[0].matrix), torch.zeros_like(placed[0])
    for w, gram in zip(placed, wide, strict=True):
        total += gram.matrix
        pull += w @ gram.matrix
    return torch.cholesky_solve(pull.mT, cholesky(total)).mT


def _from_rows(weights: Sequence[Tensor], grams: Sequence[RowGram], places: Sequence[Tensor], size: int) -> Tensor:
    """As the merge from rows in `algebra.merging`, with a ridge that differs from input to input."""
    total = RowSum(grams, places, size)
    base = weights[0].new_zeros(len(weights[0]), size)
    for w, ridge, place in zip(weights, total.ridges, places, strict=True):
        base[:, place] += ridge * w
    base /= total.diagonal
    pulls = [
        gram.weighted_rows() @ (w - base[:, place]).mT for w, gram, place in zip(weights, grams, places, strict=True)
    ]
    return base + torch.cholesky_solve(torch.cat(pulls), total.factor).mT @ total.scaled
