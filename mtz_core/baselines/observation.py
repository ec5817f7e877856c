"""What the parents' channels do on the same images: covariances within a channel group, and outputs' mean and spread.

A group is observed either wherever a weight layer writes it, BatchNorm included and before the activation function, or
wherever a weight layer reads it, after the activation function. The covariances of all layers that write (or read) a
residual stream are added up; every one counts alike, whatever the size of its feature maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.baselines.extent import untouched
from mtz_core.baselines.kinds import Side
from mtz_core.baselines.lockstep import Lockstep, as_samples
from mtz_core.graph.channels import ChannelGraph, WeightLayer
from mtz_core.graph.execution import apply_layer


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of every row of a layer's output, (n,) each."""

    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True)
class Observation:
    """`covariances[g]` is (Σ n_t, Σ n_t), network by network; `outputs[index][t]` belongs to a weight layer."""

    covariances: dict[int, Tensor]
    outputs: dict[int, list[Statistics]]


class Running:
    """Mean and standard deviation of samples (m, n) that come in batches, in double precision."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, samples: Tensor) -> None:
        """Add a batch."""
        exact = samples.double()
        self.count += len(exact)
        self.total = self.total + exact.sum(0)
        self.squares = self.squares + exact.square().sum(0)

    def statistics(self) -> Statistics:
        """What was seen so far."""
        mean = self.total / self.count
        return Statistics(mean, (self.squares / self.count - mean.square()).clamp(min=0).sqrt())


class Observer:
    """Collects an `Observation` while the parents run.

    Args:
        graphs: channel graphs of the parents.
        groups: numbers of the channel groups to be observed.
        images: how many there will be in all.
        side: on which channels are looked at.
    """

    def __init__(self, graphs: Sequence[ChannelGraph], groups: Sequence[int], images: int, side: Side) -> None:
        self.graphs, self.images, self.side = graphs, images, side
        self.starts = {g: np.cumsum([0, *(graph.groups[g].width for graph in graphs)]) for g in groups}
        sizes = {g: int(starts[-1]) for g, starts in self.starts.items()}
        self.products = {g: torch.zeros(n, n, dtype=torch.float64) for g, n in sizes.items()}
        self.means: dict[tuple[int, int], Tensor] = {}
        self.outputs: dict[int, list[Running]] = {}

    def add(self, index: int, given: Sequence[Tensor], written: Sequence[Tensor]) -> None:
        """A batch that layer `index` reads and what it writes, one tensor per network."""
        layers = [graph.layers[index] for graph in self.graphs]
        outputs = [as_samples(y, layer).double() for y, layer in zip(written, layers, strict=True)]
        for mine, x in zip(self.outputs.setdefault(index, [Running() for _ in layers]), outputs, strict=True):
            mine.add(x)
        windows = max(_windows(graph, layer) for graph, layer in zip(self.graphs, layers, strict=True))
        share = len(written[0]) / (windows * self.images * len(layers[0].nodes))
        if self.side == "written":
            self._count(index, layers[0].group, [layer.rows for layer in layers], outputs, share)
            return
        inputs = [as_samples(x, layer).double() for x, layer in zip(given, layers, strict=True)]
        for g in np.unique(layers[0].column_groups):
            if int(g) in self.products:
                found = [by_channel(x, layer, int(g)) for x, layer in zip(inputs, layers, strict=True)]
                self._count(index, int(g), [channels for channels, _ in found], [x for _, x in found], share)

    def _count(
        self, index: int, group: int, channels: Sequence[NDArray[np.int64]], samples: Sequence[Tensor], share: float
    ) -> None:
        """Add samples (m, k_t) of channels (k_t,); `share` is the part of all that this layer shows which they are."""
        if group not in self.products:
            return
        starts = self.starts[group]
        where = torch.as_tensor(np.concatenate([a + own for a, own in zip(starts[:-1], channels, strict=True)]))
        x = torch.cat(list(samples), dim=1)
        self.products[group].index_put_((where[:, None], where), x.mT @ x * (share / len(x)), accumulate=True)
        mean = self.means.setdefault((index, group), torch.zeros(int(starts[-1]), dtype=torch.float64))
        mean.index_add_(0, where, x.mean(0) * share)

    def result(self) -> Observation:
        """What was seen. Every layer's samples are centred on their own mean."""
        outputs = {index: [mine.statistics() for mine in per] for index, per in self.outputs.items()}
        for (_, group), mean in self.means.items():
            self.products[group] -= mean[:, None] * mean
        return Observation(self.products, outputs)


def _windows(graph: ChannelGraph, layer: WeightLayer) -> int:
    """Rows per image along the first axis of what a layer writes."""
    return graph.network.shapes[layer.nodes[0]][0] // len(graph.network.example)


def by_channel(x: Tensor, layer: WeightLayer, group: int) -> tuple[NDArray[np.int64], Tensor]:
    """The channels of a group that a layer reads (k,), and what it reads of them (m · places, k).

    A channel that was flattened owns several input positions: they are so many samples of it.
    """
    columns = np.flatnonzero(layer.column_groups == group)
    channels, counts = np.unique(layer.column_channels[columns], return_counts=True)
    by_owner = columns[np.argsort(layer.column_channels[columns], kind="stable")]
    first = np.cumsum([0, *counts[:-1]])
    positions = by_owner[first[None, :] + np.arange(counts.min())[:, None]]
    return channels, x[:, torch.as_tensor(positions)].reshape(-1, len(channels))


def observe(
    graphs: Sequence[ChannelGraph],
    lockstep: Lockstep,
    images: Tensor,
    batch_size: int,
    groups: Sequence[int],
    side: Side = "written",
    cut: int | None = None,
) -> Observation:
    """Run the same images (N, ...) through all parents and collect covariances of `groups`.

    With a `cut`, channels are looked at as they are before the call of that number adds to them.
    """
    matrices = [[graph.matrix(layer) for layer in graph.layers] for graph in graphs]
    observer = Observer(graphs, groups, len(images), side)
    before = set(lockstep.order[:cut])
    if cut is not None and side == "read":
        before |= untouched(graphs, lockstep.order, cut)

    def step(call: int, given: list[Tensor]) -> list[Tensor]:
        index = lockstep.order[call]
        written = [
            apply_layer(lockstep.module(call, t), graph.layers[index], matrices[t][index], given[t])
            for t, graph in enumerate(graphs)
        ]
        if index in before:
            observer.add(index, given, written)
        return written

    with torch.no_grad():
        for batch in torch.split(images, batch_size):
            lockstep.run(batch, step)
    return observer.result()
