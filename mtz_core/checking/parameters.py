"""Which channels each number of a parameter goes with: it is followed to where it meets an activation.

A number may go with one channel (a scale of LayerNorm), with none (a bias of attention), or with several (a scale that
all attention heads share). A zipped network keeps every task's numbers where they are, so nothing is tied by them; but
a network whose channels are permuted is only there if those that share numbers keep together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx

from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.layout import Layout

Met = Sequence[frozenset[int]]
"""For every number of a parameter the channels that it meets; below 0: what is no channel."""


def met_beside(layout: Layout, own: Sequence[int]) -> Met | None:
    """What the numbers of a parameter of shape `own` meet in an activation whose last axes it has.

    `None` where these axes are others.

    >>> heads = np.arange(4).reshape(1, 2, 1, 2)  # of two channels each
    >>> [sorted(channels) for channels in met_beside(heads, (2,))]
    [[0, 2], [1, 3]]
    """
    tail = layout.shape[layout.ndim - len(own) :]
    if len(own) > layout.ndim or not all(1 in (a, b) or a == b for a, b in zip(tail, own, strict=True)):
        return None
    return _met(np.arange(int(np.prod(own))).reshape(own), layout)


def _met(index: Layout, layout: Layout) -> Met:
    """Channels by the number of the parameter's entry that meets them."""
    count = int(index.max()) + 1
    index, layout = np.broadcast_arrays(index, layout)
    pairs = np.unique(np.stack([index.reshape(-1), layout.reshape(-1)], axis=1), axis=0)
    starts = np.searchsorted(pairs[:, 0], np.arange(count + 1))
    return [frozenset(pairs[a:b, 1].tolist()) for a, b in itertools.pairwise(starts)]


def channels_met(graph: ChannelGraph, parameter: fx.Node, user: fx.Node, tensor: Tensor) -> Met | None:
    """What every number of a parameter meets in `user`'s result.

    `None` where the parameter's numbers are not moved about on their way, but computed with.
    """
    moved = _moved(graph, parameter, user, torch.arange(tensor.numel()).reshape(tensor.shape))
    if moved is None:
        return None
    index, layout = moved.numpy(), graph.layouts[user.name]
    if index.ndim > layout.ndim:
        index = index[0]
    try:
        found = _met(index, layout)
    except ValueError:
        return None
    return [*found, *[frozenset[int]()] * (tensor.numel() - len(found))]


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
