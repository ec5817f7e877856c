"""Merged layers fitted anew, one after the other, to what the parents read and write there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtz_core.baselines.kinds import Fit, Fitting
from mtz_core.baselines.lockstep import as_samples, channel_axis
from mtz_core.baselines.merged import MergedLayer, MergedNetwork
from mtz_core.baselines.parents import Parents
from mtz_core.calibration.rows import place_count, rows_at
from mtz_core.errors import SpecError
from mtz_core.graph.channels import WeightLayer
from mtz_core.graph.execution import apply_layer
from mtz_core.structure.networks import HEAD, RECURRENT


@dataclass(frozen=True)
class Batch:
    """What a layer reads and writes in every parent for some images of task `task`."""

    task: int
    layer: MergedLayer
    module: nn.Module
    given: Sequence[Tensor]
    written: Sequence[Tensor]

    def inputs(self, tasks: Sequence[int]) -> Tensor:
        """Input rows (m, d) of the merged layer, a feature being the average of its channels in the networks `tasks`.

        What none of them has is zero.
        """
        x = _averaged(self.given, self.layer.columns, self.layer.inputs, tasks, self.layer.layer)
        places = torch.arange(place_count(self.module, x)).expand(len(x), -1)
        dense = isinstance(self.module, nn.Linear)
        return rows_at(self.layer.layer, self.module, x, None if dense else places).flatten(0, 1)

    def outputs(self, tasks: Sequence[int]) -> Tensor:
        """What is written, (m, features), likewise."""
        y = _averaged(self.written, self.layer.rows, len(self.layer.members), tasks, self.layer.layer)
        return as_samples(y, self.layer.layer)


def refit(network: MergedNetwork, parents: Parents, fitting: Fitting, batch_size: int) -> None:
    """Give every hidden merged layer the weights that a `Fitting` finds; activations of all images are held at a time.

    Raises `SpecError` for recurrent layers, which make inputs of their own.
    """
    order, joint = parents.lockstep.order[: parents.extent.cut], parents.joint
    hidden = {index for index in order if joint.groups[joint.layers[index].group].frozen != HEAD}
    for index in sorted(hidden):
        if joint.layers[index].kind in RECURRENT:
            raise SpecError(
                f"{joint.layers[index].name} is recurrent; methods that fit layers anew have no rule for it"
            )
    left, fits = Counter(order), dict[int, Fit]()
    with torch.no_grad():
        batches = [(t, batch) for t, images in enumerate(parents.images) for batch in torch.split(images, batch_size)]
        walks = [(t, parents.lockstep.walk(batch)) for t, batch in batches]
        arrived = [next(walk)[1] for _, walk in walks]
        for call, index in enumerate(order):
            matrices, layer = parents.matrices(index), network.layer(index)
            modules = [parents.lockstep.module(call, t) for t in range(joint.tasks)]
            if index in hidden and index not in fits:
                fits[index] = fitting(layer, matrices)
            following = []
            for (task, walk), given in zip(walks, arrived, strict=True):
                members = joint.layers[index].members
                written = [apply_layer(*one) for one in zip(modules, members, matrices, given, strict=True)]
                if index in hidden:
                    fits[index].add(Batch(task, layer, modules[0], given, written))
                if call + 1 < len(parents.lockstep.order):
                    following.append(walk.send(written)[1])
            arrived = following
            left[index] -= 1
            if index in hidden and not left[index]:
                layer.take(fits.pop(index).weight())


def _averaged(
    values: Sequence[Tensor], numbers: Sequence[Tensor], features: int, tasks: Sequence[int], layer: WeightLayer
) -> Tensor:
    """Average of the channels of each feature, along the channel axis of `values[t]`, over the networks `tasks`."""
    axis = channel_axis(layer, values[0])
    shape = list(values[0].shape)
    shape[axis] = features
    total, count = values[0].new_zeros(shape), values[0].new_zeros(features)
    for t in tasks:
        total.index_add_(axis, numbers[t], values[t])
        count.index_add_(0, numbers[t], values[t].new_ones(len(numbers[t])))
    wide = [1] * total.ndim
    wide[axis] = -1
    return total / count.clamp(min=1).view(wide)
