"""Full data sets on the user's disk: IDX files or Keras-style archives below one folder (no torch here)."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.data.bundled import SETS, bundled_inputs, bundled_set
from mtz_core.data.cifar import found_form, where_to_put_cifar
from mtz_core.data.idx import read_idx
from mtz_core.data.words import LENGTH, TOKENS
from mtz_core.errors import DataError

Pair = tuple[NDArray[np.uint8], NDArray[Any]]

FOLDERS = {
    "mnist": ("mnist", "MNIST/raw", "MNIST"),
    "fashion": ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion"),
    "letters": ("letters",),
}
ARCHIVES = {
    "mnist": ("mnist.npz",),
    "fashion": ("fashion-mnist.npz", "fashion_mnist.npz", "fashion.npz"),
    "letters": ("letters.npz",),
}
PREFIX = {"train": "train", "test": "t10k"}


def data_root(root: Path | None) -> Path | None:
    """`root`, else the folder that the environment variable MTZ_DATA names, else None.

    Raises DataError if that folder does not exist.
    """
    if root is None and not os.environ.get("MTZ_DATA"):
        return None
    chosen = Path(os.environ["MTZ_DATA"]) if root is None else root
    if not chosen.is_dir():
        origin = "MTZ_DATA" if root is None else "the data root"
        raise DataError(f"{origin} names {chosen}, which is no folder; correct or unset it")
    return chosen


def read_full(task: str, split: str, root: Path) -> Pair | None:
    """Inputs and labels of a full set below `root`, as `bundled_inputs` has them; None if it is not there.

    `split` is "train" or "test". Raises DataError for damaged or mismatched files.
    """
    for folder in FOLDERS.get(task, ()):
        images = _existing(root / folder, f"{PREFIX[split]}-images-idx3-ubyte")
        labels = _existing(root / folder, f"{PREFIX[split]}-labels-idx1-ubyte")
        if images is not None and labels is not None:
            return _checked(read_idx(images), read_idx(labels), task, images)
        if images is not None or labels is not None:
            raise DataError(
                f"{root / folder}: found {images or labels} alone; put {PREFIX[split]}-images-idx3-ubyte "
                f"and {PREFIX[split]}-labels-idx1-ubyte (or .gz) side by side"
            )
    for name in ARCHIVES.get(task, (f"{task}.npz",)):
        if (root / name).is_file():
            return _read_archive(root / name, task, split)
    return None


def without_bundled(task: str, pair: Pair) -> Pair:
    """The inputs of `pair` that are byte for byte none of the bundled ones of `task`."""
    images, labels = pair
    held_out = {image.tobytes() for split in ("calibration", "test") for image in bundled_inputs(task, split)[0]}
    keep = np.array([image.tobytes() not in held_out for image in images], dtype=bool)
    return images[keep], labels[keep]


def where_to_put(task: str) -> str:
    """One sentence that tells a user which files make a full set of `task`."""
    if not bundled_set(task).bundled:
        return where_to_put_cifar()
    if task not in FOLDERS:
        return (
            f"put {task}.npz, which `python -m scripts.build_data --only {task}` writes, into the data root, and name "
            "that root by MTZ_DATA"
        )
    return (
        f"put either {ARCHIVES[task][0]} (Keras style: x_train, y_train, x_test, y_test) or four IDX files "
        f"train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte "
        f"(also .gz) in {FOLDERS[task][0]}/ below the data root, and name that root by MTZ_DATA"
    )


def absent(task: str, root: Path | None = None) -> str | None:
    """Why the images of a task that are not bundled can't be read, and what to do; `None` where they are found.

    Looks for files below the data root, without reading them. Raises DataError as `data_root` does.

    >>> absent("mnist") is None
    True
    """
    if task not in SETS or SETS[task].bundled:
        return None
    base = data_root(root)
    if base is not None and found_form(base) is not None:
        return None
    found = "no data root is set" if base is None else f"{base} holds none of its forms"
    return f"the images of {task} are not bundled and {found}; {where_to_put(task)}"


def _existing(folder: Path, name: str) -> Path | None:
    # torchvision and some mirrors write `train-images.idx3-ubyte`
    for candidate in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            if (folder / (candidate + suffix)).is_file():
                return folder / (candidate + suffix)
    return None


def _read_archive(path: Path, task: str, split: str) -> Pair:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            x, y = f"x_{split}", f"y_{split}"
            missing = [key for key in (x, y) if key not in archive]
            if missing:
                raise DataError(f"{path}: lacks {' and '.join(missing)}; expected x_train, y_train, x_test, y_test")
            return _checked(archive[x], archive[y], task, path)
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable .npz archive without pickles ({error})") from error


def _checked(inputs: NDArray[np.generic], labels: NDArray[np.generic], task: str, path: Path) -> Pair:
    kind = bundled_set(task)
    shape, what = ((LENGTH,), "words") if kind.inputs == "words" else ((28, 28), "images")
    if inputs.dtype != np.uint8 or inputs.shape[1:] != shape:
        raise DataError(
            f"{path}: {what} are {inputs.dtype} {inputs.shape}, expected uint8 (N, {', '.join(map(str, shape))})"
        )
    if what == "words" and inputs.size and inputs.max() >= TOKENS:
        raise DataError(f"{path}: words have letters up to number {inputs.max()}, expected less than {TOKENS}")
    return inputs.astype(np.uint8, copy=False), _checked_labels(labels, len(inputs), task, path)


def _checked_labels(labels: NDArray[np.generic], count: int, task: str, path: Path) -> NDArray[Any]:
    """Labels (N,) or (N, K) as the task's type has them."""
    kind = bundled_set(task)
    values = kind.type == "regression"
    shape = (count,) if kind.type == "multiclass" else (count, len(kind.names))
    wanted = np.floating if values else np.integer
    if not np.issubdtype(labels.dtype, wanted) or labels.shape != shape:
        what = "numbers with a point" if values else "integers"
        raise DataError(f"{path}: labels are {labels.dtype} {labels.shape}, expected {what} {shape}")
    if values:
        found: NDArray[Any] = labels.astype(np.float32)
        if not count or not np.isfinite(found).all():
            raise DataError(f"{path}: expected at least one input and finite labels")
        return found
    most = len(kind.names) - 1 if kind.type == "multiclass" else 1
    found = labels.astype(np.int64)
    if not count or found.min() < 0 or found.max() > most:
        raise DataError(f"{path}: expected at least one image and labels from 0 to {most}")
    return found
