"""Starting a worker: a process of its own that outlives whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from mtz_core.errors import RunError
from mtz_core.runs import queue
from mtz_core.runs.alive import is_alive
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.system.machine import step_back
from mtz_core.system.memory import run_limit
from mtz_core.system.paths import child_environment

__all__ = ["exported", "is_alive", "start_waiting", "start_worker"]

PATIENCE = 300.0
"""Seconds until an export is given up."""
_workers: dict[str, subprocess.Popen[bytes]] = {}
"""Workers that this process has started and not yet seen the end of."""


def start_waiting(store: RunStore, capacity: queue.Capacity) -> None:
    """Give free places in the queue to those whose turn it is, and start the workers of runs that got one."""
    for run_id, worker in list(_workers.items()):
        if worker.poll() is not None:  # a finished process that nobody asks about stays a zombie, which looks alive
            _workers.pop(run_id, None)
    for ticket in queue.admit(store, capacity):
        with suppress(RunError):  # noted with the run, or somebody else has it
            _workers[ticket.id] = start_worker(store, ticket.id)


def start_worker(store: RunStore, run_id: str, resume: bool = False) -> subprocess.Popen[bytes]:
    """Start a process that executes the run, and return it; keep it and `.poll()` it so that it doesn't stay a zombie.

    It steps back behind this process, and its output goes to `worker.log` in the run's folder. Raises `RunError` if the
    run has a worker, has ended and `resume` is not set, or the process can't be started.
    """
    record = store.reserve(run_id, resume=resume)
    command = [sys.executable, "-m", "mtz_core", "worker", run_id, "--store", str(store.root)]
    try:
        with (record.path / "worker.log").open("ab") as output:
            process = subprocess.Popen(
                [*command, "--launcher", str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=record.path, start_new_session=True,
                env=child_environment(run_limit()),
            )  # fmt: skip
    except OSError as error:
        store.set_status(run_id, RunStatus.FAILED, f"the worker could not be started: {error}")
        raise RunError(f"cannot start a worker for run {run_id}: {error}") from error
    step_back(process.pid)
    store.hand_over(run_id, process.pid)
    return process


def exported(store: RunStore, run_id: str, form: str, task: int) -> bytes:
    """A finished run's network of one task in a form of export, made by a process of its own. Raises `RunError`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "mtz_core", "extract", run_id, "--store", str(store.root)]
        command += ["--task", str(task), "--form", form, "--out", str(out)]
        try:
            made = subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE, check=False,
                env=child_environment(run_limit()),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RunError(f"the export of run {run_id} was given up ({error}); try `mtz extract`") from error
        if made.returncode or not out.exists():
            raise RunError(made.stderr.strip()[-500:] or f"the export of run {run_id} ended without a word")
        return out.read_bytes()
