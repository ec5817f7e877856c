"""Where a functional difference comes from: d = ½ Δᵀ M Δ split over inputs, and over the eigenvectors of M.

M is that of `difference`, (P⁻¹ + Q⁻¹)⁻¹. Over inputs d = Σ_i ½ Δ_i (MΔ)_i: a part may be negative, where an input that
varies together with others takes back what they add. Over eigenvectors d = Σ_k ½ λ_k (v_k · Δ)², where no part is: a
large change along directions in which the inputs hardly vary costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from mtz_core.algebra.gram import Gram, RowGram, cholesky, same_kind, to_dense

WHOLE_UP_TO = 4096
"""Inputs up to which all eigenvectors are found: the matrix then takes 134 MB in double precision."""
ROWS = 512
"""Rows of that matrix that are made at once."""
LEADING = 64
"""Eigenvectors that are found beyond that, those of the largest eigenvalues."""


@dataclass(frozen=True)
class Directions:
    """Eigenvalues λ (k,) of M, descending, the squares (k,) of Δ's coordinates, and the part of d that is left over."""

    values: Tensor
    squares: Tensor
    parts: Tensor
    rest: float


@dataclass(frozen=True)
class PairForm:
    """The quadratic form behind one pair's difference, `factor` · ½ Δᵀ M Δ.

    `delta` (d,) is Δ, `p` and `q` are the two tasks' Grams over the same inputs, task weights and ridges included.
    `mean`: M is the bound (P + Q) / 4 that depthwise convolutions are compared by.
    """

    delta: Tensor
    p: Gram
    q: Gram
    factor: float = 1.0
    mean: bool = False

    @cached_property
    def applied(self) -> Callable[[Tensor], Tensor]:
        """What multiplies rows (n, d) by M."""
        p, q = same_kind([self.p, self.q])
        if self.mean:
            return lambda v: (p.apply(v) + q.apply(v)) / 4
        return _from_rows(p, q) if isinstance(p, RowGram) and isinstance(q, RowGram) else _from_matrices(p, q)

    def contributions(self) -> Tensor:
        """What every input adds, (d,); their sum is the difference.

        >>> from mtz_core.algebra.gram import DenseGram
        >>> unit = DenseGram(torch.eye(2, dtype=torch.float64))
        >>> PairForm(torch.tensor([3.0, 1.0], dtype=torch.float64), unit, unit).contributions()  # M = ½ I
        tensor([2.2500, 0.2500], dtype=torch.float64)
        """
        return 0.5 * self.factor * self.delta * self.applied(self.delta[None])[0]

    def directions(self) -> Directions:
        """The same over the eigenvectors of M; of very wide layers only over the leading ones."""
        size = len(self.delta)
        values, vectors = torch.linalg.eigh(self._whole(size)) if size <= WHOLE_UP_TO else self._leading(size)
        values = values.flip(0).clamp(min=0.0)
        squares = (self.delta @ vectors).square().flip(0)
        parts = 0.5 * self.factor * values * squares
        left = 0.0 if size <= WHOLE_UP_TO else float(self.contributions().sum() - parts.sum())
        return Directions(values, squares, parts, max(0.0, left))

    def _whole(self, size: int) -> Tensor:
        """M (d, d), some rows at a time, made symmetric to the last digit."""
        whole = self.delta.new_empty(size, size)
        for first in range(0, size, ROWS):
            rows = self.delta.new_zeros(min(ROWS, size - first), size)
            rows[:, first:].fill_diagonal_(1.0)
            whole[first : first + ROWS] = self.applied(rows)
        return whole.add_(whole.mT.clone()).div_(2.0)

    def _leading(self, size: int) -> tuple[Tensor, Tensor]:
        """The largest eigenvalues (k,), ascending, and their eigenvectors (d, k), by Lanczos' method."""

        def times(v: np.ndarray) -> np.ndarray:
            given = torch.as_tensor(np.ascontiguousarray(v.reshape(-1))).to(self.delta)
            return np.asarray(self.applied(given[None])[0].cpu().numpy())

        operator = LinearOperator((size, size), matvec=times, dtype=np.float64)
        start = np.random.default_rng(0).normal(size=size)
        values, vectors = eigsh(operator, k=LEADING, which="LA", v0=start)
        return torch.as_tensor(values.copy()).to(self.delta), torch.as_tensor(vectors.copy()).to(self.delta)


def _from_matrices(p: Gram, q: Gram) -> Callable[[Tensor], Tensor]:
    """M = P (P + Q)⁻¹ Q: a product, so nothing cancels."""
    mine, theirs = to_dense(p), to_dense(q)
    total = mine.full()
    total.add_(theirs.matrix, alpha=theirs.scale)
    total.diagonal().add_(theirs.ridge)
    factor = cholesky(total)
    return lambda v: mine.apply(torch.cholesky_solve(theirs.apply(v).mT, factor).mT)


def _from_rows(p: RowGram, q: RowGram) -> Callable[[Tensor], Tensor]:
    """The same without a d×d matrix (see `difference`)."""
    floor = torch.finfo(p.rows.dtype).eps * max(p.mean_diagonal(), q.mean_diagonal(), torch.finfo(p.rows.dtype).tiny)
    ridge_p, ridge_q = max(p.ridge, floor), max(q.ridge, floor)
    c = ridge_p + ridge_q
    za, zb = p.weighted_rows(), q.weighted_rows()
    kernel = torch.cat([za, zb])
    signed = torch.cat([za * ridge_q, zb * -ridge_p])
    kernel = kernel @ kernel.mT
    kernel.diagonal().add_(c)
    factor = cholesky(kernel)
    flat = ridge_p * ridge_q / c
    return lambda v: flat * v + torch.cholesky_solve(signed @ v.mT, factor).mT @ signed / c
