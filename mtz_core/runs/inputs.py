"""From a specification to networks and images: which parent, which images calibrate, evaluate and retrain.

Calibration is a seeded shuffled sample of the calibration split, without labels; of the user's own data with labels,
one in which every class has its share. Retraining uses the full training set where the user has it, else the whole
calibration split; with labels only if `targets: labels` asks for them. Evaluation is on the test split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core.data.imageset import ImageSet, shuffled
from mtz_core.data.kinds import input_kind
from mtz_core.data.reading import Preparation, Reading
from mtz_core.data.tasks import TaskData, read_task
from mtz_core.errors import DataError, MTZError
from mtz_core.own.heads import asked_of, labelled_outputs, of_outputs
from mtz_core.own.networks import build_network, check_classes, outputs_of
from mtz_core.runs.records import RunRecord
from mtz_core.spec import RunSpec, TypeSpec, ZipSpec

Labelled = tuple[Tensor, Tensor | dict[str, Tensor]]
"""Images and labels; of several outputs by their names."""
BUNDLED = 2500
"""Images in every bundled calibration split; who asks for more needs a full training set."""
MOST_VALUES = 2**30
"""Numbers of one task's prepared images: 4 GiB in float32."""


@dataclass(frozen=True)
class Inputs:
    """What `Zipper` is given, with a name for each network and task."""

    networks: list[nn.Module]
    names: list[str]
    tasks: list[str]
    architectures: list[str]
    calibration: list[Tensor]
    evaluation: list[Labelled | None] | None
    retraining: Sequence[Tensor | Labelled] | None
    types: Sequence[TypeSpec | None] = ()
    """What each network's answers are, as far as the specification or the data says it."""
    classes: Sequence[tuple[str, ...] | None] = ()
    """Names of each task's classes, attributes or values, where its data has them."""
    unseen: Sequence[Tensor] = ()
    """Inputs of each task that could have calibrated and did not, if they were asked for; neither do they evaluate."""

    @property
    def kinds(self) -> list[str]:
        """What each task's inputs are (see `mtz_core.data.kinds`)."""
        return [input_kind(x.shape[1:], not x.is_floating_point()) for x in self.calibration]

    def zipping(self, spec: RunSpec) -> ZipSpec:
        """How to zip, with these types where the specification has none for all networks together."""
        known = any(kind is not None for kind in self.types)
        return spec.zip.with_types(self.types) if known and spec.zip.types is None else spec.zip


def prepare(record: RunRecord, say: Callable[[str], None] | None = None) -> Inputs:
    """Load everything that a run needs (see `gather`)."""
    return gather(record.spec, say)


def gather(spec: RunSpec, say: Callable[[str], None] | None = None, unseen: int = 0) -> Inputs:
    """Load everything that a specification names, and `unseen` more inputs at most; `say` hears of downloads.

    Raises `SpecError`, `CheckpointError` or `DataError`, naming the network (counted from 1) that is at fault.
    """
    names, tasks, architectures, networks = [], [], [], []
    calibration, evaluation, retraining, types, classes, others = [], [], [], [], [], []
    known: dict[tuple[str, str | None, tuple[str, ...]], TaskData] = {}
    for number, wanted in enumerate(spec.networks, start=1):
        try:
            network = build_network(wanted, say)
            outputs = outputs_of(network)
            read = (network.data, wanted.labels, tuple(wanted.label_names.values()))
            if read not in known:
                training = spec.zip.retrain is not None or spec.calibration.images > BUNDLED
                known[read] = read_task(
                    network.data, spec.data_root, labels=wanted.labels, outputs=read[2], download=spec.download,
                    training=training,
                )  # fmt: skip
        except MTZError as error:
            raise type(error)(f"network {number}: {error}") from error
        data, where = known[read], f"network {number} ({network.name})"
        check_classes(outputs, data.classes, where)
        _check(data, network.preparation, where)
        whose = labelled_outputs(wanted, outputs, data, where)
        names.append(network.name)
        tasks.append(network.data)
        architectures.append(network.architecture)
        networks.append(network.module)
        calibration.append(calibration_sample(data, spec, where, network.preparation))
        if unseen:
            others.append(unseen_sample(data, spec, network.preparation, unseen))
        evaluation.append(of_outputs(evaluation_sample(data, spec, network.preparation), whose))
        retraining.append(of_outputs(retraining_data(data, spec, where, network.preparation), whose))
        types.append(asked_of(data, wanted.type, outputs, whose))
        classes.append(data.classes)
    return Inputs(
        networks=networks, names=names, tasks=tasks, architectures=architectures, calibration=calibration,
        evaluation=None if all(pair is None for pair in evaluation) else evaluation,
        retraining=None if spec.zip.retrain is None else [data for data in retraining if data is not None],
        types=types, classes=classes, unseen=others,
    )  # fmt: skip


def calibration_sample(data: TaskData, spec: RunSpec, where: str, how: Preparation) -> Tensor:
    """Return the images that the run may look at. Raises `DataError` if there are too few."""
    count, images = spec.calibration.images, _calibrating(data, spec)
    if count > len(images):
        raise DataError(
            f"calibration.images: {count} images were asked for, but {where} has {len(images)}; ask for fewer"
            + ("" if spec.data_root else ", or give the folder of the full data set as data_root")
        )
    if count > (most := most_images(how)):
        raise DataError(
            f"calibration.images: {count:,} inputs of shape {how.shape} for {where} do not fit into memory; ask for at "
            f"most {most:,}"
        )
    return images.images(_chosen(data, spec, images), how)


def unseen_sample(data: TaskData, spec: RunSpec, how: Preparation, most: int) -> Tensor:
    """Return images that could have calibrated and did not, shuffled, at most so many; there may be none."""
    images = _calibrating(data, spec)
    rest = np.setdiff1d(np.arange(len(images)), _chosen(data, spec, images))
    return images.images(rest[shuffled(len(rest), spec.zip.seed)[: min(most, most_images(how))]], how)


def _calibrating(data: TaskData, spec: RunSpec) -> ImageSet:
    """All images among which those that calibrate are drawn."""
    images, train = data.calibration, data.train
    more = spec.calibration.images > len(images) and train is not None and train is not images
    return images.followed_by(train) if more and train is not None else images


def _chosen(data: TaskData, spec: RunSpec, images: ImageSet) -> NDArray[np.int64]:
    count, seed = spec.calibration.images, spec.zip.seed
    return images.sample(count, seed) if data.own else shuffled(len(images), seed)[:count]


def most_images(how: Preparation, masks: bool = False) -> int:
    """Return how many prepared inputs of a task are kept in memory, with masks (8 bytes a pixel) or without."""
    if isinstance(how, Reading):
        return MOST_VALUES // (math.prod(how.shape) * (2 if how.whole else 1))
    channels, height, width = how.shape
    return MOST_VALUES // ((channels + 2 * masks) * height * width)


def _check(data: TaskData, how: Preparation, where: str) -> None:
    try:
        data.check(how)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def evaluation_sample(data: TaskData, spec: RunSpec, how: Preparation) -> Labelled | None:
    """Return labelled test images, shuffled so that the first ones are a fair sample.

    `None` if none are wanted, or there are no labels.
    """
    if spec.evaluation.images == 0 or data.test is None or not data.test.has_labels:
        return None
    most = most_images(how, data.test.masks is not None)
    order = shuffled(len(data.test), spec.zip.seed)[: spec.evaluation.images][:most]
    return data.test.labelled(order, how)


def retraining_data(data: TaskData, spec: RunSpec, where: str, how: Preparation) -> Tensor | Labelled | None:
    """Return the images to retrain on, with labels only if the specification asks for them; `None` without retraining.

    Where all of them would not fit into memory, as many as fit, with every class's share.
    """
    retrain = spec.zip.retrain
    if retrain is None:
        return None
    images: ImageSet = data.calibration if data.train is None else data.train
    most = most_images(how, images.masks is not None and retrain.targets == "labels")
    chosen = np.arange(len(images)) if len(images) <= most else images.sample(most, spec.zip.seed)
    if retrain.targets == "distill":
        return images.images(chosen, how)
    if not images.has_labels:
        raise DataError(
            f"zip.retrain.targets is 'labels', but the data of {where} has none; use 'distill', which needs no labels"
        )
    return images.labelled(chosen, how)
