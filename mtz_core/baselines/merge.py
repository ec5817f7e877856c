"""Merge networks in the manner of other authors (see `baselines.methods`), for comparison with zipping."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from typing import Any, get_args

from torch import nn

from mtz_core.baselines.kinds import BASELINES, Baseline, Fitting, Side, Slots
from mtz_core.baselines.merged import MergedNetwork
from mtz_core.baselines.multiplications import Multiplications, multiplications
from mtz_core.baselines.observation import Observation, observe
from mtz_core.baselines.parents import Parents
from mtz_core.baselines.refit import refit
from mtz_core.baselines.reset import reset_statistics
from mtz_core.baselines.slots import slots_by_group
from mtz_core.errors import DataError, SpecError
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.correspondence import JointGraph
from mtz_core.structure.networks import HEAD
from mtz_core.structure.sizes import ParameterCounts

BATCH = 128


@dataclass(frozen=True)
class BaselineResult:
    """A merged network, called as `network(x, task=t)`, its size, its work, and the seconds that it took."""

    network: MergedNetwork
    counts: ParameterCounts
    multiplications: Multiplications
    seconds: float


def merge_networks(
    networks: Sequence[nn.Module],
    calibration: Sequence[Any],
    method: str = "permute",
    share: float = 1.0,
    reset: bool = True,
    side: Side | None = None,
    until: str | None = None,
    **settings: Any,
) -> BaselineResult:
    """Merge networks of T tasks: weights of channels that become one are averaged, or fitted layer by layer.

    There is no retraining. All parents run on the same images, the union of all tasks' calibration images. Heads stay
    per task.

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
        until: name of a hidden layer of the first network: layers up to it, in order of execution, are merged, all
            behind stay each task's own; by default all hidden layers are merged.
        settings: the method's own; for one that fits layers anew, those of the method `align`, too, which says which
            channels become one.

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
    way = _way(kind, side, settings)
    _check(networks, calibration, share)
    begin = time.perf_counter()
    parents = Parents.of(networks, calibration, until)
    observation = way.observe(parents)
    network = MergedNetwork(parents.private, way.slots(parents, share, observation), parents.extent)
    if way.fit is not None:
        refit(network, parents, way.fit, BATCH)
    resettable = _layers_to_reset(parents.joint, reset=reset, rescale=kind.rescale)
    wanted = {i: observation.outputs[i] for i in resettable if i in parents.extent.layers}
    if wanted:
        reset_statistics(network, wanted, parents.union, BATCH)
    seconds = time.perf_counter() - begin
    return BaselineResult(network, network.counts(), multiplications(network), seconds)


@dataclass(frozen=True)
class _Way:
    """A method with its settings: what says which channels become one, and how layers are fitted then."""

    aligning: Baseline
    settings: Mapping[str, Any]
    side: Side | None
    fit: Fitting | None

    def observe(self, parents: Parents) -> Observation:
        """Covariances where the method compares channels, and statistics of all layers' outputs."""
        side = self.side or self.aligning.side
        groups = [] if side is None else parents.groups
        graphs, lockstep, cut = parents.graphs, parents.lockstep, parents.extent.cut
        return observe(graphs, lockstep, parents.union, BATCH, groups, side or "written", cut)

    def slots(self, parents: Parents, share: float, observation: Observation) -> list[Slots]:
        """Features of every channel group."""
        if self.aligning.weights is not None:
            return self.aligning.weights(parents, share, **self.settings)
        assert self.aligning.rule is not None
        rule = partial(self.aligning.rule, **self.settings)
        return slots_by_group(parents.joint, parents.groups, share, observation, rule)


def _way(kind: Baseline, side: Side | None, settings: Mapping[str, Any]) -> _Way:
    """Sort settings into those of the alignment and those of the fit. Raises `SpecError` for what has no effect."""
    given = dict(settings)
    aligning, own = kind, list[str]()
    if kind.fit is not None:
        possible = {entry.name: entry for entry in BASELINES if entry.fit is None and not entry.rescale}
        align = given.pop("align", kind.align)
        if align not in possible:
            raise SpecError(f"align is {align!r}; choose from {', '.join(map(repr, possible))}")
        aligning, own = possible[align], _settings(kind.fit)
    if side is not None and aligning.side is None:
        raise SpecError(f"side is {side!r}, but {aligning.name!r} compares no activations; leave it out")
    if side is not None and side not in get_args(Side):
        raise SpecError(f"side is {side!r}; choose from {', '.join(map(repr, get_args(Side)))}")
    theirs = _settings(aligning.rule or aligning.weights)
    for name in given:
        if name not in own + theirs:
            known = [*(["align"] if kind.fit else []), *own, *theirs]
            raise SpecError(f"{kind.name!r} has no setting {name!r}; it has {', '.join(map(repr, known)) or 'none'}")
    fit = None if kind.fit is None else partial(kind.fit, **{name: given[name] for name in given if name in own})
    return _Way(aligning, {name: given[name] for name in given if name in theirs}, side, fit)


def _settings(work: Callable[..., Any] | None) -> list[str]:
    """What may be given to a method by name."""
    assert work is not None
    return [p.name for p in signature(work).parameters.values() if p.default is not Parameter.empty]


def _check(networks: Sequence[nn.Module], calibration: Sequence[Any], share: float) -> None:
    if len(networks) < 2:
        raise SpecError(f"merging needs two or more networks, got {len(networks)}")
    if len(calibration) != len(networks):
        raise DataError(f"calibration holds data of {len(calibration)} tasks for {len(networks)} networks")
    if not 0.0 <= share <= 1.0:
        raise SpecError(f"share is {share}; give a ratio in [0, 1]")


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
