"""The end of the walk: tied channels become groups with one numbering, drafts become weight layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from torch import nn

from mtz_core.graph.channels import PRIVATE, ChannelGraph, ChannelGroup, Indices, WeightLayer, channel_roles
from mtz_core.graph.drafts import Draft, settle_banks
from mtz_core.graph.layout import COMMON, CONSTANT, Layout, are_pairs
from mtz_core.graph.recurrent import Recurrence
from mtz_core.graph.sources import TracedNetwork
from mtz_core.graph.ties import Ties, UnionFind
from mtz_core.structure.networks import HEAD

Numbering = Mapping[int, tuple[int, int]]
"""Root of a channel → its group, and its number in it."""


def numbered(
    network: TracedNetwork, ties: Ties, drafts: dict[str, Draft], layouts: Mapping[str, Layout]
) -> ChannelGraph:
    """Return the channel graph; `layouts` has the layout of every node that holds channels, by the node's name.

    Kept are layouts of channels that lie within an image.
    """
    listed = list(drafts.values())
    blocks = settle_banks(ties, listed)
    cells = ties.cells.settle(ties.ids)
    group_of, members = _members(ties, listed)
    frozen = {ties.ids.root(identifier): reason for identifier, reason in sorted(ties.frozen.items())}
    numbering: dict[int, tuple[int, int]] = {}
    for g, roots in enumerate(members):
        numbering |= {root: (g, channel) for channel, root in enumerate(roots)}
    layers = tuple(_layer(ties, draft, group_of[draft.name], numbering) for draft in listed)
    groups = []
    for g, roots in enumerate(members):
        roles = channel_roles(layers, g, len(roots))
        apart = [(blocks.get(root, -1), cells.get(root, -1), roles[c]) for c, root in enumerate(roots)]
        groups.append(_group(g, roots, layers, frozen, apart, ties.marks))
    offsets = tuple(int(x) for x in np.cumsum([0, *map(len, members)])[:-1])
    within = {name: layout[0] for name, layout in layouts.items() if _is_kept(layout)}
    kept = {name: _renumbered(ties, layout, numbering, offsets) for name, layout in within.items()}
    return ChannelGraph(network, layers, tuple(groups), kept, offsets)


def _members(ties: Ties, drafts: Sequence[Draft]) -> tuple[dict[str, int], list[list[int]]]:
    """Layers whose channels are tied share a group; a group's channels are its distinct roots, in order."""
    joined = UnionFind()
    joined.fresh(len(drafts))
    owner: dict[int, int] = {}
    roots = [ties.ids.roots(draft.rows) for draft in drafts]
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


def _is_kept(layout: Layout) -> bool:
    return layout.ndim > 0 and len(layout) == 1 and not are_pairs(layout).any()


def _renumbered(ties: Ties, layout: Layout, numbering: Numbering, offsets: Sequence[int]) -> Layout:
    """A layout with the number of each channel in the whole network."""
    flat = []
    for root in ties.ids.roots(layout).reshape(-1):
        g, c = numbering.get(int(root), (-1, 0))
        flat.append(offsets[g] + c if g >= 0 else min(int(root), CONSTANT if root >= 0 else COMMON))
    return np.array(flat, dtype=np.int64).reshape(layout.shape)


def _layer(ties: Ties, draft: Draft, group: int, numbering: Numbering) -> WeightLayer:
    module = draft.module
    columns = np.full(draft.positions, PRIVATE) if draft.columns is None else ties.ids.roots(draft.columns)
    own = (PRIVATE, CONSTANT)
    nowhere = (PRIVATE, 0)
    reads = [numbering.get(int(c), nowhere) if c >= 0 else (PRIVATE if c in own else COMMON, 0) for c in columns]
    convolution = not isinstance(module, nn.Linear | Recurrence)
    kernel = tuple(cast(Any, module).kernel_size) if convolution else ()
    setting = tuple(str(getattr(module, key, None)) for key in ("stride", "padding", "dilation", "padding_mode"))
    return WeightLayer(
        draft.name,
        str(getattr(module, "kind", type(module).__name__.lower())),
        tuple(draft.nodes),
        len(draft.rows),
        kernel,
        module.bias is not None,
        setting,
        group,
        np.array([numbering[int(r)][1] for r in ties.ids.roots(draft.rows)], dtype=np.int64),
        np.array([g for g, _ in reads], dtype=np.int64),
        np.array([c for _, c in reads], dtype=np.int64),
        draft.groups,
        draft.depthwise,
        ties.sums.root(int(draft.rows[0])),
        draft.why,
    )


def _group(
    g: int,
    roots: Sequence[int],
    layers: Sequence[WeightLayer],
    frozen: Mapping[int, str],
    apart: Sequence[tuple[int, int, tuple[int, ...]]],
    marks: Mapping[int, int],
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
        np.array([marks.get(root, -1) for root in roots], dtype=np.int64) if marks.keys() & set(roots) else None,
    )
