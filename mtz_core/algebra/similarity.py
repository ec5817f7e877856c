"""How alike two networks see the same inputs at a layer: centred kernel alignment (Kornblith et al. 2019), debiased.

Linear CKA is HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)) with the linear kernels K = X Xᵀ and L = Y Yᵀ of two layers' outputs
on n inputs. HSIC is taken with the estimator of Song et al. (2012), which has no bias: the usual one reads near one for
unrelated features as soon as there are more of them than inputs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROUNDING = 1e-11
"""An HSIC below so many times the mean square of a kernel is a rounding error."""
FEWEST = 4
"""Inputs without which the estimator is not defined."""


def linear_kernel(outputs: Tensor) -> Tensor:
    """K = X Xᵀ (n, n) of outputs (n, ...), which are flattened, in double precision."""
    flat = outputs.flatten(1)
    exact = flat.double()
    return exact @ exact.mT


def debiased_hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741 -- as in the paper
    """Estimate HSIC of kernels K and L (n, n) without bias (Song et al. 2012, equation 5); n is at least 4."""
    n = len(k)
    k, l = (kernel - torch.diag(kernel.diagonal()) for kernel in (k, l))  # noqa: E741
    traces = (k * l).sum()
    sums = k.sum() * l.sum() / ((n - 1) * (n - 2))
    rows = (k.sum(0) * l.sum(0)).sum() * 2 / (n - 2)
    return float((traces + sums - rows) / (n * (n - 3)))


def linear_cka(k: Tensor, l: Tensor) -> float:  # noqa: E741
    """Return the debiased CKA of two linear kernels: 1 for equal ones, about 0 for unrelated ones, or a little below.

    NaN where one of them says the same of all inputs, or where there are fewer than four.
    """
    if len(k) < FEWEST:
        return math.nan
    own = debiased_hsic(k, k), debiased_hsic(l, l)
    nothing = [ROUNDING * float(kernel.square().mean()) for kernel in (k, l)]
    if own[0] <= nothing[0] or own[1] <= nothing[1]:
        return math.nan
    return debiased_hsic(k, l) / math.sqrt(own[0] * own[1])
