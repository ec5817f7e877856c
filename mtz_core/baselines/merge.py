"""Merge networks in the manner of other authors (see `baselines.methods`), for comparison with zipping."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core.baselines.features import by_index
from mtz_core.baselines.kinds import BASELINES, Baseline, Rule, Side, Slots
from mtz_core.baselines.lockstep import Lockstep
from mtz_core.baselines.merged import MergedNetwork
from mtz_core.baselines.observation import Observation, observe
from mtz_core.baselines.reset import reset_statistics
from mtz_core.calibration.inputs import as_images, network_dtype
from mtz_core.errors import DataError, SpecError
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.correspondence import JointGraph, correspond
from mtz_core.graph.propagation import channel_graph
from mtz_core.graph.record import call_of
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.structure.networks import HEAD
from mtz_core.structure.sizes import ParameterCounts, shared_count

BATCH = 128


@dataclass(frozen=True)
class BaselineResult:
    """A merged network, called as `network(x, task=t)`, its size, and the seconds that it took."""

    network: MergedNetwork
    counts: ParameterCounts
    seconds: float


def merge_networks(
    networks: Sequence[nn.Module],
    calibration: Sequence[Any],
    method: str = "permute",
    share: float = 1.0,
    reset: bool = True,
    side: Side | None = None,
    **settings: Any,
) -> BaselineResult:
    """Merge networks of T tasks by averaging the weights of channels that become one; no retraining.

    All parents run on the same images, the union of all tasks' calibration images. Heads stay per task.

    Args:
        networks: the parents, never modified. Apart from their weights they should do the same: where operations
            between two layers differ, those of the first network in which a feature occurs are used.
        calibration: per task unlabelled inputs, as for `zip_networks`.
        method: which channels are averaged: name of a rival method, see `baselines.methods`.
        share: at 1, n features are left of every T·n channels; below, round(share · n) features are merged of T
            channels each (`"zip"`: as many merges are done) and the other channels stay alone.
        reset: give merged features of layers that had a BatchNorm the average statistics of their channels, see
            `reset`.
        side: channels are compared as layers have `"written"` them, before the activation function, or as the next
            layers `"read"` them; by default where the method did better on images that no figure is reported on.
        settings: the method's own.

    Raises:
        GraphError: a network cannot be traced, or the networks do not correspond.
        SpecError, DataError: the networks, the arguments or the data are outside what these methods support.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
        >>> result = merge_networks([a, b], [torch.randn(200, 4), torch.randn(200, 4)], "zip")
        >>> result.network(torch.randn(5, 4), task=1).shape
        torch.Size([5, 3])
    """
    kind = BASELINES.find(method)
    _check(networks, calibration, kind, share, side, settings)
    images = _same_inputs(networks, calibration)
    begin = time.perf_counter()
    graphs = [channel_graph(network, part[:2]) for network, part in zip(networks, images, strict=True)]
    joint = correspond(graphs)
    graphs, private = list(joint.graphs), ZippedNetwork(networks, joint)
    _check_graphs(graphs)
    union = torch.cat(images)
    lockstep = Lockstep(graphs, [private.program(t) for t in range(len(graphs))])
    hidden = [group.number for group in joint.groups if len(group.sharing) == len(networks)]
    observation = observe(
        graphs, lockstep, union, BATCH, [] if kind.side is None else hidden, side or kind.side or "written"
    )
    network = MergedNetwork(private, _slots(joint, share, observation, partial(kind.rule, **settings)))
    wanted = {i: observation.outputs[i] for i in _layers_to_reset(joint, reset=reset, rescale=kind.rescale)}
    if wanted:
        reset_statistics(network, wanted, union, BATCH)
    return BaselineResult(network, network.counts(), time.perf_counter() - begin)


def _check(
    networks: Sequence[nn.Module],
    calibration: Sequence[Any],
    kind: Baseline,
    share: float,
    side: str | None,
    settings: Mapping[str, Any],
) -> None:
    if len(networks) < 2:
        raise SpecError(f"merging needs two or more networks, got {len(networks)}")
    if len(calibration) != len(networks):
        raise DataError(f"calibration holds data of {len(calibration)} tasks for {len(networks)} networks")
    if side is not None and kind.side is None:
        raise SpecError(f"side is {side!r}, but {kind.name!r} compares nothing; leave it out")
    if side is not None and side not in get_args(Side):
        raise SpecError(f"side is {side!r}; choose from {', '.join(map(repr, get_args(Side)))}")
    if not 0.0 <= share <= 1.0:
        raise SpecError(f"share is {share}; give a ratio in [0, 1]")
    known = [p.name for p in signature(kind.rule).parameters.values() if p.default is not Parameter.empty]
    for name in settings:
        if name not in known:
            raise SpecError(f"{kind.name!r} has no setting {name!r}; it has {', '.join(map(repr, known)) or 'none'}")


def _same_inputs(networks: Sequence[nn.Module], calibration: Sequence[Any]) -> list[Tensor]:
    """Every task's images (N, ...). Raises `DataError` where their shape or type differs from task to task."""
    images = [as_images(data, f"calibration[{t}]", network_dtype(networks[t])) for t, data in enumerate(calibration)]
    if len({(tuple(part.shape[1:]), part.dtype) for part in images}) > 1:
        raise DataError(
            "these methods run the same images through all networks, but the tasks' inputs have "
            f"{', '.join(f'shape {tuple(part.shape[1:])} of {part.dtype}' for part in images)}"
        )
    return images


def _check_graphs(graphs: Sequence[ChannelGraph]) -> None:
    """Refuse what the definition of these methods does not cover."""
    for t, graph in enumerate(graphs):
        for layer in graph.layers:
            if layer.width == 0 or not layer.nodes:
                raise SpecError(f"network {t} lacks layer {layer.name}; these methods need networks of one depth")
            if getattr(graph.network.module.get_submodule(layer.name), "groups", 1) != 1:
                raise SpecError(f"{layer.name} of network {t} is a grouped convolution; these methods know none")
        for node in graph.network.module.graph.nodes:
            operation = call_of(node, graph.network.module).operation
            if operation is not None and operation.folds:
                raise SpecError(
                    f"{node.name} of network {t} is a BatchNorm that cannot be folded into the layer before it; "
                    "these methods have no rule for it"
                )


def _layers_to_reset(joint: JointGraph, *, reset: bool, rescale: bool) -> list[int]:
    """Hidden layers whose merged features get the average statistics of their channels."""
    return [
        layer.index
        for layer in joint.layers
        if joint.groups[layer.group].frozen != HEAD and (rescale or (reset and _normalised(joint.graphs, layer.index)))
    ]


def _normalised(graphs: Sequence[ChannelGraph], index: int) -> bool:
    """Whether a BatchNorm was folded into the layer in every network."""
    return all(graph.network.sources[graph.layers[index].name].norm is not None for graph in graphs)


def _widths(graphs: Sequence[ChannelGraph], group: int) -> list[int]:
    return [graph.groups[group].width for graph in graphs]


def _slots(joint: JointGraph, share: float, observation: Observation, rule: Rule) -> list[Slots]:
    """Features of every channel group; a channel of a group that some network keeps private stays alone."""
    return [
        _group_slots(joint.graphs, group.number, share, observation.covariances.get(group.number), rule)
        if len(group.sharing) == joint.tasks
        else by_index(group.widths, 0)
        for group in joint.groups
    ]


def _group_slots(
    graphs: Sequence[ChannelGraph], group: int, share: float, covariance: Tensor | None, rule: Rule
) -> Slots:
    """Features of one channel group, kind by kind; channels of a kind that another network lacks stay alone."""
    widths = _widths(graphs, group)
    starts = np.cumsum([0, *widths])
    covariance = torch.zeros(int(starts[-1]), int(starts[-1])) if covariance is None else covariance
    slots = [np.full(width, -1, dtype=np.int64) for width in widths]
    following = 0
    for channels in channel_kinds(graphs, group):
        sizes = [len(mine) for mine in channels]
        k = shared_count(float(share), sizes)
        where = torch.as_tensor(np.concatenate([a + mine for a, mine in zip(starts[:-1], channels, strict=True)]))
        found = rule(covariance[where][:, where], sizes, k)
        for mine, own, numbers in zip(slots, channels, found, strict=True):
            mine[own] = following + numbers
        following = 1 + max(int(mine.max()) for mine in slots)
    for mine in slots:
        alone = np.flatnonzero(mine < 0)
        mine[alone] = following + np.arange(len(alone))
        following += len(alone)
    return slots


def channel_kinds(graphs: Sequence[ChannelGraph], group: int) -> list[list[NDArray[np.int64]]]:
    """Channels of a group sorted by which layers write and read them: per kind, each network's channels of it.

    A channel that a residual stream gets where it widens may not become one with a channel that was there before:
    other layers write it. Kinds that some network lacks are left out.
    """
    marks = [_marks(graph, group) for graph in graphs]
    common = set.intersection(*(set(mine) for mine in marks))
    return [
        [np.array([c for c, mine in enumerate(own) if mine == mark], dtype=np.int64) for own in marks]
        for mark in sorted(common, key=marks[0].index)
    ]


def _marks(graph: ChannelGraph, group: int) -> list[bytes]:
    """For every channel, how often each weight layer writes and reads it."""
    table = np.zeros((graph.groups[group].width, 2, len(graph.layers)), dtype=np.int64)
    for index, layer in enumerate(graph.layers):
        if layer.group == group:
            np.add.at(table[:, 0, index], layer.rows, 1)
        np.add.at(table[:, 1, index], layer.column_channels[layer.column_groups == group], 1)
    return [row.tobytes() for row in table]
