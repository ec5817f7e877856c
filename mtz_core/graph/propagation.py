"""From a traced network to its channel graph: one walk over the nodes in order of execution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from torch import Tensor, fx, nn

from mtz_core.errors import GraphError
from mtz_core.graph import layout as lay
from mtz_core.graph.attention import Heads
from mtz_core.graph.cells import note_cells, unite
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.drafts import Draft, layer_called
from mtz_core.graph.elementwise import combined
from mtz_core.graph.layout import COMMON, CONSTANT, UNKNOWN, Layout
from mtz_core.graph.numbering import numbered
from mtz_core.graph.products import attention, product
from mtz_core.graph.record import Call, Carries, Operation, Shape, call_of
from mtz_core.graph.reductions import reduced
from mtz_core.graph.rules import in_order, picked
from mtz_core.graph.sources import TracedNetwork, call_arguments
from mtz_core.graph.tied import is_transposition, read_weight, transposed_weight
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


_OF_ONE = (Carries.RESHAPES, Carries.PERMUTES, Carries.PICKS, Carries.MOVES, Carries.REDUCES)
"""Their first argument is what they carry; any other says how."""


class _Propagation:
    """The walk: `layouts` has an entry for every node whose result is an activation (`None`: not explained)."""

    def __init__(self, network: TracedNetwork) -> None:
        self.network = network
        self.ties = Ties()
        self.layouts: dict[fx.Node, Layout | None] = {}
        self.constants: set[fx.Node] = set()
        self.made: set[fx.Node] = set()
        self.split: dict[fx.Node, tuple[fx.Node, int, list[int], bool]] = {}
        self.drafts: dict[str, Draft] = {}
        self.turned: set[fx.Node] = set()
        for node in network.module.graph.nodes:
            self._visit(node)

    def result(self) -> ChannelGraph:
        """The channel graph, after the walk."""
        if not self.drafts:
            whole = "; ".join(f"{name} is called as a whole ({why})" for name, why in self.network.opaque.items())
            raise GraphError("the network has no Linear or Conv layer that can be zipped" + (whole and f": {whole}"))
        self._other_uses()
        known = {
            node.name: layout
            for node, layout in self.layouts.items()
            if layout is not None and node not in self.constants
        }
        return numbered(self.network, self.ties, self.drafts, known)

    def _other_uses(self) -> None:
        """A layer whose weight is used in some other way, too, stays as it is."""
        for node in self.network.module.graph.nodes:
            name = read_weight(node)
            if name not in self.drafts or all(user in self.turned or _asks(user) for user in _ends(node)):
                continue
            self._keep(self.drafts[name], f"the weight of {name} is used in another way, too")

    def _keep(self, draft: Draft, reason: str) -> None:
        """A layer stays as it is, and so does what it reads."""
        for layout in (draft.rows, draft.columns):
            self.ties.freeze(layout, reason)
        draft.columns = None

    def _shape(self, node: fx.Node) -> Shape | None:
        return self.network.shapes.get(node.name)

    def _visit(self, node: fx.Node) -> None:
        shape = self._shape(node)
        if node.op == "placeholder":
            if shape is not None:
                self.layouts[node] = np.full((1,) * len(shape), COMMON, dtype=np.int64)
        elif node.op == "output":
            for source in node.all_input_nodes:
                self.ties.freeze(self.layouts.get(source), HEAD)
        elif node.op == "get_attr":
            self._constant(node, shape)
        else:
            self._visit_call(call_of(node, self.network.module, self.network.numbers), shape)

    def _constant(self, node: fx.Node, shape: Shape | None) -> None:
        """A value made of parameters alone."""
        if shape is not None:
            self.constants.add(node)
            self.layouts[node] = np.full((1,) * len(shape), CONSTANT, dtype=np.int64)

    def _visit_call(self, call: Call, shape: Shape | None) -> None:
        """Set the layout of a call's result, or freeze what it reads."""
        node, operation = call.node, call.operation
        sources = [n for n in node.all_input_nodes if n in self.layouts]
        if operation is not None and operation.carries is Carries.ASKS:
            return
        layer = isinstance(call.called, nn.Module) and str(node.target) in self.network.sources
        filled = operation is not None and operation.carries is Carries.FILLS
        if filled or (sources and all(n in self.constants for n in sources) and not layer):
            self._constant(node, shape)
            if all(n in self.made for n in sources) or filled:
                self.made.add(node)
            return
        found: Layout | str | None
        if layer:
            found = self._layer(call, sources)
        elif transposed_weight(node) in self.drafts:
            found = self._turned(call, shape)
        elif operation is not None and operation.pieces is not None:
            found = self._cut(call, operation, sources)
        elif node.args and isinstance(node.args[0], fx.Node) and node.args[0] in self.split:
            found = self._piece(call, shape)
            sources = [self.split[node.args[0]][0]]
        elif sources:
            found = self._operation(call, sources, shape)
        else:  # made from sizes
            found = None if shape is None else np.full((1,) * len(shape), COMMON, dtype=np.int64)
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
        layout = self.layouts[sources[0]]
        if sources[0] in self.made and layout is not None:
            layout = np.full_like(layout, COMMON)
        found = layer_called(self.ties, self.drafts, call, layout, shape, output)
        if call.node.name in self.network.mixed and str(call.node.target) in self.drafts:
            self._keep(self.drafts[str(call.node.target)], f"{call.described()} reads images along another axis")
        return found

    def _turned(self, call: Call, shape: Shape | None) -> Layout | str:
        """A layer's weight the other way round reads what the layer writes, and writes what it reads."""
        draft, source = self.drafts[str(transposed_weight(call.node))], call.node.args[0]
        layout = self.layouts.get(source) if isinstance(source, fx.Node) else None
        ids = None if layout is None else lay.along(layout, layout.ndim - 1)
        if shape is None or ids is None or draft.columns is None or len(ids) != len(draft.rows) or (ids < 0).any():
            return f"{call.described()} uses the weight of {draft.name} the other way round"
        self.ties.tie(ids, draft.rows)
        self.turned.add(call.node)
        return lay.feature_layout(draft.columns, len(shape), len(shape) - 1)

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
        part = lay.part(layout, axis, before[axis], sum(sizes[:index]), sizes[index])
        return cast(Layout, np.take(part, 0, axis=axis)) if drop else part

    def _operation(self, call: Call, sources: Sequence[fx.Node], shape: Shape | None) -> Layout | str:
        """The layout of an operation's result, or why it has none."""
        known = [(self.layouts[s], self._shape(s)) for s in sources]
        operation = call.operation
        joins = operation is not None and operation.carries in (Carries.JOINS, Carries.STACKS)
        if any(source is None for source, _ in known) and not joins:
            return f"{call.described()} combines it with a value whose channels are not known"
        content = call.node.args[:1] if operation is not None and operation.carries in _OF_ONE else sources
        moving = [
            (source, before)
            for s, (source, before) in zip(sources, known, strict=True)
            if s not in self.constants and source is not None and before is not None and s in content
        ]
        if shape is None or any(before is None for _, before in known):
            return self._unknown(call)
        result = None if operation is None else self._ruled(call, operation, known, moving, shape)
        if result is None and moving and not _has_parameters(call) and len(shape) and shape[0] == moving[0][1][0]:
            inputs_only = all(bool((source == COMMON).all()) for source, _ in moving)
            result = np.full((1,) * len(shape), COMMON, dtype=np.int64) if inputs_only else None
        if result is None or operation is None:
            return self._unknown(call) if result is None else result
        note_cells(self.ties, call, operation, result, shape)
        return result

    def _ruled(
        self,
        call: Call,
        operation: Operation,
        known: Sequence[tuple[Layout | None, Shape | None]],
        moving: Sequence[tuple[Layout, Shape]],
        shape: Shape,
    ) -> Layout | None:
        """The layout of a known operation's result, `None`: its rule does not cover this call."""
        if operation.carries in (Carries.JOINS, Carries.STACKS):
            return self._joined(call, operation, shape)
        if operation.carries is Carries.ATTENTION:
            return self._attention(call)
        if operation.carries is Carries.PRODUCT:
            return self._product(call)
        if operation.carries is Carries.LOOKS_UP:
            numbers = all(bool((source == COMMON).all()) for source, _ in moving)
            return np.full((1,) * len(shape), COMMON, dtype=np.int64) if numbers else None
        if operation.carries is Carries.REDUCES:
            return reduced(self.ties, call, *moving[0], shape) if len(moving) == 1 else None
        if len(moving) == 1:
            if operation.unites is not None:
                unite(self.ties, moving[0][0], operation.unites(call))
            return _carried(call, operation, *moving[0], shape)
        if len(moving) == 2 and operation.carries in (Carries.SUM, Carries.TIES):
            return combined(self.ties, moving[0], moving[1], operation.carries is Carries.SUM)
        return None

    def _unknown(self, call: Call) -> str:
        why = self.network.opaque.get(str(call.node.target)) if call.node.op == "call_module" else None
        return (
            _unknown(call) if why is None else f"{call.described()} is called as a whole: it cannot be traced ({why})"
        )

    def _joined(self, call: Call, operation: Operation, shape: Shape) -> Layout | None:
        listed, axis = call.setting("tensors", 0), call.setting("dim", 1, 0)
        if not isinstance(listed, list | tuple) or not isinstance(axis, int):
            return None
        axis %= len(shape)
        layouts, shapes = [], []
        for part in listed:
            before = self._shape(part) if isinstance(part, fx.Node) else None
            if before is None or part not in self.layouts:
                return None
            layout = self.layouts[part]
            if layout is None:  # the others are known all the same
                layout = np.full((1,) * len(before), UNKNOWN, dtype=np.int64)
            layouts.append(self.ties.ids.roots(layout))
            shapes.append(list(before))
        if operation.carries is Carries.STACKS:
            layouts = [np.expand_dims(layout, axis) for layout in layouts]
            shapes = [[*s[:axis], 1, *s[axis:]] for s in shapes]
        return lay.concatenate(layouts, shapes, axis)

    def _attention(self, call: Call) -> Layout | None:
        """Masks and biases are places' own: numbers of the network, or the same in all tasks."""
        given = call_arguments(call.node, ("query", "key", "value", "attn_mask"))
        mask = given.get("attn_mask")
        layouts = [self.layouts.get(given[name]) for name in ("query", "key", "value")]
        heads = call.called.heads if isinstance(call.called, Heads) else None
        if isinstance(mask, fx.Node) and bool((cast(Layout, self.layouts.get(mask)) >= 0).any()):
            return None
        found = [layout for layout in layouts if layout is not None]
        return attention(self.ties, found, heads) if len(found) == 3 else None

    def _product(self, call: Call) -> Layout | None:
        factors = [self.layouts.get(n) for n in call.node.args[:2] if isinstance(n, fx.Node)]
        if len(factors) != 2 or len(call.node.all_input_nodes) != 2 or factors[0] is None or factors[1] is None:
            return None
        return product(self.ties, factors[0], factors[1])


def _asks(node: fx.Node) -> bool:
    """Whether a node only asks for a shape, a type or the like."""
    return node.op in ("call_function", "call_method") and node.target in (getattr, "size", "dim", "numel")


def _ends(node: fx.Node) -> list[fx.Node]:
    """What uses a parameter, transpositions aside."""
    found: list[fx.Node] = []
    frontier = [node]
    while frontier:
        for user in frontier.pop().users:
            (frontier if is_transposition(user) else found).append(user)
    return found


def _has_parameters(call: Call) -> bool:
    return isinstance(call.called, nn.Module) and next(call.called.parameters(), None) is not None


def _unknown(call: Call) -> str:
    return f"no rule says how {call.described()} moves channels"


def _carried(call: Call, operation: Operation, source: Layout, before: Shape, after: Shape) -> Layout | None:
    """Layout of an operation's result from that of the one activation it reads."""
    if len(before) == len(after):
        if operation.carries is Carries.PASSES:
            return source
        if operation.carries in (Carries.SUM, Carries.TIES):
            sizes = zip(source.shape, before, after, strict=True)
            return source if all(size == 1 or a == b for size, a, b in sizes) else None
    if operation.carries is Carries.RESHAPES:
        return lay.reshape(source, before, after)
    if operation.order is not None:
        return in_order(operation.order(call, len(before)), source)
    if operation.index is not None:
        return picked(operation.index(call, len(before)), source)
    return None if operation.moves is None else operation.moves(call, source, before, after)
