"""Files that are either complete or absent, whenever the writer is killed."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.errors import RunError

Array = NDArray[Any]


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` by way of a temporary file in the same folder: readers see all of it or nothing.

    Raises `RunError` if the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another store"
        ) from error


def write_array(path: Path, array: Array) -> None:
    """Write one array as `.npy`. Raises `RunError` as `write_atomically` does, `ValueError` for an array of objects."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def read_array(path: Path) -> Array:
    """Read one `.npy` file. Raises `RunError` if it is missing or damaged; pickled objects are never loaded."""
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"cannot read {path}: {error}; the run is damaged or was deleted") from error
    return array


def slug(name: str) -> str:
    """Return a file name part made of letters, digits, `-` and `_` only (not unique: add an index)."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:40] or "x"


class StoredArrays(Mapping[str, Array]):
    """A mapping from key to array that reads each array when it is asked for, once."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)
        self._loaded: dict[str, Array] = {}

    def __getitem__(self, key: str) -> Array:
        if key not in self._loaded:
            self._loaded[key] = read_array(self._paths[key])
        return self._loaded[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, key: str) -> Path:
        """Return the `.npy` file that holds `key`, for downloads. Raises `KeyError` for an unknown key."""
        return self._paths[key]
