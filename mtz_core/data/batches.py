"""CIFAR-10 as its "Python version": pickles, which are opened only if they are the published ones, byte for byte.

A pickle can run a program. torchvision reads these, and it is asked to only after the MD5 of every file is the one that
is published; any other content is never opened (no torch here until then).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtz_core.errors import DataError

BATCHES = "cifar-10-batches-py"
ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
DIGESTS = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
"""MD5 of every file, as torchvision and the data set's authors give them."""


def check_batches(folder: Path) -> None:
    """Raise `DataError` unless every file of the folder has the published content; nothing is unpickled."""
    for name, digest in DIGESTS.items():
        path = folder / name
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror or error}; unpack {ADDRESS} into {folder.parent} again"
            ) from error
        if found != digest:
            raise DataError(
                f"{path} is not the published file (its MD5 is {found}, expected {digest}). It is a pickle, which "
                f"could run a program, so it is not opened; remove {folder} and unpack {ADDRESS} into {folder.parent}"
            )


def read_batches(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images uint8 (N, 3, 32, 32) and labels (N,) of the published files; `split` is "train" or "test".

    Raises `DataError` as `check_batches` does, or if torchvision cannot read them.
    """
    check_batches(folder)
    from mtz_core.data.torchvision import import_torchvision

    try:
        found = import_torchvision().datasets.CIFAR10(str(folder.parent), train=split == "train", download=False)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(f"torchvision cannot read {folder} ({error}); unpack {ADDRESS} again") from error
    images: NDArray[np.uint8] = np.asarray(found.data, np.uint8).transpose(0, 3, 1, 2)
    return images, np.asarray(found.targets, np.int64)


def fetch_batches(root: Path) -> None:
    """Let torchvision download the data set into `root`; it checks the archive's MD5 before it unpacks it.

    Raises `DataError` if there is no network, or something else came.
    """
    from mtz_core.data.torchvision import import_torchvision

    try:
        import_torchvision().datasets.CIFAR10(str(root), download=True)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded into {root} ({error}). Download {ADDRESS} where there is a network, and "
            f"unpack it into {root}"
        ) from error
