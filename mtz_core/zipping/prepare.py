"""From what the user asks to share to a number of channels per channel group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtz_core.errors import SpecError
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.correspondence import participants
from mtz_core.structure.sizes import shared_count


def resolve_shares(share: float | Mapping[str, float | int], graphs: Sequence[ChannelGraph]) -> dict[str, int]:
    """Return how many channels each shareable group shares, by group name, in order of execution.

    Args:
        share: a ratio for all groups, or a mapping from layer name (of the first network) to a ratio (float) or a
            count (int); layers of one group must agree.
        graphs: channel graphs of the networks, numbered alike (see `mtz_core.graph.correspondence`).

    Raises:
        SpecError: a name is unknown, its layer cannot be shared, or a count exceeds the narrowest width.
    """
    groups = graphs[0].groups
    open_groups = [g for g in range(len(groups)) if len(participants(graphs, g)) > 1]
    closed = set(range(len(groups))) - set(open_groups)
    widths = {g: [graphs[t].groups[g].width for t in participants(graphs, g)] for g in open_groups}
    if not isinstance(share, Mapping):
        return {groups[g].name: shared_count(float(share), widths[g]) for g in open_groups}
    chosen: dict[int, float | int] = {}
    names = [name for g in open_groups for name in groups[g].producers]
    for name, value in share.items():
        layer = next((layer for layer in graphs[0].layers if layer.name == name), None)
        if layer is None:
            raise SpecError(f"share: there is no layer {name!r}; layers that can be shared: {', '.join(names)}")
        if layer.group in closed:
            reasons = [graph.groups[layer.group].frozen for graph in graphs if graph.groups[layer.group].frozen]
            raise SpecError(f"share: layer {name!r} cannot be shared ({reasons[0]}); drop it from the mapping")
        narrowest = min(widths[layer.group])
        if not isinstance(value, float) and value > narrowest:
            raise SpecError(
                f"share: layer {name!r} was asked to share {value} neurons but the narrowest has {narrowest}"
            )
        if chosen.setdefault(layer.group, value) != value:
            tied = ", ".join(groups[layer.group].producers)
            raise SpecError(f"share: {tied} write into one residual stream and share alike; give them one value")
    return {groups[g].name: shared_count(chosen.get(g, 0), widths[g]) for g in open_groups}


Data = Tensor | Iterable[Any]


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SpecError(f"device: {name!r} was asked for, but torch finds no CUDA GPU here; use 'cpu'")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SpecError(f"device: {name!r} was asked for, but torch finds no Metal GPU here; use 'cpu'")
    return device
