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

import torch
from torch import Tensor

from mtz_core.algebra.gram import SINGLE_FROM, cholesky, submatrix

STEPS = 12
WORTHWHILE = 3e-3
"""A step that lowers the loss by a smaller part of itself is the last one."""


@dataclass(frozen=True)
class Member:
    """A task's part in a tie.

    Entry (i, j) of V[rows][:, columns] is unknown (i, indices[j]) times `scales[i]` and `gains[j]`.
    Without `columns` and `indices` it is all columns of V as they stand; without `gains` these are one.
    """

    rows: Tensor
    columns: Tensor | None
    indices: Tensor | None
    scales: Tensor
    gains: Tensor | None = None

    def scaled(self, entries: Tensor) -> Tensor:
        """Entries (k, d) of its rows and columns, or unknowns there, times scales and gains; changed in place."""
        entries.mul_(self.scales[:, None])
        return entries if self.gains is None else entries.mul_(self.gains)

    def single(self) -> Member:
        """The same in single precision."""
        return replace(self, scales=self.scales.float(), gains=None if self.gains is None else self.gains.float())


@dataclass(frozen=True)
class Tie:
    """Unknowns (k, size) and where they stand in each task's weights; entries of different ties do not overlap."""

    members: Mapping[int, Member]
    size: int

    def gathered(self, matrices: Mapping[int, Tensor]) -> Tensor:
        """Sum over all entries where an unknown stands, times its scale there: the transpose of `scatter`."""
        some = next(iter(self.members.values()))
        total = matrices[next(iter(self.members))].new_zeros(len(some.rows), self.size)
        for t, m in self.members.items():
            taken = matrices[t][m.rows]
            if m.columns is None or m.indices is None:
                total += m.scaled(taken)
            else:
                total.index_add_(1, m.indices, m.scaled(taken[:, m.columns]))
        return total

    def scatter(self, unknowns: Tensor, matrices: Mapping[int, Tensor]) -> None:
        """Write the unknowns to where they stand."""
        for t, m in self.members.items():
            if m.columns is None or m.indices is None:
                matrices[t][m.rows] = m.scaled(unknowns.clone())
            else:
                matrices[t][m.rows[:, None], m.columns] = m.scaled(unknowns[:, m.indices])


@dataclass(frozen=True)
class Preconditioner:
    """Inverses of both factors."""

    left: Tensor
    right: Tensor

    @staticmethod
    def of(tie: Tie, grams: Mapping[int, Tensor], weights: Mapping[int, Tensor]) -> Preconditioner:
        some = grams[next(iter(tie.members))]
        height = len(next(iter(tie.members.values())).rows)
        left, right = some.new_zeros(height, height), some.new_zeros(tie.size, tie.size)
        for t, m in tie.members.items():
            left += weights[t][m.rows][:, m.rows] * m.scales[:, None] * m.scales / len(tie.members)
            gram = grams[t] if m.columns is None else submatrix(grams[t], m.columns, m.columns)
            gram = gram if m.gains is None else gram * m.gains[:, None] * m.gains
            if m.indices is None:
                right += gram
            else:
                right[m.indices[:, None], m.indices] += gram
        return Preconditioner(*(torch.cholesky_inverse(cholesky(matrix)) for matrix in (left, right)))

    def __call__(self, residual: Tensor) -> Tensor:
        return self.left @ residual @ self.right


def merge_coupled(
    values: Mapping[int, Tensor],
    wanted: Mapping[int, Tensor],
    grams: Mapping[int, Tensor],
    weights: Mapping[int, Tensor],
    ties: Sequence[Tie],
    steps: int | None = None,
    preconditioners: Sequence[Preconditioner] | None = None,
) -> dict[int, Tensor]:
    """Return every task's weights V_t (n_t, d_t), better than `values`; both obey the ties.

    Args:
        values: weights to start from.
        wanted: B_t (n_t, d_t).
        grams: P_t (d_t, d_t) with task weight and ridge.
        weights: F_t (n_t, n_t).
        ties: the unknowns; entries outside all ties stay as they are.
        steps: at most so many of conjugate gradients, `STEPS` if omitted.
        preconditioners: of the ties, where they are known.
    """
    exact = values
    if max(v.shape[1] for v in values.values()) >= SINGLE_FROM:
        values, wanted, grams, weights = (single(each) for each in (values, wanted, grams, weights))
        ties = [Tie({t: m.single() for t, m in tie.members.items()}, tie.size) for tie in ties]
    preconditioners = preconditioners or [Preconditioner.of(tie, grams, weights) for tie in ties]

    def pulled(matrices: Mapping[int, Tensor]) -> list[Tensor]:
        return [tie.gathered(matrices) for tie in ties]

    found = {t: v.clone() for t, v in exact.items()}
    errors = {t: v - wanted[t] for t, v in values.items()}
    weighed = _moved(errors, grams, weights)
    loss = 0.5 * _dot([errors[t] for t in weighed], list(weighed.values()))
    residual = [-r for r in pulled(weighed)]
    del errors, weighed
    scaled = [p(r) for p, r in zip(preconditioners, residual, strict=True)]
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
        scaled = [p(r) for p, r in zip(preconditioners, residual, strict=True)]
        renewed = _dot(residual, scaled)
        direction = [s + (renewed / strength) * d for s, d in zip(scaled, direction, strict=True)]
        strength = renewed
    return found


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
