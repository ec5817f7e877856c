"""Limits that the owner of a server sets, checked before anything is started. The command line has none."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from mtz_core.errors import LimitError
from mtz_core.spec import RunSpec
from mtz_core.system.machine import MIB, all_memory
from mtz_core.system.paths import uploads_folder
from mtz_core.system.server import ServerSettings, variable

LOOK = 30.0
"""Seconds for which the size of a folder is taken to be known."""
_sizes: dict[Path, tuple[float, int]] = {}
_lock = threading.Lock()


def check_request(settings: ServerSettings, spec: RunSpec, runs: Path | None = None) -> None:
    """Raise `LimitError` if a run asks for more than the server allows, or the disk, with `runs`, is used up."""
    steps = 0 if spec.zip.retrain is None else spec.zip.retrain.steps
    _check(settings, "most_steps", steps, "zip.retrain.steps", "retraining steps", "ask for fewer")
    _check(settings, "most_images", spec.calibration.images, "calibration.images", "images per task", "ask for fewer")
    if runs is not None and settings.most_disk is not None:
        used = (folder_size(runs) + folder_size(uploads_folder())) // MIB
        _check(
            settings, "most_disk", used, "disk", "MiB are used by runs and uploads", "delete runs that you don't need"
        )
    if (need := settings.job_memory * MIB) > all_memory():
        raise LimitError(
            f"memory: a job is expected to take {need // MIB:,} MiB ({variable('job_memory')}), and this machine has "
            f"{all_memory() // MIB:,} in all; whoever runs the server can expect less"
        )


def check_jobs(settings: ServerSettings, jobs: int) -> None:
    """Raise `LimitError` if that is more jobs, waiting or at work, than a browser may have."""
    _check(settings, "most_jobs", jobs, "jobs", "jobs of one browser", "wait for one of yours to end, or stop it")


def check_upload(settings: ServerSettings, size: int) -> None:
    """Raise `LimitError` for an upload of so many bytes, if that is more than the server takes."""
    _check(settings, "most_upload", -(-size // MIB), "upload", "MiB in one file", "bring a smaller one")


def folder_size(folder: Path) -> int:
    """Return the bytes of all files below a folder, as they were at most `LOOK` seconds ago."""
    with _lock:
        known = _sizes.get(folder)
        if known is None or time.monotonic() - known[0] > LOOK:
            known = _sizes[folder] = (time.monotonic(), sum(_size(path) for path in folder.rglob("*")))
    return known[1]


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # deleted meanwhile
        return 0


def _check(settings: ServerSettings, field: str, asked: int, where: str, what: str, remedy: str) -> None:
    most = getattr(settings, field)
    if most is not None and asked > most:
        raise LimitError(
            f"{where}: {asked:,} {what}, and this server allows at most {most:,} ({variable(field)}, set by whoever "
            f"runs it); {remedy}"
        )
