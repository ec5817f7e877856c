"""CIFAR-10 and its two halves, whose images lie on the user's disk in one of several forms (no torch here).

The images are not bundled. Which of the training images calibrate is drawn here, once and for all; as these are among
the images that the bundled networks have learned, so is what is left for retraining.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtz_core.data.batches import ADDRESS, BATCHES, read_batches
from mtz_core.data.bundled import bundled_set
from mtz_core.data.records import RECORDS, read_records
from mtz_core.data.sampling import stratified_sample
from mtz_core.errors import DataError, SpecError

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
"""Of red, green and blue in the training images, in steps of 1 / 255."""
SIDE = 32
CLASSES: Mapping[str, tuple[int, ...]] = {
    "cifar10": tuple(range(10)),
    "cifar10-0to4": tuple(range(5)),
    "cifar10-5to9": tuple(range(5, 10)),
}
"""Which of the ten classes each task tells apart; a half numbers its own from 0."""
COUNTS = {"train": 5000, "test": 1000}
"""Images of every class."""
CALIBRATING = 5000
"""Training images of every task that calibrate, with every class's share; networks learned all training images."""
SPLITS = ("calibration", "train", "test", "learned")

BINARY, ARCHIVE, JPEG = RECORDS["CIFAR10"].folder, "cifar10.npz", "cifar10-jpeg.npz"
FORMS = (BINARY, ARCHIVE, BATCHES, JPEG)
MOST_JPEG = 2**16
"""Bytes of one JPEG file: an image of 32 × 32 pixels takes about a thousand."""
MOST_BYTES = 2**30
"""Bytes of one array of an archive; all training images take 150 MB."""
Indices = NDArray[np.int64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class StoredImages:
    """Labels int64 (N,), and `read`, which gives the images of some indices, uint8 (n, 3, 32, 32)."""

    labels: NDArray[np.int64]
    read: Callable[[Indices], Pixels]

    def part(self, indices: Indices) -> StoredImages:
        """Return the images of some indices as a set of their own."""
        return StoredImages(self.labels[indices], lambda chosen: self.read(indices[chosen]))

    def all(self) -> Pixels:
        """Return all images."""
        return self.read(np.arange(len(self.labels)))


def found_form(root: Path) -> Path | None:
    """Return the file or folder below `root` that CIFAR-10 is read from; `None` if there is none.

    Forms that keep every pixel come first, plain bytes before archives.
    """
    return next((root / name for name in FORMS if (root / name).exists()), None)


def where_to_put_cifar() -> str:
    """One sentence that tells a user which files make CIFAR-10.

    >>> "cifar10.npz" in where_to_put_cifar()
    True
    """
    return (
        f"put one of these into a folder, the data root: {BATCHES}/ (unpacked from {ADDRESS}), {BINARY}/ (unpacked "
        f"from {RECORDS['CIFAR10'].address}), {ARCHIVE} (Keras style: x_train, y_train, x_test, y_test) or {JPEG}; "
        "and name that root by MTZ_DATA, or --data-root on the command line"
    )


def read_cifar(task: str, split: str, root: Path) -> StoredImages | None:
    """Return a part of a task's images below `root`; `None` if CIFAR-10 is not there.

    `split` is "calibration" (`CALIBRATING` training images, drawn once), "train" (the other training images), "learned"
    (both, in the order of the file, as the bundled networks learned them) or "test" (the official test images).
    Raises `DataError` for files that are damaged or hold something else, `SpecError` for an unknown split.
    """
    if split not in SPLITS:
        raise SpecError(f"split {split!r} is unknown; known: {', '.join(SPLITS)}")
    path = found_form(root)
    if path is None:
        return None
    stored = _checked(_opened(path, "test" if split == "test" else "train"), split, path)
    classes = np.array(CLASSES[task])
    own = np.flatnonzero(np.isin(stored.labels, classes))
    part = StoredImages(stored.labels[own] - classes[0], stored.part(own).read)
    if split in ("test", "learned"):
        return part
    calibrating, rest = drawn_apart(part)
    return calibrating if split == "calibration" else rest


def drawn_apart(learned: StoredImages) -> tuple[StoredImages, StoredImages]:
    """Return those of a task's training images that calibrate, and the others."""
    calibrating = stratified_sample(learned.labels, CALIBRATING, seed=0)
    rest = np.setdiff1d(np.arange(len(learned.labels)), calibrating)
    return learned.part(calibrating), learned.part(rest)


def _opened(path: Path, split: str) -> StoredImages:
    match path.name:
        case name if name == BATCHES:
            return _in_memory(*read_batches(path, split))
        case name if name == BINARY:
            images, labels, names = read_records("CIFAR10", path.parent, split)
            _check_names(names, path)
            return _in_memory(images, labels)
        case name if name == ARCHIVE:
            return _archive(path, split)
        case _:
            return _jpeg(path, split)


def _in_memory(images: Pixels, labels: NDArray[np.int64]) -> StoredImages:
    return StoredImages(labels, lambda chosen: images[chosen])


def _checked(stored: StoredImages, split: str, path: Path) -> StoredImages:
    """The set itself, if it is all of CIFAR-10: parts of it would give other errors without a word."""
    each, classes = COUNTS["test" if split == "test" else "train"], len(CLASSES["cifar10"])
    labels = stored.labels
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= classes:
        raise DataError(f"{path}: labels go from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    counts = np.bincount(labels, minlength=classes)
    if (counts != each).any():
        raise DataError(
            f"{path}: has {', '.join(map(str, counts))} images of the ten classes, CIFAR-10 has {each:,} of each; "
            "fetch it again"
        )
    return stored


def _check_names(names: tuple[str, ...], path: Path) -> None:
    if names != (expected := bundled_set("cifar10").names):
        raise DataError(
            f"{path}: the classes are {', '.join(names[:10])[:200]}; expected {', '.join(expected)}, in this order"
        )


def _archive(path: Path, split: str) -> StoredImages:
    """Keras's form: images uint8 (N, 32, 32, 3), labels (N,) or (N, 1)."""
    x, y = (f"{letter}_{split}" for letter in "xy")
    found = _arrays(path, x, y)
    images, labels = found[x], found[y]
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (SIDE, SIDE, 3):
        raise DataError(f"{path}: {x} is {images.dtype} {images.shape}, expected uint8 (N, {SIDE}, {SIDE}, 3)")
    return _in_memory(images.transpose(0, 3, 1, 2), _classes(labels, len(images), path))


def _jpeg(path: Path, split: str) -> StoredImages:
    """JPEG files one after the other, as many bytes each as `sizes` says; only those that are asked for are decoded."""
    keys = [f"{split}_{what}" for what in ("jpeg", "sizes", "labels")]
    found = _arrays(path, *keys, "classes")
    content, sizes, labels = (found[key] for key in keys)
    _check_names(tuple(map(str, found["classes"])), path)
    if content.dtype != np.uint8 or content.ndim != 1 or sizes.dtype.kind not in "ui" or sizes.ndim != 1:
        raise DataError(
            f"{path}: {keys[0]} is {content.dtype} {content.shape} and {keys[1]} {sizes.dtype} {sizes.shape}; expected "
            "bytes and whole numbers in a row"
        )
    sizes = sizes.astype(np.int64)
    if not len(sizes) or sizes.min() < 1 or sizes.max() > MOST_JPEG or sizes.sum() != len(content):
        raise DataError(
            f"{path}: {keys[1]} do not add up to the {len(content):,} bytes of {keys[0]}, or one is over "
            f"{MOST_JPEG:,}; fetch the file again"
        )
    ends = np.cumsum(sizes)

    def read(chosen: Indices) -> Pixels:
        images = np.empty((len(chosen), 3, SIDE, SIDE), np.uint8)
        for k, number in enumerate(chosen):
            one = content[ends[number] - sizes[number] : ends[number]]
            images[k] = _decoded(one.tobytes(), f"{path}: image {number} of {keys[0]}")
        return images

    return StoredImages(_classes(labels, len(sizes), path), read)


def _decoded(content: bytes, what: str) -> Pixels:
    """A JPEG file as (3, 32, 32); its size is read in its header, before anything is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning; the check below is stricter
            with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                if image.size != (SIDE, SIDE):
                    raise DataError(f"{what} has {image.width:,} × {image.height:,} pixels, expected {SIDE} × {SIDE}")
                pixels: Pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{what} is damaged, or no JPEG file ({error}); fetch the file again") from error
    return pixels.transpose(2, 0, 1)


def _classes(labels: NDArray[Any], count: int, path: Path) -> NDArray[np.int64]:
    if labels.dtype.kind not in "ui" or labels.shape != (count,):
        raise DataError(f"{path}: labels are {labels.dtype} {labels.shape}, expected integers ({count},)")
    return labels.astype(np.int64)


def _arrays(path: Path, *keys: str) -> dict[str, NDArray[Any]]:
    """Some arrays of an archive without pickles."""
    try:
        with zipfile.ZipFile(path) as members:
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in members.infolist()}
        if missing := [key for key in keys if key not in sizes]:
            raise DataError(f"{path}: lacks {' and '.join(missing)}; it has {', '.join(sizes)[:200] or 'nothing'}")
        if large := [key for key in keys if sizes[key] > MOST_BYTES]:
            raise DataError(f"{path}: {large[0]} unpacks to {sizes[large[0]]:,} bytes; at most {MOST_BYTES:,} are read")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in keys}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable .npz archive without pickles ({error}); fetch it again") from error
