"""The worker's pulse: a thread that says that the worker lives and hears when it shall stop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from mtz_core.errors import RunError
from mtz_core.runs.store import RunStore

BEAT = 1.0
LOOK = 0.25


class Pulse:
    """Beats while it is entered. `cancelled` is set when the store asks to cancel, or by whoever sets it.

    `held` is cleared while another job has the run's place, which happens after a long silence: the work waits then.

    Work that doesn't look at `cancelled` within `patience` seconds is ended by `give_up`, which does not return
    (`None`: it is waited for).
    """

    def __init__(
        self, store: RunStore, run_id: str, give_up: Callable[[], None] | None = None, patience: float = 1.5
    ) -> None:
        self.cancelled, self.held = threading.Event(), threading.Event()
        self.held.set()
        self._store, self._run_id, self._give_up, self._patience = store, run_id, give_up, patience
        self._stopped = threading.Event()
        self._settling = threading.Lock()
        self._settled = False
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def settle(self) -> None:
        """Go on beating, but leave the work alone: it is about to finish."""
        with self._settling:
            self._settled = True

    def go_on(self) -> None:
        """Watch the work again after `settle`: what was about to finish is saved, and more is done."""
        with self._settling:
            self._settled = False

    def stop(self) -> None:
        """End the pulse: nothing that it does can happen afterwards."""
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        last, asked = 0.0, None
        while not self._stopped.wait(LOOK):
            now = time.monotonic()
            try:
                if now - last >= BEAT:
                    if self._store.heartbeat(self._run_id):
                        self.held.set()
                    else:
                        self.held.clear()
                    last = now
                if self._store.cancel_requested(self._run_id):
                    self.cancelled.set()
            except RunError:
                # Deleted, taken over, or the disk is full: the worker's next write fails too, and says so.
                continue
            if self.cancelled.is_set():
                asked = asked or now
                with self._settling:
                    if self._give_up is not None and not self._settled and now - asked >= self._patience:
                        self._give_up()


def leave(code: int) -> None:
    """End this process at once, whatever its threads do. The store is in order at every moment."""
    os._exit(code)
