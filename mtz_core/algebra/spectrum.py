"""How many directions the inputs of a layer use: the eigenvalues of a Gram, and ranks that count them smoothly."""

from __future__ import annotations

import torch
from torch import Tensor

from mtz_core.algebra.gram import Gram, RowGram, to_dense


def spectrum(gram: Gram) -> Tensor:
    """Eigenvalues of a Gram without its ridge, descending; of one that is kept as m < d rows, those m that may count.

    The Gram is not centred: the largest eigenvalue often is that of the mean input.
    """
    if isinstance(gram, RowGram) and len(gram.rows) < gram.dimension:
        matrix = (gram.rows @ gram.rows.mT).mul_(gram.scale)
    else:
        dense = to_dense(gram)
        matrix = dense.matrix * dense.scale
    values: Tensor = torch.linalg.eigvalsh(matrix)
    return values.flip(-1).clamp(min=0.0)


def effective_rank(values: Tensor) -> Tensor:
    """exp of the entropy of eigenvalues (..., k) that are divided by their sum (Roy and Vetterli 2007), (...).

    It lies between 1 and k, and is k where all are equal; 0 where all are zero.

    >>> effective_rank(torch.tensor([1.0, 1.0, 1.0, 0.0]))
    tensor(3.)
    """
    total = values.sum(-1, keepdim=True)
    shares = values / total.clamp(min=torch.finfo(values.dtype).tiny)
    rank = (-torch.xlogy(shares, shares).sum(-1)).exp()
    return torch.where(total[..., 0] > 0, rank, 0.0)


def participation_ratio(values: Tensor) -> Tensor:
    """(Σ λ)² / Σ λ² of eigenvalues (..., k): likewise, but large eigenvalues weigh more, (...).

    >>> participation_ratio(torch.tensor([2.0, 2.0, 0.0]))
    tensor(2.)
    """
    squares = values.square().sum(-1)
    return torch.where(squares > 0, values.sum(-1).square() / squares.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
