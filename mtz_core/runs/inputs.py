"""From a specification to networks and images: which parent, which images calibrate, evaluate and retrain.

Calibration is a seeded shuffled sample of the calibration split, without labels. Retraining uses the full training set
where the user has it, else the whole calibration split; with labels only if `targets: labels` asks for them.
Evaluation is on the test split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mtz_core.data.bundled import TASKS, class_names
from mtz_core.data.fullsets import data_root, read_full, without_bundled
from mtz_core.data.loading import load_data, preprocess
from mtz_core.data.sources import image_folder, torchvision_dataset
from mtz_core.errors import DataError
from mtz_core.runs.records import RunRecord
from mtz_core.runs.weights import load_network
from mtz_core.spec import NetworkSpec, RunSpec
from mtz_core.zoo.architectures import input_shape
from mtz_core.zoo.parents import load_parent

Labelled = tuple[Tensor, Tensor]
TORCHVISION = "torchvision:"
BUNDLED = 2500
"""Images in every bundled calibration split; who asks for more needs a full training set."""
HELD_OUT = 5
"""One image in this many of a folder without `test` subfolder is kept for evaluation."""


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


@dataclass(frozen=True)
class TaskData:
    """A task's images and labels: `calibration` and `test`, and `train` if there is a full training set."""

    classes: tuple[str, ...]
    calibration: Labelled
    test: Labelled
    train: Labelled | None


def prepare(record: RunRecord) -> Inputs:
    """Load everything that a run needs.

    Raises `SpecError`, `CheckpointError` or `DataError`, naming the network (counted from 1) that is at fault.
    """
    spec = record.spec
    names, tasks, architectures, networks = [], [], [], []
    calibration, evaluation, retraining = [], [], []
    known: dict[str, TaskData] = {}
    for number, network in enumerate(spec.networks, start=1):
        task = _task(network)
        if task not in known:
            known[task] = read_task(task, spec)
        data = known[task]
        name, architecture, module = _network(network, data)
        where = f"network {number} ({name})"
        names.append(name)
        tasks.append(task)
        architectures.append(architecture)
        networks.append(module)
        calibration.append(calibration_sample(data, spec, where))
        evaluation.append(evaluation_sample(data, spec))
        retraining.append(retraining_data(data, spec))
        _check_classes(module, data, where)
    return Inputs(
        networks=networks, names=names, tasks=tasks, architectures=architectures, calibration=calibration,
        evaluation=None if all(pair is None for pair in evaluation) else evaluation,
        retraining=None if spec.zip.retrain is None else retraining,
    )  # fmt: skip


def read_task(task: str, spec: RunSpec) -> TaskData:
    """Read a bundled task (mnist, fashion, letters), `torchvision:NAME`, or a folder with a subfolder for each class.

    A folder may have two halves, `calibration` (or `train`) and `test`; else every `HELD_OUT`-th image, shuffled, is
    for evaluation. Raises `DataError`.
    """
    if task in TASKS:
        train = _full_training_set(task, spec) if _wants_training_set(spec) else None
        test = load_data(task, "test", spec.data_root)
        return TaskData(class_names(task), load_data(task, "calibration"), test, train)
    if task.startswith(TORCHVISION):
        return _torchvision_task(task.removeprefix(TORCHVISION), spec)
    folder = Path(task)
    channels, size, _ = input_shape("lenet5")
    first = next((half for half in ("calibration", "train") if (folder / half).is_dir()), None)
    if first is not None and (folder / "test").is_dir():
        images, labels, classes = image_folder(folder / first, size, channels)
        test_images, test_labels, test_classes = image_folder(folder / "test", size, channels)
        if classes != test_classes:
            raise DataError(f"{folder}: {first} has the classes {', '.join(classes)}, test {', '.join(test_classes)}")
        return TaskData(classes, (images, labels), (test_images, test_labels), None)
    images, labels, classes = image_folder(folder, size, channels)
    held = max(1, len(images) // HELD_OUT)
    order = _shuffled(len(images), 0)
    test_part, rest = order[:held], order[held:]
    return TaskData(classes, (images[rest], labels[rest]), (images[test_part], labels[test_part]), None)


def _torchvision_task(name: str, spec: RunSpec) -> TaskData:
    """A data set of torchvision's below the data root; its training part calibrates and retrains."""
    root = data_root(spec.data_root)
    if root is None:
        raise DataError(f"data: torchvision:{name} needs a folder; give it as data_root, --data-root or $MTZ_DATA")
    images, labels, classes = torchvision_dataset(name, root, "train", spec.download)
    test_images, test_labels, _ = torchvision_dataset(name, root, "test", spec.download)
    return TaskData(classes, (images, labels), (test_images, test_labels), (images, labels))


def calibration_sample(data: TaskData, spec: RunSpec, where: str) -> Tensor:
    """Return the images that the run may look at. Raises `DataError` if there are too few."""
    count, (images, _) = spec.calibration.images, data.calibration
    if count > len(images) and data.train is not None:
        images = torch.cat([images, data.train[0]])
    if count > len(images):
        raise DataError(
            f"calibration.images: {count} images were asked for, but {where} has {len(images)}; ask for fewer"
            + ("" if spec.data_root else ", or give the folder of the full data set as data_root")
        )
    return images[_shuffled(len(images), spec.zip.seed)[:count]]


def evaluation_sample(data: TaskData, spec: RunSpec) -> Labelled | None:
    """Return labelled test images, shuffled so that the first ones are a fair sample; `None` if none are wanted."""
    if spec.evaluation.images == 0:
        return None
    images, labels = data.test
    order = _shuffled(len(images), spec.zip.seed)[: spec.evaluation.images]
    return images[order], labels[order]


def retraining_data(data: TaskData, spec: RunSpec) -> Tensor | Labelled:
    """Return the images to retrain on, with labels only if the specification asks for them."""
    images, labels = data.calibration if data.train is None else data.train
    retrain = spec.zip.retrain
    return (images, labels) if retrain is not None and retrain.targets == "labels" else images


def _task(network: NetworkSpec) -> str:
    if network.data is not None:
        return network.data
    assert network.parent is not None  # the specification has been validated
    return load_parent(network.parent).task


def _network(network: NetworkSpec, data: TaskData) -> tuple[str, str, nn.Module]:
    if network.parent is not None:
        parent = load_parent(network.parent)
        return parent.name, parent.architecture, parent.module
    assert network.weights is not None  # the specification has been validated
    assert network.architecture is not None
    classes = network.classes or len(data.classes)
    return network.weights.stem, network.architecture, load_network(network.architecture, network.weights, classes)


def _check_classes(module: nn.Module, data: TaskData, where: str) -> None:
    with torch.no_grad():
        outputs = module(data.calibration[0][:1]).shape[-1]
    if len(data.classes) > outputs:
        raise DataError(
            f"{where} tells {outputs} classes apart, but its data has {len(data.classes)}; choose data that it was "
            "trained on"
        )


def _wants_training_set(spec: RunSpec) -> bool:
    return spec.zip.retrain is not None or spec.calibration.images > BUNDLED


def _full_training_set(task: str, spec: RunSpec) -> Labelled | None:
    base = data_root(spec.data_root)
    full = None if base is None else read_full(task, "train", base)
    if full is None:
        return None
    images, labels = without_bundled(task, full)
    return preprocess(images), torch.from_numpy(labels).long()


def _shuffled(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
