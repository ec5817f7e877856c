"""Gram matrices (layer-wise Hessians) in two representations, and the few operations that merging needs of them.

A layer with inputs x ∈ R^d has the Gram H = E[x xᵀ]. `DenseGram` keeps the d×d matrix. `RowGram` keeps the m input
rows themselves; for wide layers with few calibration rows (m < d) every product with H, with an inverse of a sum of
Grams, and with M = (P⁻¹ + Q⁻¹)⁻¹ then goes through m×m systems (Woodbury's identity) and nothing of size d×d is built.
Both carry a factor and a multiple of the identity, so weighting a task and adding a ridge copy nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mtz_core.errors import NumericalError

MAX_JITTER = 1e-2
"""Largest multiple of the mean diagonal that `cholesky` adds to a matrix before it gives up."""
SINGLE_FROM = 128
"""Conjugate gradients form their products in single precision from so many inputs on: below it is not worth it."""


FEW_FREE = 8
"""Where a Gram is kept as so many times as many rows as inputs are eliminated, it goes through a matrix of these."""
BLOCK = 512
"""Columns of a symmetric product that are multiplied at once."""


@dataclass(frozen=True)
class Gram(ABC):
    """`scale · E + ridge · I`, where E is what a subclass stores."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """d, the number of inputs."""

    @abstractmethod
    def mean_diagonal(self) -> float:
        """Mean of the diagonal, the natural unit of a ridge."""

    @abstractmethod
    def scaled(self, factor: float) -> Gram:
        """`factor` times this Gram."""

    @abstractmethod
    def ridged(self, amount: float) -> Gram:
        """This Gram plus `amount` times the identity."""

    @abstractmethod
    def select(self, columns: Tensor) -> Gram:
        """Gram of the inputs `columns` (k,) only."""

    @abstractmethod
    def eliminate(self, kept: Tensor) -> Eliminated:
        """Let the weights of all inputs but `kept` (k,) follow these."""

    def schur(self, kept: Tensor) -> Gram:
        """Gram of the inputs `kept` (k,) when the weights of all others are free: H_ss - H_sp H_pp⁻¹ H_ps."""
        return self.eliminate(kept).gram

    @abstractmethod
    def apply(self, vectors: Tensor) -> Tensor:
        """Return `vectors` (n, d) times H, shape (n, d)."""

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype) -> Gram:
        """The same Gram on another device, in another precision."""

    def relative_ridge(self, ridge: float) -> Gram:
        """This Gram with `ridge` times its own mean diagonal added to the diagonal."""
        return self.ridged(ridge * self.mean_diagonal()) if ridge else self

    def loss(self, deltas: Tensor) -> Tensor:
        """Return ½ δ H δᵀ of every row δ of `deltas` (n, d), shape (n,)."""
        return 0.5 * (self.apply(deltas) * deltas).sum(1)


@dataclass(frozen=True)
class Eliminated:
    """A Gram over the inputs `kept` (s,) whose other inputs `free` (p,) have weights that follow."""

    gram: Gram
    kept: Tensor
    free: Tensor
    factor: Tensor
    half: Tensor
    rows: Tensor | None = None

    def follow(self, delta: Tensor) -> Tensor:
        """Change (k, p) of the free weights when the kept ones change by `delta` (k, s): -δ H_sp H_pp⁻¹."""
        solved: Tensor = torch.linalg.solve_triangular(self.factor.mT, self.half @ delta.mT, upper=True)
        return -(solved.mT if self.rows is None else solved.mT @ self.rows)


@dataclass(frozen=True)
class DenseGram(Gram):
    """`scale · matrix + ridge · I`; `matrix` is (d, d), symmetric, positive semi-definite."""

    matrix: Tensor
    scale: float = 1.0
    ridge: float = 0.0

    @property
    def dimension(self) -> int:
        return self.matrix.shape[0]

    def mean_diagonal(self) -> float:
        return self.scale * float(self.matrix.diagonal().mean()) + self.ridge

    def scaled(self, factor: float) -> DenseGram:
        return replace(self, scale=self.scale * factor, ridge=self.ridge * factor)

    def ridged(self, amount: float) -> DenseGram:
        return replace(self, ridge=self.ridge + amount)

    def select(self, columns: Tensor) -> DenseGram:
        return replace(self, matrix=submatrix(self.matrix, columns, columns))

    def eliminate(self, kept: Tensor) -> Eliminated:
        free = _rest(kept, self.dimension)
        inner, across, rest = (self._part(*both) for both in ((free, free), (free, kept), (kept, kept)))
        inner.diagonal().add_(self.ridge)
        rest.diagonal().add_(self.ridge)
        factor = cholesky(inner)
        half = torch.linalg.solve_triangular(factor, across, upper=False)
        return Eliminated(DenseGram(rest.addmm_(half.mT, half, alpha=-1.0)), kept, free, factor, half)

    def _part(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Entries of `scale · matrix`."""
        return submatrix(self.matrix, rows, columns).mul_(self.scale)

    def apply(self, vectors: Tensor) -> Tensor:
        product = vectors @ self.matrix
        product = product.mul_(self.scale) if self.scale != 1.0 else product
        return product.add_(vectors, alpha=self.ridge) if self.ridge else product

    def to(self, device: torch.device, dtype: torch.dtype) -> DenseGram:
        return replace(self, matrix=self.matrix.to(device, dtype))

    @cached_property
    def single(self) -> DenseGram:
        """The same Gram in single precision, made once for all that ask."""
        return replace(self, matrix=self.matrix.float())

    def full(self) -> Tensor:
        """A new (d, d) tensor that holds the whole Gram."""
        matrix = self.matrix * self.scale
        matrix.diagonal().add_(self.ridge)
        return matrix


@dataclass(frozen=True)
class RowGram(Gram):
    """`scale · rowsᵀ rows + ridge · I`; `rows` is (m, d), one row of inputs per calibration sample."""

    rows: Tensor
    scale: float = 1.0
    ridge: float = 0.0

    @property
    def dimension(self) -> int:
        return self.rows.shape[1]

    def mean_diagonal(self) -> float:
        energy = float(torch.linalg.vector_norm(self.rows)) ** 2
        return self.scale * energy / max(1, self.dimension) + self.ridge

    def scaled(self, factor: float) -> RowGram:
        return replace(self, scale=self.scale * factor, ridge=self.ridge * factor)

    def ridged(self, amount: float) -> RowGram:
        return replace(self, ridge=self.ridge + amount)

    def select(self, columns: Tensor) -> RowGram:
        return replace(self, rows=self.rows[:, columns])

    def eliminate(self, kept: Tensor) -> Eliminated:
        """With rows [X_s X_p], c = ridge: c I + X_sᵀ (c A⁻¹) X_s, where A = (c / scale) I + X_p X_pᵀ."""
        ridge = max(self.ridge, torch.finfo(self.rows.dtype).eps * self.mean_diagonal())
        free = _rest(kept, self.dimension)
        if FEW_FREE * len(free) <= len(self.rows):
            return self._eliminate_few(kept, free, ridge)
        rows = self.rows[:, free]
        kernel = outer(rows)
        kernel.diagonal().add_(ridge / self.scale)
        factor = cholesky(kernel)
        half = torch.linalg.solve_triangular(factor, self.rows[:, kept], upper=False)
        return Eliminated(RowGram(half, ridge, self.ridge), kept, free, factor, half, rows)

    def _eliminate_few(self, kept: Tensor, free: Tensor, ridge: float) -> Eliminated:
        """The same by X_pᵀ X_p = Q Λ Qᵀ, which is small: with a = c / scale, the rows (a A⁻¹)^½ X_s are

        X_s - X_p Q G Qᵀ X_pᵀ X_s,  where G = 1 / ((a + Λ) (1 + (a / (a + Λ))^½)).
        """
        exact = precise(self.rows.device)
        across, rows = self.rows[:, index_of(kept)], self.rows[:, free]
        crossed, a = rows.mT @ across, ridge / self.scale
        inner = rows.to(exact).mT @ rows.to(exact)
        values, vectors = torch.linalg.eigh(inner)
        sums = values.clamp(min=0.0) + a
        root = (vectors / (sums * (1.0 + (a / sums).sqrt()))) @ vectors.mT
        half = across - rows @ (root.to(rows) @ crossed)
        inner.diagonal().add_(a)
        factor = cholesky(inner.mul_(self.scale)).to(rows)
        follow = torch.linalg.solve_triangular(factor, crossed.mul_(self.scale), upper=False)
        return Eliminated(RowGram(half, self.scale, self.ridge), kept, free, factor, follow)

    def apply(self, vectors: Tensor) -> Tensor:
        product = ((vectors @ self.rows.mT) * self.scale) @ self.rows
        return product.add_(vectors, alpha=self.ridge) if self.ridge else product

    def loss(self, deltas: Tensor) -> Tensor:
        projected = deltas @ self.rows.mT
        loss = 0.5 * self.scale * projected.square().sum(1)
        return loss + 0.5 * self.ridge * deltas.square().sum(1) if self.ridge else loss

    def to(self, device: torch.device, dtype: torch.dtype) -> RowGram:
        return replace(self, rows=self.rows.to(device, dtype))

    def weighted_rows(self) -> Tensor:
        """Rows R (m, d) with Rᵀ R = scale · rowsᵀ rows."""
        return self.rows * math.sqrt(self.scale) if self.scale != 1.0 else self.rows

    def dense(self) -> DenseGram:
        """The same Gram with its d×d matrix built."""
        return DenseGram(outer(self.rows.mT), self.scale, self.ridge)


def outer(rows: Tensor) -> Tensor:
    """Products (m, m) of all rows (m, d) with one another; what lies above the diagonal is copied from below.

    >>> outer(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
    tensor([[5., 6.],
            [6., 9.]])
    """
    if len(rows) <= BLOCK:
        return rows @ rows.mT
    product = rows.new_empty(len(rows), len(rows))
    for first in range(0, len(rows), BLOCK):
        last = min(first + BLOCK, len(rows))
        torch.mm(rows[first:], rows[first:last].mT, out=product[first:, first:last])
        product[first:last, last:] = product[last:, first:last].mT
    return product


def submatrix(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """A new tensor of the entries in `rows` (r,) and `columns` (c,), (r, c)."""
    across, down = run_of(columns), run_of(rows)
    if across is None or down is None:
        return matrix[rows[:, None], columns]
    return matrix[down, across].clone(memory_format=torch.contiguous_format)


Index = slice | Tensor
"""Indices, as a slice if they follow one another."""


def index_of(indices: Tensor) -> Index:
    """These indices (c,), as a slice if they follow one another."""
    run = run_of(indices)
    return indices if run is None else run


def run_of(indices: Tensor) -> slice | None:
    """The slice that picks these `indices`, if they follow one another."""
    if not len(indices):
        return slice(0, 0)
    first, last = int(indices[0]), int(indices[-1])
    if last - first + 1 != len(indices) or not bool((indices.diff() == 1).all()):
        return None
    return slice(first, last + 1)


def _rest(chosen: Tensor, size: int) -> Tensor:
    free = torch.ones(size, dtype=torch.bool, device=chosen.device)
    free[chosen] = False
    return torch.nonzero(free)[:, 0]


def as_gram(gram: Gram | Tensor) -> Gram:
    """Wrap a plain (d, d) tensor; Grams pass through."""
    return gram if isinstance(gram, Gram) else DenseGram(gram)


def few_rows(grams: Sequence[Gram]) -> bool:
    """Whether all Grams are kept as rows, of which they have fewer than d together."""
    rows = [gram for gram in grams if isinstance(gram, RowGram)]
    return len(rows) == len(grams) and sum(len(gram.rows) for gram in rows) < max(1, grams[0].dimension)


def same_kind(grams: Sequence[Gram]) -> list[DenseGram] | list[RowGram]:
    """Return the Grams as rows if all are kept so and have fewer than d rows together, else all of them dense."""
    if few_rows(grams):
        return [gram for gram in grams if isinstance(gram, RowGram)]
    return [to_dense(gram) for gram in grams]


def to_dense(gram: Gram) -> DenseGram:
    """The same Gram with its d×d matrix."""
    if isinstance(gram, RowGram):
        return gram.dense()
    assert isinstance(gram, DenseGram)
    return gram


def add(grams: Sequence[Gram]) -> Gram:
    """Return the sum of Grams of the same inputs."""
    if len(grams) == 1:
        return grams[0]
    alike = same_kind(grams)
    ridge = sum(gram.ridge for gram in alike)
    if isinstance(alike[0], RowGram):
        return RowGram(torch.cat([g.weighted_rows() for g in alike if isinstance(g, RowGram)]), 1.0, ridge)
    total = torch.zeros_like(alike[0].matrix)
    for gram in alike:
        if isinstance(gram, DenseGram):
            total.add_(gram.matrix, alpha=gram.scale)
    return DenseGram(total, 1.0, ridge)


def precise(device: torch.device) -> torch.dtype:
    """The most precise type that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def cholesky(matrix: Tensor) -> Tensor:
    """Return the lower Cholesky factor of a symmetric positive semi-definite matrix (d, d), which is overwritten.

    Inputs that never fire make a Gram singular. Those directions cost nothing in either network, so the least
    multiple of the mean diagonal that lets the factorisation succeed is added; the limit is the pseudo-inverse.

    Raises:
        NumericalError: the matrix holds NaN or infinity, or is not positive semi-definite.
    """
    if not len(matrix):
        return matrix
    mean = float(matrix.diagonal().mean())
    if not math.isfinite(mean):
        raise NumericalError(
            "a Gram matrix holds NaN or infinity; check the network's weights and the calibration data"
        )
    unit = mean if mean > 0 else 1.0
    jitter, added = torch.finfo(matrix.dtype).eps * 8, 0.0
    while True:
        factor: Tensor
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info) == 0 and bool(torch.isfinite(factor.diagonal()).all()):
            return factor
        if jitter > MAX_JITTER:
            raise NumericalError(
                f"a Gram matrix of size {matrix.shape[0]} is not positive definite even with a ridge of "
                f"{added / unit:.0e}; use more calibration data or a larger ridge"
            )
        matrix.diagonal().add_((jitter - added / unit) * unit)
        added, jitter = jitter * unit, jitter * 10


BYTES = 128 * 2**20
"""Memory for what is looked at at once: small systems that are solved, weights that are judged."""


def chunks(count: int, width: int) -> list[slice]:
    """Rows whose systems of `width` unknowns fit into memory together."""
    step = max(1, BYTES // max(1, 8 * width * width))
    return [slice(first, first + step) for first in range(0, count, step)]


def factored(systems: Tensor) -> Tensor:
    """Cholesky factors of small systems (k, d, d), which are changed; a channel that never fires gets the identity.

    Raises:
        NumericalError: a system is singular.
    """
    diagonal = systems.diagonal(dim1=1, dim2=2)
    dead = diagonal.mean(1) < 1e-200
    jitter = torch.finfo(systems.dtype).eps * 1e3
    diagonal.add_(jitter * diagonal.mean(1, keepdim=True) + torch.finfo(systems.dtype).tiny)
    if bool(dead.any()):
        systems[dead] = torch.eye(systems.shape[1], dtype=systems.dtype, device=systems.device)
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(systems)
    if bool(info.any()):
        raise NumericalError("a grouped layer's Gram is singular on some channel; set a ridge, e.g. 1e-3")
    return factor


def spread(weights: Tensor, index: Tensor | slice, size: int) -> Tensor:
    """Put the columns of `weights` (k, d) at their `index` among `size` inputs, with zeros in between: (k, size)."""
    wide = weights.new_zeros(len(weights), size)
    wide[:, index] = weights
    return wide


class RowSum:
    """Sum D + ZᵀZ of Grams that are kept as rows, each at the indices of its inputs, by Woodbury's identity.

    `diagonal` (size,) are D's entries, `wide` (m, size) is Z, `scaled` is Z D⁻¹, `factor` that of I + Z D⁻¹ Zᵀ.
    """

    def __init__(self, grams: Sequence[RowGram], indices: Sequence[Tensor | slice], size: int) -> None:
        some = grams[0].rows
        floor = torch.finfo(some.dtype).eps * max(max(g.mean_diagonal() for g in grams), 1e-30)
        self.ridges = [max(gram.ridge, floor) for gram in grams]
        self.diagonal = some.new_zeros(size)
        for ridge, index in zip(self.ridges, indices, strict=True):
            self.diagonal[index] += ridge
        both = zip(grams, indices, strict=True)
        self.wide = torch.cat([spread(gram.weighted_rows(), index, size) for gram, index in both])
        self.scaled = self.wide / self.diagonal
        root = self.diagonal.sqrt()
        kernel = outer(self.wide / root)
        kernel.diagonal().add_(1.0)
        self.factor = cholesky(kernel)

    def solved(self, left: Tensor) -> Tensor:
        """`left` (k, size) times the inverse of the sum."""
        inner = torch.cholesky_solve(self.scaled @ left.mT, self.factor)
        return (left / self.diagonal).addmm_(inner.mT, self.scaled, alpha=-1.0)
