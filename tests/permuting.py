"""Copies of networks that compute the same with their hidden channels in another order."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from mtz_core.baselines.slots import channel_kinds
from mtz_core.graph import channel_graph


def permuted(network: nn.Module, example: Tensor, seed: int) -> nn.Module:
    """A copy that computes the same with the channels of every hidden group in another order.

    It is written from the channel graph's index maps alone, tensor by tensor of the network's own class.
    """
    graph, twin = channel_graph(network, example), copy.deepcopy(network)
    rng = np.random.default_rng(seed)
    orders = [np.arange(group.width) for group in graph.groups]
    for g, group in enumerate(graph.groups):
        if group.frozen is None:
            for (channels,) in channel_kinds([graph], g):
                orders[g][channels] = rng.permutation(channels)
    tensors = dict(twin.named_parameters()) | dict(twin.named_buffers())
    for layer in graph.layers:
        row_of = {int(channel): row for row, channel in enumerate(layer.rows)}
        rows = [row_of[int(orders[layer.group][channel])] for channel in layer.rows]
        columns, seen, positions = [], {}, {}  # type: ignore[var-annotated]
        keys = list(zip(layer.column_groups.tolist(), layer.column_channels.tolist(), strict=True))
        for position, key in enumerate(keys):
            seen[key] = seen.get(key, -1) + 1
            positions[(*key, seen[key])] = position
        for g, channel, rank in sorted(positions, key=lambda key: positions[key]):
            columns.append(positions[(g, int(orders[g][channel]) if g >= 0 else channel, rank)])
        source = graph.network.sources[layer.name]
        norm = source.norm
        names = [source.bias] if norm is None else [source.bias, norm.weight, norm.bias, norm.mean, norm.variance]
        with torch.no_grad():
            weight = tensors[source.weight]
            weight.copy_(weight[rows][:, columns])
            for name in names:
                if name is not None:
                    tensors[name].copy_(tensors[name][rows])
    return twin
