"""From a traced network to its channel graph: one walk over the nodes in order of execution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch.nn.functional as F
from torch import Tensor, fx, nn

from mtz_core.errors import GraphError
from mtz_core.graph import layout as lay
from mtz_core.graph.attention import Heads
from mtz_core.graph.channels import PRIVATE, ChannelGraph, ChannelGroup, Indices, WeightLayer, channel_roles
from mtz_core.graph.layout import COMMON, CONSTANT, Layout
from mtz_core.graph.recurrent import Recurrence
from mtz_core.graph.rules import (
    ADDITIVE,
    PRODUCTS,
    SPLITS,
    SUMS,
    callee,
    describe,
    moved,
    passes,
    pieces,
)
from mtz_core.graph.trace import TracedNetwork, trace
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
        flat = [self.root(int(x)) if x >= 0 else int(x) for x in ids.reshape(-1)]
        return np.array(flat, dtype=np.int64).reshape(ids.shape)


class _Partition:
    """Channels divided into blocks; a channel that gets two block numbers makes them one."""

    def __init__(self) -> None:
        self.numbers = _UnionFind()
        self.of: dict[int, int] = {}

    def block(self, ids: Layout) -> int:
        """Put the channels into one new block."""
        number = int(self.numbers.fresh(1)[0])
        self.extend(number, ids)
        return number

    def extend(self, number: int, ids: Layout) -> None:
        for x in np.unique(ids[ids >= 0]):
            known = self.of.setdefault(int(x), number)
            self.numbers.tie(np.array([known]), np.array([number]))

    def settle(self, ids: _UnionFind) -> dict[int, int]:
        """Channel root → block, after channels were tied."""
        settled: dict[int, int] = {}
        for x, number in self.of.items():
            known = settled.setdefault(ids.root(x), number)
            self.numbers.tie(np.array([known]), np.array([number]))
        return {root: self.numbers.root(number) for root, number in settled.items()}


@dataclass
class _Draft:
    """A weight layer while the graph is walked; `columns` is `None` if its input has no layout."""

    name: str
    module: nn.Module
    rows: Layout
    columns: Layout | None
    positions: int
    nodes: list[str]
    groups: int = 1
    depthwise: bool = False


class _Propagation:
    """The walk: `layouts` has an entry for every node whose result is an activation (`None`: not explained)."""

    def __init__(self, network: TracedNetwork) -> None:
        self.network = network
        self.module = network.module
        self.ids, self.sums = _UnionFind(), _UnionFind()
        self.layouts: dict[fx.Node, Layout | None] = {}
        self.constants: set[fx.Node] = set()
        self.split: dict[fx.Node, tuple[fx.Node, int, list[int], bool]] = {}
        self.drafts: dict[str, _Draft] = {}
        self.frozen: dict[int, str] = {}
        self.blocks, self.cells = _Partition(), _Partition()
        for node in self.module.graph.nodes:
            self._visit(node)

    def _shape(self, node: fx.Node) -> tuple[int, ...] | None:
        return self.network.shapes.get(node.name)

    def _fresh(self, count: int) -> Layout:
        self.sums.fresh(count)
        return self.ids.fresh(count)

    def _add(self, a: Layout, b: Layout) -> None:
        self.ids.tie(a, b)
        self.sums.tie(a, b)

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
        elif node.op == "get_attr":
            self._constant(node, shape)
        else:
            self._visit_call(node, shape)

    def _constant(self, node: fx.Node, shape: tuple[int, ...] | None) -> None:
        """A value made of parameters alone."""
        if shape is not None:
            self.constants.add(node)
            self.layouts[node] = np.full((1,) * max(0, len(shape) - 1), CONSTANT, dtype=np.int64)

    def _visit_call(self, node: fx.Node, shape: tuple[int, ...] | None) -> None:
        called = callee(node, self.module)
        sources = [n for n in node.all_input_nodes if n in self.layouts]
        if called is getattr or (isinstance(called, str) and called in ("size", "dim", "numel")):
            return
        if sources and all(n in self.constants for n in sources):
            self._constant(node, shape)
            return
        if isinstance(called, nn.Module) and str(node.target) in self.network.sources:
            reason = self._weight_layer(node, called, sources[0] if sources else None)
        elif not isinstance(called, nn.Module) and called in SPLITS:
            reason = self._cut(node, called, sources)
        elif isinstance(node.args[0] if node.args else None, fx.Node) and node.args[0] in self.split:
            reason = self._piece(node, shape)
            if reason is None:
                return
            sources = [self.split[cast(fx.Node, node.args[0])][0]]
        else:
            reason = self._operation(node, called, sources, shape)
        if reason is not None:
            for source in sources:
                self._freeze(self.layouts[source], reason)
            if shape is not None:
                self.layouts[node] = None

    def _cut(self, node: fx.Node, called: Any, sources: list[fx.Node]) -> str | None:
        before = self._shape(sources[0]) if len(sources) == 1 else None
        cut = None if before is None else pieces(called, node, before)
        if cut is None:
            return f"no rule says how {describe(node, self.module)} moves channels"
        self.split[node] = (sources[0], *cut)
        return None

    def _piece(self, node: fx.Node, shape: tuple[int, ...] | None) -> str | None:
        source, axis, sizes, drop = self.split[cast(fx.Node, node.args[0])]
        layout, before, index = self.layouts[source], self._shape(source), node.args[1]
        if layout is None or before is None or not isinstance(index, int) or shape is None:
            return f"no rule says how {describe(node, self.module)} moves channels"
        index %= len(sizes)
        part = lay.part(layout, axis - 1, before[axis], sum(sizes[:index]), sizes[index])
        self.layouts[node] = np.take(part, 0, axis=axis - 1) if drop else part
        return None

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
        if any(source is None for source, _ in known):
            return f"{where} combines it with a value whose channels are not known"
        moving = [
            (source, before) for s, (source, before) in zip(sources, known, strict=True) if s not in self.constants
        ]
        first, before = moving[0]
        if shape is None or first is None or before is None:
            return f"no rule says how {where} moves channels"
        result = None
        if getattr(called, "__name__", "") in ("cat", "concat", "concatenate", "stack"):
            result = self._joined(node, called, shape)
        elif isinstance(called, Heads) or called is F.scaled_dot_product_attention:
            result = self._attention([cast(Layout, source) for source, _ in known], called)
        elif called in PRODUCTS:
            result = self._product(node, known, shape)
        elif len(moving) == 1:
            result = first if passes(called, node) and len(before) == len(shape) else None
            if result is None and called in ADDITIVE and len(before) == len(shape):
                fits = all(size == 1 or a == b for size, a, b in zip(first.shape, before[1:], shape[1:], strict=True))
                result = first if fits else None
            result = moved(called, node, first, before, shape) if result is None else result
        elif called in ADDITIVE and len(moving) == 2 and all(s and len(s) == len(shape) for _, s in moving):
            tie = self._add if called in SUMS else self.ids.tie
            result = lay.combine(first, cast(Layout, moving[1][0]), tie)
        if result is None:
            return f"no rule says how {where} moves channels"
        self._cells(called, node, result, shape)
        self.layouts[node] = result
        return None

    def _cells(self, called: Any, node: fx.Node, layout: Layout, shape: tuple[int, ...]) -> None:
        """Group normalisation lets channels change places within its groups only."""
        count: Any = called.num_groups if isinstance(called, nn.GroupNorm) else None
        if called is F.group_norm:
            count = node.kwargs.get("num_groups", node.args[1] if len(node.args) > 1 else None)
        if isinstance(count, int) and count > 1 and layout.shape[0] == shape[1]:
            for block in np.split(layout, count):
                self.cells.block(block)
        if isinstance(called, nn.LocalResponseNorm) or called is F.local_response_norm:
            for channel in layout.reshape(-1):
                self.cells.block(channel.reshape(1))

    def _joined(self, node: fx.Node, called: Any, shape: tuple[int, ...]) -> Layout | None:
        listed = node.args[0] if node.args else node.kwargs.get("tensors")
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if not isinstance(listed, list | tuple) or not isinstance(axis, int) or axis % len(shape) == 0:
            return None
        axis = axis % len(shape) - 1
        parts = [(self.layouts.get(cast(fx.Node, n)), self._shape(cast(fx.Node, n))) for n in listed]
        if any(layout is None or before is None for layout, before in parts):
            return None
        layouts, shapes = [cast(Layout, p) for p, _ in parts], [list(cast(Any, s)[1:]) for _, s in parts]
        if called.__name__ == "stack":
            layouts = [np.expand_dims(layout, axis) for layout in layouts]
            shapes = [[*s[:axis], 1, *s[axis:]] for s in shapes]
        return lay.concatenate(layouts, shapes, axis)

    def _attention(self, layouts: list[Layout], called: Any) -> Layout | None:
        """softmax(q kᵀ) v: q and k are multiplied channel by channel, the result has v's channels."""
        if len(layouts) != 3:
            return None
        q, k, v = layouts
        if isinstance(called, Heads):  # (1, heads · d): one block per head
            if any(x.shape[-1] % called.heads for x in (q, k, v)):
                return None
            q, k, v = (x.reshape(*x.shape[:-1], called.heads, -1).swapaxes(0, 1) for x in (q, k, v))
        if not self._contract(q, k) or not self._share_blocks(q, v):
            return None
        return layouts[2]

    def _contract(self, q: Layout, k: Layout) -> bool:
        """Tie what a product multiplies along the last axis of both."""
        if q.shape != k.shape or not bool((q >= 0).all() and (k >= 0).all()):
            return bool((q < 0).all() and (k < 0).all())
        self.ids.tie(q, k)
        return True

    def _share_blocks(self, q: Layout, v: Layout) -> bool:
        """Slices along the first axis (heads) of queries and of values are blocks with one number."""
        if q.ndim >= 2 and v.ndim >= 2 and q.shape[0] == v.shape[0] and q.shape[0] > 1:
            for mine, values in zip(q, v, strict=True):
                self.blocks.extend(self.blocks.block(mine), values)
        return True

    def _product(
        self, node: fx.Node, known: list[tuple[Layout | None, tuple[int, ...] | None]], shape: tuple[int, ...]
    ) -> Layout | None:
        """A matrix product of activations: `q @ kᵀ` gives an attention map, `map @ v` has v's channels."""
        if len(known) != 2 or len(node.args) < 2 or known[0][0] is None or known[1][0] is None:
            return None
        pair = [self.layouts[cast(fx.Node, a)] for a in node.args[:2]]
        if any(layout is None or layout.ndim < 2 for layout in pair):
            return None
        a, b = cast(Layout, pair[0]), cast(Layout, pair[1]).swapaxes(-1, -2)
        if a.shape[-1] > 1 and a.shape[-2] == 1 and b.shape[-2] == 1:
            map_layout = np.full((1,) * (len(shape) - 1), CONSTANT, dtype=np.int64)
            if not self._contract(a, b):
                return None
            self._apart(a)
            return map_layout
        if a.shape[-1] == 1 and b.shape[-1] == 1 and bool((a == CONSTANT).all()):
            self._apart(b)
            return b.swapaxes(-1, -2)
        return None

    def _apart(self, layout: Layout) -> None:
        """Channels of different heads don't change places."""
        if layout.ndim >= 2 and layout.shape[0] > 1:
            for head in layout:
                self.blocks.block(head)

    def _weight_layer(self, node: fx.Node, called: nn.Module, source: fx.Node | None) -> str | None:
        name, where = str(node.target), describe(node, self.module)
        if source is None:
            return f"{where} reads a value that does not come from the input"
        if isinstance(called, Recurrence):
            return self._recurrence(node, called, source)
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
            rows = self._fresh(int(cast(Tensor, called.weight).shape[0]))
            groups = int(cast(Any, getattr(called, "groups", 1)))
            self.drafts[name] = draft = _Draft(name, called, rows, columns, positions, [node.name], groups)
            if groups > 1:
                self._grouped(draft, where)
        else:
            draft.nodes.append(node.name)
            self._same_columns(draft, columns, where)
        out_axis = len(output) - 2 if isinstance(called, nn.Linear) else 0
        self.layouts[node] = lay.feature_layout(draft.rows, len(output) - 1, out_axis)
        return None

    def _grouped(self, draft: _Draft, where: str) -> None:
        """A depthwise convolution passes channels on; any other grouped one pairs its groups as wholes."""
        columns = draft.columns
        if columns is None or bool((columns < 0).any()):
            self._freeze(draft.rows, f"{where} is a grouped convolution on values that are not channels of a layer")
            self._freeze(columns, f"{where} is a grouped convolution that reads more than channels of a layer")
            draft.columns = None
        elif len(draft.rows) == len(columns) == draft.groups:
            draft.depthwise = True
            self.ids.tie(columns, draft.rows)
        else:
            pairs = zip(np.split(columns, draft.groups), np.split(draft.rows, draft.groups), strict=True)
            for inputs, outputs in pairs:
                self.blocks.extend(self.blocks.block(inputs), outputs)

    def _recurrence(self, node: fx.Node, called: Recurrence, source: fx.Node) -> str | None:
        """All gates of a hidden unit are one channel, which the layer reads again in the next step."""
        layout, output = self.layouts[source], self._shape(node)
        assert output is not None
        units = self._fresh(output[-1])
        rows = np.tile(units, called.gates)
        gates = None if layout is None else lay.along(layout, layout.ndim - 1)
        if gates is not None and len(gates) == len(rows):
            self._add(gates, rows)
        draft = _Draft(str(node.target), called, rows, units, len(units), [node.name])
        self.drafts[draft.name] = draft
        self.layouts[node] = lay.feature_layout(units, len(output) - 1, len(output) - 2)
        return None if gates is not None else f"{describe(node, self.module)} reads gates along another axis"

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
        blocks, cells = self.blocks.settle(self.ids), self.cells.settle(self.ids)
        self._check_blocks(drafts, blocks)
        group_of, members = self._groups(drafts)
        frozen_roots = {self.ids.root(identifier): reason for identifier, reason in sorted(self.frozen.items())}
        numbering: dict[int, tuple[int, int]] = {}
        for g, roots in enumerate(members):
            numbering |= {root: (g, channel) for channel, root in enumerate(roots)}
        layers = tuple(self._layer(draft, group_of[draft.name], numbering) for draft in drafts)
        groups = []
        for g, roots in enumerate(members):
            roles = channel_roles(layers, g, len(roots))
            apart = [(blocks.get(root, -1), cells.get(root, -1), roles[c]) for c, root in enumerate(roots)]
            groups.append(self._group(g, roots, layers, frozen_roots, apart))
        offsets = tuple(int(x) for x in np.cumsum([0, *map(len, members)])[:-1])
        places = {
            node.name: self._numbered(layout, numbering, offsets)
            for node, layout in self.layouts.items()
            if layout is not None and node not in self.constants
        }
        return ChannelGraph(self.network, layers, tuple(groups), places, offsets)

    def _numbered(self, layout: Layout, numbering: dict[int, tuple[int, int]], offsets: tuple[int, ...]) -> Layout:
        flat = []
        for root in self.ids.roots(layout).reshape(-1):
            g, c = numbering.get(int(root), (-1, 0))
            flat.append(offsets[g] + c if g >= 0 else int(root))
        return np.array(flat, dtype=np.int64).reshape(layout.shape)

    def _check_blocks(self, drafts: list[_Draft], blocks: dict[int, int]) -> None:
        """A grouped convolution's groups must be whole blocks, also after others divided the same channels."""
        sizes: dict[int, int] = {}
        for number in blocks.values():
            sizes[number] = sizes.get(number, 0) + 1
        for draft in drafts:
            if draft.groups == 1 or draft.depthwise or draft.columns is None:
                continue
            roots = self.ids.roots(draft.columns)
            per_group = [set(part.tolist()) for part in np.split(roots, draft.groups)]
            taken = [{blocks[root] for root in part} for part in per_group]
            merged = len(set().union(*taken)) < draft.groups or any(len(numbers) > 1 for numbers in taken)
            if merged:
                reason = f"{draft.name} divides channels that another layer divides otherwise"
                self._freeze(draft.columns, reason)
                self._freeze(draft.rows, reason)

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
        own = (PRIVATE, CONSTANT)
        places = [numbering[int(c)] if c >= 0 else (PRIVATE if c in own else COMMON, 0) for c in columns]
        convolution = not isinstance(module, nn.Linear | Recurrence)
        kernel = tuple(cast(Any, module).kernel_size) if convolution else ()
        setting = tuple(str(getattr(module, key, None)) for key in ("stride", "padding", "dilation", "padding_mode"))
        return WeightLayer(
            draft.name,
            type(module).__name__.lower() if not isinstance(module, Recurrence) else module.kind,
            tuple(draft.nodes),
            len(draft.rows),
            kernel,
            module.bias is not None,
            setting,
            group,
            np.array([numbering[int(r)][1] for r in self.ids.roots(draft.rows)], dtype=np.int64),
            np.array([g for g, _ in places], dtype=np.int64),
            np.array([c for _, c in places], dtype=np.int64),
            draft.groups,
            draft.depthwise,
            self.sums.root(int(draft.rows[0])),
        )

    def _group(
        self,
        g: int,
        roots: list[int],
        layers: tuple[WeightLayer, ...],
        frozen: dict[int, str],
        apart: list[tuple[int, int, tuple[int, ...]]],
    ) -> ChannelGroup:
        producers = tuple(layer.name for layer in layers if layer.group == g)
        consumers = tuple(layer.name for layer in layers if (layer.column_groups == g).any() and not layer.depthwise)
        reasons = [frozen[root] for root in roots if root in frozen]
        reason = HEAD if HEAD in reasons else (reasons[0] if reasons else None)
        numbers: Indices = np.array([block for block, _, _ in apart], dtype=np.int64)
        both = sorted(set(apart))
        cells: Indices = np.array([both.index(pair) for pair in apart], dtype=np.int64)
        return ChannelGroup(
            producers[0],
            len(roots),
            producers,
            consumers,
            reason,
            numbers if bool((numbers >= 0).any()) else None,
            cells if len(both) > 1 else None,
        )
