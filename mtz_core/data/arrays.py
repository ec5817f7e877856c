"""Images in NumPy files: `.npy` (images alone) or `.npz` (images, and labels if there are any). No pickle is loaded.

An archive may be compressed; what its members declare is checked before anything is unpacked.
"""

from __future__ import annotations

import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.errors import DataError

MOST_BYTES = 2 * 2**30
MOST_CLASSES = 100_000
DAMAGE = (
    *(ValueError, TypeError, KeyError, SyntaxError, RuntimeError, OverflowError, MemoryError),
    *(EOFError, RecursionError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""Whatever NumPy's and Python's readers raise at a damaged file."""
IMAGES = ("images", "x", "data", "X", "arr_0", "x_train")
LABELS = ("labels", "y", "targets", "Y", "arr_1", "y_train")
TEST = (("test_images", "test_labels"), ("x_test", "y_test"))


@dataclass(frozen=True)
class Arrays:
    """Images (N, C, H, W) as bytes or numbers in [0, 1], and labels if there are any.

    Labels are classes int64 (N,), attributes int64 (N, K), maps of classes int64 (N, H, W), or values float32 (N, ...).
    """

    images: NDArray[Any]
    labels: NDArray[Any] | None


def read_arrays(path: Path) -> tuple[Arrays, Arrays | None]:
    """Return the images of a file, and its test images if it has a part of its own for them (`x_test`, `y_test`).

    Images are (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 or floating point in [0, 1]. Raises `DataError` if the
    file is missing, damaged, too large, holds pickled objects, or no images.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(6)
            stream.seek(0)
            if start.startswith(b"\x93NUMPY"):
                return Arrays(_images(_array(stream, path.stat().st_size, path), path), None), None
        if not start.startswith(b"PK"):
            raise DataError(f"{path} is no .npz or .npy file; write it with numpy.savez(path, images=…, labels=…)")
        with zipfile.ZipFile(path) as archive:
            return _members(archive, path)
    except (*DAMAGE, OSError) as error:
        raise DataError(
            f"{path} is damaged, or no .npz file without pickles ({_line(error)}); write it with numpy.savez(path, "
            "images=…, labels=…)"
        ) from error


def _members(archive: zipfile.ZipFile, path: Path) -> tuple[Arrays, Arrays | None]:
    entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    total = sum(entry.file_size for entry in entries.values())
    if total > MOST_BYTES:
        raise DataError(f"{path} unpacks to {total / 2**30:.1f} GiB; at most {MOST_BYTES / 2**30:.0f} GiB are read")

    def member(names: tuple[str, ...]) -> NDArray[Any] | None:
        name = next((n for n in names if n in entries), None)
        if name is None:
            return None
        with archive.open(entries[name]) as stream:
            return _array(stream, entries[name].file_size, path)

    images = member(IMAGES)
    if images is None:
        raise DataError(
            f"{path} holds {', '.join(n[:30] for n in list(entries)[:5]) or 'nothing'}, but no images; call the array "
            f"'images' (also known: {', '.join(IMAGES[1:])})"
        )
    first = _pair(images, member(LABELS), path)
    for keys in TEST:
        test = member((keys[0],))
        if test is not None:
            return first, _pair(test, member((keys[1],)), path)
    return first, None


def _array(stream: IO[bytes], size: int, path: Path) -> NDArray[Any]:
    """Read one array whose header fits the `size` bytes that are there."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{path}: NumPy format {version} is not known; write it again with numpy.savez")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers that Python 2 wrote
        shape, fortran, dtype = read(stream)
    if dtype.hasobject or dtype.kind not in "uifb":
        raise DataError(
            f"{path} holds {dtype}, which would have to be unpickled or is no number; store images as uint8 or float32"
        )
    if len(shape) > 4 or not all(0 <= n < 2**40 for n in shape):
        raise DataError(f"{path}: an array of shape {shape[:6]} is no set of images; expected (N, height, width)")
    needed = math.prod(shape) * dtype.itemsize
    if needed > min(size, MOST_BYTES):
        raise DataError(f"{path}: shape {shape} needs {needed:,} bytes, {size:,} are there; write the file again")
    data = stream.read(needed)
    if len(data) != needed:
        raise DataError(f"{path} is cut off: {len(data):,} of {needed:,} bytes are there; write the file again")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _pair(images: NDArray[Any], labels: NDArray[Any] | None, path: Path) -> Arrays:
    x = _images(images, path)
    if labels is None:
        return Arrays(x, None)
    y = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if y.ndim < 1 or len(y) != len(x):
        raise DataError(
            f"{path}: labels are {labels.dtype} {labels.shape}; expected one whole number for each of {len(x)} images, "
            "or one row of attributes or values, or one map"
        )
    if y.dtype.kind == "f":
        if not bool(np.isfinite(y).all()):
            raise DataError(f"{path}: labels hold NaN or infinity; leave these images out")
        return Arrays(x, y.astype(np.float32))
    if y.ndim == 1 and (y.min() < 0 or y.max() >= MOST_CLASSES):
        raise DataError(f"{path}: labels go from {y.min()} to {y.max()}; expected 0, 1, 2, …")
    return Arrays(x, y.astype(np.int64))


def _images(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or min(array.shape) < 1 or len(array) < 2:
        raise DataError(
            f"{path}: images have shape {array.shape}; expected (N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3 "
            "channels and two images at least"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise DataError(f"{path}: images are {array.dtype}; store them as uint8 (0 to 255) or float32 (0 to 1)")
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{path}: the images hold NaN or infinity; clean the data")
    if low < 0.0 or high > 1.0:
        raise DataError(
            f"{path}: the images go from {low:.3g} to {high:.3g}; store them from 0 to 1 (or as uint8), and give mean "
            "and std in the transform"
        )
    return array.astype(np.float32, copy=False)


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
