"""One layer's calibration: moments of its inputs, and the images on which each of its neurons fires most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.bankwork import BankMoments
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
    """Moments of a layer's inputs; `top_images` and `top_values` are (n, m), strongest first."""

    moments: Moments | BankMoments
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
    peaks: bool = True,
) -> Calibrated:
    """Send the stream's images up to `layer` and accumulate.

    Args:
        graph: channel graph of the task.
        layer: the layer, of that graph.
        stream: calibration images, then evaluation images.
        matrices: the task's weights in the partly zipped network.
        columns: the layer's shared columns, (k,); a grouped convolution keeps the moments of all its columns.
        halves: half 0 or 1 of every calibration image.
        positions: see `ZipSpec.positions`.
        generator: source of sampled positions.
        peaks: whether to look for the images on which neurons fire most.
    """
    module = graph.network.module.get_submodule(layer.name)
    matrix = matrices(layer.name).detach()
    picked = torch.as_tensor(columns, device=matrix.device)
    all_columns = len(columns) == layer.columns and bool((columns == np.arange(layer.columns)).all())
    moments = Moments(len(columns)) if layer.groups == 1 else BankMoments(layer.groups, layer.columns)
    pool = min(TOP_POOL, len(halves)) if peaks else 0
    best_values = torch.full((pool, layer.width), -torch.inf)
    for node in layer.nodes:
        for where, x in stream.inputs(node, matrices):
            rows = input_rows(layer, module, x, positions, generator, matrix)
            part = torch.full((len(x),), EVALUATION)
            part[: len(halves[where])] = halves[where]
            for k in range(3):
                chosen = rows[(part == k).to(rows.device)].flatten(0, 1)
                if not len(chosen):
                    continue
                if isinstance(moments, BankMoments):
                    moments.add(k, chosen)
                else:
                    moments.parts[k].add(chosen if all_columns else chosen[:, picked])
            shown = rows[: max(0, pool - where.start)]
            if len(shown):
                known = best_values[where.start : where.start + len(shown)]
                known.copy_(torch.maximum(known, _outputs(shown, matrix).amax(1).float().cpu()))
    if not pool:
        nothing = np.empty((layer.width, 0), dtype=np.int64)
        return Calibrated(moments, nothing, nothing.astype(np.float32))
    best = best_values.topk(min(TOP_IMAGES, pool), dim=0)
    return Calibrated(moments, best.indices.mT.contiguous().numpy(), best.values.mT.contiguous().numpy())


def _outputs(rows: Tensor, matrix: Tensor) -> Tensor:
    """Pre-activations (N, P, n) for input rows (N, P, d), or (N, P, B, d) of a grouped convolution."""
    if rows.ndim == 3:
        return rows @ matrix.mT
    banks = matrix.reshape(rows.shape[2], -1, matrix.shape[1])
    return torch.einsum("npbd,bkd->npbk", rows, banks).flatten(2)
