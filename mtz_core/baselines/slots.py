"""A rule applied to whole networks: channel group by channel group, and within one, kind by kind."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.baselines.features import by_index
from mtz_core.baselines.kinds import Rule, Slots
from mtz_core.baselines.observation import Observation
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.correspondence import JointGraph
from mtz_core.structure.sizes import shared_count


def slots_by_group(
    joint: JointGraph, groups: Collection[int], share: float, observation: Observation, rule: Rule
) -> list[Slots]:
    """Features of every channel group; the channels of groups other than `groups` stay alone."""
    return [
        _group_slots(joint.graphs, group.number, share, observation.covariances.get(group.number), rule)
        if group.number in groups
        else by_index(group.widths, 0)
        for group in joint.groups
    ]


def _group_slots(
    graphs: Sequence[ChannelGraph], group: int, share: float, covariance: Tensor | None, rule: Rule
) -> Slots:
    """Features of one channel group, kind by kind; channels of a kind that another network lacks stay alone."""
    widths = [graph.groups[group].width for graph in graphs]
    starts = np.cumsum([0, *widths])
    covariance = torch.zeros(int(starts[-1]), int(starts[-1])) if covariance is None else covariance
    found = []
    for channels in channel_kinds(graphs, group):
        sizes = [len(mine) for mine in channels]
        k = shared_count(float(share), sizes)
        where = torch.as_tensor(np.concatenate([a + mine for a, mine in zip(starts[:-1], channels, strict=True)]))
        found.append((channels, rule(covariance[where][:, where], sizes, k)))
    return joined_kinds(widths, found)


def joined_kinds(widths: Sequence[int], found: Sequence[tuple[Sequence[NDArray[np.int64]], Slots]]) -> Slots:
    """Features of a group from those of its kinds, (each network's channels, their slots); the rest stays alone."""
    slots = [np.full(width, -1, dtype=np.int64) for width in widths]
    following = 0
    for channels, numbers in found:
        for mine, own, its in zip(slots, channels, numbers, strict=True):
            mine[own] = following + its
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
