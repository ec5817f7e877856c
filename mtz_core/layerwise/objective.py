"""What a layer's weights are judged by: how closely they reproduce the outputs that its parent's layer had.

For a neuron with weights w + δ, inputs x in the partly zipped network and wanted output y (its *target*), the loss is

    ½ E (y - (w + δ) x)² = ½ δ H δᵀ - δ · g + ½ p,    H = E[x xᵀ],  g = E[r x],  p = E[r²],  r = y - w x.

With y = w x (the original formula of Multi-Task Zipping: each layer as if nothing had happened before it) r is zero.
With y = w x⁰, where x⁰ is what the layer reads in the parent, g pulls the weights to where they make up for what the
merges before them have changed: *compensation*.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtz_core.algebra.gram import BYTES, RowGram, cholesky, chunks, factored, outer, to_dense
from mtz_core.algebra.merging import solve_masked
from mtz_core.calibration.moments import Moment


class Objective(ABC):
    """Loss of every neuron of a layer in one task; `base` (n, d) are the weights that the layer has now."""

    base: Tensor

    @property
    @abstractmethod
    def compensated(self) -> bool:
        """Whether targets differ from what the weights give now."""

    @abstractmethod
    def loss(self, values: Tensor, rows: Tensor) -> Tensor:
        """Loss (k,) of weights `values` (k, d) for the neurons `rows` (k,)."""

    @abstractmethod
    def fit(self, ridge: float, mask: Tensor | None = None) -> Tensor:
        """Weights (n, d) of least loss plus ½ λ |δ|², λ = `ridge` times the Gram's mean diagonal.

        `mask` (n, d) is true where a weight may differ from zero.
        """


@dataclass(frozen=True)
class DenseObjective(Objective):
    """Of a layer whose neurons all read the same inputs."""

    moment: Moment
    base: Tensor
    factors: dict[float, Tensor] = field(default_factory=dict)
    """Cholesky factors by ridge; they outlive a change of targets."""
    few: Moment | None = None
    """The same moments as rows, where these are so few that they take less time."""
    kernels: list[Tensor] = field(default_factory=list)
    """Of these rows, the products with one another, once they are there."""

    @property
    def compensated(self) -> bool:
        return self.moment.power is not None and bool((self.moment.power > 0).any())

    def loss(self, values: Tensor, rows: Tensor) -> Tensor:
        step = max(1, BYTES // max(1, values.shape[1] * values.element_size()))
        if len(values) > step:
            both = zip(torch.split(values, step), torch.split(rows, step), strict=True)
            return torch.cat([self.loss(some, numbers) for some, numbers in both])
        delta = values - self.base[rows]
        moment = self.moment if self.few is None else self.few
        if moment.residuals is not None and isinstance(moment.gram, RowGram):
            left = moment.residuals[:, rows] - moment.gram.rows @ delta.mT
            return 0.5 * moment.gram.scale * left.square().sum(0)
        loss = moment.gram.loss(delta)
        if moment.cross is not None and moment.power is not None:
            loss = loss - (moment.cross[rows] * delta).sum(1) + 0.5 * moment.power[rows]
        return loss.clamp_(min=0.0)

    def fit(self, ridge: float, mask: Tensor | None = None) -> Tensor:
        if not self.compensated:
            return self.base
        moment = self.moment if self.few is None or mask is not None else self.few
        gram = moment.gram
        if isinstance(gram, RowGram) and moment.residuals is not None and mask is None:
            if not self.kernels:
                self.kernels.append(outer(gram.rows).mul_(gram.scale))
            kernel = self.kernels[0].clone()
            kernel.diagonal().add_(max(ridge, torch.finfo(self.base.dtype).eps) * gram.mean_diagonal())
            solved = torch.cholesky_solve(moment.residuals, cholesky(kernel))
            return self.base + (solved.mT @ gram.rows).mul_(gram.scale)
        if isinstance(gram, RowGram):
            moment = moment.dense()
        assert moment.cross is not None
        if mask is not None:
            return self.base + solve_masked(to_dense(gram.relative_ridge(ridge)), moment.cross, mask)
        if ridge not in self.factors:
            self.factors[ridge] = cholesky(to_dense(gram.relative_ridge(ridge)).full())
        return self.base + torch.cholesky_solve(moment.cross.mT, self.factors[ridge]).mT


@dataclass(frozen=True)
class GroupedObjective(Objective):
    """Of a grouped convolution: Grams (B, d, d); neuron i belongs to bank i // (n / B).

    `cross` (n, d) and `power` (n,) as in `Moment`.
    """

    gram: Tensor
    base: Tensor
    cross: Tensor | None = None
    power: Tensor | None = None

    @property
    def compensated(self) -> bool:
        return self.power is not None and bool((self.power > 0).any())

    def bank(self, rows: Tensor) -> Tensor:
        """Bank of each of the neurons `rows`."""
        return rows // max(1, len(self.base) // len(self.gram))

    def ridged(self, ridge: float) -> Tensor:
        """Grams (B, d, d), each with its own relative ridge."""
        diagonal = self.gram.diagonal(dim1=1, dim2=2)
        added = ridge * diagonal.mean(1, keepdim=True) if ridge else torch.zeros_like(diagonal[:, :1])
        return self.gram + torch.diag_embed(added.expand_as(diagonal))

    def loss(self, values: Tensor, rows: Tensor) -> Tensor:
        delta = values - self.base[rows]
        loss = delta.new_zeros(len(delta))
        for chunk in chunks(len(delta), delta.shape[1]):
            picked = self.gram[self.bank(rows[chunk])]
            loss[chunk] = 0.5 * torch.einsum("ki,kij,kj->k", delta[chunk], picked, delta[chunk])
        if self.cross is not None and self.power is not None:
            loss = loss - (self.cross[rows] * delta).sum(1) + 0.5 * self.power[rows]
        return loss.clamp_(min=0.0)

    def fit(self, ridge: float, mask: Tensor | None = None) -> Tensor:
        if not self.compensated or self.cross is None:
            return self.base
        total = self.ridged(ridge)
        if mask is not None:
            return self._fit_masked(total, self.cross, mask)
        wanted = self.cross.reshape(len(total), -1, self.cross.shape[1])
        return self.base + torch.cholesky_solve(wanted.mT, factored(total)).mT.reshape_as(self.base)

    def _fit_masked(self, total: Tensor, pull: Tensor, mask: Tensor) -> Tensor:
        """A system of its own for every neuron, over the weights that may differ from zero."""
        moved = torch.zeros_like(self.base)
        every = torch.arange(len(moved), device=moved.device)
        for chunk in chunks(len(moved), moved.shape[1]):
            free = mask[chunk]
            system = total[self.bank(every[chunk])] * (free[:, :, None] & free[:, None, :])
            system.diagonal(dim1=1, dim2=2).add_((~free).to(system.dtype))
            solved = torch.cholesky_solve((pull[chunk] * free)[:, :, None], factored(system))
            moved[chunk] = solved[:, :, 0] * free
        return self.base + moved
