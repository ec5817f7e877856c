"""Regression mean: the weights whose outputs are closest to the networks' own, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtz_core.baselines.features import owned
from mtz_core.baselines.kinds import fitted_baseline
from mtz_core.baselines.merged import MergedLayer
from mtz_core.baselines.refit import Batch
from mtz_core.errors import SpecError

PULL = 1e-6
"""Of the Grams' mean diagonal: draws towards the average what the images say nothing about."""


@fitted_baseline(
    "regmean",
    text="every layer's weights answer each network's inputs on its own task's images as that network does, in least "
    "squares; `align` says which channels become one, by default those of equal index",
    source="*Dataless Knowledge Fusion by Merging Weights of Language Models*, Jin et al., ICLR 2023, "
    "[arXiv 2212.09849](https://arxiv.org/abs/2212.09849)",
    align="average",
)
class RegressionMean:
    """W = (Σ_t G̃_t)⁻¹ Σ_t G̃_t W_t for the Grams G_t of what network t reads on task t's images, per row.

    The method of RegMean (Jin et al., ICLR 2023; arXiv 2212.09849, §3): G̃_t has its entries off the diagonal
    multiplied by `reduce`. Biases are averaged. A row takes part in the sums of the networks that have its feature.

    Args:
        layer: merged, with averaged weights (F, d).
        matrices: every network's own weights.
        reduce: in [0, 1]; 0 weighs inputs by their mean squares alone. Raises `SpecError` for others.
    """

    def __init__(self, layer: MergedLayer, matrices: Sequence[Tensor], reduce: float = 0.9) -> None:
        if not 0.0 <= reduce <= 1.0:
            raise SpecError(f"reduce is {reduce}; give a ratio in [0, 1]")
        self.layer, self.reduce = layer, reduce
        self.inputs = layer.inputs * layer.layer.kernel_size
        self.own = []
        for t, matrix in enumerate(matrices):
            count = torch.bincount(layer.rows[t], minlength=len(layer.members)).clamp(min=1)
            self.own.append((layer.summed(matrix.double(), t) / count[:, None])[:, : self.inputs])
        self.grams = [torch.zeros(self.inputs, self.inputs, dtype=torch.float64) for _ in matrices]
        self.counts = [0] * len(matrices)

    def add(self, batch: Batch) -> None:
        """Take note of what network t reads on images of task t."""
        x = batch.inputs([batch.task])[:, : self.inputs]
        self.grams[batch.task] += (x.mT @ x).double()
        self.counts[batch.task] += len(x)

    def weight(self) -> Tensor:
        """The layer's weights (F, d)."""
        found = self.layer.weight.double().clone()
        grams = [self._reduced(gram / count) for gram, count in zip(self.grams, self.counts, strict=True)]
        for owners, rows in owned(self.layer.rows, len(self.layer.members)):
            gram = torch.stack([grams[t] for t in owners]).sum(0)
            aim = torch.stack([self.own[t][rows] @ grams[t] for t in owners]).sum(0)
            pull = (PULL * gram.diagonal().mean()).clamp(min=torch.finfo(gram.dtype).tiny)
            gram.diagonal().add_(pull)
            found[rows, : self.inputs] = torch.linalg.solve(gram, (aim + pull * found[rows, : self.inputs]).mT).mT
        return found

    def _reduced(self, gram: Tensor) -> Tensor:
        return self.reduce * gram + (1 - self.reduce) * torch.diag(gram.diagonal())
