"""Uploaded files: kept in one folder under the SHA-256 of their content (no torch here).

A file's own name is only ever shown. A specification names an upload as `upload:` and its hash, which can't lead
anywhere else.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from mtz_core.errors import CheckpointError, SpecError
from mtz_core.spec import UPLOAD
from mtz_core.system.paths import uploads_folder

PREFIX = "upload:"
MOST_UPLOAD = 256 * 2**20
"""Bytes of a file that comes through the browser; `.streamlit/config.toml` says the same."""
MOST_PATH = 4 * 2**30
CHUNK = 2**20
LEFT = 2**29
"""Bytes of the disk that no upload takes."""


def keep(chunks: bytes | memoryview | Iterable[bytes], most: int = MOST_UPLOAD) -> str:
    """Store content and return its name, `upload:HASH`. Raises `CheckpointError` if it is empty or too large."""
    if isinstance(chunks, bytes | memoryview):
        whole = memoryview(chunks)
        chunks = (bytes(whole[k : k + CHUNK]) for k in range(0, len(whole), CHUNK))
    folder = uploads_folder()
    _check_disk(folder, most)
    temporary = folder / f".{secrets.token_hex(8)}.tmp"
    digest, size = hashlib.sha256(), 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            for chunk in chunks:
                size += len(chunk)
                if size > most:
                    raise CheckpointError(
                        f"the file is larger than {most // 2**20} MiB, the most that can be brought this way; give "
                        "its path on the server instead, or name it in a YAML file for the command line"
                    )
                digest.update(chunk)
                stream.write(chunk)
        if size == 0:
            raise CheckpointError("the file is empty; choose it again, it may not have been written to the end")
        os.replace(temporary, folder / digest.hexdigest())
    except OSError as error:
        raise CheckpointError(f"cannot store the file in {folder}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return PREFIX + digest.hexdigest()


def _check_disk(folder: Path, most: int) -> None:
    """Raise `CheckpointError` if uploads would fill the disk."""
    there = next((each for each in (folder, *folder.parents) if each.is_dir()), None)
    free = None if there is None else shutil.disk_usage(there).free
    if free is not None and free < min(most, MOST_UPLOAD) + LEFT:
        raise CheckpointError(f"only {free >> 20} MiB are free in {there}; have uploads that no run needs removed")


def keep_path(text: str) -> str:
    """Store a copy of a file of this computer and return its name, so that it can't change under a run.

    Raises `CheckpointError` if there is no such regular file, or it is too large.
    """
    try:
        path = Path(text).expanduser()
        about = path.stat()
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot read {text[:200]!r}: {getattr(error, 'strerror', None) or error}; give the path of a file"
        ) from error
    if not stat.S_ISREG(about.st_mode):
        raise CheckpointError(f"{text[:200]!r} is no regular file; give the path of a weights file")
    if about.st_size > MOST_PATH:
        raise CheckpointError(f"{text[:200]!r} has {about.st_size / 2**30:.1f} GiB; at most {MOST_PATH >> 30} are read")
    return keep(_pieces(path), MOST_PATH)


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while piece := stream.read(CHUNK):
                yield piece
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def upload_path(name: str) -> Path:
    """Return where an upload lies. Raises `SpecError` if the name is malformed, or there is no such upload."""
    if not UPLOAD.fullmatch(name):
        raise SpecError(f"{name[:80]!r} names no upload; it is upload: and 64 hexadecimal digits")
    path = uploads_folder() / name.removeprefix(PREFIX)
    if path.is_symlink() or not path.is_file():
        raise SpecError(f"upload {name[:19]}… is not in {uploads_folder()}; upload the file again")
    return path


def shown_name(name: str) -> str:
    """Return a file's name for display: without folders and control characters, and not too long.

    >>> shown_name("../../etc/net.pt")
    'net.pt'
    """
    last = re.split(r"[/\\]", name)[-1]
    plain = "".join(c if c.isprintable() else "·" for c in last).strip() or "unnamed"
    return plain if len(plain) <= 60 else f"{plain[:40]}…{plain[-15:]}"
