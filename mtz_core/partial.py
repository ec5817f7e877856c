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


def _spread(weights: Tensor, place: Tensor, size: int) -> Tensor:
    return weights.new_zeros(len(weights), size).index_copy_(1, place, weights)


def _from_rows(weights: Sequence[Tensor], grams: Sequence[RowGram], places: Sequence[Tensor], size: int) -> Tensor:
    """As `merging._merge_from_rows`, with a ridge that differs from input to input."""
    floor = torch.finfo(weights[0].dtype).eps * max(max(g.mean_diagonal() for g in grams), 1e-30)
    diagonal = weights[0].new_zeros(size)
    base = weights[0].new_zeros(len(weights[0]), size)
    for w, gram, place in zip(weights, grams, places, strict=True):
        ridge = max(gram.ridge, floor)
        diagonal[place] += ridge
        base[:, place] += ridge * w
    base /= diagonal
    stacked, pulls = [], []
    for w, gram, place in zip(weights, grams, places, strict=True):
        rows = gram.weighted_rows()
        stacked.append(_spread(rows, place, size))
        pulls.append(rows @ (w - base[:, place]).mT)
    wide = torch.cat(stacked)
    scaled = wide / diagonal
    kernel = scaled @ wide.mT
    kernel.diagonal().add_(1.0)
    return base + torch.cholesky_solve(torch.cat(pulls), cholesky(kernel)).mT @ scaled
