"""What somebody at a page may do with a run: everybody looks and copies, only whose run it is changes it.

The command line works on the files themselves, so whoever may write those may do everything; pages go through `Access`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from mtz_core.errors import AccessError, RunError
from mtz_core.runs import labels, queue
from mtz_core.runs.limits import check_jobs, check_request
from mtz_core.runs.records import RunRecord
from mtz_core.runs.store import RunStore
from mtz_core.runs.turns import EVERYONE, Ticket
from mtz_core.spec import RunSpec
from mtz_core.system.server import ServerSettings

DAY = 86400.0


@dataclass(frozen=True)
class Access:
    """What one visitor may do. `browser`: by its cookie, `None` where everything belongs to everyone.

    Raises `AccessError` wherever a run belongs to somebody else, `RunError` as the store does.
    """

    store: RunStore
    settings: ServerSettings
    browser: str | None = None
    administrator: bool = False

    def refusal(self, record: RunRecord) -> str | None:
        """Return why this visitor may not change a run; `None` if they may."""
        if self.browser is None or self.administrator or record.owner == self.browser:
            return None
        if record.owner is None:
            return "This run was started on the server's command line; only its administrator can change it here."
        return "This run belongs to another browser. You can look at it, and zip again from its settings."

    def start(self, spec: RunSpec) -> RunRecord:
        """Make a run that waits for its place. Raises `LimitError` if it is more than this server allows."""
        self._check_limits(spec)
        ticket = Ticket("", "run", self.browser or EVERYONE, time.time())
        return self.store.create(spec, owner=self.browser, ticket=ticket)

    def resume(self, run_id: str) -> None:
        """Let a run that has stopped wait for a place to go on."""
        record = self._own(run_id)
        self._check_limits(record.spec)
        queue.ask_again(self.store, run_id)

    def stop(self, run_id: str) -> None:
        """Stop a run; one that waits leaves the queue."""
        self._own(run_id)
        self.store.request_cancel(run_id)

    def label(self, run_id: str, title: str | None = None, tags: Sequence[str] | None = None) -> None:
        """Give a run another title, other tags, or both."""
        self._own(run_id)
        labels.label(self.store, run_id, title, tags)

    def delete(self, run_id: str) -> None:
        """Delete a run and its files."""
        self._own(run_id)
        self.store.delete(run_id)

    def check_job(self, spec: RunSpec | None = None) -> None:
        """Raise `LimitError` if this visitor may not have a further job (a plan, a check), or not one of this size."""
        if self.administrator:
            return
        self._check_jobs()
        if spec is not None:
            check_request(self.settings, spec)

    def _check_limits(self, spec: RunSpec) -> None:
        if not self.administrator:
            check_request(self.settings, spec, self.store.root)
            self._check_jobs()

    def _check_jobs(self) -> None:
        if self.settings.most_jobs is not None:
            mine = sum(ticket.owner == (self.browser or EVERYONE) for ticket in queue.waiting(self.store))
            check_jobs(self.settings, mine + 1)

    def _own(self, run_id: str) -> RunRecord:
        record = self.store.get(run_id)
        if (reason := self.refusal(record)) is not None:
            raise AccessError(f"run {run_id}: {reason}")
        return record


def delete_old(store: RunStore, days: float) -> list[str]:
    """Delete the runs of browsers that ended more than so many days ago; return their identifiers.

    Runs of the command line, and those that can still go on, stay.
    """
    before, gone = time.time() - days * DAY, []
    for record in store.list():
        ended = record.finished or record.updated
        if record.owner is not None and not record.status.active and ended < before:
            with suppress(RunError):
                store.delete(record.id)
                gone.append(record.id)
    return gone
