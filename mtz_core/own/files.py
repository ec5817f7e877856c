"""What a file is, by its content, and what its header declares (no torch here, no tensor is read).

Headers are believed only as far as the file backs them: every declared size must lie within the file, archives of
weights must be stored uncompressed, and nothing is extracted.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from mtz_core.errors import CheckpointError

Shapes = dict[str, tuple[int, ...]]

MOST_BYTES = 4 * 2**30
MOST_HEADER = 16 * 2**20
MOST_TENSORS = 20_000
MOST_NAME = 300
MOST_ENTRIES = 50_000
MOST_DIRECTORY = 16 * 2**20
"""Bytes of an archive's list of entries, each of which takes ten times as much in memory."""
MOST_COMMENT = 2**16 + 22 + 76
"""Bytes in which an archive's end lies: after the list of entries comes nothing but a comment."""
NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
REMEDY = "Save the weights with safetensors.torch.save_file(model.state_dict(), path)"

_MAGIC = {
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image", b"%PDF": "a PDF document",
    b"\x1f\x8b": "gzip-compressed", b"\x89HDF": "an HDF5 file (Keras?)", b"<htm": "a web page", b"<!DO": "a web page",
    b"RIFF": "a media file", b"7z\xbc\xaf": "a 7z archive", b"\x08\x00\x00\x00": "an ONNX or protobuf file",
    b"\x28\xb5\x2f\xfd": "zstd-compressed", b"BZh": "bzip2-compressed", b"GGUF": "a GGUF language model",
}  # fmt: skip


def file_kind(path: Path) -> str:
    """Return "safetensors", "torch", "pt2", "npz" or "npy", by content.

    Raises `CheckpointError` for a file that is missing, empty, too large, or none of these.
    """
    size = _size(path)
    with _opened(path) as stream:
        start = stream.read(16)
    if not start:
        raise CheckpointError(f"{path} is empty; choose the file again, it may not have been written to the end")
    if start.startswith(b"version https:/"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, {size} bytes that stand for the file itself; run `git lfs pull` where it "
            "comes from, or download the file, then choose it again"
        )
    for magic, what in _MAGIC.items():
        if start.startswith(magic):
            raise CheckpointError(f"{path} is {what}, not a checkpoint. {REMEDY}")
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start.startswith(b"PK"):
        return _archive_kind(path)
    if start[:1] == b"\x80":
        return "torch"
    if len(start) >= 9 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] <= size:
        return "safetensors"
    raise CheckpointError(f"{path} is not a checkpoint: neither a safetensors file nor one of torch.save. {REMEDY}")


def safetensors_shapes(path: Path) -> Shapes:
    """Return the shapes that the header of a safetensors file declares, after checking every number in it.

    Raises `CheckpointError` unless the tensors fill the file exactly, side by side, each as large as its shape says.
    """
    size = _size(path)
    with _opened(path) as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise CheckpointError(
                f"{path}: its header declares {length:,} bytes, but the file has {size:,}; it is cut off or damaged, "
                "so copy or save it again"
            )
        if length > MOST_HEADER:
            raise CheckpointError(f"{path}: a header of {length:,} bytes is more than {MOST_HEADER:,}. {REMEDY}")
        header = _json(stream.read(length), path)
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is no mapping of tensors; save it again. {REMEDY}")
    header.pop("__metadata__", None)
    if len(header) > MOST_TENSORS:
        raise CheckpointError(f"{path}: {len(header):,} tensors are more than {MOST_TENSORS:,}; split the file")
    spans: list[tuple[int, int, str]] = []
    shapes: Shapes = {}
    for name, entry in header.items():
        shape, begin, end = _declared(path, name, entry)
        spans.append((begin, end, name))
        shapes[name] = shape
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            what = "overlaps another tensor" if begin < at else "leaves a gap before it"
            raise CheckpointError(f"{path}: tensor {name[:60]!r} {what}; the file is damaged, so save it again")
        at = end
    if at != size - 8 - length:
        raise CheckpointError(
            f"{path}: its tensors need {at:,} bytes, but {size - 8 - length:,} follow the header; the file is cut off "
            "or damaged, so copy or save it again"
        )
    return shapes


def _declared(path: Path, name: str, entry: Any) -> tuple[tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{path}: the header's entry for {name[:60]!r} is malformed; save the file again")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    check_name(path, name)
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise CheckpointError(f"{path}: {name} has type {str(dtype)[:20]}; convert it to float32 and save again")
    if not isinstance(shape, list) or len(shape) > 8 or not all(_is_count(n) for n in shape):
        raise CheckpointError(f"{path}: {name} has no valid shape; the file is damaged, so save it again")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(n) for n in offsets):
        raise CheckpointError(f"{path}: {name} has no valid range in the file; it is damaged, so save it again")
    if offsets[1] - offsets[0] != math.prod(shape) * SIZES[dtype]:
        raise CheckpointError(
            f"{path}: {name} has shape {tuple(shape)}, which does not fit its {offsets[1] - offsets[0]:,} bytes; "
            "the file is damaged, so save it again"
        )
    return tuple(shape), offsets[0], offsets[1]


def check_name(path: Path, name: str) -> None:
    """Raise `CheckpointError` unless a tensor's name is one that a module can have."""
    if len(name) > MOST_NAME or not NAME.fullmatch(name):
        raise CheckpointError(
            f"{path}: {name[:60]!r} is no name of a module's tensor (letters, digits, _, - and dots). {REMEDY}"
        )


def checked_archive(path: Path) -> zipfile.ZipFile:
    """Open an archive of weights (.pt, .pt2): stored, without tricks, every entry within the file.

    Raises `CheckpointError` for a compressed entry (it could grow without bound), a path that leads outside, an
    encrypted or repeated entry, and anything that is no archive.
    """
    size = _size(path)
    _check_directory(path, size)
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, size - 22))
            end = stream.read(22)
        if end[:4] != b"PK\x05\x06" or end[20:] != b"\0\0":
            raise CheckpointError(f"{path} is damaged: its archive has no end; copy or save the file again")
        archive = zipfile.ZipFile(path)
    # zipfile raises NotImplementedError for a compression that it does not know.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path} is damaged ({first_line(error)}); copy or save the file again") from error
    entries = archive.infolist()
    problem = None
    if len(entries) > MOST_ENTRIES:
        problem = f"{len(entries):,} entries are too many"
    elif len({entry.filename for entry in entries}) < len(entries):
        problem = "an entry is there twice"
    elif sum(entry.file_size for entry in entries) > size:
        problem = "its entries claim to be larger than the file"
    for entry in entries:
        name = entry.filename
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            problem = f"entry {name[:60]!r} is compressed, which torch never does"
        elif entry.flag_bits & 1:
            problem = f"entry {name[:60]!r} is encrypted"
        elif name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/") or len(name) > MOST_NAME:
            problem = f"entry {name[:60]!r} has a path that leads elsewhere"
    if problem:
        archive.close()
        raise CheckpointError(f"{path} was not read: {problem}. {REMEDY}")
    return archive


def _check_directory(path: Path, size: int) -> None:
    """Raise `CheckpointError` if an archive lists so many entries that reading the list takes much memory."""
    with _opened(path) as stream:
        stream.seek(max(0, size - MOST_COMMENT))
        end = stream.read()
    at = max(0, end.rfind(b"PK\x05\x06"))
    length = int.from_bytes(end[at + 12 : at + 16], "little")
    if end[max(0, at - 20) : at].startswith(b"PK\x06\x07"):  # a list in the form for large archives
        length = int.from_bytes(end[max(0, at - 36) : max(0, at - 28)], "little")
    if length > MOST_DIRECTORY:
        raise CheckpointError(f"{path} was not read: its list of entries has {length:,} bytes. {REMEDY}")


def _archive_kind(path: Path) -> str:
    _check_directory(path, _size(path))
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    # zipfile raises NotImplementedError for a compression that it does not know.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path} is damaged ({first_line(error)}); copy or save the file again") from error
    last = [name.rpartition("/")[2] for name in names]
    if any(name.endswith(("models/model.json", "archive_format")) for name in names):
        return "pt2"
    if "serialized_exported_program.json" in last:
        raise CheckpointError(f"{path} was exported by an old PyTorch; export it again with 2.8 or newer")
    if "constants.pkl" in last or any("/code/" in name for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript program, which would have to be executed to be read. {REMEDY}, or export the "
            "model with torch.export.save"
        )
    if "data.pkl" in last:
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise CheckpointError(f"{path} is a zip archive, but not one of torch.save or torch.export. {REMEDY}")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, for use in a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def parse_json(data: bytes, path: Path) -> Any:
    """Parse JSON from outside. Raises `CheckpointError` if it is malformed or nested too deeply."""
    return _json(data, path)


def _json(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: its header is not valid JSON ({first_line(error)}); the file is damaged, so save it again"
        ) from error


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _size(path: Path) -> int:
    try:
        about = os.stat(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read the weights {str(path)[:300]!r}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not stat.S_ISREG(about.st_mode):
        raise CheckpointError(f"cannot read the weights {path}: it is no regular file; give the path of a file")
    if about.st_size > MOST_BYTES:
        raise CheckpointError(f"{path} has {about.st_size / 2**30:.1f} GiB; at most {MOST_BYTES / 2**30:.0f} are read")
    return about.st_size


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(f"cannot read the weights {path}: {error.strerror or error}") from error


def plain_shapes(state: Mapping[str, Any]) -> Shapes:
    """Return name → shape of a state dict, or of shapes that are given as such."""
    return {name: tuple(getattr(value, "shape", value)) for name, value in state.items()}
