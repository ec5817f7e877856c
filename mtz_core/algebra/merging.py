"""Merging: the weights that stand for several neurons at once (He, Zhou, Thiele 2018, §3.3).

For tasks with Grams H_t and weights α_t, the neuron of least total loss is

    w* = S⁻¹ Σ_t α_t H_t w_t,    S = Σ_t α_t H_t.

It is computed as w̄ + S⁻¹ Σ_t α_t H_t (w_t - w̄) around an average w̄, which is exact where neurons agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtz_core.algebra.difference import check_layer
from mtz_core.algebra.gram import DenseGram, Gram, RowGram, as_gram, cholesky, outer, same_kind, to_dense
from mtz_core.errors import NumericalError, SpecError

MASKED_BYTES = 128 * 2**20
"""Memory for the systems of sparse rows that are solved at once."""


def merge_weights(
    weights: Sequence[Tensor],
    grams: Sequence[Gram | Tensor],
    alphas: Sequence[float] | None = None,
    ridge: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Return the merged neuron of every row.

    Args:
        weights: one (k, d) matrix per task; row r of each is merged into row r of the result.
        grams: E[x xᵀ] of each task's inputs, (d, d) tensors or `Gram`s.
        alphas: task weights, positive; normalised to sum to one. `None`: equal.
        ridge: added to each Gram's diagonal, relative to its own mean diagonal.
        mask: (k, d) bool, where a merged weight may differ from zero (sparse parents): the minimum is taken over
            these entries. `None`: everywhere.

    Returns:
        (k, d).

    Raises:
        SpecError: numbers or shapes do not fit together.
        NumericalError: a weight or a Gram is NaN or infinite.

    Example:
        >>> h = torch.eye(2)
        >>> merge_weights([torch.tensor([[0.0, 2.0]]), torch.tensor([[4.0, 2.0]])], [h, h], [0.75, 0.25])
        tensor([[1., 2.]])
    """
    if len(weights) < 2 or len(grams) != len(weights):
        raise SpecError(f"merging needs two or more tasks with a Gram each, got {len(weights)} and {len(grams)}")
    alphas = [1.0] * len(weights) if alphas is None else list(alphas)
    if len(alphas) != len(weights) or min(alphas) <= 0.0:
        raise SpecError(f"alphas must be {len(weights)} positive numbers, got {alphas}")
    forms = [as_gram(gram) for gram in grams]
    for t, (w, form) in enumerate(zip(weights, forms, strict=True)):
        check_layer(f"task {t}", w, form)
        if w.shape != weights[0].shape:
            raise SpecError(
                f"task {t} has weights {tuple(w.shape)}, task 0 {tuple(weights[0].shape)}; align them first"
            )
    if mask is not None and mask.shape != weights[0].shape:
        raise SpecError(f"the mask is {tuple(mask.shape)}, the weights are {tuple(weights[0].shape)}")
    total = sum(alphas)
    weighted = [f.relative_ridge(ridge).scaled(a / total) for f, a in zip(forms, alphas, strict=True)]
    return merge(weights, weighted, mask)


def merge(weights: Sequence[Tensor], grams: Sequence[Gram], mask: Tensor | None = None) -> Tensor:
    """Return arg-min_w Σ_t ½ (w - w_t)ᵀ P_t (w - w_t) row by row, (k, d); `grams` carry task weight and ridge."""
    alike = same_kind(grams)
    rows = [gram for gram in alike if isinstance(gram, RowGram)]
    if mask is not None:
        return _merge_masked(weights, alike, mask)
    if rows:
        return _merge_from_rows(weights, rows)
    return _merge_from_matrices(weights, [gram for gram in alike if isinstance(gram, DenseGram)])


def _merge_from_matrices(weights: Sequence[Tensor], grams: Sequence[DenseGram]) -> Tensor:
    base = weights[0]
    for t, w in enumerate(weights[1:], start=2):
        base = base + (w - base) / t
    total = grams[0].full()
    pull = grams[0].apply(weights[0] - base)
    for w, gram in zip(weights[1:], grams[1:], strict=True):
        total.add_(gram.matrix, alpha=gram.scale)
        total.diagonal().add_(gram.ridge)
        pull += gram.apply(w - base)
    return base + torch.cholesky_solve(pull.mT, cholesky(total)).mT


def _merge_from_rows(weights: Sequence[Tensor], grams: Sequence[RowGram]) -> Tensor:
    """With w̄ the ridge-weighted mean, the correction is Zᵀ (c I + Z Zᵀ)⁻¹ [Z_t (w_t - w̄)]_t."""
    floor = torch.finfo(weights[0].dtype).eps * max(g.mean_diagonal() for g in grams)
    ridges = [max(g.ridge, floor, torch.finfo(weights[0].dtype).tiny) for g in grams]
    c = sum(ridges)
    base = torch.zeros_like(weights[0])
    for w, ridge in zip(weights, ridges, strict=True):
        base.add_(w, alpha=ridge / c)
    rows = [gram.weighted_rows() for gram in grams]
    pull = torch.cat([z @ (w - base).mT for z, w in zip(rows, weights, strict=True)])
    stacked = torch.cat(rows)
    kernel = outer(stacked)
    kernel.diagonal().add_(c)
    return base.addmm_(torch.cholesky_solve(pull, cholesky(kernel)).mT, stacked)


def _merge_masked(weights: Sequence[Tensor], grams: Sequence[Gram], mask: Tensor) -> Tensor:
    """The minimum over each row's own support: one small system per merged neuron, many neurons at once.

    What lies outside a row's support is zero in every parent, so it neither pulls nor is pulled. Supports are padded
    to the widest; padded entries get the equation w = 0.
    """
    dense = [to_dense(gram) for gram in grams]
    total = dense[0].full()
    pull = dense[0].apply(weights[0])
    for w, gram in zip(weights[1:], dense[1:], strict=True):
        total.add_(gram.matrix, alpha=gram.scale)
        total.diagonal().add_(gram.ridge)
        pull += gram.apply(w)
    return solve_masked(DenseGram(total), pull, mask)


def solve_masked(gram: DenseGram, pull: Tensor, mask: Tensor) -> Tensor:
    """Return w (k, d) with (H w)_i = pull_i where the mask (k, d) of a row is true, and w_i = 0 elsewhere."""
    total = gram.full()
    total.diagonal().add_(torch.finfo(total.dtype).eps * 8 * total.diagonal().mean())
    merged = torch.zeros_like(pull)
    width = int(mask.sum(1).max()) if len(mask) else 0
    if width == 0:
        return merged
    # Sorting the mask puts each row's support first.
    support = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    inside = mask.gather(1, support)
    step = max(1, MASKED_BYTES // (width * width * total.element_size()))
    for first in range(0, len(mask), step):
        index, real = support[first : first + step], inside[first : first + step]
        system = total[index[:, :, None], index[:, None, :]]
        system.mul_(real[:, :, None] & real[:, None, :])
        system.diagonal(dim1=1, dim2=2).add_((~real).to(system.dtype))
        wanted = pull[first : first + step].gather(1, index).mul_(real)
        factor, info = torch.linalg.cholesky_ex(system)
        if bool(info.any()):
            raise NumericalError("a pruned layer's Gram is singular on some neuron's inputs; set a ridge, e.g. 1e-3")
        merged[first : first + step].scatter_(1, index, torch.cholesky_solve(wanted[:, :, None], factor)[:, :, 0])
    return merged


def merge_loss(merged: Tensor, weights: Sequence[Tensor], grams: Sequence[Gram]) -> Tensor:
    """Return Σ_t ½ (w - w_t)ᵀ P_t (w - w_t) of every merged row, (k,)."""
    return torch.stack([gram.loss(merged - w) for w, gram in zip(weights, grams, strict=True)]).sum(0)
