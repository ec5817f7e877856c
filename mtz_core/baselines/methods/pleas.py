"""Permutations and least squares: merged layers fitted to the average of the aligned networks' features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtz_core.baselines.features import owned
from mtz_core.baselines.kinds import fitted_baseline
from mtz_core.baselines.merged import MergedLayer
from mtz_core.baselines.refit import Batch
from mtz_core.errors import SpecError


@fitted_baseline(
    "pleas",
    text="every layer reads the average of the aligned networks' inputs and writes the average of their outputs, in "
    "least squares on all tasks' images; `align` says which channels become one",
    source="*PLeaS*, Nasery et al., CVPR 2025, [arXiv 2407.02447](https://arxiv.org/abs/2407.02447)",
    align="permute",
)
class LeastSquares:
    """The weights W that make Σ |W z − y|² least over the images of all tasks, row by row.

    The method of PLeaS (Nasery, Hayase, Koh, Oh; CVPR 2025; arXiv 2407.02447): z holds each input feature's average
    over the networks' aligned channels, y each output feature's, both from the networks as they are. A weight between a
    feature of one network alone and one of another alone stays zero. What is not determined stays close to the average
    of the networks' weights, by a ridge.

    Args:
        layer: merged, with averaged weights (F, d).
        matrices: not needed here.
        ridge: part of the mean square of z. Raises `SpecError` for others than positive numbers.
    """

    def __init__(self, layer: MergedLayer, matrices: Sequence[Tensor], ridge: float = 1e-3) -> None:
        if not ridge > 0.0:
            raise SpecError(f"ridge is {ridge}; give a positive number")
        self.layer, self.ridge = layer, ridge
        features, d = layer.weight.shape
        self.gram = torch.zeros(d, d, dtype=torch.float64)
        self.cross = torch.zeros(features, d, dtype=torch.float64)
        self.tasks = range(layer.tasks)

    def add(self, batch: Batch) -> None:
        """Take note of what all networks read and write."""
        z, y = batch.inputs(self.tasks), batch.outputs(self.tasks)
        self.gram += (z.mT @ z).double()
        self.cross += (y.mT @ z).double()

    def weight(self) -> Tensor:
        """The layer's weights (F, d)."""
        found = self.layer.weight.double().clone()
        size, bias = self.layer.layer.kernel_size, int(self.layer.layer.bias)
        carriers = [set(part.tolist()) for part in self.layer.columns]
        for owners, rows in owned(self.layer.rows, len(self.layer.members)):
            read = [p for p in range(self.layer.inputs) if any(p in carriers[t] for t in owners)]
            columns = (torch.tensor(read)[:, None] * size + torch.arange(size)).reshape(-1)
            if bias:
                columns = torch.cat([columns, torch.tensor([self.layer.inputs * size])])
            gram = self.gram[columns][:, columns]
            pull = (self.ridge * gram.diagonal().mean()).clamp(min=torch.finfo(gram.dtype).tiny)
            gram.diagonal().add_(pull)
            where = rows[:, None], columns
            found[where] = torch.linalg.solve(gram, (self.cross[where] + pull * found[where]).mT).mT
        return found
