"""Choosing the ridge, and predicting the loss, from two halves of the calibration set.

The loss that a merge has on the very samples that it was fitted to says little: with few samples it is close to
zero whatever happens elsewhere. So weights fitted to one half's moments are judged by the other half's, both ways
round. The ridge with the least such loss is taken, and that loss is what the user is told to expect.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtz_core.linalg import Gram
from mtz_core.merging import merge, merge_loss

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
START = 1e-2
JUDGED_SLOTS = 256


def weigh(grams: Sequence[Gram], alphas: Sequence[float], ridge: float) -> list[Gram]:
    """Grams with each task's relative ridge and weight applied."""
    return [gram.relative_ridge(ridge).scaled(alpha) for gram, alpha in zip(grams, alphas, strict=True)]


def cross_validated_loss(
    weights: Sequence[Tensor],
    halves: Sequence[Sequence[Gram]],
    alphas: Sequence[float],
    ridge: float,
    masks: Tensor | None = None,
) -> Tensor:
    """Return the expected loss Σ_t α_t ½ E(w·x - w_t·x)² of every merged neuron on unseen samples, (k,).

    Args:
        weights: one (k, d) matrix per task, row by row merged.
        halves: for each half of the calibration set, one Gram per task.
        alphas: task weights.
        ridge: relative ridge of the fit; the judging Gram has none.
        masks: see `merge_weights`.
    """
    losses = []
    for fitted, judging in ((0, 1), (1, 0)):
        merged = merge(weights, weigh(halves[fitted], alphas, ridge), masks)
        losses.append(merge_loss(merged, weights, weigh(halves[judging], alphas, 0.0)))
    return (losses[0] + losses[1]) / 2


def choose_ridge(
    weights: Sequence[Tensor],
    halves: Sequence[Sequence[Gram]],
    alphas: Sequence[float],
    masks: Tensor | None = None,
) -> float:
    """Return the relative ridge of `RIDGES` with the least cross-validated loss.

    The loss as a function of the ridge falls, then rises; the search walks downhill from `START` and looks one step
    past the best. At most `JUDGED_SLOTS` neurons, evenly spread, are judged.
    """
    count = len(weights[0])
    if count == 0:
        return START
    chosen = torch.linspace(0, count - 1, min(count, JUDGED_SLOTS)).long().to(weights[0].device)
    sample = [w[chosen] for w in weights]
    mask = None if masks is None else masks[chosen]
    known: dict[int, float] = {}

    def loss(index: int) -> float:
        if index not in known:
            known[index] = float(cross_validated_loss(sample, halves, alphas, RIDGES[index], mask).sum())
        return known[index]

    best = RIDGES.index(START)
    for step in (-1, 1):
        while 0 <= best + step < len(RIDGES) and loss(best + step) < loss(best):
            best += step
    return RIDGES[best]
