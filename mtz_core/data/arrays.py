"""Inputs in NumPy files: `.npy` (inputs alone) or `.npz` (inputs, and labels if there are any). No pickle is loaded.

Of a network with several outputs, each may have labels of its own: the array `labels.NAME`, of test images
`test_labels.NAME`. An archive may be compressed; what its members declare is checked before anything is unpacked.
"""

from __future__ import annotations

import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.errors import DataError
from mtz_core.system.memory import check_room

MOST_BYTES = 2 * 2**30
MOST_CLASSES = 100_000
CHUNK = 2**24
LABEL = 24
"""Bytes that a label takes beside the file's own number: as int64, of all images and of parts of them."""
DAMAGE = (
    *(ValueError, TypeError, KeyError, SyntaxError, RuntimeError, OverflowError, MemoryError),
    *(EOFError, RecursionError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""Whatever NumPy's and Python's readers raise at a damaged file."""
IMAGES = ("images", "inputs", "x", "data", "X", "arr_0", "x_train")
LABELS = ("labels", "y", "targets", "Y", "arr_1", "y_train")
NAMED, NAMED_TEST = "labels.", "test_labels."
"""Before the name of an output whose labels an array holds."""
TEST = (("test_images", "test_labels"), ("test_inputs", "test_labels"), ("x_test", "y_test"))
MOST_AXES = 5
"""Of an array: a volume has (N, C, D, H, W)."""


@dataclass(frozen=True)
class Arrays:
    """Inputs (N, ...) as they are stored, finite numbers, and labels if there are any.

    Labels are classes int64 (N,), attributes int64 (N, K), maps of classes int64 (N, H, W), or values float32 (N, ...).
    """

    images: NDArray[Any]
    labels: NDArray[Any] | None
    named: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Labels of several outputs by their names, instead of `labels`."""


def read_arrays(path: Path) -> tuple[Arrays, Arrays | None]:
    """Return the inputs of a file, and its test inputs if it has a part of its own for them (`x_test`, `y_test`).

    What they are, the network decides that reads them (see `mtz_core.data.reading`). Raises `DataError` if the file is
    missing, damaged, too large, holds pickled objects, NaN, or no inputs.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(6)
            stream.seek(0)
            if start.startswith(b"\x93NUMPY"):
                return Arrays(_inputs(_array(stream, path.stat().st_size, path), path), None), None
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

    taken: list[int] = []

    def member(names: tuple[str, ...], number: int = 4) -> NDArray[Any] | None:
        name = next((n for n in names if n in entries), None)
        if name is None:
            return None
        with archive.open(entries[name]) as stream:
            return _array(stream, entries[name].file_size, path, taken, number)

    images = member(IMAGES)
    if images is None:
        raise DataError(
            f"{path} holds {', '.join(n[:30] for n in list(entries)[:5]) or 'nothing'}, but no inputs; call the array "
            f"'images' (also known: {', '.join(IMAGES[1:])})"
        )

    def named(prefix: str) -> dict[str, NDArray[Any] | None]:
        return {n.removeprefix(prefix): member((n,), LABEL) for n in entries if n.startswith(prefix)}

    first = _pair(images, member(LABELS, LABEL), path, named(NAMED))
    for keys in TEST:
        test = member((keys[0],))
        if test is not None:
            found = _pair(test, member((keys[1],), LABEL), path, named(NAMED_TEST))
            if set(found.named) != set(first.named):
                raise DataError(
                    f"{path} has {NAMED}* for {', '.join(first.named) or 'nothing'}, and {NAMED_TEST}* for "
                    f"{', '.join(found.named) or 'nothing'}; give labels of the same outputs in both"
                )
            return first, found
    return first, None


def _array(stream: IO[bytes], size: int, path: Path, taken: list[int] | None = None, number: int = 4) -> NDArray[Any]:
    """Read one array whose header fits the `size` bytes that are there.

    `taken` are the bytes of memory of the arrays before it, in which a value may be kept a second time as `number`
    bytes.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{path}: NumPy format {version} is not known; write it again with numpy.savez")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers that Python 2 wrote
        shape, fortran, dtype = read(stream)
    if dtype.hasobject or dtype.kind not in "uifb":
        raise DataError(
            f"{path} holds {dtype}, which would have to be unpickled or is no number; store images as uint8 or "
            "float32, tokens as int64"
        )
    if len(shape) > MOST_AXES or not all(0 <= n < 2**40 for n in shape):
        raise DataError(f"{path}: an array of shape {shape[:6]} is no set of inputs; at most {MOST_AXES} axes are read")
    needed = math.prod(shape) * dtype.itemsize
    if needed > min(size, MOST_BYTES):
        raise DataError(f"{path}: shape {shape} needs {needed:,} bytes, {size:,} are there; write the file again")
    copied = number if number == LABEL or dtype not in (np.uint8, np.float32) else 0
    taken = [] if taken is None else taken
    taken.append(needed + math.prod(shape) * copied)
    check_room(
        sum(taken), f"{path}: {dtype} numbers of shape {shape}", "store images as uint8 or float32, or bring fewer"
    )
    data, at = np.empty(needed, np.uint8), 0
    while at < needed and (read_now := stream.read(min(CHUNK, needed - at))):
        data[at : at + len(read_now)] = np.frombuffer(read_now, np.uint8)
        at += len(read_now)
    if at != needed:
        raise DataError(f"{path} is cut off: {at:,} of {needed:,} bytes are there; write the file again")
    return data.view(dtype).reshape(shape, order="F" if fortran else "C")


def _pair(
    images: NDArray[Any], labels: NDArray[Any] | None, path: Path, named: Mapping[str, NDArray[Any] | None]
) -> Arrays:
    x = _inputs(images, path)
    if labels is not None and named:
        raise DataError(f"{path} holds labels, and labels of the outputs {', '.join(named)}; keep one of both")
    several = {name: _labels(y, len(x), path) for name, y in named.items() if y is not None}
    return Arrays(x, None if labels is None else _labels(labels, len(x), path), several)


def _labels(labels: NDArray[Any], count: int, path: Path) -> NDArray[Any]:
    y = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if y.ndim < 1 or len(y) != count:
        raise DataError(
            f"{path}: labels are {labels.dtype} {labels.shape}; expected one whole number for each of {count} images, "
            "or one row of attributes or values, or one map"
        )
    if y.dtype.kind == "f":
        if not bool(np.isfinite(y).all()):
            raise DataError(f"{path}: labels hold NaN or infinity; leave these images out")
        return y.astype(np.float32)
    if y.ndim == 1 and (y.min() < 0 or y.max() >= MOST_CLASSES):
        raise DataError(f"{path}: labels go from {y.min()} to {y.max()}; expected 0, 1, 2, …")
    return y.astype(np.int64)


def _inputs(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if array.ndim < 2 or len(array) < 2 or not array.size:
        raise DataError(
            f"{path}: inputs have shape {array.shape}; expected (N, ...), images (N, H, W) or (N, C, H, W) for "
            "example, with two of them at least"
        )
    if array.dtype.kind == "f" and not (math.isfinite(float(array.min())) and math.isfinite(float(array.max()))):
        raise DataError(f"{path}: the inputs hold NaN or infinity; clean the data")
    return array


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
