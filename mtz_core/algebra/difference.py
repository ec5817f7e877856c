"""Functional difference: what merging two neurons costs, for all pairs at once (He, Zhou, Thiele 2018, §3.3).

With task-weighted Grams P = α_A H_A and Q = α_B H_B, the least loss of one neuron w instead of both is

    d(i, j) = min_w ½ (w - a_i)ᵀ P (w - a_i) + ½ (w - b_j)ᵀ Q (w - b_j) = ½ Δᵀ M Δ,    Δ = a_i - b_j,
    M = (P⁻¹ + Q⁻¹)⁻¹ = P - P (P + Q)⁻¹ P.

No inverse is formed and no pair is visited on its own: every neuron gets coordinates in which d is half a squared
Euclidean distance (or an indefinite form that costs the same), and distances between all pairs are one product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtz_core.algebra.gram import DenseGram, Gram, RowGram, as_gram, cholesky, outer, same_kind
from mtz_core.errors import NumericalError, SpecError


def functional_difference(
    w_a: Tensor, w_b: Tensor, gram_a: Gram | Tensor, gram_b: Gram | Tensor, alpha: float = 0.5, ridge: float = 0.0
) -> Tensor:
    """Return the functional difference of every neuron of A and every neuron of B.

    Args:
        w_a: incoming weights of A's neurons, (n_a, d); the bias is a column like any other.
        w_b: incoming weights of B's neurons, (n_b, d), over the same inputs.
        gram_a: E[x xᵀ] of the layer's inputs in network A, (d, d), or a `Gram`.
        gram_b: the same in network B.
        alpha: weight of task A in (0, 1); B has 1 - alpha.
        ridge: added to each Gram's diagonal, relative to its own mean diagonal.

    Returns:
        (n_a, n_b), non-negative, in units of ½ · (pre-activation)².

    Raises:
        SpecError: shapes do not fit together, or alpha or ridge is out of range.
        NumericalError: a weight or a Gram is NaN or infinite.

    Example:
        >>> x = torch.eye(2, dtype=torch.float64)
        >>> functional_difference(x, x, x, x)   # ½ · ½ · ½ · |Δ|²
        tensor([[0.0000, 0.2500],
                [0.2500, 0.0000]], dtype=torch.float64)
    """
    p, q = as_gram(gram_a), as_gram(gram_b)
    check_layer("A", w_a, p)
    check_layer("B", w_b, q)
    if w_a.shape[1] != w_b.shape[1]:
        raise SpecError(f"A's neurons have {w_a.shape[1]} inputs and B's {w_b.shape[1]}; compare over the same inputs")
    if not 0.0 < alpha < 1.0:
        raise SpecError(f"alpha is {alpha}; it weighs task A against task B and lies strictly between 0 and 1")
    if ridge < 0.0:
        raise SpecError(f"ridge is {ridge}; it must not be negative")
    return pairwise_difference(
        w_a, w_b, p.relative_ridge(ridge).scaled(alpha), q.relative_ridge(ridge).scaled(1.0 - alpha)
    )


def check_layer(name: str, weights: Tensor, gram: Gram) -> None:
    """Raise unless `weights` is a finite (n, d) matrix that fits its Gram."""
    if weights.ndim != 2 or not weights.is_floating_point():
        raise SpecError(f"weights of {name} must be a floating (neurons, inputs) matrix, got {tuple(weights.shape)}")
    if gram.dimension != weights.shape[1]:
        raise SpecError(f"weights of {name} have {weights.shape[1]} inputs, its Gram has {gram.dimension}")
    if not bool(torch.isfinite(weights).all()):
        raise NumericalError(f"weights of {name} hold NaN or infinity; the network is damaged or diverged")


def pairwise_difference(w_a: Tensor, w_b: Tensor, p: Gram, q: Gram) -> Tensor:
    """Return ½ Δᵀ (P⁻¹ + Q⁻¹)⁻¹ Δ for all pairs, (n_a, n_b), from Grams that already carry task weight and ridge."""
    centre = w_a.mean(0) if len(w_a) else torch.zeros_like(w_b[0])
    # Differences do not change when all neurons move together; small numbers lose fewer digits below.
    a, b = w_a - centre, w_b - centre
    alike = same_kind([p, q])
    if isinstance(alike[0], RowGram) and isinstance(alike[1], RowGram):
        return _difference_from_rows(a, b, alike[0], alike[1])
    assert isinstance(alike[0], DenseGram)
    assert isinstance(alike[1], DenseGram)
    return _difference_from_matrices(a, b, alike[0], alike[1])


def _difference_from_matrices(a: Tensor, b: Tensor, p: DenseGram, q: DenseGram) -> Tensor:
    """One Cholesky factor C of P + Q; with Y = C⁻¹ P Vᵀ the inner product of rows under M is v P v'ᵀ - y · y'."""
    total = p.full()
    total.add_(q.matrix, alpha=q.scale)
    total.diagonal().add_(q.ridge)
    factor = cholesky(total)
    del total
    rows = torch.cat([a, b])
    applied = p.apply(rows)
    solved = torch.linalg.solve_triangular(factor.mT, applied, upper=True, left=False)
    n = len(a)
    norms = (rows * applied).sum(1) - solved.square().sum(1)
    cross = applied[:n] @ b.mT
    cross.addmm_(solved[:n], solved[n:].mT, alpha=-1.0)
    return _half_squared_distances(norms[:n], norms[n:], cross)


def _difference_from_rows(a: Tensor, b: Tensor, p: RowGram, q: RowGram) -> Tensor:
    """The same without a d×d matrix.

    With P = p I + AᵀA, Q = q I + BᵀB, Z = [A; B] and E = diag(q on A's rows, -p on B's), Woodbury's identity gives

        M = (pq / (p+q)) I + (1 / (p+q)) Zᵀ E ((p+q) I + Z Zᵀ)⁻¹ E Z,

    a sum of two positive semi-definite terms: nothing cancels.
    """
    floor = torch.finfo(a.dtype).eps * max(p.mean_diagonal(), q.mean_diagonal(), torch.finfo(a.dtype).tiny)
    ridge_p, ridge_q = max(p.ridge, floor), max(q.ridge, floor)
    c = ridge_p + ridge_q
    za, zb = p.weighted_rows(), q.weighted_rows()
    kernel = outer(torch.cat([za, zb]))
    kernel.diagonal().add_(c)
    factor = cholesky(kernel)

    def coordinates(v: Tensor) -> Tensor:
        projected = torch.cat([(za @ v.mT).mul_(ridge_q), (zb @ v.mT).mul_(-ridge_p)])
        solved: Tensor = torch.linalg.solve_triangular(factor, projected, upper=False)
        return solved.mT

    u_a, u_b = coordinates(a), coordinates(b)
    flat, curved = ridge_p * ridge_q / c, 1.0 / c
    norm_a = flat * a.square().sum(1) + curved * u_a.square().sum(1)
    norm_b = flat * b.square().sum(1) + curved * u_b.square().sum(1)
    cross = (a @ b.mT).mul_(flat)
    cross.addmm_(u_a, u_b.mT, alpha=curved)
    return _half_squared_distances(norm_a, norm_b, cross)


def _half_squared_distances(norm_a: Tensor, norm_b: Tensor, cross: Tensor) -> Tensor:
    """½ (|a|² + |b|² - 2 a·b) instead of `cross`; rounding below zero is cut off."""
    return cross.mul_(-1.0).add_(norm_a[:, None], alpha=0.5).add_(norm_b[None, :], alpha=0.5).clamp_(min=0.0)


def identity_gram(gram: Gram, weight: float) -> Gram:
    """A Gram like `gram` under which the functional difference is the squared distance (times a constant)."""
    kind = gram.matrix if isinstance(gram, DenseGram) else gram.rows if isinstance(gram, RowGram) else torch.empty(0)
    return RowGram(kind.new_zeros((0, gram.dimension)), 1.0, weight)
