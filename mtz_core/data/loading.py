"""Images, words and labels as the parents expect them: one preprocessing for grey images, one for colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.data.bundled import bundled_inputs, bundled_set
from mtz_core.data.cifar import StoredImages, read_cifar
from mtz_core.data.colour import TRANSFORM
from mtz_core.data.fullsets import absent, data_root, read_full, where_to_put, without_bundled
from mtz_core.data.transform import prepare_images
from mtz_core.errors import DataError, SpecError

SPLITS = ("calibration", "test", "train")


def preprocess(images: NDArray[np.uint8]) -> Tensor:
    """Bytes (N, 28, 28) → float32 (N, 1, 28, 28) in [0, 1], that is x / 255.

    The same for every task with grey images, so that a merged network sees one kind of input. Empty background stays
    exactly zero, which agrees with the zero padding of convolutions.
    """
    return torch.from_numpy(images.astype(np.float32))[:, None] / 255.0


def network_inputs(task: str, inputs: NDArray[np.uint8]) -> Tensor:
    """What networks read: grey images float32 (N, 1, 28, 28), colour ones (N, 3, 32, 32), words int64 (N, L)."""
    if bundled_set(task).inputs == "words":
        return torch.from_numpy(inputs.astype(np.int64))
    if not bundled_set(task).bundled:
        return prepare_images(inputs, TRANSFORM)
    return preprocess(inputs)


def load_data(task: str, split: str, root: Path | None = None) -> tuple[Tensor, Tensor]:
    """Images float32 (N, 1, 28, 28) or (N, 3, 32, 32), preprocessed, or words int64 (N, L); and labels.

    `task` is one of `mtz_core.data.bundled.TASKS`. Labels are classes int64 (N,), attributes int64 (N, K) of 0 and 1,
    or values float32 (N, K). "calibration" is always the bundled set. "test" is the bundled set,
    unless the full data set lies below `root` (default: the environment variable MTZ_DATA): then it is the
    official one. "train" needs the full data set, and leaves out every input that is bundled.
    Of a task whose images are not bundled, all three lie below `root`, and "train" leaves out those that calibrate.
    Raises SpecError for unknown names, DataError for missing or damaged files.
    """
    known = bundled_set(task)
    if split not in SPLITS:
        raise SpecError(f"split {split!r} is unknown; known: {', '.join(SPLITS)}")
    if not known.bundled:
        stored = stored_images(task, split, root)
        return network_inputs(task, stored.all()), torch.from_numpy(stored.labels.copy())
    base = None if split == "calibration" else data_root(root)
    full = None if base is None else read_full(task, split, base)
    if split == "train":
        if full is None:
            found = "no data root is set" if base is None else f"{base} holds no full {task} set"
            raise DataError(f"training images are not bundled and {found}; {where_to_put(task)}")
        full = without_bundled(task, full)
    inputs, labels = bundled_inputs(task, split) if full is None else full
    return network_inputs(task, inputs), torch.from_numpy(labels.copy())


def stored_images(task: str, split: str, root: Path | None = None) -> StoredImages:
    """A part of a task whose images are not bundled (see `read_cifar`). Raises DataError where they are not found."""
    base = data_root(root)
    stored = None if base is None else read_cifar(task, split, base)
    if stored is None:
        raise DataError(absent(task, root) or f"the images of {task} are gone from {base}; {where_to_put(task)}")
    return stored
