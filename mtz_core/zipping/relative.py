"""Optimiser steps relative to the size of each weight, so that they suit networks whose weights are of any size.

Folding BatchNorm leaves channels of very different sizes, and a ReLU network says the same if a channel grows by a
factor and whoever reads it divides by that factor. Equal steps for all weights mean little in one channel and ruin
another. Here a weight w_ij has the size s_ij = r_i c_j, with factors for rows and columns such that the weights in
W / s have root-mean-square one in every row and in every column (Sinkhorn's balance, of squares): s grows with W,
whichever channels grow. The optimiser works on W / s, so steps are the same for all such networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from mtz_core.network.zipped import ZippedNetwork

ROUNDS = 10
"""Of balancing rows and columns."""
WARMING = 10
"""Steps over which the rate grows to what was asked for."""
MOMENTUM, SQUARES = 0.9, 0.999
"""Memory of Adam's two averages; `sgd` has the first only."""


def balanced(matrix: Tensor) -> Tensor:
    """Sizes s_ij = r_i c_j of the entries of a matrix (n, d): the mean of (w / s)² is one in every row and column.

    Zeros do not count. Rows and columns of nothing else are as large as the others on average, so that they can move;
    in a matrix of zeros all sizes are one.

    Example:
        >>> balanced(torch.tensor([[1.0, 20.0], [-3.0, 60.0]])).round()
        tensor([[ 1., 20.],
                [ 3., 60.]])
    """
    squares = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32)).square()
    columns = torch.ones_like(squares[:1])
    rows = torch.ones_like(squares[:, :1])
    for _ in range(ROUNDS if matrix.numel() else 0):
        rows = _means(squares / columns, 1)
        columns = _means(squares / rows, 0)
    return (rows.sqrt() * columns.sqrt()).to(matrix.dtype)


def _means(squares: Tensor, axis: int) -> Tensor:
    """Means of what is not zero along an axis; where all is zero, the mean of these means."""
    means = squares.sum(axis, keepdim=True) / (squares > 0).sum(axis, keepdim=True).clamp_min(1)
    known = means[means > 0]
    return torch.where(means > 0, means, known.mean() if len(known) else torch.ones_like(means))


def sizes(network: ZippedNetwork) -> list[Tensor]:
    """The size of every number that a network's layers store, in the order of their parameters.

    A number that tasks share is as large as in its tasks' matrices on average; neurons of a grouped convolution are
    balanced with those of their own bank, which read the same. A scale of a row or column is as large as it is.
    Zeros of pruned layers have size zero: they stay.
    """
    found: list[Tensor] = []
    for stored, layer in zip(network.stored(), network.joint.layers, strict=True):
        per_task = []
        for t, own in enumerate(layer.members):
            matrix, mask = stored.matrix(t).detach(), stored.mask(t)
            banks = matrix.chunk(1 if own.depthwise else own.banks)
            size = torch.cat([balanced(bank) for bank in banks])
            per_task.append(size if mask is None else size * mask)
        found += stored.means(per_task)
    return found


class RelativeSteps:
    """Adam or gradient descent with momentum on W / s, for all that the layers of a network store.

    With u the gradient by W / s, `adam` moves every weight by about its size times the rate. `sgd` moves weights in
    proportion to the running mean of u, divided by the largest |u| of any weight so far: none moves further than the
    rate times its size. The rate grows over the first `WARMING` steps, since the first gradients say little about those
    that follow.
    """

    def __init__(self, network: ZippedNetwork, kind: Literal["adam", "sgd"], weight_decay: float = 0.0) -> None:
        self.kind, self.weight_decay = kind, weight_decay
        self.parameters: Sequence[Tensor] = list(network.layers.parameters())
        self.sizes = sizes(network)
        self.forget()

    def forget(self) -> None:
        """Start anew: no memory of earlier gradients."""
        self.age, self._largest = 0, 0.0
        self._means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self.parameters] if self.kind == "adam" else []

    @torch.no_grad()
    def take(self, rate: float) -> None:
        """Take one step along the gradients of the parameters; those without a gradient stay where they are."""
        self.age += 1
        rate *= min(1.0, self.age / WARMING)
        for parameter, size, mean in zip(self.parameters, self.sizes, self._means, strict=True):
            if parameter.grad is not None and parameter.numel():
                slope = parameter.grad * size
                mean.lerp_(slope, 1.0 - MOMENTUM)
                self._largest = max(self._largest, float(slope.abs().max()))
        for parameter, size, way in zip(self.parameters, self.sizes, self._directions(), strict=True):
            parameter.mul_(1.0 - rate * self.weight_decay).sub_(rate * size * way)

    def _directions(self) -> Iterator[Tensor]:
        """How W / s moves at a rate of one."""
        if self.kind == "sgd":
            yield from (mean / (self._largest or 1.0) for mean in self._means)
            return
        moments = zip(self.parameters, self.sizes, self._means, self._squares, strict=True)
        for parameter, size, mean, squares in moments:
            if parameter.grad is not None:
                squares.lerp_((parameter.grad * size).square(), 1.0 - SQUARES)
            spread = (squares / (1.0 - SQUARES**self.age)).sqrt()
            yield mean / (1.0 - MOMENTUM**self.age) / (spread + torch.finfo(spread.dtype).tiny)
