"""A server's part in the queue: a thread that gives places, starts workers and deletes what is too old."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from pathlib import Path

from mtz_core.errors import RunError
from mtz_core.runs.access import delete_old
from mtz_core.runs.launch import start_waiting
from mtz_core.runs.queue import Capacity
from mtz_core.runs.store import RunStore
from mtz_core.system import machine
from mtz_core.system.server import ServerSettings

TICK = 0.5
CLEANING = 3600.0
log = logging.getLogger(__name__)


def capacity_of(settings: ServerSettings, address: str | None) -> Capacity:
    """Return what the machine bears, as its owner has set it, for a dashboard that listens on `address`."""
    return Capacity(
        places=settings.jobs,
        short=settings.extra_places(address),
        need=settings.job_memory * machine.MIB,
        keep=settings.keep_free * machine.MIB,
    )


_moving: dict[Path, Dispatcher] = {}
_lock = threading.Lock()


def keep_moving(store: RunStore, settings: ServerSettings, address: str | None) -> Dispatcher:
    """Return this process's dispatcher of a store, started at the first call."""
    with _lock:
        if store.root not in _moving or not _moving[store.root].is_alive():
            _moving[store.root] = Dispatcher(store, capacity_of(settings, address), settings.keep_days)
            _moving[store.root].start()
        return _moving[store.root]


class Dispatcher(threading.Thread):
    """Keeps the queue of a store moving for as long as the process lives."""

    def __init__(self, store: RunStore, capacity: Capacity, keep_days: float | None = None) -> None:
        super().__init__(name="dispatcher", daemon=True)
        self._store, self._capacity, self._keep_days = store, capacity, keep_days
        self._over, self._wake = threading.Event(), threading.Event()
        self._cleaned = -CLEANING

    def run(self) -> None:
        """Look after the queue now and then, and at once after `wake`."""
        while not self._over.is_set():
            self._wake.clear()
            try:
                start_waiting(self._store, self._capacity)
                if self._keep_days is not None and time.monotonic() - self._cleaned >= CLEANING:
                    self._cleaned = time.monotonic()
                    delete_old(self._store, self._keep_days)
            except RunError as error:  # a full disk, a locked database: the next look may find it in order
                log.warning("the queue stands still: %s", error)
            self._wake.wait(TICK)

    def wake(self) -> None:
        """Look after the queue now."""
        self._wake.set()

    def stop(self) -> None:
        """End; workers go on, and the queue waits for the next server."""
        self._over.set()
        self._wake.set()
        with suppress(RuntimeError):
            self.join()
