"""Statistics of merged features restored: averaged channels vary less than what they were averaged from.

Jordan, Sedghi, Saukh, Entezari, Neyshabur, *REPAIR: REnormalizing Permuted Activations for Interpolation Repair*
(ICLR 2023; arXiv 2211.08403) rescale every channel so that its mean and standard deviation are the averages of the
parents'; ZipIt (Stoica et al., ICLR 2024) resets BatchNorm statistics on the data of all tasks to the same end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtz_core.baselines.lockstep import as_samples, channel_axis
from mtz_core.baselines.merged import MergedLayer, MergedNetwork
from mtz_core.baselines.observation import Running, Statistics

CONSTANT = 1e-4
"""A merged feature whose deviation is below this part of the wanted one keeps its scale: it is only noise."""


def reset_statistics(
    network: MergedNetwork, wanted: dict[int, list[Statistics]], images: Tensor, batch_size: int
) -> None:
    """Rescale features in place, layer by layer from the input on.

    Args:
        network: merged, with its averaged weights.
        wanted: layer number → per network, statistics of its outputs; layers that are not named stay as they are.
        images: the union of all tasks' calibration images, (N, ...); one set of statistics serves all tasks, because
            one trunk does. Live activations of all of them are held at a time.
        batch_size: images per batch.
    """
    lockstep = network.lockstep
    with torch.no_grad():
        walks = [lockstep.walk(batch) for batch in torch.split(images, batch_size)]
        arrived = [next(walk) for walk in walks]
        done: set[int] = set()
        for call, index in enumerate(lockstep.order[: network.cut]):
            layer = network.layer(index)
            written = [network.features(call, given) for _, given in arrived]
            if index in wanted and index not in done:
                gain, shift = _correction(layer, wanted[index], _statistics(written, layer))
                layer.rescale(gain, shift)
                for y in written:
                    shape = [1] * y.ndim
                    shape[channel_axis(layer.layer, y)] = -1
                    y.mul_(gain.to(y).view(shape))
                    if layer.layer.bias:
                        y.add_(shift.to(y).view(shape))
            done.add(index)
            if call + 1 < network.cut:
                arrived = [walk.send(layer.unmerge(y)) for walk, y in zip(walks, written, strict=True)]


def _statistics(written: Sequence[Tensor], layer: MergedLayer) -> Statistics:
    running = Running()
    for y in written:
        running.add(as_samples(y, layer.layer))
    return running.statistics()


def _correction(layer: MergedLayer, wanted: Sequence[Statistics], found: Statistics) -> tuple[Tensor, Tensor]:
    """Gain and shift that give every feature the average mean and deviation of its channels."""
    mean = layer.average([own.mean for own in wanted])
    deviation = layer.average([own.deviation for own in wanted])
    alive = found.deviation > CONSTANT * deviation
    gain = torch.where(alive, deviation / torch.where(alive, found.deviation, 1.0), 1.0)
    return gain, mean - gain * found.mean
