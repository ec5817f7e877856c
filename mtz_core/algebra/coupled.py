"""Merging a layer's neurons together, when it matters in which direction their errors point.

Merged on its own, every neuron has the least squared error. What the rest of the network notices is rᵀ F r of the
errors r of all neurons (see `calibration.sensitivity`): a neuron may take back what another does wrong. With
V_t the weights of task t, B_t those it would like to have, P_t the Gram of its inputs and F_t what its outputs weigh,

    minimise  Σ_t ½ tr F_t (V_t - B_t) P_t (V_t - B_t)ᵀ

over all weights at once, where some entries of the V_t are one and the same number (a `Tie`) up to a scale. Conjugate
gradients start from the uncoupled solution and go through products of F_t and P_t only; each tie is preconditioned by
the Kronecker product of its own means of F_t and P_t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from mtz_core.algebra.gram import SINGLE_FROM, Index, cholesky
from mtz_core.algebra.kept import Kept

STEPS = 12
PRECONDITIONERS = 512 * 2**20
"""Bytes of preconditioners that are kept from step to step; others are made for every step."""
WORTHWHILE = 3e-3
"""A step that lowers the loss by a smaller part of itself is the last one."""


@dataclass(frozen=True)
class Member:
    """A task's part in a tie.

    Entry (i, j) of V[rows][:, columns] is unknown (i, indices[j]) times `scales[i]` and `gains[j]`.
    Without `columns` and `indices` it is all columns of V as they stand; without `gains` these are one.
    """

    rows: Tensor
    columns: Index | None
    indices: Index | None
    scales: Tensor
    gains: Tensor | None = None

    def scaled(self, entries: Tensor) -> Tensor:
        """Entries (k, d) of its rows and columns, or unknowns there, times scales and gains."""
        found = entries * self.scales[:, None]
        return found if self.gains is None else found.mul_(self.gains)

    def single(self) -> Member:
        """The same in single precision."""
        return replace(self, scales=self.scales.float(), gains=None if self.gains is None else self.gains.float())


@dataclass(frozen=True)
class Tie:
    """Unknowns (k, size) and where they stand in each task's weights; entries of different ties do not overlap."""

    members: Mapping[int, Member]
    size: int

    def single(self) -> Tie:
        """The same in single precision."""
        return Tie({t: m.single() for t, m in self.members.items()}, self.size)

    def gathered(self, matrices: Mapping[int, Tensor]) -> Tensor:
        """Sum over all entries where an unknown stands, times its scale there: the transpose of `scatter`."""
        some = next(iter(self.members.values()))
        total = matrices[next(iter(self.members))].new_zeros(len(some.rows), self.size)
        for t, m in self.members.items():
            taken = matrices[t][m.rows]
            if m.columns is None or m.indices is None:
                total += m.scaled(taken)
            elif isinstance(m.indices, slice):
                total[:, m.indices] += m.scaled(taken[:, m.columns])
            else:
                total.index_add_(1, m.indices, m.scaled(taken[:, m.columns]))
        return total

    def scatter(self, unknowns: Tensor, matrices: Mapping[int, Tensor]) -> None:
        """Write the unknowns to where they stand."""
        for t, m in self.members.items():
            if m.columns is None or m.indices is None:
                matrices[t][m.rows] = m.scaled(unknowns)
            else:
                rows = m.rows if isinstance(m.columns, slice) else m.rows[:, None]
                matrices[t][rows, m.columns] = m.scaled(unknowns[:, m.indices])


@dataclass(frozen=True)
class _Preconditioner:
    """Solves by the Cholesky factors of both sides."""

    left: Tensor
    right: Tensor

    def bytes(self) -> int:
        """Memory that it takes."""
        return self.left.nbytes + self.right.nbytes

    @staticmethod
    def of(tie: Tie, grams: Mapping[int, Tensor], weights: Mapping[int, Tensor]) -> _Preconditioner:
        some = grams[next(iter(tie.members))]
        height = len(next(iter(tie.members.values())).rows)
        left, right = some.new_zeros(height, height), some.new_zeros(tie.size, tie.size)
        for t, m in tie.members.items():
            left += weights[t][m.rows][:, m.rows] * m.scales[:, None] * m.scales / len(tie.members)
            _add_at(right, m.indices, _gained(_part(grams[t], m.columns), m.gains))
        return _Preconditioner(cholesky(left), cholesky(right))

    def __call__(self, residual: Tensor) -> Tensor:
        return torch.cholesky_solve(torch.cholesky_solve(residual, self.left).mT, self.right).mT


class Preconditioners:
    """Those of all ties, as many of them kept from step to step as memory allows."""

    def __init__(self, ties: Sequence[Tie], grams: Mapping[int, Tensor], weights: Mapping[int, Tensor]) -> None:
        self.makers = [partial(_Preconditioner.of, tie, grams, weights) for tie in ties]
        self.kept: Kept[_Preconditioner] = Kept(PRECONDITIONERS)

    def __call__(self, residuals: Sequence[Tensor]) -> list[Tensor]:
        both = zip(self.makers, residuals, strict=True)
        return [self.kept.get(None, k, make)(residual) for k, (make, residual) in enumerate(both)]


def merge_coupled(
    values: Mapping[int, Tensor],
    wanted: Mapping[int, Tensor],
    grams: Mapping[int, Tensor],
    weights: Mapping[int, Tensor],
    ties: Sequence[Tie],
    steps: int | None = None,
    preconditioned: Preconditioners | None = None,
) -> dict[int, Tensor]:
    """Return every task's weights V_t (n_t, d_t), better than `values`; both obey the ties.

    Args:
        values: weights to start from.
        wanted: B_t (n_t, d_t).
        grams: P_t (d_t, d_t) with task weight and ridge.
        weights: F_t (n_t, n_t).
        ties: the unknowns; entries outside all ties stay as they are.
        steps: at most so many of conjugate gradients, `STEPS` if omitted.
        preconditioned: preconditioners of the ties, where they are known.
    """
    exact = values
    if max(v.shape[1] for v in values.values()) >= SINGLE_FROM:
        values, wanted, grams, weights = (single(each) for each in (values, wanted, grams, weights))
        ties = [tie.single() for tie in ties]
    preconditioned = Preconditioners(ties, grams, weights) if preconditioned is None else preconditioned

    def pulled(matrices: Mapping[int, Tensor]) -> list[Tensor]:
        return [tie.gathered(matrices) for tie in ties]

    found = {t: v.clone() for t, v in exact.items()}
    errors = {t: v - wanted[t] for t, v in values.items()}
    weighed = _moved(errors, grams, weights)
    loss = 0.5 * _dot([errors[t] for t in weighed], list(weighed.values()))
    residual = [-r for r in pulled(weighed)]
    del errors, weighed
    scaled = preconditioned(residual)
    direction, strength = scaled, _dot(residual, scaled)
    for _ in range(STEPS if steps is None else steps):
        if not strength > 0:
            break
        deltas = _scattered(ties, direction, values)
        pull = pulled(_moved(deltas, grams, weights))
        slope = _dot(direction, pull)
        if not slope > 0:
            break
        step = strength / slope
        for t, delta in deltas.items():
            found[t] += step * delta
        gained = 0.5 * strength * step
        loss -= gained
        if gained < WORTHWHILE * loss:
            break
        residual = [r - step * p for r, p in zip(residual, pull, strict=True)]
        scaled = preconditioned(residual)
        renewed = _dot(residual, scaled)
        direction = [s + (renewed / strength) * d for s, d in zip(scaled, direction, strict=True)]
        strength = renewed
    return found


def _part(gram: Tensor, columns: Index | None) -> Tensor:
    """A Gram's entries in some rows and columns."""
    if columns is None:
        return gram
    return gram[columns, columns] if isinstance(columns, slice) else gram[columns[:, None], columns]


def _gained(gram: Tensor, gains: Tensor | None) -> Tensor:
    """The Gram of inputs that are multiplied with gains."""
    return gram if gains is None else gram * gains[:, None] * gains


def _add_at(total: Tensor, indices: Index | None, gram: Tensor) -> None:
    """Add a Gram to the total's entries in the rows and columns `indices`."""
    if indices is None:
        total += gram
    elif isinstance(indices, slice):
        total[indices, indices] += gram
    else:
        total[indices[:, None], indices] += gram


def _scattered(ties: Sequence[Tie], unknowns: Sequence[Tensor], like: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Matrices of the shapes of `like` with every tie's unknowns where they stand, and zeros elsewhere."""
    matrices = {t: torch.zeros_like(v) for t, v in like.items()}
    for tie, unknown in zip(ties, unknowns, strict=True):
        tie.scatter(unknown, matrices)
    return matrices


def _moved(
    deltas: Mapping[int, Tensor], grams: Mapping[int, Tensor], weights: Mapping[int, Tensor]
) -> dict[int, Tensor]:
    """What changes of the weights change in the gradients."""
    return {t: weights[t] @ delta @ grams[t] for t, delta in deltas.items()}


def single(matrices: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The same in single precision."""
    return {t: matrix.float() for t, matrix in matrices.items()}


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return sum(float((a * b).sum()) for a, b in zip(left, right, strict=True))
