"""Is the worker of a run still there?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil

from mtz_core.system.machine import host

if TYPE_CHECKING:
    from mtz_core.runs.records import RunRecord

HEARTBEAT_LIMIT = 30.0
"""Seconds without a heartbeat after which a worker counts as dead even if its process exists (stopped or hung)."""


def process_created(pid: int) -> float | None:
    """Return when the process `pid` was created (Unix seconds), `None` if there is none or it is a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def is_alive(record: RunRecord) -> bool:
    """Return whether the run's worker exists, is the same process that claimed the run, and still gives signs of life.

    Of a worker in another container or on another host only the signs of life are known.
    """
    if not exists(record.pid, record.pid_created, record.host):
        return False
    if record.heartbeat is None and record.host not in (None, host()):
        return fresh(record.updated)
    return fresh(record.heartbeat)


def exists(pid: int | None, created: float | None, home: str | None) -> bool:
    """Return whether a process is still the one that was `created` then; one of another host is taken to be.

    The creation time guards against a process identifier that the system has given to somebody else since.
    """
    if pid is None:
        return False
    if home not in (None, host()):
        return True
    found = process_created(pid)
    return found is not None and (created is None or abs(found - created) <= 1.0)


def fresh(beat: float | None) -> bool:
    """Return whether a sign of life is recent, or there was none to be had yet."""
    return beat is None or time.time() - beat < HEARTBEAT_LIMIT
