"""A task's images, or other inputs, by name: bundled ones, torchvision's data sets, folders, NumPy files, uploads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.data.arrays import Arrays, read_arrays
from mtz_core.data.batches import fetch_batches
from mtz_core.data.bundled import TASKS, bundled_set
from mtz_core.data.cifar import drawn_apart
from mtz_core.data.fullsets import absent, data_root, read_full, without_bundled
from mtz_core.data.imageset import ImageSet, array_set, shuffled, stored_set, word_set
from mtz_core.data.label_table import label_file, read_label_rows
from mtz_core.data.loading import load_data, stored_images
from mtz_core.data.masks import IGNORED, IMAGES, list_by_masks, mask_folder
from mtz_core.data.reading import Preparation
from mtz_core.data.records import RECORDS, read_records
from mtz_core.data.sampling import stratified_sample
from mtz_core.data.sources import list_by_table, list_images, torchvision_dataset
from mtz_core.data.uploads import PREFIX, upload_path
from mtz_core.data.zipped_folder import is_zipped_folder, unzipped_folder
from mtz_core.errors import DataError, SpecError
from mtz_core.outputs.types import Kind
from mtz_core.spec import TypeSpec

TORCHVISION = "torchvision:"
FIRST, TEST = ("calibration", "train"), ("test", "val")
"""Names of the two halves of a folder."""
HELD_OUT = 5
"""One image in this many of a folder or file without a test part is kept for evaluation."""


@dataclass(frozen=True)
class TaskData:
    """A task's images: `calibration` and `test`, and `train` if there is a full training set.

    `classes` is `None` where nothing says what the classes are: there are no labels, and no errors are reported, or
    labels are masks, which are held against a network's outputs.
    """

    classes: tuple[str, ...] | None
    calibration: ImageSet
    test: ImageSet | None
    train: ImageSet | None = None
    own: bool = True
    """Whether the user brought it: then the calibration sample is stratified by class."""
    type: Kind | None = None
    """What labels say; `classes` are then the names of classes, attributes or values. `None`: only labels can tell."""
    ignored: int | None = None
    """The number of a pixel that does not count, where labels are masks."""

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the outputs that have labels of their own, if data has labels of several."""
        return tuple(self.calibration.named)

    def check(self, how: Preparation) -> None:
        """Raise `DataError` if a network that is given its inputs in this way can't read them."""
        for part in {id(each): each for each in (self.calibration, self.test, self.train) if each is not None}.values():
            part.fits(how)

    def asked(self, wanted: TypeSpec | None, outputs: int, output: str | None = None) -> TypeSpec | None:
        """Return the type of a task, as far as it was `wanted` or only its data can tell it.

        Of several outputs that have labels, `output` says whose are meant.

        Attributes and values are told by data; one class of several shows itself. Masks tell which number does not
        count, and are of a yes or no where a network has one of `outputs` at every place.

        >>> one = TaskData(None, array_set(np.zeros((2, 1, 4, 4), np.uint8)), None, ignored=255)
        >>> one.asked(None, 3) == TypeSpec(kind="multiclass", ignore_index=255)
        True
        """
        if self.ignored is not None:
            kind = wanted or TypeSpec(kind="binary" if outputs == 1 else "multiclass")
            counts = kind.ignore_index is not None or kind.kind == "regression"
            return kind if counts else kind.model_copy(update={"ignore_index": self.ignored})
        kinds = [] if self.test is None or output is None else [self.test.named[output]]
        told = self.type if output is None else _told([self.calibration.named[output], *kinds])[1]
        return wanted or (None if told in (None, "multiclass") else TypeSpec(kind=told))


def read_task(
    task: str,
    root: Path | None = None,
    *,
    labels: str | None = None,
    outputs: Sequence[str] = (),
    download: bool = False,
    training: bool = False,
) -> TaskData:
    """Read a task with a name, `torchvision:NAME`, an image folder or a `.zip` of one, a NumPy file or an upload.

    Tasks with a name stand in `mtz_core.data.bundled.TASKS`; `training` asks for the full training set of one, which
    lies below `root`, and so do all images of one that are not bundled: `download` fetches them. A folder has a
    subfolder for each class, or images and a table of labels (see `mtz_core.data.label_table`) or masks (see
    `mtz_core.data.masks`), or two halves of that form, `calibration` (or `train`) and `test` (or `val`). Where there is
    no test half, every `HELD_OUT`-th image is for evaluation.

    `labels` names a CSV file, or an upload of one, with labels for the images of a file that has none, in their order
    (test images after the others), or for a folder. `outputs` are names of outputs of a network that a table has
    columns for (see `mtz_core.data.label_table`). Raises `DataError`, or `SpecError` for an unknown name.
    """
    if labels is not None and (task in TASKS or task.startswith(TORCHVISION)):
        raise SpecError(f"labels: {task} has labels of its own; leave them out")
    if task in TASKS and not bundled_set(task).bundled:
        return _stored_task(task, root, download)
    if task in TASKS:
        train = _full_training_set(task, root) if training else None
        kind = bundled_set(task)
        held = word_set if kind.inputs == "words" else array_set
        calibration, test = held(*load_data(task, "calibration")), held(*load_data(task, "test", root))
        return TaskData(kind.names, calibration, test, train, own=False, type=kind.type)
    if task.startswith(TORCHVISION):
        return _torchvision_task(task.removeprefix(TORCHVISION), root, download)
    path, table = _path_of(task), None if labels is None else _path_of(labels)
    if is_zipped_folder(path):
        path = unzipped_folder(path)
    if table is not None and not table.is_file():
        raise DataError(f"labels: {table} is no file; give a table of comma-separated values")
    if path.is_file():
        return _file_task(path) if table is None else _file_with_table(path, table, outputs)
    return _folder_task(path, outputs) if table is None else _held_out(*_listed(path, table, outputs))


def _path_of(name: str) -> Path:
    return upload_path(name) if name.startswith(PREFIX) else Path(name)


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


def _stored_task(task: str, root: Path | None, download: bool) -> TaskData:
    """A task whose images lie below the data root; only those that are looked at are decoded."""
    base = data_root(root)
    if download and base is not None and absent(task, base):
        fetch_batches(base)
    calibration, train = (stored_set(part, task) for part in drawn_apart(stored_images(task, "learned", root)))
    known, test = bundled_set(task), stored_set(stored_images(task, "test", root), task)
    return TaskData(known.names, calibration, test, train, own=False, type=known.type)


def _file_task(path: Path) -> TaskData:
    first, test = read_arrays(path)
    whole, rest = _array_part(first, path), None if test is None else _array_part(test, path)
    if first.named:
        return _held_out(None, whole) if rest is None else TaskData(None, whole, rest)
    if first.labels is None:
        return TaskData(None, whole, None)
    classes, kind = _told([first.labels] + ([] if test is None or test.labels is None else [test.labels]))
    if rest is not None:
        return TaskData(classes, whole, rest if rest.labels is not None else None, type=kind)
    return _held_out(classes, whole, kind)


def _file_with_table(path: Path, table: Path, outputs: Sequence[str]) -> TaskData:
    """Images of a file, and labels of a table in their order; test images come after the others."""
    first, test = read_arrays(path)
    if first.labels is not None or first.named or (test is not None and test.labels is not None):
        raise DataError(f"{path} has labels of its own, and {table} has others; leave one of both out")
    count = len(first.images)
    found = read_label_rows(table, count + (0 if test is None else len(test.images)), outputs)
    kind, labels = _kind(found.labels), found.labels
    parts = [
        array_set(
            images,
            None if labels is None else labels[rows],
            str(path),
            {name: each[rows] for name, each in found.named.items()},
        )
        for images, rows in (
            (first.images, slice(count)),
            *([] if test is None else [(test.images, slice(count, None))]),
        )
    ]
    if test is None:
        return _held_out(found.names, parts[0], kind)
    return TaskData(found.names, parts[0], parts[1], type=kind)


def _kind(labels: NDArray[Any] | None) -> Kind | None:
    """What labels of a table say; those of several outputs say it each (see `TaskData.asked`)."""
    if labels is None:
        return None
    if labels.dtype.kind == "f":
        return "regression"
    return "multiclass" if labels.ndim == 1 else "multilabel"


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


def _array_part(arrays: Arrays, path: Path) -> ImageSet:
    return array_set(arrays.images, arrays.labels, str(path), arrays.named)


def _folder_task(folder: Path, outputs: Sequence[str]) -> TaskData:
    if label_file(folder) is None:
        if (masks := mask_folder(folder)) is not None:
            return _masked_task(folder, masks)
        if halves := _halves(folder):
            return _two_parts(*halves, outputs)
    return _held_out(*_listed(folder, None, outputs))


def _halves(folder: Path) -> tuple[Path, Path] | None:
    """The parts of a folder for calibration and for evaluation, if it has both."""
    found = [next((folder / name for name in names if (folder / name).is_dir()), None) for names in (FIRST, TEST)]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _two_parts(first: Path, second: Path, outputs: Sequence[str]) -> TaskData:
    classes, images, kind = _listed(first, None, outputs)
    test_classes, test, _ = _listed(second, None, outputs)
    if classes != test_classes:
        one, other = (", ".join(each or ("masks",)) for each in (classes, test_classes))
        raise DataError(
            f"{first.parent}: {first.name} has the classes {one}, {second.name} {other}; make them the same, in both"
        )
    return _masked(images, test) if _only_masks(images) else TaskData(classes, images, test, type=kind)


def _masked_task(folder: Path, masks: Path) -> TaskData:
    """Images and masks, each of them whole or in two halves."""
    images = folder / IMAGES
    halves = _halves(images)
    if halves is None:
        return _held_out(None, _mask_set(folder, images, masks))
    first, test = (_mask_set(folder, half, masks / half.name) for half in halves)
    return _masked(first, test)


def _mask_set(folder: Path, images: Path, masks: Path) -> ImageSet:
    found = list_by_masks(folder, images, masks)
    return ImageSet(len(found.files), None, found.read, found.read_masks, fits=found.fits)


def _masked(first: ImageSet, test: ImageSet) -> TaskData:
    return TaskData(None, first, test, ignored=IGNORED)


def _only_masks(images: ImageSet) -> bool:
    return images.masks is not None and images.labels is None


def _listed(
    folder: Path, table: Path | None, outputs: Sequence[str]
) -> tuple[tuple[str, ...] | None, ImageSet, Kind | None]:
    table = table or label_file(folder)
    if table is None and (masks := mask_folder(folder)) is not None:
        return None, _mask_set(folder, folder / IMAGES, masks), None
    found = list_images(folder) if table is None else list_by_table(folder, table, outputs)
    images = ImageSet(len(found.files), found.labels, found.read, named=found.named, fits=found.fits)
    return found.classes, images, _kind(found.labels)


def _held_out(classes: tuple[str, ...] | None, images: ImageSet, kind: Kind | None = None) -> TaskData:
    """Keep a part for evaluation, in which every class has its share."""
    count, labels = max(1, len(images) // HELD_OUT), images.labels
    if labels is not None and labels.ndim == 1 and labels.dtype.kind != "f":
        held = stratified_sample(labels, count, seed=0)
    else:
        held = shuffled(len(images), 0)[:count]
    kept: NDArray[np.int64] = shuffled(len(images), 0)
    kept = kept[~np.isin(kept, held)]
    first, test = images.part(kept), images.part(held)
    return _masked(first, test) if _only_masks(images) else TaskData(classes, first, test, type=kind)


def _full_training_set(task: str, root: Path | None) -> ImageSet | None:
    base = data_root(root)
    full = None if base is None else read_full(task, "train", base)
    if full is None:
        return None
    inputs, labels = without_bundled(task, full)
    return word_set(inputs, labels) if bundled_set(task).inputs == "words" else array_set(inputs[:, None], labels)
