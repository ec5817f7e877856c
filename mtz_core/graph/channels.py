"""The channel graph: weight layers, the channel groups that they write, and the columns through which they read them.

Every weight layer starts one identifier per output channel; `layout` carries them through the graph. Where two
activations meet element by element (a residual add), their channels are tied by union-find: tied channels must be
paired alike, so all layers joined by ties form one *channel group* with one numbering. Consumers see a group
through an index map from their columns to its channels. Groups that reach the output are task heads, and groups
that meet an operation without a rule are frozen, with the reason: both stay private, the rest is zipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core.graph.flow import flow
from mtz_core.graph.layout import UNKNOWN, Layout
from mtz_core.graph.recipes import recipes
from mtz_core.graph.sources import TracedNetwork
from mtz_core.structure.networks import HEAD as HEAD
from mtz_core.structure.networks import GroupSummary, LayerSummary, NetworkStructure

PRIVATE = UNKNOWN
"""Column that reads a value which no rule explains: it stays with its task."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class WeightLayer:
    """One Linear, convolution, or the recurrent part of an LSTM or GRU.

    Its numbers form a matrix (n, d): d = positions per neuron · kernel, plus one column for the bias if there is one.
    `rows[j]` is the channel of `group` that neuron j writes. `column_groups[p]` is the index of the group that input
    position p reads (`COMMON`, or `PRIVATE`), `column_channels[p]` the channel in it. A grouped convolution has
    `banks` > 1: its neurons are divided evenly among the banks, and each reads the input positions of its own bank
    only. It is depthwise if every neuron reads one input position and writes the very channel that it reads.
    A layer of width 0 stands for one that this network does not have (see `correspondence`).
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    width: int
    kernel: tuple[int, ...]
    bias: bool
    setting: tuple[Any, ...]
    group: int
    rows: Indices = field(repr=False)
    column_groups: Indices = field(repr=False)
    column_channels: Indices = field(repr=False)
    banks: int = 1
    depthwise: bool = False
    addend: int = 0
    """Layers of one group with the same number are added up; others meet by multiplication or by passing through."""
    why: str = "reads values that no rule explains"
    """Why its private columns are that."""

    @property
    def kernel_size(self) -> int:
        """Weights per input position and neuron."""
        return int(np.prod(self.kernel)) if self.kernel else 1

    @property
    def columns(self) -> int:
        """d, incoming weights of one neuron, bias included."""
        return len(self.column_groups) // self.banks * self.kernel_size + int(self.bias)


@dataclass(frozen=True)
class ChannelGroup:
    """`width` channels that are paired together; `producers` and `consumers` are layer names in order of execution.

    `blocks`, if any, gives every channel the number of its block: groups of a grouped convolution, attention heads.
    Blocks are paired as wholes, and channels within paired blocks. Block numbers count through the whole network:
    groups that have blocks in common pair these alike.
    """

    name: str
    width: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    frozen: str | None
    blocks: Indices | None = field(default=None, repr=False)
    cells: Indices | None = field(default=None, repr=False)
    """Channels that may be permuted without changing the network's outputs have the same number; `None`: all."""
    marks: Indices | None = field(default=None, repr=False)
    """Only channels with the same number can stand for each other: those of one bank, where banks keep their order."""


@dataclass(frozen=True)
class ChannelGraph:
    """A traced network and what its channels are."""

    network: TracedNetwork
    layers: tuple[WeightLayer, ...]
    groups: tuple[ChannelGroup, ...]
    layouts: Mapping[str, Layout] = field(default_factory=dict, repr=False)
    """Node name → layout of its result, in which channel c of group g is the number `offsets[g] + c`."""
    offsets: tuple[int, ...] = ()

    def layer(self, name: str) -> WeightLayer:
        """Return the layer called `name`."""
        return next(layer for layer in self.layers if layer.name == name)

    def matrix(self, layer: WeightLayer) -> Tensor:
        """Incoming weights of the parent's layer with BatchNorm folded in, (n, d), a new tensor."""
        if layer.width == 0:
            return self.network.example.new_zeros((0, 0))
        return to_matrix(self.network.module.get_submodule(layer.name))

    def role(self, layer: WeightLayer) -> str:
        """What must be equal for layers of two networks to correspond (see `mtz_core.structure.alignment`)."""
        shape = self.network.shapes[layer.nodes[0]]
        space = shape[1:-1] if layer.kind in ("linear", "lstm", "gru") else shape[2:]
        whole = self.network.example.shape[2:]
        scaled = tuple(round(math.log2(a / b)) if a and b else 0 for a, b in zip(whole, space, strict=False))
        producers = [p for p in self.groups[layer.group].producers if not self.layer(p).depthwise]
        kernel = (layer.kind, layer.kernel, layer.setting, layer.bias, layer.banks > 1, layer.depthwise)
        return repr((*kernel, scaled if layer.kernel else len(space), len(producers) > 1))

    def _positions(self, layer: WeightLayer, node: str) -> int:
        """Output positions per image of a layer called at a node; one for several of which all but one read zeros."""
        shape = self.network.shapes[node]
        windows = max(1, shape[0] // len(self.network.example))
        found = windows * math.prod(shape[2:] if layer.kernel else shape[1:-1])
        spread = getattr(self.network.module.get_submodule(layer.name), "spread", 1)
        return max(1, found // spread)

    def matrices(self, device: torch.device) -> Callable[[str], Tensor]:
        """The parent's weight matrices by layer name; each is assembled once for the life of the returned function."""
        named = {layer.name: layer for layer in self.layers}
        return cache(lambda name: self.matrix(named[name]).to(device))

    def structure(self) -> NetworkStructure:
        """The graph as plain data."""
        layers, own = [], [layer for layer in self.layers if layer.width]
        numbers = {node: k for k, layer in enumerate(own) for node in layer.nodes}
        known = recipes(self.network.module, numbers, self.network.example.shape[1:])
        inputs = {node.name: known.get(node.all_input_nodes[0], "") for node in known if node.name in numbers}
        named = {node: layer.name for layer in own for node in layer.nodes}
        ways = flow(self.network.module, named, self.network.numbers)
        for layer in own:
            reads: dict[str, float] = {}
            for g in np.unique(layer.column_groups[layer.column_groups >= 0]) if not layer.depthwise else ():
                group = self.groups[int(g)]
                columns = int((layer.column_groups == g).sum()) * layer.kernel_size
                exact = columns % (group.width * layer.banks) == 0
                reads[group.name] = (
                    columns // (group.width * layer.banks) if exact else columns / (group.width * layer.banks)
                )
            group_name = None if self.groups[layer.group].frozen == HEAD else self.groups[layer.group].name
            unexplained = int((layer.column_groups == PRIVATE).sum()) * layer.kernel_size // layer.banks
            layers.append(
                LayerSummary(
                    layer.name,
                    layer.kind,
                    layer.width,
                    layer.columns,
                    group_name,
                    reads,
                    layer.kernel,
                    bias=layer.bias,
                    groups=layer.banks,
                    unexplained=unexplained,
                    role=self.role(layer),
                    positions=sum(self._positions(layer, node) for node in layer.nodes),
                    recipe=inputs.get(layer.nodes[0], "") if len(layer.nodes) == 1 else "",
                    reads=ways.reads.get(layer.name, ()),
                )
            )
        managed = sum(layer.width * layer.columns for layer in self.layers)
        total = sum(parameter.numel() for parameter in self.network.module.parameters())
        groups = tuple(GroupSummary(g.name, g.width, g.producers, g.frozen) for g in self.groups if g.width)
        return NetworkStructure(tuple(layers), groups, max(0, total - managed), ways.joins, ways.outputs)


def to_matrix(module: nn.Module) -> Tensor:
    """Weights of a Linear or convolution as an (n, d) matrix, the bias as last column if it has one."""
    weight, bias = cast(Tensor, module.weight).detach(), cast(Tensor | None, module.bias)
    flat = weight.reshape(len(weight), -1)
    return flat.clone() if bias is None else torch.cat([flat, bias.detach()[:, None]], dim=1)


def channel_roles(
    layers: Sequence[WeightLayer], group: int, width: int, among: Collection[int] | None = None
) -> list[tuple[int, ...]]:
    """For every channel of a group: which layers write it, and which read it, as numbers of layers.

    A chunk or a padded shortcut gives channels of one group different roles; only channels of one role can stand for
    each other. `among` limits the layers that count.
    """
    roles: list[list[int]] = [[] for _ in range(width)]
    for k, layer in enumerate(layers):
        if among is not None and k not in among:
            continue
        if layer.group == group:
            for c in np.unique(layer.rows):
                roles[int(c)].append(2 * k)
        for c in np.unique(layer.column_channels[layer.column_groups == group]):
            roles[int(c)].append(2 * k + 1)
    return [tuple(role) for role in roles]


def rows_by_channel(layer: WeightLayer, channels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that write each of the channels, (C, rows per channel)."""
    order = np.argsort(layer.rows, kind="stable")
    first = np.searchsorted(layer.rows[order], channels)
    count = int(np.bincount(layer.rows)[channels].min()) if len(channels) else 1
    rows: NDArray[np.int64] = order[first[:, None] + np.arange(count)]
    return rows


def first_rows(layer: WeightLayer, channels: NDArray[np.int64]) -> NDArray[np.int64]:
    """One row of each of the channels, in the order of the channels."""
    return rows_by_channel(layer, channels)[:, 0] if len(channels) else channels
