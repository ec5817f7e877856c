"""What the parents' channels do on the same images: covariances within a channel group, and outputs' mean and spread.

A group is observed wherever a weight layer writes it, BatchNorm included and before the activation function; the
covariances of all producers of a residual stream are added up. Every producer counts alike, whatever the size of its
feature maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtz_core.baselines.lockstep import Lockstep, as_samples
from mtz_core.graph.channels import ChannelGraph
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
    """

    def __init__(self, graphs: Sequence[ChannelGraph], groups: Sequence[int], images: int) -> None:
        self.graphs, self.images = graphs, images
        self.starts = {g: np.cumsum([0, *(graph.groups[g].width for graph in graphs)]) for g in groups}
        sizes = {g: int(starts[-1]) for g, starts in self.starts.items()}
        self.products = {g: torch.zeros(n, n, dtype=torch.float64) for g, n in sizes.items()}
        self.outputs: dict[int, list[Running]] = {}

    def add(self, index: int, written: Sequence[Tensor]) -> None:
        """A batch on its way out of layer `index`, one output per network."""
        layers = [graph.layers[index] for graph in self.graphs]
        samples = [as_samples(y, layer).double() for y, layer in zip(written, layers, strict=True)]
        for mine, x in zip(self.outputs.setdefault(index, [Running() for _ in layers]), samples, strict=True):
            mine.add(x)
        g = layers[0].group
        if g not in self.products:
            return
        rows = [first + layer.rows for first, layer in zip(self.starts[g][:-1], layers, strict=True)]
        where, x = torch.as_tensor(np.concatenate(rows)), torch.cat(samples, dim=1)
        weight = len(written[0]) / (self.images * len(layers[0].nodes) * len(x))
        self.products[g].index_put_((where[:, None], where), x.mT @ x * weight, accumulate=True)

    def result(self) -> Observation:
        """What was seen. Every producer is centred on its own mean."""
        outputs = {index: [mine.statistics() for mine in per] for index, per in self.outputs.items()}
        for index, per in outputs.items():
            layers = [graph.layers[index] for graph in self.graphs]
            g = layers[0].group
            if g in self.products:
                rows = [first + layer.rows for first, layer in zip(self.starts[g][:-1], layers, strict=True)]
                where, mean = torch.as_tensor(np.concatenate(rows)), torch.cat([own.mean for own in per])
                self.products[g][where[:, None], where] -= mean[:, None] * mean
        return Observation(self.products, outputs)


def observe(
    graphs: Sequence[ChannelGraph], lockstep: Lockstep, images: Tensor, batch_size: int, groups: Sequence[int]
) -> Observation:
    """Run the same images (N, ...) through all parents and collect covariances of `groups`."""
    matrices = [[graph.matrix(layer) for layer in graph.layers] for graph in graphs]
    observer = Observer(graphs, groups, len(images))

    def step(call: int, given: list[Tensor]) -> list[Tensor]:
        index = lockstep.order[call]
        written = [
            apply_layer(lockstep.module(call, t), graph.layers[index], matrices[t][index], given[t])
            for t, graph in enumerate(graphs)
        ]
        observer.add(index, written)
        return written

    with torch.no_grad():
        for batch in torch.split(images, batch_size):
            lockstep.run(batch, step)
    return observer.result()
