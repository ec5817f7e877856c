"""Weight layers while a graph is walked: the channels that each writes, and those that it reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from mtz_core.graph import layout as lay
from mtz_core.graph.layout import COMMON, Layout
from mtz_core.graph.record import Call, Shape
from mtz_core.graph.recurrent import Recurrence
from mtz_core.graph.ties import Ties


@dataclass
class Draft:
    """A weight layer while the graph is walked; `columns` is `None` if its input has no layout."""

    name: str
    module: nn.Module
    rows: Layout
    columns: Layout | None
    positions: int
    nodes: list[str]
    groups: int = 1
    depthwise: bool = False
    why: str = "reads values that no rule explains"
    """Why columns are private, where they are."""


def layer_called(
    ties: Ties, drafts: dict[str, Draft], call: Call, layout: Layout | None, shape: Shape, output: Shape
) -> Layout | str:
    """Note a weight layer's call; return its output's layout, or why it has none.

    `layout` and `shape` are those of its input, `output` is the shape of its output.
    """
    module, where = cast(nn.Module, call.called), call.described()
    if isinstance(module, Recurrence):
        return _recurrence(ties, drafts, call, layout, output)
    axis = len(shape) - 1 if isinstance(module, nn.Linear) else 1
    if not isinstance(module, nn.Linear) and len(shape) != cast(Tensor, module.weight).ndim:
        return f"{where} is called on a single image without a batch axis"
    positions = shape[axis]
    columns, beside = (None, None) if layout is None else _read(ties, module, layout, axis)
    if layout is not None and columns is None:
        ties.freeze(layout, f"{where} reads channels along another axis")
    if columns is not None:
        columns = np.broadcast_to(columns, (positions,)).copy()
    name = str(call.node.target)
    draft = drafts.get(name)
    if draft is None:
        rows = ties.fresh(int(cast(Tensor, module.weight).shape[0]))
        groups = int(cast(Any, getattr(module, "groups", 1)))
        drafts[name] = draft = Draft(name, module, rows, columns, positions, [call.node.name], groups)
        if groups > 1:
            _grouped(ties, draft, where)
    else:
        draft.nodes.append(call.node.name)
        _called_again(ties, draft, columns, where)
    out_axis = len(output) - 1 if isinstance(module, nn.Linear) else 1
    written = lay.feature_layout(draft.rows, len(output), out_axis)
    if beside is None:
        return written
    if not _point_by_point(module):
        ties.pin(beside)
    return lay.pair(beside, written)


def _read(ties: Ties, module: nn.Module, layout: Layout, axis: int) -> tuple[Layout | None, Layout | None]:
    """What a layer reads along its axis, and the channels beside which it does so, if there are such.

    A layer that mixes the places of every channel (token mixing, a convolution over channels as places) reads the same
    places in all tasks; what it writes belongs to its own channel and to that which it was mixed within. Channels that
    it reads through the same weights at different places are tied.
    """
    columns = lay.along(layout, axis)
    if columns is not None and not lay.are_pairs(columns).any():
        return columns, None
    if int(getattr(module, "groups", 1)) > 1 or bool((layout < 0).any()) or not _keeps_places(module):
        return None, None
    found = lay.apart(layout)
    if found is not None:
        one, two = found if found[1].shape[axis] > 1 else found[::-1]
        return (lay.along(two, axis), one) if one.shape[axis] == 1 else (None, None)
    if layout.shape[axis] == 1:
        return np.array([COMMON]), layout
    first = layout[tuple(slice(None) if k == axis else slice(0, 1) for k in range(layout.ndim))]
    ties.tie(np.broadcast_to(first, layout.shape), layout)
    return first.reshape(-1), None


def _keeps_places(module: nn.Module) -> bool:
    """Whether a layer writes as many places as it reads."""
    if isinstance(module, nn.Linear):
        return True
    conv = cast(Any, module)
    pads = conv._reversed_padding_repeated_twice[::-1]
    added = [one + two for one, two in zip(pads[::2], pads[1::2], strict=True)]
    lost = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    return added == lost and all(step == 1 for step in conv.stride)


def _point_by_point(module: nn.Module) -> bool:
    """Whether a layer mixes nothing along the axes of space."""
    return isinstance(module, nn.Linear) or all(k == 1 for k in cast(Any, module).kernel_size)


def _grouped(ties: Ties, draft: Draft, where: str) -> None:
    """A depthwise convolution passes channels on; any other grouped one pairs its groups as wholes."""
    columns = draft.columns
    if columns is None or bool((columns < 0).any()):
        ties.freeze(draft.rows, f"{where} is a grouped convolution on values that are not channels of a layer")
        ties.freeze(columns, f"{where} is a grouped convolution that reads more than channels of a layer")
        draft.columns = None
    elif len(draft.rows) == len(columns) == draft.groups:
        draft.depthwise = True
        ties.tie(columns, draft.rows)
    else:
        pairs = zip(np.split(columns, draft.groups), np.split(draft.rows, draft.groups), strict=True)
        for inputs, outputs in pairs:
            ties.block(inputs, outputs)


def settle_banks(ties: Ties, drafts: Iterable[Draft]) -> dict[int, int]:
    """Channel root → block, after the walk: the banks of a grouped convolution are to be whole blocks.

    Where the channels that two banks write are tied (they are added up) or others divide the channels otherwise, banks
    keep their order instead: channels are paired within banks of one number. Only a convolution of which every bank
    reads a single channel then keeps its weights private, as that would leave nothing to choose.
    """
    blocks = ties.blocks.settle(ties.ids)
    for draft in drafts:
        if draft.groups == 1 or draft.depthwise or draft.columns is None:
            continue
        reads, writes = (_banks(ties, ids, draft.groups) for ids in (draft.columns, draft.rows))
        taken = [{blocks[root] for root in bank} for bank in reads]
        if len(set().union(*taken)) == draft.groups and all(len(numbers) == 1 for numbers in taken):
            continue
        if any(len(bank) == 1 for bank in reads) or not _disjoint(reads):
            draft.why = f"{draft.name} divides channels that another layer divides otherwise"
            ties.pin(draft.columns)
            ties.pin(draft.rows)
            draft.columns = None
            continue
        for banks in (reads, writes) if _disjoint(writes) else (reads,):
            for number, bank in enumerate(banks):
                ties.cell(np.array(sorted(bank)))
                for root in bank:
                    ties.marks[root] = ties.marks.get(root, 0) * draft.groups + number
    return blocks


def _banks(ties: Ties, ids: Layout, groups: int) -> list[set[int]]:
    """Roots of the channels of every bank."""
    return [set(part.tolist()) for part in np.split(ties.ids.roots(ids), groups)]


def _disjoint(banks: Sequence[set[int]]) -> bool:
    return sum(map(len, banks)) == len(set().union(*banks))


def _recurrence(ties: Ties, drafts: dict[str, Draft], call: Call, layout: Layout | None, output: Shape) -> Layout | str:
    """All gates of a hidden unit are one channel, which the layer reads again in the next step."""
    module, name = cast(Recurrence, call.called), str(call.node.target)
    units = ties.fresh(output[-1])
    rows = np.tile(units, module.gates)
    gates = None if layout is None else lay.along(layout, layout.ndim - 1)
    if gates is not None and len(gates) == len(rows):
        ties.add(gates, rows)
    drafts[name] = Draft(name, module, rows, units, len(units), [call.node.name])
    if gates is None:
        return f"{call.described()} reads gates along another axis"
    return lay.feature_layout(units, len(output), len(output) - 1)


def _called_again(ties: Ties, draft: Draft, columns: Layout | None, where: str) -> None:
    """A layer that is called again reads other channels through the same weights: tie them."""
    tied = None
    if draft.columns is not None and columns is not None:
        tied = lay.combine(draft.columns, columns, ties.tie)
    if tied is None:
        for layout in (draft.columns, columns):
            ties.freeze(layout, f"{where} is called on different kinds of input")
    draft.columns = tied
