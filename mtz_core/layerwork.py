"""The numbers of one layer: shared weights, Grams, ridge, pairing, merging, predicted and measured loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.difference import euclidean_gram
from mtz_core.folding import pair_tasks
from mtz_core.linalg import DenseGram, Gram, same_kind, to_dense
from mtz_core.merging import merge, merge_loss
from mtz_core.moments import Moments
from mtz_core.pairing import Pairs, pair_neurons
from mtz_core.spec import ZipSpec
from mtz_core.validation import START, choose_ridge, cross_validated_loss, weigh

EXACT_UP_TO = 2048
"""Layers of at most this many inputs are solved in double precision; wider ones in single, for memory and speed
(the difference then is within 1e-6 of the exact one, relative to the largest)."""


@dataclass
class LayerWork:
    """Tensors of one layer over its shared columns: `weights[t]` (n_t, d), Grams of both halves and of all."""

    weights: list[Tensor]
    masks: list[Tensor] | None
    halves: list[list[Gram]]
    grams: list[Gram]
    alphas: tuple[float, ...]
    spec: ZipSpec
    ridge: float = START
    weighted: list[Gram] = field(default_factory=list)

    @classmethod
    def prepare(
        cls,
        matrices: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        columns: NDArray[np.int64],
        moments: Sequence[Moments],
        alphas: tuple[float, ...],
        spec: ZipSpec,
    ) -> LayerWork:
        """Restrict everything to the shared columns (d, T) and bring it to one precision."""
        device = matrices[0].device
        double = len(columns) <= EXACT_UP_TO and device.type != "mps"
        dtype = torch.float64 if double else torch.float32

        def cut(source: Tensor, t: int) -> Tensor:
            return source[:, torch.as_tensor(columns[:, t], device=device)]

        halves = [[m.half(k).to(device, dtype) for m in moments] for k in (0, 1)]
        grams = [m.calibration().to(device, dtype) for m in moments]
        if isinstance(same_kind(grams)[0], DenseGram):
            # With as many rows as inputs the matrices are cheaper; build them once, not in every product.
            halves, grams = [[to_dense(g) for g in half] for half in halves], [to_dense(g) for g in grams]
        chosen_masks = [cut(mask, t) for t, mask in enumerate(masks) if mask is not None]
        return cls(
            weights=[cut(matrix, t).to(dtype) for t, matrix in enumerate(matrices)],
            masks=chosen_masks or None,
            halves=halves,
            grams=grams,
            alphas=alphas,
            spec=spec,
        )

    def union(self, rows: NDArray[np.int64]) -> Tensor | None:
        """Where the merged neurons of `rows` (k, T) may differ from zero, (k, d)."""
        if self.masks is None:
            return None
        parts = [mask[torch.as_tensor(rows[:, t], device=mask.device)] for t, mask in enumerate(self.masks)]
        return torch.stack(parts).any(0)

    def members(self, rows: NDArray[np.int64]) -> list[Tensor]:
        """Weights of every task's neurons in `rows` (k, T)."""
        return [w[torch.as_tensor(rows[:, t], device=w.device)] for t, w in enumerate(self.weights)]

    def choose_ridge(self, fresh: Sequence[NDArray[Any]]) -> None:
        """Settle the ridge and with it the weighted Grams; `"auto"` judges a provisional greedy pairing."""
        if self.spec.ridge != "auto":
            self.ridge = float(self.spec.ridge)
        elif min(len(rows) for rows in fresh):
            self.weighted = weigh(self.grams, self.alphas, START)
            rows, _ = self._paired(fresh, min(len(rows) for rows in fresh), "greedy")
            self.ridge = choose_ridge(self.members(rows), self.halves, self.alphas, self.union(rows))
        self.weighted = weigh(self.grams, self.alphas, self.ridge)

    def pair(self, fresh: Sequence[NDArray[Any]], k: int, difference: NDArray[Any] | None) -> Pairs:
        """Choose k slots among the rows `fresh[t]`, cheapest first, as row numbers (k, T).

        `difference` is the functional difference of all rows of two tasks, if it is known already.
        """
        if k == 0:
            return np.empty((0, len(fresh)), dtype=np.int64)
        if difference is not None and self.spec.metric == "functional":
            local = pair_neurons(difference[np.ix_(fresh[0], fresh[1])], k, self.spec.pairing, self.spec.seed)
            return np.stack([fresh[t][local[:, t]] for t in (0, 1)], axis=1)
        return self._paired(fresh, k, self.spec.pairing)[0]

    def _paired(self, fresh: Sequence[NDArray[Any]], k: int, method: str) -> tuple[Pairs, Tensor]:
        grams = self.weighted
        if self.spec.metric == "euclidean":
            grams = [euclidean_gram(gram, alpha) for gram, alpha in zip(grams, self.alphas, strict=True)]
        chosen = [w[torch.as_tensor(rows, device=w.device)] for w, rows in zip(self.weights, fresh, strict=True)]
        local, costs = pair_tasks(chosen, grams, k, method, self.spec.seed)
        return np.stack([rows[local[:, t]] for t, rows in enumerate(fresh)], axis=1), costs


@dataclass(frozen=True)
class Outcome:
    """A merged layer; see `mtz_core.events.LayerZipped` for the meaning of each number."""

    pairs: Pairs
    costs: Tensor
    merged: Tensor
    predicted: float
    measured: float
    scale: float
    measured_on: Literal["evaluation", "calibration"]


def merge_layer(work: LayerWork, rows: NDArray[np.int64], moments: Sequence[Moments]) -> Outcome:
    """Merge the rows (k, T) of a layer: weights, their cost, and the loss to expect and the loss found."""
    members, union = work.members(rows), work.union(rows)
    held_out = [m.evaluation() for m in moments]
    known = [gram.to(work.weights[0].device, work.weights[0].dtype) for gram in held_out if gram is not None]
    measured_on: Literal["evaluation", "calibration"] = "evaluation" if len(known) == len(moments) else "calibration"
    if len(rows) == 0:
        empty = work.weights[0].new_zeros(0)
        return Outcome(rows, empty, work.weights[0][:0], 0.0, 0.0, 0.0, measured_on)
    merged = merge(members, work.weighted, union)
    costs = merge_loss(merged, members, work.weighted)
    order = torch.argsort(costs, stable=True)
    judging = weigh(known if measured_on == "evaluation" else work.grams, work.alphas, 0.0)
    plain = weigh(work.grams, work.alphas, 0.0)
    zero = torch.zeros_like(merged)
    return Outcome(
        pairs=rows[order.cpu().numpy()],
        costs=costs[order],
        merged=merged[order],
        predicted=float(cross_validated_loss(members, work.halves, work.alphas, work.ridge, union).sum()),
        measured=float(merge_loss(merged, members, judging).sum()),
        scale=float(merge_loss(zero, members, plain).sum()),
        measured_on=measured_on,
    )
