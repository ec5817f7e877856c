"""A task's images, or words, by name: bundled ones, torchvision's data sets, folders, NumPy files, uploads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.data.arrays import Arrays, read_arrays
from mtz_core.data.bundled import TASKS, bundled_set
from mtz_core.data.fullsets import data_root, read_full, without_bundled
from mtz_core.data.imageset import ImageSet, array_set, shuffled, word_set
from mtz_core.data.label_table import label_file
from mtz_core.data.loading import load_data
from mtz_core.data.records import RECORDS, read_records
from mtz_core.data.sampling import stratified_sample
from mtz_core.data.sources import list_by_table, list_images, torchvision_dataset
from mtz_core.data.uploads import PREFIX, upload_path
from mtz_core.errors import DataError
from mtz_core.outputs.types import Kind
from mtz_core.spec import TypeSpec

TORCHVISION = "torchvision:"
IGNORED = 255
"""In maps of classes, a number that mostly means "does not count"."""
HELD_OUT = 5
"""One image in this many of a folder or file without a test part is kept for evaluation."""


@dataclass(frozen=True)
class TaskData:
    """A task's images: `calibration` and `test`, and `train` if there is a full training set.

    `classes` is `None` where nothing says what the classes are: then there are no labels, and no errors are reported.
    """

    classes: tuple[str, ...] | None
    calibration: ImageSet
    test: ImageSet | None
    train: ImageSet | None = None
    own: bool = True
    """Whether the user brought it: then the calibration sample is stratified by class."""
    type: Kind | None = None
    """What labels say; `classes` are then the names of classes, attributes or values. `None`: only labels can tell."""

    @property
    def asked(self) -> TypeSpec | None:
        """The type of a task that only its data can tell, attributes and values; one class of several shows itself."""
        return None if self.type in (None, "multiclass") else TypeSpec(kind=self.type)


def read_task(task: str, root: Path | None = None, *, download: bool = False, training: bool = False) -> TaskData:
    """Read a bundled task, `torchvision:NAME`, an image folder, a NumPy file or an upload.

    Bundled tasks stand in `mtz_core.data.bundled.TASKS`; `training` asks for the full training set of one, which lies
    below `root`. A folder has a subfolder for each class, or images and a table of labels (see
    `mtz_core.data.label_table`), or two halves of that form, `calibration` (or `train`) and `test`. Where there is no
    test half, every `HELD_OUT`-th image is for evaluation. Raises `DataError`, or `SpecError` for an unknown name.
    """
    if task in TASKS:
        train = _full_training_set(task, root) if training else None
        kind = bundled_set(task)
        held = word_set if kind.inputs == "words" else array_set
        calibration, test = held(*load_data(task, "calibration")), held(*load_data(task, "test", root))
        return TaskData(kind.names, calibration, test, train, own=False, type=kind.type)
    if task.startswith(TORCHVISION):
        return _torchvision_task(task.removeprefix(TORCHVISION), root, download)
    path = upload_path(task) if task.startswith(PREFIX) else Path(task)
    if path.is_file():
        return _file_task(path)
    return _folder_task(path)


def _torchvision_task(name: str, root: Path | None, download: bool) -> TaskData:
    base = data_root(root)
    if base is None:
        raise DataError(f"data: torchvision:{name} needs a folder; give it as data_root, --data-root or $MTZ_DATA")
    parts = []
    for split in ("train", "test"):
        if name in RECORDS:
            pixels, numbers, classes = read_records(name, base, split)
            parts.append(array_set(pixels, numbers))
        else:
            images, labels, classes = torchvision_dataset(name, base, split, download)
            parts.append(array_set(images, labels))
    return TaskData(classes, parts[0], parts[1], parts[0])


def _file_task(path: Path) -> TaskData:
    first, test = read_arrays(path)
    whole, rest = _array_part(first), None if test is None else _array_part(test)
    if first.labels is None:
        return TaskData(None, whole, None)
    classes, kind = _told([first.labels] + ([] if test is None or test.labels is None else [test.labels]))
    if rest is not None:
        return TaskData(classes, whole, rest if rest.labels is not None else None, type=kind)
    return _held_out(classes, whole, kind)


def _told(labels: Sequence[NDArray[Any]]) -> tuple[tuple[str, ...], Kind | None]:
    """Names of classes, attributes or values that labels have, by their numbers, and what the labels say."""
    first = labels[0]
    if first.dtype.kind == "f":
        return tuple(str(k) for k in range(first.shape[1] if first.ndim == 2 else 1)), "regression"
    if first.ndim == 2 and all(bool(np.isin(part, (0, 1)).all()) for part in labels):
        return tuple(str(k) for k in range(first.shape[1])), "multilabel"
    counting = [part[(part >= 0) & (part != IGNORED)] if first.ndim > 1 else part for part in labels]
    largest = max((int(part.max()) for part in counting if part.size), default=0)
    return tuple(str(k) for k in range(largest + 1)), "multiclass" if first.ndim == 1 else None


def _array_part(arrays: Arrays) -> ImageSet:
    return array_set(arrays.images, arrays.labels)


def _folder_task(folder: Path) -> TaskData:
    first = next((half for half in ("calibration", "train") if (folder / half).is_dir()), None)
    if first is None or not (folder / "test").is_dir() or label_file(folder) is not None:
        classes, images, kind = _listed(folder)
        return _held_out(classes, images, kind)
    classes, images, kind = _listed(folder / first)
    test_classes, test, _ = _listed(folder / "test")
    if classes != test_classes:
        raise DataError(f"{folder}: {first} has the classes {', '.join(classes)}, test {', '.join(test_classes)}")
    return TaskData(classes, images, test, type=kind)


def _listed(folder: Path) -> tuple[tuple[str, ...], ImageSet, Kind | None]:
    table = label_file(folder)
    found = list_images(folder) if table is None else list_by_table(folder, table)
    images = ImageSet(len(found.files), found.labels, found.read)
    if found.labels.ndim == 1 and found.labels.dtype.kind != "f":
        return found.classes, images, "multiclass"
    return found.classes, images, "regression" if found.labels.dtype.kind == "f" else "multilabel"


def _held_out(classes: tuple[str, ...], images: ImageSet, kind: Kind | None = None) -> TaskData:
    """Keep a part for evaluation, in which every class has its share."""
    assert images.labels is not None
    count = max(1, len(images) // HELD_OUT)
    by_class = images.labels.ndim == 1 and images.labels.dtype.kind != "f"
    held = stratified_sample(images.labels, count, seed=0) if by_class else shuffled(len(images), 0)[:count]
    kept: NDArray[np.int64] = shuffled(len(images), 0)
    kept = kept[~np.isin(kept, held)]
    return TaskData(classes, images.part(kept), images.part(held), type=kind)


def _full_training_set(task: str, root: Path | None) -> ImageSet | None:
    base = data_root(root)
    full = None if base is None else read_full(task, "train", base)
    if full is None:
        return None
    inputs, labels = without_bundled(task, full)
    return word_set(inputs, labels) if bundled_set(task).inputs == "words" else array_set(inputs[:, None], labels)
