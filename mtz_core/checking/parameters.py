"""Which channel each number of a parameter goes with: it is followed to where it meets an activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx

from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.layout import Layout


def channels_of(graph: ChannelGraph, parameter: fx.Node, user: fx.Node, tensor: Tensor) -> Layout | None:
    """For every number of a parameter the channel of `user`'s result that it meets, (numel,), -1: none or several.

    `None` where the parameter's numbers are not moved about on their way, but computed with.
    """
    moved = _moved(graph, parameter, user, torch.arange(tensor.numel()).reshape(tensor.shape))
    if moved is None:
        return None
    index, layout = moved.numpy(), graph.layouts[user.name]
    if index.ndim > layout.ndim:
        index = index[0]
    try:
        index, layout = np.broadcast_arrays(index, layout)
    except ValueError:
        return None
    least, most = np.full(tensor.numel(), np.iinfo(np.int64).max), np.full(tensor.numel(), -1)
    np.minimum.at(least, index.reshape(-1), layout.reshape(-1))
    np.maximum.at(most, index.reshape(-1), layout.reshape(-1))
    return np.where(least == most, most, -1)


def _moved(graph: ChannelGraph, parameter: fx.Node, user: fx.Node, numbers: Tensor) -> Tensor | None:
    """`numbers` instead of the parameter, as `user` gets them."""
    found: dict[fx.Node, Tensor] = {parameter: numbers}
    frontier = [parameter]
    while frontier:
        node = frontier.pop(0)
        for following in node.users:
            if following is user:
                return found[node]
            value = _value(graph, following, found)
            if value is not None and following not in found:
                found[following] = value
                frontier.append(following)
    return None


def _value(graph: ChannelGraph, node: fx.Node, found: dict[fx.Node, Tensor]) -> Tensor | None:
    """What a call gives for numbers that were found; `None`: it does not only move them about."""
    known = graph.network.numbers
    if node.op not in ("call_function", "call_method") or any(
        source not in found and source.name not in known for source in node.all_input_nodes
    ):
        return None

    def read(source: fx.Node) -> Any:
        return found[source] if source in found else known[source.name]

    args: Any = fx.node.map_arg(node.args, read)
    kwargs: Any = fx.node.map_arg(node.kwargs, read)
    try:
        function = getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target
        value: Any = cast(Callable[..., Any], function)(*args, **kwargs)
    except (RuntimeError, TypeError, IndexError):
        return None
    first = next(iter(found.values()))
    moved = isinstance(value, Tensor) and value.dtype == first.dtype and value.numel() > 0
    return value if moved and int(value.min()) >= 0 and int(value.max()) < first.numel() else None
