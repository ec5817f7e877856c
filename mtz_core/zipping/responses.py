"""What two neurons that are compared put out: in their parents, in the zipped network, and on each other's inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mtz_core.calibration.activations import Reader
from mtz_core.calibration.stream import Stream
from mtz_core.zipping.findings import Floats, Responses

if TYPE_CHECKING:
    from mtz_core.zipping.likeness import Both
    from mtz_core.zipping.prepare import Sample

IMAGES = 512
"""Calibration inputs of each task that take part."""
PLACES = 16
"""Places of every input at which outputs are set against each other."""
POINTS = 1000
"""Points of one task that are kept to be drawn; correlations are over all."""
TOP = 5
"""Inputs that excite a neuron most."""


def responses(both: Both, sample: Sample, index: int, t: int, neuron: int, u: int, partner: int) -> Responses:
    """Set the outputs of task t's neuron against those of task u's `partner`, on task t's inputs.

    Args:
        both: the networks; their inputs are the first of `sample`'s.
        sample: calibration inputs, with their numbers.
        index: number of the layer.
        t, neuron: task and neuron.
        u, partner: the other task and its neuron.
    """
    readers = both.readers(index, t)
    (own, peaks), (now, peaks_now) = (reader.neuron(neuron, PLACES) for reader in readers)
    other, why = _of_other(both, index, t, u, partner)
    pairs = [_points((own, peaks), (now, peaks_now))]
    pairs.append(
        _points((own, peaks), other) if other is not None else (pairs[0][0], np.full_like(pairs[0][0], np.nan))
    )
    count = len(pairs[0][0])
    some = np.linspace(0, count - 1, min(count, POINTS)).astype(np.int64)
    if len(pairs[1][0]) != count:  # by largest outputs only, one for each input: draw both so
        pairs[0] = (peaks.numpy(), peaks_now.numpy())
        some = np.linspace(0, len(peaks) - 1, min(len(peaks), POINTS)).astype(np.int64)
    before, after = (each.topk(min(TOP, len(each))).indices for each in (peaks, peaks_now))
    return Responses(
        points=np.stack([pairs[0][0], pairs[0][1], pairs[1][1]], axis=1)[some].astype(np.float32),
        likeness=(correlation(*pairs[0]), correlation(*pairs[1])),
        images=len(peaks),
        before=sample.chosen[t][before].numpy(),
        before_values=peaks[before].numpy(),
        after=sample.chosen[t][after].numpy(),
        after_values=peaks_now[after].numpy(),
        why=why,
    )


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's correlation; NaN where one does not vary, or is not known.

    >>> correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    1.0
    """
    x, y = (values.astype(np.float64) - values.astype(np.float64).mean() for values in (a, b))
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0 else math.nan


def _points(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Floats, Floats]:
    """Values at the same places, or, where two layers have other places, the largest of each input."""
    kind = 0 if a[0].shape == b[0].shape else 1
    return a[kind].flatten().numpy(), b[kind].flatten().numpy()


def _of_other(both: Both, index: int, t: int, u: int, partner: int) -> tuple[tuple[Tensor, Tensor] | None, str]:
    """Outputs of task u's neuron in its parent on task t's inputs, or why there are none."""
    graph, mine, theirs = both.parents.graphs[u], both.own[t].images, both.own[u].images
    if mine.shape[1:] != theirs.shape[1:] or mine.is_floating_point() != theirs.is_floating_point():
        shapes = " and ".join(str(tuple(x.shape[1:])) for x in (mine, theirs))
        return None, f"The two networks read different inputs, of shapes {shapes}, so neither can be given the other's."
    stream = Stream(both.parents.program(u), mine, both.own[u].batch_size, 0, both.job.device)
    reader = Reader(graph, graph.layers[index], stream, graph.matrices(both.job.device))
    try:
        found = reader.neuron(partner, PLACES)
    except IndexError:
        return None, "The two networks read different tokens, so neither can be given the other's inputs."
    if not bool(torch.isfinite(found[0]).all()):
        return None, "On the other task's inputs this neuron puts out numbers that are not finite."
    return found, ""
