"""Back into the parent's own class: merged layers written into the tensors that they came from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mtz_core.graph.channels import ChannelGraph, WeightLayer
from mtz_core.graph.plain import copied, make_plain
from mtz_core.graph.sources import WeightSource
from mtz_core.graph.transposed import mirror
from mtz_core.network.plain import plain


def extracted(parent: nn.Module, graph: ChannelGraph, matrices: Mapping[str, Tensor], body: nn.Module) -> nn.Module:
    """Return a copy of the parent, in evaluation mode, with other weights.

    Args:
        parent: the network that was traced; it is not changed.
        graph: its channel graph.
        matrices: weights (n, d) by layer name.
        body: everything else: normalisation that could not be folded, tokens and the like.
    """
    if not all(graph.network.sources[layer.name].own for layer in graph.layers if layer.width):
        return plain(graph, matrices, body)
    twin = copied(parent)
    make_plain(twin)
    tensors: dict[str, Tensor] = dict(twin.named_parameters(remove_duplicate=False))
    tensors |= dict(twin.named_buffers(remove_duplicate=False))
    own: dict[str, Tensor] = {**dict(body.named_parameters()), **dict(body.named_buffers())}
    with torch.no_grad():
        for layer in graph.layers:
            if layer.width:
                _write(tensors, graph.network.sources[layer.name], layer, matrices[layer.name].detach())
        for name, (home, turned) in graph.network.homes.items():
            if name in own and home in tensors:
                tensors[home].copy_(own[name].transpose(0, 1) if turned else own[name])
        for name, value in own.items():
            if name in tensors and tensors[name].shape == value.shape:
                tensors[name].copy_(value)
    for parameter in twin.parameters():
        parameter.requires_grad_(True)
    return twin.eval()


def _write(tensors: dict[str, Tensor], source: WeightSource, layer: WeightLayer, matrix: Tensor) -> None:
    """Write a weight matrix into the parent's own tensors."""
    weight = tensors[source.weight] if source.rows is None else tensors[source.weight][slice(*source.rows)]
    flat, bias = (matrix[:, :-1], matrix[:, -1]) if layer.bias else (matrix, None)
    if source.copies > 1:
        flat = flat.reshape(layer.width, source.copies, -1).sum(1)
    if source.turned:
        flat = mirror(flat.reshape(layer.width, -1, *layer.kernel), source.turned)
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
