"""How much memory a process may take: what strangers bring must not take the machine's (no torch here).

Sizes are checked before anything is read (`check_room`). What no header tells, such as the way of a tensor through a
network, is watched: a process that takes more than its share ends itself with a message that can be put right.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from mtz_core.errors import MTZError, SpecError
from mtz_core.system.threads import jobs_at_once

VARIABLE = "MTZ_MEMORY"
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
GIVEN = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*(%|[KMGT]?)(?:i?B)?", re.IGNORECASE)
LEAST = 2 * 2**30
"""A process that reads a network gets so much, unless that were more than half of the machine's memory."""
WEIGHTS, DATA = 4, 8
"""Weights of one file, and data that are read or made at once, may take one of so many parts of a process's memory."""
TICK = 0.05
GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class RoomError(MTZError):
    """Something would take more memory than there is for it."""


def machine() -> int:
    """Return the bytes of memory of this machine, or of the container that this process runs in."""
    total = int(psutil.virtual_memory().total)
    for group in GROUPS:
        with suppress(OSError, ValueError):
            total = min(total, int(Path(group).read_text(encoding="ascii")))
    return total


def given() -> int | None:
    """Return the bytes that `$MTZ_MEMORY` gives a process (`4G`, `800M`, `25%` of the machine), `None` if it is unset.

    Raises `SpecError` if it is no size.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    found = GIVEN.fullmatch(text)
    number = 0.0 if found is None else float(found[1])
    if found is None or number <= 0 or (found[2] == "%" and number > 100):
        raise SpecError(f"${VARIABLE} is {text[:40]!r}; set it to a size such as 4G or 25%, or unset it")
    return int(number / 100 * machine() if found[2] == "%" else number * UNITS[found[2].upper()])


def reading_limit() -> int:
    """Return the bytes that a process may take which looks into a file: `$MTZ_MEMORY`, or its share of the machine."""
    return given() or min(machine() // 2, max(LEAST, machine() // 2 // jobs_at_once()))


def run_limit() -> int:
    """Return the bytes that a run, a plan or a check may take: `$MTZ_MEMORY`, or four fifths of the machine by jobs."""
    return given() or max(reading_limit(), machine() * 4 // 5 // jobs_at_once())


def check_room(needed: float, what: str, remedy: str, parts: int = DATA) -> None:
    """Raise `RoomError` if `needed` bytes are more than one of so many `parts` of what this process may take.

    >>> check_room(2**50, "photo.png: 2,000,000 × 2,000,000 pixels", "make it smaller")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    mtz_core.system.memory.RoomError: photo.png: 2,000,000 × 2,000,000 pixels: this takes 1048576.0 GiB of memory, ...
    """
    most = run_limit() // parts
    if needed > most:
        raise RoomError(
            f"{what}: this takes {_size(needed)} of memory, and at most {_size(most)} are given; {remedy}{_ways()}"
        )


def watch(limit: int | None, end: Callable[[str], None]) -> None:
    """From now on, call `end` with a message once this process takes more than `limit` bytes; it must not return.

    `None` watches nothing. Pages of files that the system may drop again do not count.
    """
    if limit is None:
        return
    process = psutil.Process()

    def look() -> None:
        pause = threading.Event()
        while not pause.wait(TICK):
            if taken(process) > limit:
                end(excess_text(limit))

    threading.Thread(target=look, name="memory", daemon=True).start()


def taken(process: psutil.Process) -> int:
    """Return the bytes that a process holds for itself alone."""
    about = process.memory_info()
    return int(about.rss - getattr(about, "shared", 0))


def excess_text(limit: int) -> str:
    """Return what is said of a process that took more than its `limit`."""
    return (
        f"this took more than {_size(limit)} of memory, the most that one process may take here, and was ended; "
        f"bring a smaller network, or fewer or smaller inputs{_ways()}"
    )


def end_process(message: str) -> None:
    """End this process at once, with a message on stderr: what it was doing is lost."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
    os._exit(2)


def _ways() -> str:
    return f", or have ${VARIABLE} set higher where the program is started"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.0f} MiB"
