"""A run's fingerprint: one hash of all that decides what it comes to, so that nothing is computed twice.

It is made of the specification with every default written out (without title, origin, `download` and names of
networks), of the files that it names, bundled ones included, of the code of the engine and of the versions of the
packages that compute. Files count by their content; folders by the names, sizes and times of change of all files below.
The machine and the number of threads are left out: they change results by rounding only. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mtz_core.data.bundled import DATA, TASKS
from mtz_core.data.fullsets import data_root
from mtz_core.data.uploads import PREFIX, upload_path
from mtz_core.errors import MTZError
from mtz_core.own.registered import VARIABLE
from mtz_core.runs import same
from mtz_core.runs.database import writing
from mtz_core.runs.reader import RunReader
from mtz_core.runs.records import RunRecord
from mtz_core.spec import NetworkSpec, RunSpec
from mtz_core.system.paths import PACKAGE
from mtz_core.zoo.catalog import PARENTS, trained_on

COMPUTING = ("torch", "torchvision", "numpy", "scipy")
APART = ("figures", "sweeps", "program", "cli.py", "__main__.py")
"""What of the package shows, or asks for runs, and decides no number of one."""
CHUNK = 2**20


def fingerprint(spec: RunSpec) -> str:
    """Return the hash, 64 hexadecimal digits, of a run that would begin now in this process.

    Raises `MTZError` if the data root is no folder or an upload is gone, `OSError` if a file cannot be read.
    """
    whole = {"engine": engine(), "spec": same.deciding(spec.model_dump_json()), "files": sorted(set(_files(spec)))}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


@cache
def engine() -> str:
    """Return the hash of the code that computes, and of the versions of the packages that it computes with."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] not in APART:
            digest.update(f"{inside.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    for name in COMPUTING:
        digest.update(f"{name} {_version(name)}\0".encode())
    return digest.hexdigest()


def note(store: RunReader, record: RunRecord) -> None:
    """Note the fingerprint of a run that begins now in this process; one that cannot be found is left to the run."""
    found = None
    with suppress(MTZError, OSError):
        found = fingerprint(record.spec)
    with writing(store.database) as db:
        same.note(db, record.id, found)


def missing(spec: RunSpec) -> list[str]:
    """Return one line for each file or folder that a specification names and that is not there."""
    found = []
    for number, network in enumerate(spec.networks):
        for field, path in _named(network):
            if not path.exists():
                found.append(f"networks.{number}.{field}: {path} is not there")
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _named(network: NetworkSpec) -> Iterator[tuple[str, Path]]:
    """Fields of a network that name a file or a folder, with its path."""
    for field in ("weights", "data", "labels"):
        text = getattr(network, field)
        known = text is None or text in TASKS or text.startswith("torchvision:")
        if known or (field == "weights" and network.published):
            continue
        yield field, upload_path(text) if text.startswith(PREFIX) else Path(text)


def _files(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """What every file says that a run reads, by its name."""
    root = data_root(spec.data_root)
    for network in spec.networks:
        if network.parent is not None:
            yield f"parent {network.parent}", _state(PARENTS / f"{network.parent}.safetensors")
        for _, path in _named(network):
            yield str(path), _state(path)
        task = trained_on(network)
        if task in TASKS:
            for split in ("calibration", "test"):
                yield f"{task} {split}", _state(DATA / f"{task}-{split}.npz")
        if root is not None and (task in TASKS or task.startswith("torchvision:")):
            yield f"root {root.resolve()}", _state(root)
    if where := os.environ.get(VARIABLE, ""):
        yield f"models {where}", _module(where.partition(":")[0])


def _module(name: str) -> str:
    """The content of the file of a module that is registered."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return "none"
    return _state(Path(found.origin)) if found and found.origin else "none"


def _state(path: Path) -> str:
    if path.is_dir():
        digest = hashlib.sha256()
        for each in sorted(path.rglob("*")):
            if each.is_file():
                about = each.stat()
                digest.update(f"{each.relative_to(path)}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
        return digest.hexdigest()
    if not path.is_file():
        return "none"
    about = path.stat()
    return _content(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=4096)
def _content(path: Path, size: int, changed: int) -> str:
    """The hash of a file of that size which was last changed then."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
