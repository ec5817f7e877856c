"""Reader of the IDX format of MNIST (http://yann.lecun.com/exdb/mnist/): magic, sizes, then raw bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtz_core.errors import DataError

LARGEST = 1 << 30  # bytes that a file may declare; MNIST's largest holds 47 million


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Array of unsigned bytes stored in an IDX file, plain or gzipped (recognised by content).

    Raises DataError for a wrong magic number, element type or size, and for a truncated or damaged file.
    """
    try:
        with path.open("rb") as probe:
            zipped = probe.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] != 8 or not 1 <= head[3] <= 4:
                raise DataError(
                    f"{path}: not an IDX file of unsigned bytes: it begins with {head.hex(' ')!r}, expected "
                    "'00 00 08' and a number of dimensions; download the file again"
                )
            sizes = file.read(4 * head[3])
            if len(sizes) < 4 * head[3]:
                raise DataError(f"{path}: truncated in its header; download the file again")
            shape = struct.unpack(f">{head[3]}I", sizes)
            expected = math.prod(shape)
            if expected > LARGEST:
                raise DataError(f"{path}: declares {expected:,} bytes in shape {shape}; at most {LARGEST:,} are read")
            content = file.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: unreadable ({error}); download the file again") from error
    if len(content) != expected:
        found = "more" if len(content) > expected else f"{len(content):,}"
        raise DataError(f"{path}: shape {shape} needs {expected:,} bytes, {found} found; download the file again")
    return np.frombuffer(content, np.uint8).reshape(shape)
