"""The images that come with the program, as numpy arrays (this module imports no torch)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtz_core.errors import DataError, SpecError
from mtz_core.system.places import ASSETS

DATA = ASSETS / "data"

_CLASSES: dict[str, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion": (
        "T-shirt",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "letters": tuple("ABCDEFGHIJ"),
}
TASKS = tuple(_CLASSES)


def class_names(task: str) -> tuple[str, ...]:
    """Names of a task's classes; position = label.

    >>> class_names("letters")[0]
    'A'
    """
    if task not in _CLASSES:
        raise SpecError(f"task {task!r} is unknown; known: {', '.join(TASKS)}")
    return _CLASSES[task]


def bundled_images(task: str, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bundled images, uint8 (N, 28, 28) with 0 = background, and labels, int64 (N,); both read-only.

    `split` is "calibration" or "test". Raises SpecError for an unknown name, DataError if
    the file is missing.
    """
    class_names(task)
    if split not in ("calibration", "test"):
        raise SpecError(f"split {split!r} is not bundled; bundled: calibration, test")
    return _read(DATA / f"{task}-{split}.npz")


@lru_cache(maxsize=8)
def _read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if not path.is_file():
        raise DataError(f"bundled data {path} is missing; restore it with `python -m scripts.build_data`")
    with np.load(path, allow_pickle=False) as archive:
        images = archive["images"]
        labels = archive["labels"].astype(np.int64)
    images.flags.writeable = labels.flags.writeable = False
    return images, labels
