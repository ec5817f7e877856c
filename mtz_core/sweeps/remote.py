"""What a worker of the cluster is asked to do: to execute one run of the store, or to say whether it can.

Arguments and answers are plain data. A task may be done twice, because its worker died or another command has the same
point: whoever claims the run in the store executes it, and everyone else leaves it alone.
"""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass
from pathlib import Path

from mtz_core.errors import RunError
from mtz_core.own.registered import import_registered
from mtz_core.runs.alive import HEARTBEAT_LIMIT
from mtz_core.runs.fingerprint import engine
from mtz_core.runs.records import RunRecord, RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.system import threads
from mtz_core.system.machine import host

LOOK = 0.5
ELSEWHERE = "elsewhere"
"""Answer of a worker that finds that another process is at work on the run."""


@dataclass(frozen=True)
class Task:
    """One run of a store, as the process `launcher` of `host` hands it over.

    `threads` to compute with (`None`: as the worker is set up). `mark` is a file in the store, and `inside` what it
    holds: a worker that does not find it there looks at another folder. `counted`: the run has a place in the queue.
    """

    store: str
    run: str
    launcher: int
    engine: str
    mark: str
    inside: str
    threads: int | None
    counted: bool


def unfit(task: Task, slots: int = 1) -> str | None:
    """Return why this worker can do none of a sweep's tasks, `None` if it can; `slots` are its tasks at once."""
    root, where = Path(task.store), f"the worker on {os.uname().nodename if hasattr(os, 'uname') else host()}"
    try:
        found = (root / task.mark).read_text(encoding="utf-8")
    except OSError as error:
        return (
            f"{where} does not see the store {root} ({error.strerror or error}); every worker needs that folder under "
            "the same path, on a disk that all share"
        )
    if found != task.inside:
        return f"{where} has another folder at {root}; every worker needs the same one there, on a disk that all share"
    if not os.access(root, os.W_OK):
        return f"{where} may not write to the store {root}; give it the right to"
    if engine() != task.engine:
        return f"{where} has another version of the program, or of torch or numpy; install the same on all workers"
    if slots != 1:
        return f"{where} takes {slots} tasks at once; start it with --nthreads 1, and more workers if there is room"
    return None


def work(task: Task) -> str:
    """Execute a run and return its status, or `ELSEWHERE`. Raises `RunError` if the store cannot be used."""
    if (reason := unfit(task)) is not None:
        raise RunError(reason)
    threads.settle(task.threads)
    import_registered()
    store = RunStore(task.store)
    heard, patience = _heard(store.get(task.run)), time.monotonic() + HEARTBEAT_LIMIT + 5.0
    while True:
        record = store.get(task.run)
        if record.status in (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.CANCELLED):
            return str(record.status)
        mine = record.status is RunStatus.QUEUED and record.pid in (None, task.launcher)
        if mine or record.status is RunStatus.LOST:
            if (status := _executed(store, task)) is not None:
                return status
        elif record.host in (None, host()) or _heard(record) != heard or time.monotonic() > patience:
            return ELSEWHERE
        time.sleep(LOOK)  # of a worker of another host only its silence tells that it is gone


def _executed(store: RunStore, task: Task) -> str | None:
    """How the run ended; `None` if another process was faster."""
    from mtz_core.runs.worker import execute

    try:
        return str(execute(store, task.run, resume=True, launcher=task.launcher, counted=task.counted))
    except RunError:
        record = store.get(task.run)
        if record.status is RunStatus.RUNNING and record.pid != os.getpid():
            return None
        raise
    finally:
        gc.collect()  # networks of one run do not wait for the next


def _heard(record: RunRecord) -> tuple[int | None, float | None]:
    return record.pid, record.heartbeat
