"""Weight layers while a graph is walked: the channels that each writes, and those that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from mtz_core.graph import layout as lay
from mtz_core.graph.layout import Layout
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


def layer_called(
    ties: Ties, drafts: dict[str, Draft], call: Call, layout: Layout | None, shape: Shape, output: Shape
) -> Layout | str:
    """Note a weight layer's call; return its output's layout, or why it has none.

    `layout` and `shape` are those of its input, `output` is the shape of its output.
    """
    module, where = cast(nn.Module, call.called), call.described()
    if isinstance(module, Recurrence):
        return _recurrence(ties, drafts, call, layout, output)
    axis = len(shape) - 2 if isinstance(module, nn.Linear) else 0
    if not isinstance(module, nn.Linear) and len(shape) != cast(Tensor, module.weight).ndim:
        return f"{where} is called on a single image without a batch axis"
    positions = shape[axis + 1]
    columns = None if layout is None else lay.along(layout, axis)
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
    out_axis = len(output) - 2 if isinstance(module, nn.Linear) else 0
    return lay.feature_layout(draft.rows, len(output) - 1, out_axis)


def _grouped(ties: Ties, draft: Draft, where: str) -> None:
    """A depthwise convolution passes channels on; any other grouped one pairs its groups as wholes."""
    columns = draft.columns
    if columns is None or bool((columns < 0).any()):
        ties.freeze(draft.rows, f"{where} is a grouped convolution on values that are not channels of a layer")
        ties.freeze(columns, f"{where} is a grouped convolution that reads more than channels of a layer")
        draft.columns = None
    elif len(draft.rows) == len(columns) == draft.groups:
        draft.depthwise = True
        ties.ids.tie(columns, draft.rows)
    else:
        pairs = zip(np.split(columns, draft.groups), np.split(draft.rows, draft.groups), strict=True)
        for inputs, outputs in pairs:
            ties.blocks.extend(ties.blocks.block(inputs), outputs)


def check_blocks(ties: Ties, drafts: dict[str, Draft], blocks: dict[int, int]) -> None:
    """A grouped convolution's groups must be whole blocks, also after others divided the same channels."""
    for draft in drafts.values():
        if draft.groups == 1 or draft.depthwise or draft.columns is None:
            continue
        roots = ties.ids.roots(draft.columns)
        per_group = [set(part.tolist()) for part in np.split(roots, draft.groups)]
        taken = [{blocks[root] for root in part} for part in per_group]
        if len(set().union(*taken)) < draft.groups or any(len(numbers) > 1 for numbers in taken):
            reason = f"{draft.name} divides channels that another layer divides otherwise"
            ties.freeze(draft.columns, reason)
            ties.freeze(draft.rows, reason)


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
    return lay.feature_layout(units, len(output) - 1, len(output) - 2)


def _called_again(ties: Ties, draft: Draft, columns: Layout | None, where: str) -> None:
    """A layer that is called again reads other channels through the same weights: tie them."""
    tied = None
    if draft.columns is not None and columns is not None:
        tied = lay.combine(draft.columns, columns, ties.ids.tie)
    if tied is None:
        for layout in (draft.columns, columns):
            ties.freeze(layout, f"{where} is called on different kinds of input")
    draft.columns = tied
