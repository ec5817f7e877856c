"""Starting a worker: a process of its own that outlives whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys

from mtz_core.errors import RunError
from mtz_core.runs.alive import is_alive
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.system.places import child_environment

__all__ = ["is_alive", "start_worker"]


def start_worker(store: RunStore, run_id: str, resume: bool = False) -> subprocess.Popen[bytes]:
    """Start a process that executes the run, and return it; keep it and `.poll()` it so that it doesn't stay a zombie.

    Its output goes to `worker.log` in the run's folder. Raises `RunError` if the run has a worker, has ended and
    `resume` is not set, or the process can't be started.
    """
    record = store.reserve(run_id, resume=resume)
    command = [sys.executable, "-m", "mtz_core", "worker", run_id, "--store", str(store.root)]
    try:
        with (record.path / "worker.log").open("ab") as output:
            process = subprocess.Popen(
                [*command, "--launcher", str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=record.path, start_new_session=True,
                env=child_environment(),
            )  # fmt: skip
    except OSError as error:
        store.set_status(run_id, RunStatus.FAILED, f"the worker could not be started: {error}")
        raise RunError(f"cannot start a worker for run {run_id}: {error}") from error
    store.hand_over(run_id, process.pid)
    return process
