"""Data sets that are stored as plain records of bytes: CIFAR-10 and CIFAR-100 (binary version), STL-10.

The usual "Python version" of CIFAR is a pickle, which could run a program; it is not read here (of CIFAR-10 the
published files are, see `mtz_core.data.batches`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtz_core.errors import DataError

MOST_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Records:
    """Where a data set lies and how one image is stored: `labels` bytes (the last counts), then RGB planes."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    labels: int
    size: int
    address: str


CIFAR = "https://www.cs.toronto.edu/~kriz"
RECORDS = {
    "CIFAR10": Records(
        "cifar-10-batches-bin", tuple(f"data_batch_{k}.bin" for k in range(1, 6)), ("test_batch.bin",),
        "batches.meta.txt", 1, 32, f"{CIFAR}/cifar-10-binary.tar.gz",
    ),
    "CIFAR100": Records(
        "cifar-100-binary", ("train.bin",), ("test.bin",), "fine_label_names.txt", 2, 32,
        f"{CIFAR}/cifar-100-binary.tar.gz",
    ),
    "STL10": Records(
        "stl10_binary", ("train_X.bin",), ("test_X.bin",), "class_names.txt", 0, 96,
        "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
    ),
}  # fmt: skip


def read_records(name: str, root: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Return images (N, 3, H, W), labels and class names of a data set below `root`; `split` is "train" or "test".

    Raises `DataError` if its files are missing or have another length than whole records.
    """
    known = RECORDS[name]
    folder = root / known.folder
    files = known.train if split == "train" else known.test
    if missing := [file for file in (*files, known.names) if not (folder / file).is_file()]:
        raise DataError(
            f"{name} is not usable: {folder} lacks {', '.join(missing[:3])}. Only the binary version is read (the "
            f"Python version is a pickle, which could run a program): unpack {known.address} into {root}"
            + ("; or name the data cifar10, which is read in other forms, too" if name == "CIFAR10" else "")
        )
    pixels = 3 * known.size**2
    raw = [_bytes(folder / file, known.labels + pixels) for file in files]
    rows = np.concatenate(raw)
    images = rows[:, known.labels :].reshape(-1, 3, known.size, known.size)
    if known.labels:
        labels = rows[:, known.labels - 1].astype(np.int64)
    else:  # STL-10 counts from 1, stores labels apart and images column by column
        apart = _bytes(folder / files[0].replace("_X", "_y"), 1)
        labels, images = apart[:, 0].astype(np.int64) - 1, images.transpose(0, 1, 3, 2)
    classes = tuple(line.strip() for line in (folder / known.names).read_text("utf-8", "replace").split("\n"))
    classes = tuple(name[:60] for name in classes if name)
    if len(labels) != len(images) or labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(
            f"{folder}: labels do not fit the {len(images)} images and {len(classes)} classes; unpack again"
        )
    return images, labels, classes


def _bytes(path: Path, record: int) -> NDArray[np.uint8]:
    try:
        size = path.stat().st_size
        if size == 0 or size % record or size > MOST_BYTES:
            raise DataError(f"{path} has {size:,} bytes, not a multiple of {record:,}; unpack it again")
        return np.fromfile(path, np.uint8).reshape(-1, record)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
