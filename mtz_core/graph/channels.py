"""The channel graph: weight layers, the channel groups that they write, and the columns through which they read them.

Every weight layer starts one identifier per output channel; `layout` carries them through the graph. Where two
activations meet element by element (a residual add), their channels are tied by union-find: tied channels must be
paired alike, so all layers joined by ties form one *channel group* with one numbering. Consumers see a group
through an index map from their columns to its channels. Groups that reach the output are task heads, and groups
that meet an operation without a rule are frozen, with the reason: both stay private, the rest is zipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from mtz_core.errors import GraphError
from mtz_core.graph import layout as lay
from mtz_core.graph.layout import COMMON, Layout
from mtz_core.graph.rules import ADDITIVE, callee, describe, moved, passes
from mtz_core.graph.trace import TracedNetwork, trace
from mtz_core.structure import GroupSummary, LayerSummary, NetworkStructure

HEAD = "task head"
PRIVATE = -3
"""Column that reads a value which no rule explains: it stays with its task."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class WeightLayer:
    """One Linear or convolution.

    Its numbers form a matrix (n, d): d = positions · kernel, plus one column for the bias if there is one.
    `rows[j]` is the channel of `group` that neuron j writes. `column_groups[p]` is the index of the group that input
    position p reads (`COMMON`, or `PRIVATE`), `column_channels[p]` the channel in it.
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

    @property
    def kernel_size(self) -> int:
        """Weights per input position and neuron."""
        return int(np.prod(self.kernel)) if self.kernel else 1

    @property
    def columns(self) -> int:
        """d, incoming weights of one neuron, bias included."""
        return len(self.column_groups) * self.kernel_size + int(self.bias)


@dataclass(frozen=True)
class ChannelGroup:
    """`width` channels that are paired together; `producers` and `consumers` are layer names in order of execution."""

    name: str
    width: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    frozen: str | None


@dataclass(frozen=True)
class ChannelGraph:
    """A traced network and what its channels are."""

    network: TracedNetwork
    layers: tuple[WeightLayer, ...]
    groups: tuple[ChannelGroup, ...]

    def layer(self, name: str) -> WeightLayer:
        """Return the layer called `name`."""
        return next(layer for layer in self.layers if layer.name == name)

    def matrix(self, layer: WeightLayer) -> Tensor:
        """Incoming weights of the parent's layer with BatchNorm folded in, (n, d), a new tensor."""
        return to_matrix(self.network.module.get_submodule(layer.name))

    def structure(self) -> NetworkStructure:
        """The graph as plain data."""
        layers = []
        for layer in self.layers:
            reads: dict[str, float] = {}
            for g in np.unique(layer.column_groups[layer.column_groups >= 0]):
                group = self.groups[int(g)]
                columns = int((layer.column_groups == g).sum()) * layer.kernel_size
                reads[group.name] = columns // group.width if columns % group.width == 0 else columns / group.width
            group_name = None if self.groups[layer.group].frozen == HEAD else self.groups[layer.group].name
            unexplained = int((layer.column_groups == PRIVATE).sum()) * layer.kernel_size
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
                    unexplained=unexplained,
                )
            )
        managed = sum(layer.width * layer.columns for layer in self.layers)
        total = sum(parameter.numel() for parameter in self.network.module.parameters())
        groups = tuple(GroupSummary(g.name, g.width, g.producers, g.frozen) for g in self.groups)
        return NetworkStructure(tuple(layers), groups, max(0, total - managed))


def to_matrix(module: nn.Module) -> Tensor:
    """Weights of a Linear or convolution as an (n, d) matrix, the bias as last column if it has one."""
    weight, bias = cast(Tensor, module.weight).detach(), cast(Tensor | None, module.bias)
    flat = weight.reshape(len(weight), -1)
    return flat.clone() if bias is None else torch.cat([flat, bias.detach()[:, None]], dim=1)


def channel_graph(network: nn.Module, example: Tensor) -> ChannelGraph:
    """Trace a network and find its channel groups.

    Args:
        network: see `trace`.
        example: a batch of inputs (N, ...); two or more images make reshapes unambiguous.

    Raises:
        GraphError: the network cannot be traced, or has no weight layer.
    """
    if len(example) < 2:
        example = example.repeat(2, *[1] * (example.ndim - 1))
    return _Propagation(trace(network, example[:2])).result()


class _UnionFind:
    """Identifiers that are tied; the least identifier stands for all."""

    def __init__(self) -> None:
        self.parent: list[int] = []

    def fresh(self, count: int) -> Layout:
        first = len(self.parent)
        self.parent.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def root(self, x: int) -> int:
        while self.parent[x] != x:
            self.parent[x] = self.parent[self.parent[x]]
            x = self.parent[x]
        return x

    def tie(self, a: Layout, b: Layout) -> None:
        for pair in np.unique(np.stack([a.reshape(-1), b.reshape(-1)], axis=1), axis=0):
            low, high = sorted((self.root(int(pair[0])), self.root(int(pair[1]))))
            self.parent[high] = low

    def roots(self, ids: Layout) -> Layout:
        return np.array([self.root(int(x)) if x >= 0 else int(x) for x in ids.reshape(-1)], dtype=np.int64)


@dataclass
class _Draft:
    """A weight layer while the graph is walked; `columns` is `None` if its input has no layout."""

    name: str
    module: nn.Module
    rows: Layout
    columns: Layout | None
    positions: int
    nodes: list[str]


class _Propagation:
    """One walk over the nodes in order of execution."""

    def __init__(self, network: TracedNetwork) -> None:
        self.network = network
        self.module = network.module
        self.ids = _UnionFind()
        self.layouts: dict[fx.Node, Layout | None] = {}
        self.drafts: dict[str, _Draft] = {}
        self.frozen: dict[int, str] = {}
        for node in self.module.graph.nodes:
            self._visit(node)

    def _shape(self, node: fx.Node) -> tuple[int, ...] | None:
        return self.network.shapes.get(node.name)

    def _freeze(self, layout: Layout | None, reason: str) -> None:
        if layout is not None:
            for identifier in np.unique(layout[layout >= 0]):
                self.frozen.setdefault(int(identifier), reason)

    def _visit(self, node: fx.Node) -> None:
        shape = self._shape(node)
        if node.op == "placeholder":
            if shape is not None:
                self.layouts[node] = np.full((1,) * (len(shape) - 1), COMMON, dtype=np.int64)
        elif node.op == "output":
            for source in node.all_input_nodes:
                self._freeze(self.layouts.get(source), HEAD)
        elif node.op != "get_attr":
            self._visit_call(node, shape)

    def _visit_call(self, node: fx.Node, shape: tuple[int, ...] | None) -> None:
        called = callee(node, self.module)
        sources = [n for n in node.all_input_nodes if n in self.layouts]
        if called is getattr or (isinstance(called, str) and called in ("size", "dim", "numel")):
            return
        if isinstance(called, nn.Module) and str(node.target) in self.network.sources:
            reason = self._weight_layer(node, called, sources[0] if sources else None)
        else:
            reason = self._operation(node, called, sources, shape)
        if reason is not None:
            for source in sources:
                self._freeze(self.layouts[source], reason)
            if shape is not None:
                self.layouts[node] = None

    def _operation(
        self, node: fx.Node, called: Any, sources: list[fx.Node], shape: tuple[int, ...] | None
    ) -> str | None:
        """Set the node's layout; return why it has none."""
        where = describe(node, self.module)
        if not sources:
            if shape is not None and node.all_input_nodes:
                self.layouts[node] = None
            return None
        known = [(self.layouts[s], self._shape(s)) for s in sources]
        first, before = known[0]
        if any(source is None for source, _ in known):
            return f"{where} combines it with a value whose channels are not known"
        if shape is None or first is None or before is None:
            return f"no rule says how {where} moves channels"
        if len(sources) == 1:
            result = first if passes(called, node) and len(before) == len(shape) else None
            if result is None and called in ADDITIVE and before == shape:
                result = first
            if result is None and not isinstance(called, nn.Module | str) and called.__name__ == "cat":
                result = first
            result = moved(called, node, first, before, shape) if result is None else result
        else:
            result = self._joined(node, called, known, shape)
        if result is None:
            return f"no rule says how {where} moves channels"
        self.layouts[node] = result
        return None

    def _joined(
        self, node: fx.Node, called: Any, known: list[tuple[Any, Any]], shape: tuple[int, ...]
    ) -> Layout | None:
        layouts, shapes = [source for source, _ in known], [before for _, before in known]
        if getattr(called, "__name__", "") in ("cat", "concat", "concatenate"):
            listed = node.args[0]
            axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
            if not isinstance(listed, list | tuple) or not isinstance(axis, int) or axis % len(shape) == 0:
                return None
            parts = [(self.layouts.get(cast(fx.Node, n)), self._shape(cast(fx.Node, n))) for n in listed]
            if any(layout is None or before is None for layout, before in parts):
                return None
            return lay.concatenate(
                [cast(Layout, p) for p, _ in parts], [cast(Any, s)[1:] for _, s in parts], axis % len(shape) - 1
            )
        if called in ADDITIVE and len(layouts) == 2 and len(shapes[0]) == len(shapes[1]) == len(shape):
            return lay.combine(layouts[0], layouts[1], self.ids.tie)
        return None

    def _weight_layer(self, node: fx.Node, called: nn.Module, source: fx.Node | None) -> str | None:
        name, where = str(node.target), describe(node, self.module)
        if source is None:
            return f"{where} reads a value that does not come from the input"
        if getattr(called, "groups", 1) != 1:
            return f"{where} is a grouped convolution"
        layout, shape, output = self.layouts[source], self._shape(source), self._shape(node)
        assert shape is not None
        assert output is not None
        axis = len(shape) - 2 if isinstance(called, nn.Linear) else 0
        if not isinstance(called, nn.Linear) and len(shape) != cast(Tensor, called.weight).ndim:
            return f"{where} is called on a single image without a batch axis"
        positions = shape[axis + 1]
        columns = None if layout is None else lay.along(layout, axis)
        if layout is not None and columns is None:
            self._freeze(layout, f"{where} reads channels along another axis")
        if columns is not None:
            columns = np.broadcast_to(columns, (positions,)).copy()
        draft = self.drafts.get(name)
        if draft is None:
            rows = self.ids.fresh(int(cast(Tensor, called.weight).shape[0]))
            self.drafts[name] = draft = _Draft(name, called, rows, columns, positions, [node.name])
        else:
            draft.nodes.append(node.name)
            self._same_columns(draft, columns, where)
        out_axis = len(output) - 2 if isinstance(called, nn.Linear) else 0
        self.layouts[node] = lay.feature_layout(draft.rows, len(output) - 1, out_axis)
        return None

    def _same_columns(self, draft: _Draft, columns: Layout | None, where: str) -> None:
        """A layer that is called again reads other channels through the same weights: tie them."""
        tied = None
        if draft.columns is not None and columns is not None:
            tied = lay.combine(draft.columns, columns, self.ids.tie)
        if tied is None:
            for layout in (draft.columns, columns):
                self._freeze(layout, f"{where} is called on different kinds of input")
        draft.columns = tied

    def result(self) -> ChannelGraph:
        if not self.drafts:
            raise GraphError("the network has no Linear or Conv layer that can be zipped")
        drafts = list(self.drafts.values())
        group_of, members = self._groups(drafts)
        frozen_roots = {self.ids.root(identifier): reason for identifier, reason in sorted(self.frozen.items())}
        numbering: dict[int, tuple[int, int]] = {}
        for g, roots in enumerate(members):
            numbering |= {root: (g, channel) for channel, root in enumerate(roots)}
        layers = tuple(self._layer(draft, group_of[draft.name], numbering) for draft in drafts)
        groups = tuple(self._group(g, roots, layers, frozen_roots) for g, roots in enumerate(members))
        return ChannelGraph(self.network, layers, groups)

    def _groups(self, drafts: list[_Draft]) -> tuple[dict[str, int], list[list[int]]]:
        """Layers whose channels are tied share a group; a group's channels are its distinct roots, in order."""
        joined = _UnionFind()
        joined.fresh(len(drafts))
        owner: dict[int, int] = {}
        roots = [self.ids.roots(draft.rows) for draft in drafts]
        for k, mine in enumerate(roots):
            for root in mine:
                if int(root) in owner:
                    joined.tie(np.array([owner[int(root)]]), np.array([k]))
                owner.setdefault(int(root), k)
        firsts = sorted({joined.root(k) for k in range(len(drafts))})
        group_of = {draft.name: firsts.index(joined.root(k)) for k, draft in enumerate(drafts)}
        members: list[list[int]] = [[] for _ in firsts]
        for k, draft in enumerate(drafts):
            members[group_of[draft.name]].extend(int(r) for r in roots[k])
        return group_of, [sorted(set(m)) for m in members]

    def _layer(self, draft: _Draft, group: int, numbering: dict[int, tuple[int, int]]) -> WeightLayer:
        module = draft.module
        columns = np.full(draft.positions, PRIVATE) if draft.columns is None else self.ids.roots(draft.columns)
        places = [numbering[int(c)] if c >= 0 else (PRIVATE if c == PRIVATE else COMMON, 0) for c in columns]
        kernel = tuple(cast(Any, module).kernel_size) if not isinstance(module, nn.Linear) else ()
        setting = tuple(str(getattr(module, key, None)) for key in ("stride", "padding", "dilation", "padding_mode"))
        return WeightLayer(
            draft.name,
            type(module).__name__.lower(),
            tuple(draft.nodes),
            len(draft.rows),
            kernel,
            module.bias is not None,
            setting,
            group,
            np.array([numbering[int(r)][1] for r in self.ids.roots(draft.rows)], dtype=np.int64),
            np.array([g for g, _ in places], dtype=np.int64),
            np.array([c for _, c in places], dtype=np.int64),
        )

    def _group(self, g: int, roots: list[int], layers: tuple[WeightLayer, ...], frozen: dict[int, str]) -> ChannelGroup:
        producers = tuple(layer.name for layer in layers if layer.group == g)
        consumers = tuple(layer.name for layer in layers if (layer.column_groups == g).any())
        reasons = [frozen[root] for root in roots if root in frozen]
        reason = HEAD if HEAD in reasons else (reasons[0] if reasons else None)
        return ChannelGroup(producers[0], len(roots), producers, consumers, reason)


def hidden_layers(graph: ChannelGraph) -> Iterator[WeightLayer]:
    """Layers whose neurons can be shared, in order of execution."""
    return (layer for layer in graph.layers if graph.groups[layer.group].frozen is None)
