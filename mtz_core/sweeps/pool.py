"""The cluster that executes a sweep's runs: processes of this machine, or a scheduler of Dask's that somebody runs.

Dask is imported here and only when a pool is made.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from mtz_core.errors import RunError
from mtz_core.runs.alive import exists, process_created
from mtz_core.runs.fingerprint import engine
from mtz_core.runs.store import RunStore
from mtz_core.sweeps.remote import Task, unfit, work
from mtz_core.system import memory
from mtz_core.system.machine import MIB, host
from mtz_core.system.threads import COUNTS, PASSIVE, cores, threads_per_job

VARIABLE = "MTZ_SCHEDULER"
ADDRESS = re.compile(r"[a-z]+://[^\s/]+")
LOOPBACK = "127.0.0.1"
PATIENCE = 60.0
"""Seconds until a scheduler or its first worker is given up."""
CLOSING = 10.0
COUNTING = 2.0
"""Seconds between two looks at how many workers there are."""
DEATHS = 4
"""How many workers may die over one run before it is given up."""
LOCAL = {
    "distributed.scheduler.allowed-failures": DEATHS - 1,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.comm.timeouts.connect": "60s",
}
"""Settings of a cluster of our own: it shows no pages, and results are a word each, so nothing moves to the disk."""


@dataclass(frozen=True)
class Size:
    """A local cluster: processes with so many threads each, never more than there are cores, and a limit of bytes."""

    processes: int
    threads: int
    memory: int

    @property
    def text(self) -> str:
        """What is said of it."""
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        each = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{processes} of {each}, at most {self.memory // MIB:,} MiB of memory each"


def local_size(runs: int, places: int) -> Size:
    """Return the cluster for so many runs on a machine that bears so many jobs at once.

    `$MTZ_THREADS` and `$MTZ_MEMORY` are those of one process.
    """
    threads = min(threads_per_job(), cores())
    processes = max(1, min(runs, places, cores() // threads))
    return Size(processes, threads, min(memory.run_limit(), memory.machine() * 4 // 5 // processes))


class Pool:
    """Workers that execute runs of a store; `woken` is set whenever one of them has an answer.

    Raises `RunError` if there is no scheduler, no worker, or one that cannot work on this store.
    """

    def __init__(self, store: RunStore, size: Size, address: str | None, woken: threading.Event) -> None:
        self.local = address is None
        self._store, self._woken, self._size = store, woken, size
        self._mark = f".sweep-{secrets.token_hex(8)}"
        who = {"pid": os.getpid(), "created": process_created(os.getpid()), "host": host()}
        self._inside = json.dumps(who | {"token": secrets.token_hex(16)})
        self._futures: dict[str, Any] = {}
        self._cluster: Any = None
        self._client: Any = None
        self._slots, self._counted = size.processes, 0.0
        try:
            self._leave_mark()
            self._connect(address)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def text(self) -> str:
        """What is said of the workers."""
        if self.local:
            return self._size.text
        return f"{self._slots} workers of {self._client.scheduler.address}"

    @property
    def slots(self) -> int:
        """How many runs can be worked on at once; another machine's workers come and go."""
        if not self.local and time.monotonic() - self._counted > COUNTING:
            self._counted = time.monotonic()
            with suppress(OSError, TimeoutError):
                self._slots = len(self._client.nthreads())
        return self._slots

    def submit(self, run_id: str) -> None:
        """Let a worker execute a run that this process has reserved."""
        future = self._client.submit(work, self._task(run_id), key=f"{run_id}-{secrets.token_hex(4)}", pure=False)
        self._futures[run_id] = future
        future.add_done_callback(lambda _: self._woken.set())

    def answers(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield run, answer and, in place of an answer, why there is none, for each run that a worker is done with.

        Raises `RunError` once the scheduler is gone.
        """
        for run_id, future in list(self._futures.items()):
            if future.status in ("cancelled", "lost"):
                raise RunError(f"the scheduler is gone ({self.text}); {AGAIN}")
            if future.status == "error":
                error = future.exception(timeout=PATIENCE)
                reason = (
                    self._death() if isinstance(error, _dask().KilledWorker) else str(error) or type(error).__name__
                )
                yield run_id, "", reason
            elif future.status == "finished":
                yield run_id, str(future.result(timeout=PATIENCE)), None
            else:
                continue
            self._futures.pop(run_id).release()
        if not self.local and self._client.status not in ("running", "connecting"):
            raise RunError(f"the scheduler is gone; {AGAIN}")

    def close(self) -> None:
        """Let all workers of this machine end, and leave those of others alone."""
        (self._store.root / self._mark).unlink(missing_ok=True)
        for one in (self._client, self._cluster):
            if one is not None:
                with suppress(Exception):  # whatever is left of them ends with this process
                    one.close(timeout=CLOSING)

    def _leave_mark(self) -> None:
        """Write the file by which workers know the store."""
        root = self._store.root
        try:
            root.mkdir(parents=True, exist_ok=True)
            for mark in root.glob(".sweep-*"):
                with suppress(ValueError, KeyError):
                    who = json.loads(mark.read_text(encoding="utf-8"))
                    if not exists(who["pid"], who["created"], who["host"]):  # a command that was killed
                        mark.unlink(missing_ok=True)
            (root / self._mark).write_text(self._inside, encoding="utf-8")
        except OSError as error:
            raise RunError(f"cannot write to the store {root}: {error.strerror or error}") from error

    def _task(self, run_id: str) -> Task:
        return Task(
            str(self._store.root), run_id, os.getpid(), engine(), self._mark, self._inside,
            self._size.threads if self.local else None, self.local,
        )  # fmt: skip

    def _death(self) -> str:
        limit = f" ({self._size.memory // MIB:,} MiB each, $MTZ_MEMORY)" if self.local else ""
        return (
            f"{DEATHS} workers died over it and it was given up: killed, or they took more memory than they may{limit}"
        )

    def _connect(self, address: str | None) -> None:
        distributed = _dask()
        if address is None:
            counts = dict.fromkeys(COUNTS, str(self._size.threads))
            import_module("dask").config.set(LOCAL | {"distributed.nanny.pre-spawn-environ": counts | PASSIVE})
            self._cluster = distributed.LocalCluster(
                n_workers=self._size.processes, threads_per_worker=1, memory_limit=self._size.memory,
                host=LOOPBACK, dashboard_address=None, security=distributed.Security.temporary(), silence_logs=50,
                preload=["mtz_core.sweeps.preload"], scheduler_kwargs={"dashboard_address": f"{LOOPBACK}:0"},
            )  # fmt: skip
            self._client = distributed.Client(self._cluster, set_as_default=False)
            return
        if not ADDRESS.fullmatch(address):
            raise RunError(f"${VARIABLE} is {address[:60]!r}; write the scheduler's address, e.g. tcp://10.0.0.1:8786")
        try:
            self._client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, TimeoutError) as error:
            what = "has no worker yet" if self._client is not None else "does not answer"
            raise RunError(f"the scheduler {address} (${VARIABLE}) {what} after {PATIENCE:.0f} s ({error})") from error
        self._check()

    def _check(self) -> None:
        """Raise `RunError` if a worker can't work on this store."""
        counts = self._client.nthreads()
        self._slots, task = len(counts), self._task("")
        found = [self._client.run(unfit, task, slots, workers=[name]) for name, slots in counts.items()]
        reasons = sorted({reason for one in found for reason in one.values() if reason is not None})
        if reasons:
            raise RunError("\n".join(reasons))


AGAIN = "runs that are at work may end all the same; give the command again, and it goes on"


def _dask() -> Any:
    """Dask's cluster, which is imported when a sweep computes; some of its functions say no types."""
    return import_module("distributed")
