"""Holding a place in the queue while something is done, in whichever process it is done."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mtz_core.errors import RunError
from mtz_core.runs import queue
from mtz_core.runs.launch import start_waiting
from mtz_core.runs.queue import Capacity
from mtz_core.runs.store import RunStore
from mtz_core.runs.turns import Standing

BEAT = 1.0
LOOK = 0.4
VARIABLE = "MTZ_PLACE"
"""Names the ticket of a job that a page has started as a process of its own."""


class Place:
    """A job's place while it is entered: a thread gives signs of life, and at the end the place is free again."""

    def __init__(self, store: RunStore, job: str) -> None:
        self._store, self.job = store, job
        self._held, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="place", daemon=True)

    def __enter__(self) -> Place:
        self._look(os.getpid())
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        with suppress(RunError):
            queue.leave(self._store, self.job)

    def hold(self, capacity: Capacity, told: Callable[[Standing], None] | None = None) -> None:
        """Wait until the job has a place; `told` hears meanwhile where it stands, and may raise to give up."""
        while not self._held.is_set():
            start_waiting(self._store, capacity)
            self._look()
            if self._held.is_set():
                break
            standing = queue.standing(self._store, self.job, capacity)
            if told is not None and standing is not None:
                told(standing)
            self._held.wait(LOOK)

    def _look(self, pid: int | None = None) -> None:
        if queue.beat(self._store, self.job, pid) is False:
            self._held.clear()
        else:  # it has a place, or is not in the queue at all
            self._held.set()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(RunError):
                self._look()


@contextmanager
def place(
    store: RunStore, kind: str, owner: str | None, capacity: Capacity, told: Callable[[Standing], None] | None = None
) -> Iterator[Place]:
    """Wait for a place and hold it: what stands inside is done by this process, or by one that it waits for."""
    job = new_job(kind)
    queue.ask(store, kind, owner, job)
    with Place(store, job) as held:
        held.hold(capacity, told)
        yield held


@contextmanager
def given_place(capacity: Capacity) -> Iterator[Callable[[], None]]:
    """Hold the place that `$MTZ_PLACE` names, if it does.

    Yields what is to be called now and then: it waits where the place was lost.
    """
    job = os.environ.pop(VARIABLE, "")
    if not job:
        yield lambda: None
        return
    with Place(RunStore(), job) as held:
        yield lambda: held.hold(capacity)


def new_job(kind: str) -> str:
    """Return a name for a job that is no run."""
    return f"{kind}-{secrets.token_hex(8)}"
