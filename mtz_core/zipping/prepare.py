"""From networks, data and a specification to a job: everything checked, nothing zipped yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mtz_core.calibration.inputs import Labels, as_images, as_labelled, check_shapes, network_dtype, reads_tokens
from mtz_core.checking.checks import require_identity
from mtz_core.errors import DataError, SpecError
from mtz_core.graph.correspondence import JointGraph, correspond
from mtz_core.graph.propagation import channel_graphs
from mtz_core.graph.stored_program import why_not_written
from mtz_core.layerwise.constraints import require_possible
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.outputs.kind import Output
from mtz_core.outputs.types import TaskType
from mtz_core.spec import RetrainSpec, ZipSpec
from mtz_core.structure.networks import HEAD
from mtz_core.structure.sizes import effective_shares, shared_count, unfounded
from mtz_core.structure.trunks import Trunk, trunk_of
from mtz_core.zipping.answers import found_outputs, with_labels
from mtz_core.zipping.oddities import oddities
from mtz_core.zipping.retraining import RetrainingData, held_back

Data = Tensor | Iterable[Any]
Labelled = tuple[Tensor, Tensor]
Given = tuple[Tensor, Labels]
"""Images and labels as they come: of several outputs by their names."""
FEW_IMAGES = 100
"""With fewer calibration images than this a user is warned."""


@dataclass(frozen=True)
class Sample:
    """Calibration images (N_t, ...) of every task, and their numbers (N_t,) among those that were given."""

    images: tuple[Tensor, ...]
    chosen: tuple[Tensor, ...]

    @classmethod
    def of(cls, images: Sequence[Tensor]) -> Sample:
        """All images that were given."""
        return cls(tuple(images), tuple(torch.arange(len(x)) for x in images))

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of every task."""
        return tuple(map(len, self.images))

    def narrowed(self, numbers: Sequence[Tensor]) -> Sample:
        """Some of the images of every task."""
        images = tuple(x[some] for x, some in zip(self.images, numbers, strict=True))
        return Sample(images, tuple(known[some] for known, some in zip(self.chosen, numbers, strict=True)))

    def halves(self, seed: int) -> tuple[Tensor, ...]:
        """Half 0 or 1 of every image: a seeded, balanced, random split."""
        halves = [torch.arange(count) % 2 for count in self.counts]
        chances = [torch.Generator().manual_seed(seed + t) for t in range(len(halves))]
        return tuple(h[torch.randperm(len(h), generator=g)] for h, g in zip(halves, chances, strict=True))

    def orders(self, seed: int) -> list[Tensor]:
        """The order in which each task's images are tried."""
        chances = (torch.Generator().manual_seed(seed + 29 * t + 3) for t in range(len(self.images)))
        return [torch.randperm(count, generator=chance) for count, chance in zip(self.counts, chances, strict=True)]


@dataclass(frozen=True)
class Job:
    """What is to be zipped, with what, and how.

    `shares` are channels per shareable group that take effect, `refused` groups that were asked to share and cannot.
    Of the evaluation images `live` are used for reports before the final one. `outputs` say what each network's
    answers are, `assumed` where that was taken by convention, and `odd` is what looks odd (see `oddities`).
    """

    spec: ZipSpec
    device: torch.device
    networks: tuple[nn.Module, ...]
    alphas: tuple[float, ...]
    joint: JointGraph
    trunk: Trunk | None
    shares: Mapping[str, int]
    refused: tuple[str, ...]
    sample: Sample
    evaluation: tuple[Labelled | None, ...]
    live: tuple[Labelled | None, ...]
    retraining: tuple[RetrainingData, ...]
    outputs: tuple[Output, ...]
    assumed: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()

    @property
    def types(self) -> tuple[TaskType, ...]:
        """Every task's type."""
        return tuple(output.type for output in self.outputs)

    def network(self) -> ZippedNetwork:
        """The parents in one, nothing shared yet."""
        spec, laid = self.spec, 0 if self.trunk is None else len(self.trunk.layers)
        return ZippedNetwork(self.networks, self.joint, spec.sparse, spec.own_bias, laid).to(self.device)

    def warnings(self, sample: Sample, shares: Mapping[str, int]) -> tuple[str, ...]:
        """What a user should know of these images and shares although nothing is wrong."""
        notes = [
            f"task {t} has only {count} calibration inputs; predictions will be rough"
            for t, count in enumerate(sample.counts)
            if count < FEW_IMAGES
        ]
        notes += [*self.assumed, *self.odd]
        for t, graph in enumerate(self.joint.graphs):
            for group in graph.groups:
                if group.width and group.frozen is not None and group.frozen != HEAD:
                    notes.append(f"{', '.join(group.producers)} stay private (network {t}): {group.frozen}")
            if (why := why_not_written(graph.network.module)) is not None:
                notes.append(f"network {t} can be zipped, but the zipped network cannot be saved: {why}")
        for name in self.refused:
            notes.append(f"{name} shares nothing: none of the channels that it reads is shared; share those first")
        for name in unfounded(self.joint.structure, shares):
            notes.append(f"{name} reads nothing in common: its neurons are paired as they come, for the layers behind")
        return tuple(dict.fromkeys(notes))


def prepare(
    networks: Sequence[nn.Module],
    calibration: Sequence[Data],
    spec: ZipSpec,
    evaluation: Sequence[Given | None] | None = None,
    retraining: Sequence[Data | Given] | None = None,
    live_images: int | None = None,
) -> Job:
    """Check everything that a zip is given (see `mtz_core.zipping.zipper.Zipper`).

    Raises:
        GraphError: a network cannot be traced or would be answered for wrongly, or the networks do not correspond.
        SpecError, DataError: the specification or the data does not fit the networks, or a task's type is in doubt.
    """
    if len(networks) < 2:
        raise SpecError(f"zipping needs two or more networks, got {len(networks)}")
    for what, given in (("calibration", calibration), ("evaluation", evaluation), ("retraining", retraining)):
        if given is not None and len(given) != len(networks):
            raise DataError(f"{what} holds data of {len(given)} tasks for {len(networks)} networks; give one each")
    device = device_of(spec.device)
    dtypes = [network_dtype(network) for network in networks]
    tokens = [reads_tokens(network) for network in networks]
    images = [as_images(data, f"calibration[{t}]", dtypes[t], tokens[t]) for t, data in enumerate(calibration)]
    alphas, asked_types = spec.task_weights(len(networks)), spec.task_types(len(networks))
    pairs = [
        None if given is None else as_labelled(given, f"evaluation[{t}]", dtypes[t], tokens[t])
        for t, given in enumerate(evaluation or [None] * len(networks))
    ]
    check_shapes(images, [pair and pair[0] for pair in pairs], "evaluation")
    learnt, wanted = _retraining(spec.retrain, spec.seed, retraining, images, dtypes, tokens)
    if learnt:
        check_shapes(images, [data.images for data in learnt], "retraining")
    joint = joint_graph(networks, images, device)
    labels = _labels([pair and pair[1] for pair in pairs], wanted)
    outputs, assumed = found_outputs(joint.graphs, images, asked_types, labels, device)
    tested = _for_evaluation(pairs, outputs)
    trunk = trunk_of(joint.structure, spec.trunk, spec.macs)
    require_possible(spec, joint, () if trunk is None else tuple(trunk.groups))
    asked = resolve_shares(1.0 if spec.share == "auto" else spec.share, joint)
    asked |= {} if trunk is None else trunk.groups
    effective = effective_shares(joint.structure, asked)
    shares = {name: effective.get(name, count) for name, count in asked.items()}
    return Job(
        spec=spec,
        device=device,
        networks=tuple(networks),
        alphas=alphas,
        joint=joint,
        trunk=trunk,
        shares=shares,
        refused=tuple(name for name, count in asked.items() if count > shares[name]),
        sample=Sample.of(images),
        evaluation=tested,
        live=tuple(None if pair is None else (pair[0][:live_images], pair[1][:live_images]) for pair in tested),
        retraining=_for_outputs(learnt, wanted, outputs),
        outputs=outputs,
        assumed=assumed,
        odd=oddities(joint.graphs, outputs, images, tested, device),
    )


def joint_graph(networks: Sequence[nn.Module], images: Sequence[Tensor], device: torch.device) -> JointGraph:
    """Trace networks on two of their images, make sure that they can be answered for, and put them side by side.

    Raises:
        GraphError: a network cannot be traced or would be answered for wrongly, or the networks do not correspond.
    """
    graphs = channel_graphs(networks, [x[:2].to(device) for x in images])
    require_identity(networks, graphs)
    return correspond(graphs)


def _labels(tested: Sequence[Labels | None], wanted: Sequence[Labels | None]) -> list[list[tuple[str, Labels | None]]]:
    """All labels of every task, with their names in messages."""
    named: list[list[tuple[str, Labels | None]]] = [[(f"evaluation[{t}]", given)] for t, given in enumerate(tested)]
    for t, given in enumerate(wanted):
        named[t].append((f"retraining[{t}]", given))
    return named


def _retraining(
    spec: RetrainSpec | None,
    seed: int,
    given: Sequence[Any] | None,
    images: Sequence[Tensor],
    dtypes: Sequence[torch.dtype],
    tokens: Sequence[bool],
) -> tuple[list[RetrainingData], list[Labels | None]]:
    """Every task's data for retraining without labels, and its labels, if they are asked for."""
    if spec is None:
        return [], []
    labelled = spec.targets == "labels"
    if given is None:
        if labelled:
            raise DataError(
                "retrain.targets is 'labels' but no labelled data was given; pass retraining=[(images, labels), …] "
                "or retrain with targets='distill', which needs none"
            )
        return [RetrainingData(x, None, held_back(x, seed + t)) for t, x in enumerate(images)], [None] * len(images)
    data: list[RetrainingData] = []
    wanted: list[Labels | None] = []
    for t, item in enumerate(given):
        labels: Labels | None = None
        if labelled:
            inputs, labels = as_labelled(item, f"retraining[{t}]", dtypes[t], tokens[t])
        else:
            first = item[0] if isinstance(item, tuple) else item
            inputs = as_images(first, f"retraining[{t}]", dtypes[t], tokens[t])
        data.append(RetrainingData(inputs, None, held_back(inputs, seed + t, images[t])))
        wanted.append(labels)
    return data, wanted


def _for_evaluation(
    pairs: Sequence[tuple[Tensor, Labels] | None], outputs: Sequence[Output]
) -> tuple[Labelled | None, ...]:
    """Images and labels as what the outputs say takes them."""
    named = enumerate(zip(pairs, outputs, strict=True))
    return tuple(pair and (pair[0], with_labels(output, pair[1], f"evaluation[{t}]")) for t, (pair, output) in named)


def _for_outputs(
    learnt: Sequence[RetrainingData], wanted: Sequence[Labels | None], outputs: Sequence[Output]
) -> tuple[RetrainingData, ...]:
    """Data for retraining with what every network's outputs say, and with labels as these take them."""
    found = []
    for t, (data, given, output) in enumerate(zip(learnt, wanted, outputs, strict=False)):
        labels = None if given is None else with_labels(output, given, f"retraining[{t}]")
        found.append(replace(data, labels=labels, output=output))
    return tuple(found)


def resolve_shares(share: float | Mapping[str, float | int], joint: JointGraph) -> dict[str, int]:
    """Return how many channels each shareable group shares, by group name, in order of execution.

    Args:
        share: a ratio for all groups, or a mapping from layer name (of the first network) to a ratio (float) or a
            count (int); layers of one group must agree.
        joint: the networks side by side.

    Raises:
        SpecError: a name is unknown, its layer cannot be shared, or a count exceeds the narrowest width.
    """
    free = [group for group in joint.groups if group.open]
    if not isinstance(share, Mapping):
        return {group.name: shared_count(float(share), [group.narrowest]) for group in free}
    chosen: dict[int, float | int] = {}
    names = [name for group in free for name in group.members[0].producers]
    for name, value in share.items():
        layer = next((layer for layer in joint.layers if layer.name == name), None)
        if layer is None:
            raise SpecError(f"share: there is no layer {name!r}; layers that can be shared: {', '.join(names)}")
        group = joint.groups[layer.group]
        if not group.open:
            raise SpecError(f"share: layer {name!r} cannot be shared ({group.frozen}); drop it from the mapping")
        if not isinstance(value, float) and value > group.narrowest:
            raise SpecError(
                f"share: layer {name!r} was asked to share {value} neurons but the narrowest has {group.narrowest}"
            )
        if chosen.setdefault(group.number, value) != value:
            tied = ", ".join(group.members[0].producers)
            raise SpecError(f"share: {tied} write into one residual stream and share alike; give them one value")
    return {group.name: shared_count(chosen.get(group.number, 0), [group.narrowest]) for group in free}


def device_of(name: str) -> torch.device:
    """The device of this name. Raises `SpecError` if it is not there."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SpecError(f"device: {name!r} was asked for, but torch finds no CUDA GPU here; use 'cpu'")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SpecError(f"device: {name!r} was asked for, but torch finds no Metal GPU here; use 'cpu'")
    return device


def resumed(job: Job, images: int | None) -> Sample:
    """The sample of a run that went on with so many images per task; `None`: with all."""
    if images is None:
        return job.sample
    return job.sample.narrowed([order[:images].sort().values for order in job.sample.orders(job.spec.seed)])
