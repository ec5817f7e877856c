"""One task of a zipped network as a module of its own, where the parent's class is not at hand."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from mtz_core.graph.channels import ChannelGraph


def plain(graph: ChannelGraph, matrices: Mapping[str, Tensor], body: nn.Module) -> nn.Module:
    """Return the traced computation with weights of its own, in evaluation mode and the parent's precision.

    Args:
        graph: the task's channel graph.
        matrices: weights (n, d) by layer name.
        body: the computation without these weights; it is not changed.
    """
    twin = copy.deepcopy(body)
    for layer in graph.layers:
        if layer.width:
            module, model = twin.get_submodule(layer.name), graph.network.module.get_submodule(layer.name)
            matrix = matrices[layer.name].detach()
            flat, bias = (matrix[:, :-1], matrix[:, -1]) if layer.bias else (matrix, None)
            shape = getattr(model, "weight").shape  # noqa: B009 (not declared by nn.Module)
            module.register_parameter("weight", nn.Parameter(flat.reshape(shape).contiguous()))
            module.register_parameter("bias", None if bias is None else nn.Parameter(bias.clone()))
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return twin.eval().to(graph.network.precision)
