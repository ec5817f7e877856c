"""What this process knows of its machine: its name among hosts and containers, and the memory that is free."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

MIB = 2**20
CGROUP = Path("/sys/fs/cgroup")
KINDER = 5
"""By how much jobs step back behind the server, which answers people (`nice`): of a core that they want both, the
server gets three quarters, and jobs come forward still.
"""
MOST_NICE = 19
PAUSES = (0.11, 0.11, 0.11)
"""Seconds until a wish is tried again for which the system had no time."""


@cache
def host() -> str:
    """Return a name for everything within which process identifiers mean the same: host and pid namespace.

    Two containers may share a store; a process of one cannot be asked after in the other.
    """
    namespace = ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {namespace}".strip()


def free_memory() -> int:
    """Return the bytes that a new process may take: what the machine has free, or what the container's limit leaves."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no cgroup, or no limit ("max")
        most, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, max(0, most - used + _reclaimable()))
    return free


def all_memory() -> int:
    """Return the bytes that the machine, or the container, has in all."""
    most = int(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):
        most = min(most, int((CGROUP / "memory.max").read_text()))
    return most


def _reclaimable() -> int:
    """Bytes of files in memory that the container would give back."""
    lines = (CGROUP / "memory.stat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def used_memory(pid: int) -> int:
    """Return the bytes that a process of this host holds; 0 if there is none."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def step_back(pid: int) -> None:
    """Let a process that this one has started go behind it: people look at pages while jobs compute.

    Linux shares time between sessions first and heeds `nice` only within each (`man 7 sched`, autogroup), so the
    session of a process that leads one steps back as a whole.
    """
    if not hasattr(os, "setpriority"):
        return
    nice = min(MOST_NICE, os.getpriority(os.PRIO_PROCESS, 0) + KINDER)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        if os.getsid(pid) == pid:
            _step_back_as_session(pid, nice)


def _step_back_as_session(pid: int, nice: int) -> None:
    """Raises `OSError` where there is no such thing."""
    group = Path(f"/proc/{pid}/autogroup")
    for pause in (*PAUSES, None):
        try:
            group.write_text(str(nice))
            return
        except BlockingIOError:  # Linux bears ten such wishes a second
            if pause is not None:
                time.sleep(pause)
