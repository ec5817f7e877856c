"""Merging a layer's neurons when every task also multiplies each of their inputs with a factor of its own.

Task t's weights are then diag(s_t) W diag(c_t): all tasks share W, and keep a scale s_t for every neuron and a *gain*
c_t for every input. For n neurons with d inputs that is d numbers more for every further task, one n-th of what they
share; what it buys is that inputs which matter to one task alone need not please the other. The loss is that of
`coupled`,

    Σ_t ½ tr F_t (V_t - B_t) P_t (V_t - B_t)ᵀ,    V_t = diag(s_t) W diag(c_t) where entries are shared.

It is quadratic in W for given gains, and in each task's gains for given W: if these change by the factors 1 + δ, and X
holds the shared entries of V_t, then δ solves

    ((Xᵀ F X) ∘ P) δ = - diag(Xᵀ F (V - B) P).

The two take turns; neither raises the loss. Gains are bounded, so that no task's inputs are switched off for good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mtz_core.algebra.coupled import Preconditioners, Tie, merge_coupled, single
from mtz_core.algebra.gram import SINGLE_FROM

ROUNDS = 6
STEPS = 4
"""Of conjugate gradients for W in a round."""
WORTHWHILE = 0.02
"""A round that lowers the loss by a smaller part of itself is the last one."""
LIMIT = 5.0
"""Gains lie between 1 / LIMIT and LIMIT of their mean over the tasks that share an input; their sign is free."""
RIDGE = 1e-4
"""Of the systems for gains, relative to their mean diagonal: what decides nothing stays as it is."""
DIRECT = 1024
"""Systems of more unknowns are solved by `CONJUGATE` conjugate gradients; then W keeps its first preconditioners."""
CONJUGATE = 16


@dataclass(frozen=True)
class Gained:
    """Every task's weights (n_t, d_t), and the gains (d_t,) within, as factors of what they would be at one."""

    values: dict[int, Tensor]
    gains: dict[int, Tensor]


def merge_gained(
    values: Mapping[int, Tensor],
    wanted: Mapping[int, Tensor],
    grams: Mapping[int, Tensor],
    weights: Mapping[int, Tensor],
    ties: Sequence[Tie],
    slots: Mapping[int, Tensor],
) -> Gained:
    """Return weights and gains that are no worse than `values` with gains of one.

    Args:
        values, wanted, grams, weights, ties: as for `coupled.merge_coupled`; the ties' members have no gains yet.
        slots: for every task the numbers (d_t,) of its inputs among those of all tasks.
    """
    found = merge_coupled(values, wanted, grams, weights, ties, STEPS)
    shared = {t: mask for t in found if (mask := _shared(ties, t, found[t])).any()}
    gains = {t: torch.ones_like(v[0]) for t, v in found.items()}
    known = None
    if max(v.shape[1] for v in found.values()) > DIRECT:
        rough = single(grams), single(weights)
        known = Preconditioners([tie.single() for tie in ties], *rough)
    before = float("inf")
    for _ in range(ROUNDS):
        loss = 0.0
        for t, mask in shared.items():
            change, own = _change(found[t], wanted[t], grams[t], weights[t], mask, gains[t])
            found[t] = found[t] + found[t] * mask * change
            gains[t] = gains[t] * (1.0 + change)
            loss += own
        if not loss < (1.0 - WORTHWHILE) * before:
            break
        before = loss
        _centre(gains, shared, slots)
        found = merge_coupled(found, wanted, grams, weights, with_gains(ties, gains), STEPS, known)
    return Gained(found, gains)


def merge_at_gains(
    values: Mapping[int, Tensor],
    wanted: Mapping[int, Tensor],
    grams: Mapping[int, Tensor],
    weights: Mapping[int, Tensor],
    ties: Sequence[Tie],
    gains: Mapping[int, Tensor],
) -> Gained:
    """Weights for known gains; arguments are those of `merge_gained`, `values` have gains of one."""
    start = {t: v + v * _shared(ties, t, v) * (gains[t] - 1.0) for t, v in values.items()}
    found = merge_coupled(start, wanted, grams, weights, with_gains(ties, gains), STEPS * ROUNDS)
    return Gained(found, dict(gains))


def with_gains(ties: Sequence[Tie], gains: Mapping[int, Tensor]) -> list[Tie]:
    """The same ties where shared entries are multiplied with their task's gains (d_t,)."""
    found = []
    for tie in ties:
        if len(tie.members) > 1:
            pairs = tie.members.items()
            tie = Tie(
                {t: replace(m, gains=gains[t] if m.columns is None else gains[t][m.columns]) for t, m in pairs},
                tie.size,
            )
        found.append(tie)
    return found


def _shared(ties: Sequence[Tie], t: int, like: Tensor) -> Tensor:
    """Which entries of task t's weights are shared, as ones (n_t, d_t)."""
    mask = {t: torch.zeros_like(like)}
    for tie in ties:
        if t in tie.members and len(tie.members) > 1:
            member = tie.members[t]
            ones = like.new_ones(len(member.rows), tie.size)
            Tie({t: replace(member, scales=torch.ones_like(member.scales))}, tie.size).scatter(ones, mask)
    return mask[t]


def _change(
    values: Tensor, wanted: Tensor, gram: Tensor, weights: Tensor, mask: Tensor, gains: Tensor
) -> tuple[Tensor, float]:
    """Relative change (d_t,) of a task's gains that lowers its loss most within the limit, and the loss before."""
    errors = values - wanted
    if values.shape[1] >= SINGLE_FROM:
        values, errors, gram, weights, mask = (each.float() for each in (values, errors, gram, weights, mask))
    entries = values * mask
    pull = (weights @ errors) @ gram
    loss = 0.5 * float((errors * pull).sum())
    left = -(entries * pull).sum(0)
    system = (entries.mT @ (weights @ entries)).mul_(gram)
    system.diagonal().add_(RIDGE * float(system.diagonal().mean()) + torch.finfo(system.dtype).tiny)
    change = _solved(system, left).to(gains)
    wished = gains * (1.0 + change)
    change = torch.where(wished < 0, -1.0, 1.0) * wished.abs().clamp(1.0 / LIMIT, LIMIT) / gains - 1.0
    change = change * mask.any(0).to(change)
    rough = change.to(system)
    slope, curve = float(left @ rough), float(rough @ (system @ rough))
    if slope <= 0 or not curve > 0:
        return torch.zeros_like(change), loss
    step = min(1.0, slope / curve)  # less than one where bounds have bent the way
    if step < 1.0 and bool((change < -0.5).any()):
        step = 0.0 if slope <= 0.5 * curve else 1.0  # half a change of sign would be a gain near zero
    return step * change, loss


def _solved(system: Tensor, left: Tensor) -> Tensor:
    """Solve the symmetric `system` (d, d) for one right side (d,)."""
    if len(left) <= DIRECT:
        factor, failed = torch.linalg.cholesky_ex(system.double())
        if not int(failed):
            return torch.cholesky_solve(left.double()[:, None], factor)[:, 0]
    scale = system.diagonal().rsqrt()
    x, residual = torch.zeros_like(left), left * scale
    direction, strength = residual, float(residual @ residual)
    for _ in range(CONJUGATE):
        moved = scale * (system @ (scale * direction))
        slope = float(direction @ moved)
        if not slope > 0 or not strength > 0:
            break
        step = strength / slope
        x, residual = x + step * direction, residual - step * moved
        renewed = float(residual @ residual)
        direction, strength = residual + (renewed / strength) * direction, renewed
    return x * scale


def _centre(gains: dict[int, Tensor], shared: Mapping[int, Tensor], slots: Mapping[int, Tensor]) -> None:
    """Divide the gains of all tasks that share an input by their geometric mean: W takes it over."""
    count = 1 + max(int(slots[t].max()) for t in shared)
    some = next(iter(gains.values()))
    total, held = some.new_zeros(count), some.new_zeros(count)
    for t, mask in shared.items():
        mine = mask.any(0).to(some)
        total.index_add_(0, slots[t], gains[t].abs().log() * mine)
        held.index_add_(0, slots[t], mine)
    mean = (total / held.clamp(min=1.0)).exp()
    for t in shared:
        gains[t] = gains[t] / mean[slots[t]]
