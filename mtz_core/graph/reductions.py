"""Sums, means, norms and extremes over axes: of places, of all channels, or of channels that are added up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtz_core.graph.layout import COMMON, Layout
from mtz_core.graph.record import Call, Shape
from mtz_core.graph.ties import Ties


def reduced(ties: Ties, call: Call, source: Layout, before: Shape, after: Shape) -> Layout | None:
    """Layout after a reduction; `None`: not known.

    Over axes along which no channel varies, channels stay. Over all channels, in whichever order, the result is one
    value that means the same in every task; the channels may be permuted among themselves only. Over one of several
    axes along which channels vary (the splits of a split attention), those that become one value are tied.
    """
    axes = _axes(call, len(before))
    if axes is None:
        return None
    varied = [a for a in axes if source.shape[a] > 1]
    if varied and bool((source < 0).any()):
        return None
    rest = [n for a, n in enumerate(source.shape) if a not in axes]
    if varied and all(n == 1 for n in rest):
        ties.cell(source)
        source = np.full((1,) * source.ndim, COMMON, dtype=np.int64)
    elif varied:
        kept = source[tuple(slice(0, 1) if a in axes else slice(None) for a in range(source.ndim))]
        ties.tie(np.broadcast_to(kept, source.shape), source)
        source = kept
    return source if len(after) == len(before) else source.reshape(rest)


def _axes(call: Call, rank: int) -> list[int] | None:
    """The axes that are named."""
    assert call.operation is not None
    axes = call.setting("dim", call.operation.axes_at)
    listed = [axes] if isinstance(axes, int) else list(axes) if isinstance(axes, Sequence) else []
    named = sorted(int(a) % rank for a in listed if isinstance(a, int))
    return named if named and len(named) == len(listed) else None
