"""What keeps channels from being permuted freely: values that are compared, and neighbours that become one."""

from __future__ import annotations

import numpy as np

from mtz_core.graph import layout as lay
from mtz_core.graph.layout import Layout
from mtz_core.graph.record import Call, Operation, Shape
from mtz_core.graph.ties import Ties


def note_cells(ties: Ties, call: Call, operation: Operation, layout: Layout, shape: Shape) -> None:
    """Note what keeps channels from being permuted freely."""
    mixed = None if operation.mixes is None else operation.mixes(call, len(shape))
    if mixed is not None and any(layout.shape[axis] > 1 for axis in mixed):
        last = np.moveaxis(layout, mixed, range(-len(mixed), 0))
        for cell in last.reshape(-1, int(np.prod(last.shape[-len(mixed) :]))):
            ties.cell(cell)
    count = None if operation.cells is None else operation.cells(call, shape[1])
    if count is None or count <= 1:
        return
    if layout.shape[1] == shape[1]:
        for cell in np.split(layout, count, axis=1):
            ties.cell(cell)
    elif any(size > 1 for size in layout.shape):
        ties.cell(layout)


def unite(ties: Ties, layout: Layout, count: int) -> None:
    """Every `count` neighbouring channels are one from here on, and where they come from."""
    ids = lay.along(layout, 1)
    if ids is not None and len(ids) > 1 and len(ids) % count == 0 and not (ids < 0).any():
        apart = ids.reshape(-1, count)
        ties.tie(apart[:, 1:], np.broadcast_to(apart[:, :1], (len(apart), count - 1)))
