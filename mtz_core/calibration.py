"""One layer's calibration: moments of its inputs, and the images on which each of its neurons fires most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.graph.channels import ChannelGraph, WeightLayer
from mtz_core.moments import Moments, input_rows
from mtz_core.stream import Stream

TOP_IMAGES = 8
TOP_POOL = 512
"""How many calibration images take part in "on which images does this neuron fire most"."""
EVALUATION = 2
"""Part of the stream that holds evaluation images; 0 and 1 are the halves of the calibration set."""


@dataclass(frozen=True)
class Calibrated:
    """Moments over the shared columns; `top_images` and `top_values` are (n, m), strongest first."""

    moments: Moments
    top_images: NDArray[np.int64]
    top_values: NDArray[np.float32]


def calibrate_layer(
    graph: ChannelGraph,
    layer: WeightLayer,
    stream: Stream,
    matrices: Callable[[str], Tensor],
    columns: NDArray[np.int64],
    halves: Tensor,
    positions: int | None,
    generator: torch.Generator,
) -> Calibrated:
    """Send the stream's images up to `layer` and accumulate.

    Args:
        graph: channel graph of the task.
        layer: the layer, of that graph.
        stream: calibration images, then evaluation images.
        matrices: the task's weights in the partly zipped network.
        columns: the layer's shared columns, (k,).
        halves: half 0 or 1 of every calibration image.
        positions: see `ZipSpec.positions`.
        generator: source of sampled positions.
    """
    module = graph.network.module.get_submodule(layer.name)
    matrix = matrices(layer.name).detach()
    picked = torch.as_tensor(columns, device=matrix.device)
    all_columns = len(columns) == layer.columns and bool((columns == np.arange(layer.columns)).all())
    moments = Moments(len(columns))
    pool = min(TOP_POOL, len(halves))
    peaks = torch.full((pool, layer.width), -torch.inf)
    for node in layer.nodes:
        for where, x in stream.inputs(node, matrices):
            rows = input_rows(layer, module, x, positions, generator)
            part = torch.full((len(x),), EVALUATION)
            part[: len(halves[where])] = halves[where]
            for k, accumulator in enumerate(moments.parts):
                chosen = rows[(part == k).to(rows.device)].flatten(0, 1)
                if len(chosen):
                    accumulator.add(chosen if all_columns else chosen[:, picked])
            shown = rows[: max(0, pool - where.start)]
            if len(shown):
                known = peaks[where.start : where.start + len(shown)]
                known.copy_(torch.maximum(known, (shown @ matrix.mT).amax(1).float().cpu()))
    best = peaks.topk(min(TOP_IMAGES, pool), dim=0)
    return Calibrated(moments, best.indices.mT.contiguous().numpy(), best.values.mT.contiguous().numpy())
