"""A task's images by name: bundled ones, torchvision's data sets, folders, NumPy files, uploads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtz_core.data.arrays import Arrays, read_arrays
from mtz_core.data.bundled import TASKS, class_names
from mtz_core.data.fullsets import data_root, read_full, without_bundled
from mtz_core.data.imageset import ImageSet, array_set, shuffled
from mtz_core.data.loading import load_data
from mtz_core.data.records import RECORDS, read_records
from mtz_core.data.sampling import stratified_sample
from mtz_core.data.sources import list_images, torchvision_dataset
from mtz_core.data.uploads import PREFIX, upload_path
from mtz_core.errors import DataError

TORCHVISION = "torchvision:"
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


def read_task(task: str, root: Path | None = None, *, download: bool = False, training: bool = False) -> TaskData:
    """Read a bundled task (mnist, fashion, letters), `torchvision:NAME`, an image folder, a NumPy file or an upload.

    A folder has a subfolder for each class, or two halves of that form, `calibration` (or `train`) and `test`. Where
    there is no test half, every `HELD_OUT`-th image is for evaluation. `training` asks for the full training set of a
    bundled task, which lies below `root`. Raises `DataError`, or `SpecError` for an unknown name.
    """
    if task in TASKS:
        train = _full_training_set(task, root) if training else None
        images, labels = load_data(task, "test", root)
        calibration = array_set(*load_data(task, "calibration"))
        return TaskData(class_names(task), calibration, array_set(images, labels), train, own=False)
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
    largest = max(
        int(labels.max()) for labels in (first.labels, None if test is None else test.labels) if labels is not None
    )
    classes = tuple(str(k) for k in range(largest + 1))
    if rest is not None:
        return TaskData(classes, whole, rest if rest.labels is not None else None)
    return _held_out(classes, whole)


def _array_part(arrays: Arrays) -> ImageSet:
    return array_set(arrays.images, arrays.labels)


def _folder_task(folder: Path) -> TaskData:
    first = next((half for half in ("calibration", "train") if (folder / half).is_dir()), None)
    if first is None or not (folder / "test").is_dir():
        classes, images = _listed(folder)
        return _held_out(classes, images)
    classes, images = _listed(folder / first)
    test_classes, test = _listed(folder / "test")
    if classes != test_classes:
        raise DataError(f"{folder}: {first} has the classes {', '.join(classes)}, test {', '.join(test_classes)}")
    return TaskData(classes, images, test)


def _listed(folder: Path) -> tuple[tuple[str, ...], ImageSet]:
    found = list_images(folder)
    return found.classes, ImageSet(len(found.files), found.labels, found.read)


def _held_out(classes: tuple[str, ...], images: ImageSet) -> TaskData:
    """Keep a part for evaluation, in which every class has its share."""
    assert images.labels is not None
    held = stratified_sample(images.labels, max(1, len(images) // HELD_OUT), seed=0)
    kept: NDArray[np.int64] = shuffled(len(images), 0)
    kept = kept[~np.isin(kept, held)]
    return TaskData(classes, images.part(kept), images.part(held))


def _full_training_set(task: str, root: Path | None) -> ImageSet | None:
    base = data_root(root)
    full = None if base is None else read_full(task, "train", base)
    if full is None:
        return None
    images, labels = without_bundled(task, full)
    return array_set(images[:, None], labels)
