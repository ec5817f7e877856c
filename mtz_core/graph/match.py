"""Which layers of the parents correspond, and a clear answer when they do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtz_core.errors import GraphError
from mtz_core.graph.channels import HEAD, PRIVATE, ChannelGraph


def check_correspondence(graphs: Sequence[ChannelGraph]) -> None:
    """Raise `GraphError` unless the networks correspond layer by layer.

    Layers correspond in order of execution. Widths, names and the form of the code may differ; kinds, kernels,
    strides, biases and the way in which channels are tied must not.
    """
    first = graphs[0]
    for t, other in enumerate(graphs[1:], start=1):
        mine = ", ".join(f"{layer.name} ({layer.kind})" for layer in first.layers)
        theirs = ", ".join(f"{layer.name} ({layer.kind})" for layer in other.layers)
        if len(first.layers) != len(other.layers):
            raise GraphError(
                f"network 0 has {len(first.layers)} weight layers, network {t} has {len(other.layers)}; zipping pairs "
                f"them one by one, so the depths must agree.\n  network 0: {mine}\n  network {t}: {theirs}"
            )
        for a, b in zip(first.layers, other.layers, strict=True):
            _check_layer(t, first, other, a.name, b.name)
        for g, (a_group, b_group) in enumerate(zip(first.groups, other.groups, strict=True)):
            if (a_group.frozen == HEAD) != (b_group.frozen == HEAD) or first.groups[g].width < 1:
                raise GraphError(
                    f"the neurons of {a_group.name} are outputs in one network and hidden in the other (network {t})"
                )


def _check_layer(t: int, first: ChannelGraph, other: ChannelGraph, a_name: str, b_name: str) -> None:
    a, b = first.layer(a_name), other.layer(b_name)
    where = f"layer {a.name!r} of network 0 and layer {b.name!r} of network {t}"
    for what, x, y in (
        ("kind", a.kind, b.kind),
        ("kernel", a.kernel, b.kernel),
        ("stride, padding, dilation, padding mode", a.setting, b.setting),
        ("bias", a.bias, b.bias),
        ("channel group", a.group, b.group),
    ):
        if x != y:
            raise GraphError(f"{where} correspond by position but differ in {what}: {x} and {y}")
    if first.groups[a.group].frozen == HEAD:
        return
    if (len(a.column_groups) != len(b.column_groups)) and set(a.column_groups) == {-1}:
        raise GraphError(
            f"{where} read raw inputs of different size ({len(a.column_groups)} and {len(b.column_groups)}); the "
            "networks must accept the same input shape"
        )
    a_reads, b_reads = (set(np.unique(layer.column_groups).tolist()) for layer in (a, b))
    if a_reads != b_reads and PRIVATE not in a_reads | b_reads:
        raise GraphError(f"{where} read from different layers; the networks are wired differently")
