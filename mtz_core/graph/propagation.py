"""From a traced network to its channel graph: one walk over the nodes in order of execution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from torch import Tensor, fx, nn

from mtz_core.errors import GraphError
from mtz_core.graph import layout as lay
from mtz_core.graph.attention import Heads
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.drafts import Draft, layer_called
from mtz_core.graph.layout import COMMON, CONSTANT, Layout
from mtz_core.graph.numbering import numbered
from mtz_core.graph.products import attention, product
from mtz_core.graph.record import Call, Carries, Operation, Shape, call_of
from mtz_core.graph.rules import batch_is_kept, in_order, picked, reduced
from mtz_core.graph.sources import TracedNetwork
from mtz_core.graph.ties import Ties
from mtz_core.graph.trace import trace
from mtz_core.structure.networks import HEAD


def channel_graph(network: nn.Module, example: Tensor, copies: int = 1) -> ChannelGraph:
    """Trace a network and find its channel groups.

    Args:
        network: see `trace`.
        example: a batch of inputs (N, ...); two or more images make reshapes unambiguous.
        copies: see `trace`.

    Raises:
        GraphError: the network cannot be traced, or has no weight layer.
    """
    if len(example) < 2:
        example = example.repeat(2, *[1] * (example.ndim - 1))
    return _Propagation(trace(network, example[:2], copies)).result()


def channel_graphs(networks: Sequence[nn.Module], examples: Sequence[Tensor]) -> list[ChannelGraph]:
    """Channel graphs of networks that are to be zipped together.

    Where some read one-channel images and the others all read images of C channels, the former's first convolutions
    are written as reading C copies of their channel (see `trace`), so that first layers can be shared too.
    """
    channels = [int(x.shape[1]) if x.ndim >= 3 else 0 for x in examples]
    wide = set(channels) - {1}
    copies = max(wide) if 1 in channels and len(wide) == 1 else 1
    return [
        channel_graph(network, x, max(1, copies) if count == 1 else 1)
        for network, x, count in zip(networks, examples, channels, strict=True)
    ]


class _Propagation:
    """The walk: `layouts` has an entry for every node whose result is an activation (`None`: not explained)."""

    def __init__(self, network: TracedNetwork) -> None:
        self.network = network
        self.ties = Ties()
        self.layouts: dict[fx.Node, Layout | None] = {}
        self.constants: set[fx.Node] = set()
        self.split: dict[fx.Node, tuple[fx.Node, int, list[int], bool]] = {}
        self.drafts: dict[str, Draft] = {}
        for node in network.module.graph.nodes:
            self._visit(node)

    def result(self) -> ChannelGraph:
        """The channel graph, after the walk."""
        if not self.drafts:
            raise GraphError("the network has no Linear or Conv layer that can be zipped")
        known = {
            node.name: layout
            for node, layout in self.layouts.items()
            if layout is not None and node not in self.constants
        }
        return numbered(self.network, self.ties, self.drafts, known)

    def _shape(self, node: fx.Node) -> Shape | None:
        return self.network.shapes.get(node.name)

    def _visit(self, node: fx.Node) -> None:
        shape = self._shape(node)
        if node.op == "placeholder":
            if shape is not None:
                self.layouts[node] = np.full((1,) * (len(shape) - 1), COMMON, dtype=np.int64)
        elif node.op == "output":
            for source in node.all_input_nodes:
                self.ties.freeze(self.layouts.get(source), HEAD)
        elif node.op == "get_attr":
            self._constant(node, shape)
        else:
            self._visit_call(call_of(node, self.network.module), shape)

    def _constant(self, node: fx.Node, shape: Shape | None) -> None:
        """A value made of parameters alone."""
        if shape is not None:
            self.constants.add(node)
            self.layouts[node] = np.full((1,) * max(0, len(shape) - 1), CONSTANT, dtype=np.int64)

    def _visit_call(self, call: Call, shape: Shape | None) -> None:
        """Set the layout of a call's result, or freeze what it reads."""
        node, operation = call.node, call.operation
        sources = [n for n in node.all_input_nodes if n in self.layouts]
        if operation is not None and operation.carries is Carries.ASKS:
            return
        if sources and all(n in self.constants for n in sources):
            self._constant(node, shape)
            return
        found: Layout | str | None
        if isinstance(call.called, nn.Module) and str(node.target) in self.network.sources:
            found = self._layer(call, sources)
        elif operation is not None and operation.pieces is not None:
            found = self._cut(call, operation, sources)
        elif node.args and isinstance(node.args[0], fx.Node) and node.args[0] in self.split:
            found = self._piece(call, shape)
            sources = [self.split[node.args[0]][0]]
        elif sources:
            found = self._operation(call, sources, shape)
        else:
            found = None
            if shape is not None and node.all_input_nodes:
                self.layouts[node] = None
        if isinstance(found, str):
            for source in sources:
                self.ties.freeze(self.layouts[source], found)
            if shape is not None:
                self.layouts[node] = None
        elif found is not None:
            self.layouts[node] = found

    def _layer(self, call: Call, sources: Sequence[fx.Node]) -> Layout | str:
        if not sources:
            return f"{call.described()} reads a value that does not come from the input"
        shape, output = self._shape(sources[0]), self._shape(call.node)
        assert shape is not None
        assert output is not None
        return layer_called(self.ties, self.drafts, call, self.layouts[sources[0]], shape, output)

    def _cut(self, call: Call, operation: Operation, sources: Sequence[fx.Node]) -> str | None:
        """An operation with several results has no layout; each of them gets one when it is taken."""
        before = self._shape(sources[0]) if len(sources) == 1 else None
        cut = None if before is None or operation.pieces is None else operation.pieces(call, before)
        if cut is None:
            return _unknown(call)
        self.split[call.node] = (sources[0], *cut)
        return None

    def _piece(self, call: Call, shape: Shape | None) -> Layout | str:
        source, axis, sizes, drop = self.split[cast(fx.Node, call.node.args[0])]
        layout, before, index = self.layouts[source], self._shape(source), call.node.args[1]
        if layout is None or before is None or not isinstance(index, int) or shape is None:
            return _unknown(call)
        index %= len(sizes)
        part = lay.part(layout, axis - 1, before[axis], sum(sizes[:index]), sizes[index])
        return cast(Layout, np.take(part, 0, axis=axis - 1)) if drop else part

    def _operation(self, call: Call, sources: Sequence[fx.Node], shape: Shape | None) -> Layout | str:
        """The layout of an operation's result, or why it has none."""
        known = [(self.layouts[s], self._shape(s)) for s in sources]
        if any(source is None for source, _ in known):
            return f"{call.described()} combines it with a value whose channels are not known"
        moving = [
            (source, before)
            for s, (source, before) in zip(sources, known, strict=True)
            if s not in self.constants and source is not None and before is not None
        ]
        operation = call.operation
        if shape is None or operation is None or any(before is None for _, before in known):
            return _unknown(call)
        result: Layout | None = None
        if operation.carries in (Carries.JOINS, Carries.STACKS):
            result = self._joined(call, operation, shape)
        elif operation.carries is Carries.ATTENTION:
            heads = call.called.heads if isinstance(call.called, Heads) else None
            result = attention(self.ties, [source for source, _ in known if source is not None], heads)
        elif operation.carries is Carries.PRODUCT:
            result = self._product(call, shape)
        elif len(moving) == 1:
            result = _carried(call, operation, *moving[0], shape)
        elif len(moving) == 2 and all(len(before) == len(shape) for _, before in moving):
            tie = {Carries.SUM: self.ties.add, Carries.TIES: self.ties.ids.tie}.get(operation.carries)
            result = None if tie is None else lay.combine(moving[0][0], moving[1][0], tie)
        if result is None:
            return _unknown(call)
        self._cells(call, operation, result, shape)
        return result

    def _cells(self, call: Call, operation: Operation, layout: Layout, shape: Shape) -> None:
        """Note what keeps channels from changing places freely."""
        if operation.cells is None or layout.shape[0] != shape[1]:
            return
        count = operation.cells(call, shape[1])
        if count is not None and count > 1:
            for cell in np.split(layout, count):
                self.ties.cells.block(cell)

    def _joined(self, call: Call, operation: Operation, shape: Shape) -> Layout | None:
        listed, axis = call.setting("tensors", 0), call.setting("dim", 1, 0)
        if not isinstance(listed, list | tuple) or not isinstance(axis, int) or axis % len(shape) == 0:
            return None
        axis = axis % len(shape) - 1
        layouts, shapes = [], []
        for part in listed:
            layout, before = self.layouts.get(part), self._shape(part)
            if layout is None or before is None:
                return None
            layouts.append(layout)
            shapes.append(list(before[1:]))
        if operation.carries is Carries.STACKS:
            layouts = [np.expand_dims(layout, axis) for layout in layouts]
            shapes = [[*s[:axis], 1, *s[axis:]] for s in shapes]
        return lay.concatenate(layouts, shapes, axis)

    def _product(self, call: Call, shape: Shape) -> Layout | None:
        factors = [self.layouts.get(n) for n in call.node.args[:2] if isinstance(n, fx.Node)]
        if len(factors) != 2 or len(call.node.all_input_nodes) != 2 or factors[0] is None or factors[1] is None:
            return None
        return product(self.ties, factors[0], factors[1], len(shape) - 1)


def _unknown(call: Call) -> str:
    return f"no rule says how {call.described()} moves channels"


def _carried(call: Call, operation: Operation, source: Layout, before: Shape, after: Shape) -> Layout | None:
    """Layout of an operation's result from that of the one activation it reads."""
    if len(before) == len(after):
        if operation.carries is Carries.PASSES:
            return source
        if operation.carries in (Carries.SUM, Carries.TIES):
            sizes = zip(source.shape, before[1:], after[1:], strict=True)
            return source if all(size == 1 or a == b for size, a, b in sizes) else None
    if not batch_is_kept(before, after):
        return None
    if operation.carries is Carries.RESHAPES:
        return lay.reshape(source, before[1:], after[1:])
    if operation.carries is Carries.REDUCES:
        return reduced(call, source, before, after)
    if operation.order is not None:
        return in_order(operation.order(call, len(before)), source)
    if operation.index is not None:
        return picked(operation.index(call, len(before)), source)
    return None if operation.moves is None else operation.moves(call, source, before, after)
