"""Operations of exported programs whose arguments differ from those of the torch function that they stand for.

Written so that what they call is what a network calls that was not exported.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float, cudnn: bool
) -> Any:
    """`aten.batch_norm` in evaluation."""
    return F.batch_norm(x, mean, variance, weight, bias, False, momentum, eps)


def layer_norm(x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn: bool = True) -> Any:
    """`aten.layer_norm`."""
    return F.layer_norm(x, shape, weight, bias, eps)


def group_norm(x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, on: bool = True) -> Any:
    """`aten.group_norm`."""
    return F.group_norm(x, groups, weight, bias, eps)


def embedding(weight: Any, numbers: Any, padding: int = -1, scaled: bool = False, sparse: bool = False) -> Any:
    """`aten.embedding`."""
    return F.embedding(numbers, weight)


def kept(x: Any, *_: Any, **__: Any) -> Any:
    """Whatever returns its input."""
    return x


def gelu(x: Any, *, approximate: str = "none") -> Any:
    """`aten.gelu`."""
    return F.gelu(x, approximate=approximate)


def add(x: Any, other: Any, *, alpha: float = 1) -> Any:
    """`aten.add`."""
    return torch.add(x, other) if alpha == 1 else torch.add(x, other, alpha=alpha)


def sub(x: Any, other: Any, *, alpha: float = 1) -> Any:
    """`aten.sub`."""
    return torch.sub(x, other) if alpha == 1 else torch.sub(x, other, alpha=alpha)
