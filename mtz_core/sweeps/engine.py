"""Running a sweep: every point becomes a run of the store that is executed once, whoever else is at it.

The store is the only memory. A point's run is found or made by its fingerprint, in one transaction; reserved for this
process; given a place in the queue of this machine; and handed to a worker, which claims it. So a command that is
killed leaves nothing behind but runs, and the next one goes on with them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mtz_core.errors import RunError
from mtz_core.runs import labels, queue
from mtz_core.runs.alive import exists
from mtz_core.runs.database import reading
from mtz_core.runs.dispatcher import capacity_of
from mtz_core.runs.launch import start_waiting
from mtz_core.runs.progress import remaining, standing_text
from mtz_core.runs.records import RunRecord, RunStatus
from mtz_core.runs.same import finished_runs
from mtz_core.runs.store import RunStore
from mtz_core.sweeps.events import Begun, Event, Moved, Result
from mtz_core.sweeps.plan import Point, Sweep
from mtz_core.sweeps.pool import VARIABLE, Pool, Size, local_size
from mtz_core.sweeps.remote import ELSEWHERE
from mtz_core.system.server import server_settings

LOOK = 0.25
TELLING = 1.0
STOPPING = 20.0
"""Seconds that runs have to stop in."""
BURIAL = 60.0
"""Seconds for which a run whose workers died may look alive still."""
TRIES = 3
"""How often a run is handed out anew that ended lost."""

Listener = Callable[[Event], None]


class Phase(StrEnum):
    """What this command does about a run."""

    TODO = "todo"
    WAITING = "waiting"  # reserved, and waits for a place in the queue
    WORKING = "working"  # a worker has it
    ELSEWHERE = "elsewhere"  # another process has it
    DYING = "dying"  # its workers died, and it is about to be marked
    OVER = "over"


@dataclass
class Job:
    """The run of one point, or of several that say the same."""

    points: list[Point]
    phase: Phase = Phase.TODO
    run: str | None = None
    taken: bool = True
    tries: int = 0
    since: float = 0.0
    status: RunStatus | None = None
    reason: str | None = None
    claimed: bool = False

    @property
    def fingerprint(self) -> str:
        """Of the run."""
        return self.points[0].fingerprint


def run_sweep(
    sweep: Sweep, store: RunStore | None = None, listen: Listener | None = None, scheduler: str | None = None
) -> list[Result]:
    """Execute all points of a sweep, and return how each of them ended, in their order.

    Computes on processes of this machine, or on the workers of a Dask `scheduler` (default: `$MTZ_SCHEDULER`), which
    must see the store's folder. Ctrl-C and SIGTERM stop it; points that have not ended are cancelled then, and go on
    when the sweep is run again. A script that calls this needs `if __name__ == "__main__":` around it, as every program
    that starts processes does.

    Raises `RunError` if the store can't be used, or there are no workers for it.
    """
    store = store or RunStore()
    address = scheduler or os.environ.get(VARIABLE, "").strip() or None
    return Running(sweep, store, listen or (lambda event: None), address).run()


@dataclass
class Running:
    """A sweep that is being executed by workers that `make_pool` finds; who sets `stop` ends it."""

    sweep: Sweep
    store: RunStore
    listen: Listener
    scheduler: str | None
    make_pool: Callable[[RunStore, Size, str | None, threading.Event], Pool] = Pool
    jobs: dict[str, Job] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for point in self.sweep.points:
            self.jobs.setdefault(point.fingerprint, Job([])).points.append(point)
        self._runs: dict[str, Job] = {}
        self._woken, self.stop = threading.Event(), threading.Event()
        self._began, self._told = time.monotonic(), 0.0
        self._capacity = capacity_of(server_settings(), None)

    def run(self) -> list[Result]:
        """Do it; see `run_sweep`."""
        known = self._take_finished()
        left = len(self.jobs) - len(known)
        if not left:
            self._begin(known, "none are needed")
            return [self._result(point) for point in self.sweep.points]
        size = local_size(left, self._capacity.places)
        with stop_signals(self.stop, self._woken), self._pool(size) as pool:
            self._begin(known, pool.text)
            try:
                self._work(pool)
            finally:
                self._let_go()
        return [self._result(point) for point in self.sweep.points]

    def _pool(self, size: Size) -> Pool:
        return self.make_pool(self.store, size, self.scheduler, self._woken)

    def _begin(self, known: Sequence[Job], workers: str) -> None:
        self.listen(Begun(len(self.sweep.points), len(self.jobs), len(known), workers))
        for job in known:
            self._end(job, RunStatus.FINISHED)
        self._began = time.monotonic()

    def _work(self, pool: Pool) -> None:
        while not self._all_over() and not self.stop.is_set():
            self._woken.clear()
            self._collect(pool)
            self._look_elsewhere()
            self._take(pool)
            self._move_queue(pool)
            self._tell()
            self._woken.wait(LOOK)
        if self.stop.is_set():
            self._stop_work(pool)

    # Steps

    def _take_finished(self) -> list[Job]:
        """Find the runs that have finished before this command began."""
        with reading(self.store.database) as db:
            runs = finished_runs(db)
        known = [job for job in self.jobs.values() if job.fingerprint in runs]
        for job in known:
            job.run = runs[job.fingerprint]
        if known:
            labels.add_tag(self.store, [str(job.run) for job in known], self.sweep.name)
        return known

    def _take(self, pool: Pool) -> None:
        """Reserve runs for as many workers as are free."""
        busy = sum(job.phase in (Phase.WAITING, Phase.WORKING) for job in self.jobs.values())
        for job in self.jobs.values():
            if busy >= pool.slots:
                break
            if job.phase is Phase.TODO:
                self._reserve(job, pool)
                busy += job.phase in (Phase.WAITING, Phase.WORKING)

    def _reserve(self, job: Job, pool: Pool) -> None:
        record = self.store.create(job.points[0].spec, fingerprint=job.fingerprint)
        self._own(job, record.id)
        if record.status is RunStatus.FINISHED:
            if record.fingerprint == job.fingerprint:
                self._end(job, RunStatus.FINISHED)
            return
        queued = record.waiting and (pool.local or record.pid is not None)
        if queued or record.status in (RunStatus.RUNNING, RunStatus.PAUSED):
            job.phase = Phase.ELSEWHERE
            if not pool.local and not exists(record.pid, record.pid_created, record.host):
                queue.leave(self.store, record.id)  # nobody here moves the queue for those who are gone
            return
        try:
            self.store.reserve(record.id, resume=record.status.resumable)
        except RunError:  # somebody was faster
            job.phase = Phase.ELSEWHERE
            return
        job.taken, job.since = False, time.monotonic()
        if pool.local:
            queue.ask_for_run(self.store, record.id)
            job.phase = Phase.WAITING
        else:
            pool.submit(record.id)
            job.phase = Phase.WORKING

    def _move_queue(self, pool: Pool) -> None:
        """Hand out the runs that have a place now, and keep the places of those that no worker has claimed yet."""
        waiting = self._in(Phase.WAITING)
        mine = waiting + [job for job in self._in(Phase.WORKING) if not job.claimed]
        if not pool.local or not (mine or self._in(Phase.ELSEWHERE)):
            return
        start_waiting(self.store, self._capacity)  # our own places, and those of whoever else waits
        held = queue.keep(self.store, [str(job.run) for job in mine])
        for job in mine:
            run_id = str(job.run)
            if job.phase is Phase.WORKING:
                job.claimed = run_id not in held
            elif held.get(run_id, True):
                pool.submit(run_id)
                job.phase = Phase.WORKING

    def _collect(self, pool: Pool) -> None:
        """Hear what workers have to say, and mark runs over which too many of them died."""
        for run_id, answer, reason in pool.answers():
            job = self._runs[run_id]
            if reason is not None:
                job.phase, job.reason, job.since = Phase.DYING, reason, time.monotonic()
            elif answer == ELSEWHERE:
                job.phase, job.taken = Phase.ELSEWHERE, True
            else:
                self._look_at(job, answered=True)
        for job in self._in(Phase.DYING):
            self._bury(job)

    def _bury(self, job: Job) -> None:
        """Mark a run as failed whose workers died, so that everybody sees why."""
        assert job.run is not None
        try:
            self.store.claim(job.run, resume=True)
            self.store.set_status(job.run, RunStatus.FAILED, job.reason)
        except RunError:  # it looks alive still, or is gone
            if self._record(job) is not None and time.monotonic() - job.since < BURIAL:
                return
        self._end(job, RunStatus.FAILED, job.reason)

    def _look_elsewhere(self) -> None:
        for job in self._in(Phase.ELSEWHERE):
            self._look_at(job, answered=False)

    def _look_at(self, job: Job, answered: bool) -> None:
        """See what became of a run: `answered` by a worker of ours, or at another process."""
        record = self._record(job)
        if record is None:
            self._end(job, RunStatus.FAILED, f"run {job.run} was deleted while the sweep ran")
        elif record.status is RunStatus.FINISHED and not answered and record.fingerprint != job.fingerprint:
            job.phase = Phase.TODO  # it read other files, or another program wrote it
        elif record.status in (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.CANCELLED):
            self._end(job, record.status, _message(record, job))
        elif record.status is RunStatus.QUEUED and record.pid is None and not record.waiting:
            job.phase = Phase.TODO
        elif record.status is RunStatus.LOST:
            job.tries += 1
            job.phase = Phase.TODO
            if job.tries > TRIES:
                self._end(job, RunStatus.FAILED, f"run {job.run} was lost {job.tries} times; {record.message or ''}")
        elif answered:
            job.phase, job.taken = Phase.ELSEWHERE, True

    # The end

    def _stop_work(self, pool: Pool) -> None:
        """Ask all runs of this command to stop, and wait until they have."""
        for job in self._in(Phase.WAITING):
            self._give_back(job)
        for job in self._in(Phase.WORKING):
            with suppress(RunError):
                self.store.request_cancel(str(job.run))
        until = time.monotonic() + STOPPING
        while any(self._in(Phase.WORKING)) and time.monotonic() < until:
            self._woken.clear()
            self._collect(pool)
            self._tell(stopping=True)
            self._woken.wait(LOOK)

    def _let_go(self) -> None:
        """Leave nothing behind that waits for this process."""
        for job in self._in(Phase.WAITING):
            with suppress(RunError):
                self._give_back(job)

    def _give_back(self, job: Job) -> None:
        """Let nobody start a reserved run; one that never began is gone."""
        run_id, job.phase = str(job.run), Phase.TODO
        self.store.set_status(run_id, RunStatus.CANCELLED, "the sweep was stopped before its turn came")
        if self.store.get(run_id).started is None:
            self.store.delete(run_id)
            job.run = None

    def _end(self, job: Job, status: RunStatus, reason: str | None = None) -> None:
        job.phase, job.status, job.reason = Phase.OVER, status, reason
        for point in job.points:
            self.listen(self._result(point))

    def _result(self, point: Point) -> Result:
        job = self.jobs[point.fingerprint]
        return Result(point, job.status or RunStatus.CANCELLED, self._record(job), job.taken, job.reason)

    # Small things

    def _own(self, job: Job, run_id: str) -> None:
        job.run, job.claimed, self._runs[run_id] = run_id, False, job
        labels.add_tag(self.store, [run_id], self.sweep.name)

    def _record(self, job: Job) -> RunRecord | None:
        if job.run is None:
            return None
        try:
            return self.store.get(job.run)
        except RunError:
            return None

    def _in(self, phase: Phase) -> list[Job]:
        return [job for job in self.jobs.values() if job.phase is phase]

    def _all_over(self) -> bool:
        return all(job.phase is Phase.OVER for job in self.jobs.values())

    def _tell(self, stopping: bool = False) -> None:
        now = time.monotonic()
        if now - self._told >= TELLING:
            self._told = now
            self.listen(replace(self._moved(now - self._began), stopping=stopping))

    def _moved(self, seconds: float) -> Moved:
        """How far the sweep is, after so many seconds."""
        over, working, elsewhere = (self._in(phase) for phase in (Phase.OVER, Phase.WORKING, Phase.ELSEWHERE))
        done = sum(job.status is RunStatus.FINISHED for job in over)
        records = [self._record(job) for job in working + elsewhere]
        begun = sum(record.fraction for record in records if record is not None)
        known = sum(job.taken for job in over)
        fraction = (len(over) - known + begun) / max(1, len(self.jobs) - known)
        waits = None
        if (waiting := self._in(Phase.WAITING)) and not working:
            standing = queue.standing(self.store, str(waiting[0].run), self._capacity)
            waits = None if standing is None else standing_text(standing)
        return Moved(
            done, len(over) - done, len(working), len(elsewhere), len(self.jobs), fraction,
            remaining(fraction, seconds), waits,
        )  # fmt: skip


def _message(record: RunRecord, job: Job) -> str | None:
    changed = record.fingerprint != job.fingerprint and record.status is RunStatus.FINISHED
    note = "files that it reads changed after the sweep was planned" if changed else None
    return record.message if record.status is not RunStatus.FINISHED else note


@contextmanager
def stop_signals(stop: threading.Event, woken: threading.Event) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM set `stop`; a second one interrupts (signals reach the main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        woken.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
