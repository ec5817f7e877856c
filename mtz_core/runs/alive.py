"""Is the worker of a run still there?"""

from __future__ import annotations

import time

import psutil

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

    The creation time guards against a process identifier that the system has given to somebody else since.
    """
    if record.pid is None:
        return False
    created = process_created(record.pid)
    if created is None:
        return False
    if record.pid_created is not None and abs(created - record.pid_created) > 1.0:
        return False
    return record.heartbeat is None or time.time() - record.heartbeat < HEARTBEAT_LIMIT
