"""What a layer puts out for given inputs, before its activation function, at the same places of every input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtz_core.calibration.rows import by_image, place_count, rows_at
from mtz_core.calibration.stream import Stream
from mtz_core.graph.channels import ChannelGraph, WeightLayer
from mtz_core.graph.execution import Matrices, apply_layer
from mtz_core.graph.recurrent import Recurrence


@dataclass(frozen=True)
class Reader:
    """Reads a layer of one network, for inputs on their way (`stream`), with the weights `matrices`."""

    graph: ChannelGraph
    layer: WeightLayer
    stream: Stream
    matrices: Matrices

    @property
    def module(self) -> nn.Module:
        """The layer's module, for its setting."""
        return self.graph.network.module.get_submodule(self.layer.name)

    def outputs(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield for every batch which inputs it holds, and the outputs (N, P, n) at all places; a batch for each call.

        An LSTM's or GRU's outputs are what its gates get from the state before.
        """
        matrix = self.matrices(self.layer.name)
        for where, x in self._inputs():
            with torch.no_grad():
                if isinstance(self.module, Recurrence):
                    found = rows_at(self.layer, self.module, x, None, matrix) @ matrix.mT
                else:
                    found = apply_layer(self.module, self.layer, matrix, x)
                    if isinstance(self.module, nn.Linear):
                        found = found.reshape(len(found), -1, found.shape[-1])
                    else:
                        found = found.flatten(2).mT
            yield where, by_image(found, where.stop - where.start)

    def rows(self, count: int) -> Iterator[Tensor]:
        """Yield for every batch input rows (m, d), or (m, banks, d), at up to `count` places of each window."""
        matrix = self.matrices(self.layer.name)
        for _, x in self._inputs():
            chosen = some_places(place_count(self.module, x), count).to(x.device)
            with torch.no_grad():
                yield rows_at(self.layer, self.module, x, chosen.expand(len(x), -1), matrix).flatten(0, 1)

    def neuron(self, number: int, count: int) -> tuple[Tensor, Tensor]:
        """Outputs of one neuron at up to `count` places (N, P), and the largest over all places (N,); calls follow."""
        calls: list[Tensor] = []
        peaks = torch.full((len(self.stream.images),), -torch.inf)
        for where, found in self.outputs():
            values = found[:, :, number].float().cpu()
            peaks[where] = torch.maximum(peaks[where], values.amax(1))
            chosen = values[:, some_places(values.shape[1], count)]
            if where.start == 0:
                calls.append(chosen.new_zeros(len(peaks), chosen.shape[1]))
            calls[-1][where] = chosen
        return torch.cat(calls, 1), peaks

    def _inputs(self) -> Iterator[tuple[slice, Tensor]]:
        for node in self.layer.nodes:
            for where, (x, _) in self.stream.inputs(node, self.matrices):
                yield where, x


def some_places(total: int, count: int) -> Tensor:
    """Numbers of up to `count` places out of `total`, evenly spread, in the middle of equal stretches.

    >>> some_places(9, 3)
    tensor([1, 4, 7])
    """
    most = min(total, count)
    return ((torch.arange(most) + 0.5) * (total / max(1, most))).long()
