"""Back into the parent's own class: a merged layer written into the tensors that it came from."""

from __future__ import annotations

import torch
from torch import Tensor

from mtz_core.graph.channels import WeightLayer
from mtz_core.graph.sources import WeightSource


def _write(tensors: dict[str, Tensor], source: WeightSource, layer: WeightLayer, matrix: Tensor) -> None:
    """Write a weight matrix into the parent's own tensors."""
    weight = tensors[source.weight] if source.rows is None else tensors[source.weight][slice(*source.rows)]
    flat, bias = (matrix[:, :-1], matrix[:, -1]) if layer.bias else (matrix, None)
    if source.copies > 1:
        flat = flat.reshape(layer.width, source.copies, -1).sum(1)
    weight.copy_(flat.reshape(weight.shape))
    if source.bias is not None and bias is not None:
        rows = source.bias_rows or source.rows
        (tensors[source.bias] if rows is None else tensors[source.bias][slice(*rows)]).copy_(bias)
    norm = source.norm
    if norm is None:
        return
    assert bias is not None
    tensors[norm.variance].fill_(1.0 - norm.eps)
    rest = torch.zeros_like(bias) if source.bias is not None else bias
    if norm.weight is not None:
        tensors[norm.weight].fill_(1.0)
    if norm.bias is not None:
        tensors[norm.mean].zero_()
        tensors[norm.bias].copy_(rest)
    else:
        tensors[norm.mean].copy_(-rest)
