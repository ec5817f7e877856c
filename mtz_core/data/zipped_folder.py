"""A folder of images that comes as one `.zip` file: checked whole, then unpacked beside the uploads.

Only images and tables of labels are unpacked, under names that stay inside, and no more bytes than were declared.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mtz_core.data.arrays import DAMAGE
from mtz_core.data.sources import MOST_IMAGES, SUFFIXES
from mtz_core.errors import DataError
from mtz_core.system.paths import uploads_folder

MOST_MEMBERS = 2 * MOST_IMAGES + 10_000
MOST_BYTES = 4 * 2**30
"""Of all members together."""
MOST_MEMBER = 256 * 2**20
MOST_DEPTH, MOST_NAME = 8, 200
CHUNK = 2**20
TABLE = ".csv"
ARCHIVES = frozenset([".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst", ".lz4", ".npz", ".jar"])
FOLDERS = "folders"
MOST_DIRECTORY = 32 * 2**20
END, MOST_COMMENT, LOCATOR_64, END_64 = 22, 2**16, 20, 56
"""Bytes of the records that end an archive."""


def is_zipped_folder(path: Path) -> bool:
    """Whether a file is a `.zip` archive with images, and no NumPy file.

    Raises `DataError` if its directory alone would take too much memory.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(2) != b"PK":
                return False
            if (size := _directory_size(stream)) > MOST_DIRECTORY:
                raise DataError(
                    f"{path} lists members in {size:,} bytes; at most {MOST_DIRECTORY:,} are read, so keep fewer files"
                )
        with zipfile.ZipFile(path) as archive:
            endings = {PurePosixPath(entry.filename).suffix.lower() for entry in archive.infolist()}
    except (*DAMAGE, OSError):
        return False
    return ".npy" not in endings and bool(endings & SUFFIXES)


def _directory_size(stream: BinaryIO) -> int:
    """Bytes of an archive's directory, as its end says: what Python's reader will take into memory."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - END - MOST_COMMENT - END_64 - LOCATOR_64))
    data = stream.read()
    plain = data[-END : -END + 4] == b"PK\x05\x06" and data.endswith(b"\0\0")
    at = len(data) - END if plain else data.rfind(b"PK\x05\x06")
    if at < 0 or at + END > len(data):
        return 0  # no archive, as its reader will say
    before = at - LOCATOR_64 - END_64
    if before >= 0 and data[at - LOCATOR_64 :].startswith(b"PK\x06\x07"):
        return int.from_bytes(data[before + 40 : before + 48], "little")
    return int.from_bytes(data[at + 12 : at + 16], "little")


def unzipped_folder(path: Path) -> Path:
    """Return the folder that an archive holds, unpacked under the hash of the archive; it is unpacked once.

    Where all lies in one folder of the archive, that is returned. Raises `DataError` for an archive that is damaged or
    encrypted, and for members that are too many, too large, archives, links, or named so that they lead outside.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            home = uploads_folder() / FOLDERS / digest
            if not home.is_dir():
                with zipfile.ZipFile(stream) as archive:
                    _unpack(archive, _checked(archive, path), home, path)
    except (*DAMAGE, OSError, NotImplementedError) as error:  # the last: a compression that zipfile does not know
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(f"{path} is damaged, or cannot be unpacked ({why}); zip the folder again") from error
    inside = sorted(home.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else home


def _checked(archive: zipfile.ZipFile, path: Path) -> list[tuple[zipfile.ZipInfo, Path]]:
    """Members to unpack, each with its path inside; nothing is unpacked yet."""
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise DataError(f"{path} has {len(members):,} members; at most {MOST_MEMBERS:,} are unpacked, so keep fewer")
    found: dict[str, tuple[zipfile.ZipInfo, Path]] = {}
    for member in members:
        inside = _inside(member, path)
        if member.is_dir() or inside.name.startswith(".") or "__MACOSX" in inside.parts:
            continue
        ending = inside.suffix.lower()
        if ending in ARCHIVES:
            raise DataError(f"{path} holds the archive {_shown(member)}; unpack it first: archives in archives are not")
        if ending not in SUFFIXES and ending != TABLE:
            continue
        if member.file_size > MOST_MEMBER:
            raise DataError(
                f"{path}: {_shown(member)} unpacks to {member.file_size / 2**20:,.0f} MiB; at most "
                f"{MOST_MEMBER >> 20} are read of one file"
            )
        if str(inside).casefold() in found:
            raise DataError(f"{path} holds {_shown(member)} twice; keep one of both")
        found[str(inside).casefold()] = member, inside
    _check_sizes([member for member, _ in found.values()], path)
    return list(found.values())


def _inside(member: zipfile.ZipInfo, path: Path) -> Path:
    """Where a member lies in the archive's folder. Raises `DataError` if it leads outside, or is no plain file."""
    name = member.orig_filename
    parts = PurePosixPath(name).parts
    bad = name.startswith("/") or "\\" in name or ":" in name or not name.isprintable() or ".." in name.split("/")
    if bad or not parts or len(parts) > MOST_DEPTH or any(len(part.encode()) > MOST_NAME for part in parts):
        raise DataError(
            f"{path}: the name {_shown(member)} leads outside, is too long or too deep; zip the folder itself, with "
            "plain names"
        )
    mode = stat.S_IFMT(member.external_attr >> 16)
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"{path}: {_shown(member)} is a link or a device; put the file itself into the archive")
    if member.flag_bits & 0x1:
        raise DataError(f"{path}: {_shown(member)} is encrypted; zip the folder without a password")
    return Path(*parts)


def _check_sizes(members: list[zipfile.ZipInfo], path: Path) -> None:
    unpacked, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if unpacked > MOST_BYTES:
        raise DataError(f"{path} unpacks to {unpacked / 2**30:.1f} GiB; at most {MOST_BYTES >> 30} GiB are unpacked")
    if packed > path.stat().st_size:
        raise DataError(f"{path}: its members share their bytes; zip the folder again")
    home = uploads_folder()
    home.mkdir(parents=True, exist_ok=True)
    if unpacked > (free := shutil.disk_usage(home).free) // 2:
        raise DataError(
            f"{path} unpacks to {unpacked / 2**20:,.0f} MiB, and {home} has {free / 2**20:,.0f} MiB left, of "
            "which half may be taken; make room, or give the folder itself"
        )


def _unpack(archive: zipfile.ZipFile, members: list[tuple[zipfile.ZipInfo, Path]], home: Path, path: Path) -> None:
    """Write all members, or none: into a folder of another name, which then gets its own."""
    temporary = home.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        for member, inside in members:
            target = temporary / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                for piece in _pieces(archive, member, path):
                    stream.write(piece)
        try:
            temporary.rename(home)
        except OSError:
            if not home.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _pieces(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Iterator[bytes]:
    left = member.file_size
    with archive.open(member) as stream:
        while piece := stream.read(CHUNK):
            left -= len(piece)
            if left < 0:
                raise DataError(f"{path}: {_shown(member)} is larger than it says; zip the folder again")
            yield piece
    if left:
        raise DataError(f"{path}: {_shown(member)} is cut off; zip the folder again")


def _shown(member: zipfile.ZipInfo) -> str:
    return repr(member.orig_filename[:80])
