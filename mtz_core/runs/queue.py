"""The queue of one store: jobs wait here until the machine bears them, whoever asks and however often servers restart.

Nobody runs the queue. Whoever cares (a server, a waiting command, a page) calls `admit`, which gives places in one
transaction of the store's database, so it does not matter how many do. A place is held by giving signs of life: it is
free again when its process is gone, or silent for `HEARTBEAT_LIMIT` seconds (stopped by a signal, or hanging; a process
that then goes on waits for a place as all others do).
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mtz_core.errors import RunError
from mtz_core.runs import tickets
from mtz_core.runs.alive import exists, fresh, process_created
from mtz_core.runs.database import reading, writing
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.runs.turns import EVERYONE, SHORT, Standing, Ticket, in_order, next_in_line, serve, waits
from mtz_core.system import machine

TRIES = 3
"""How often a worker is started that ends before it takes its run."""
USUAL = {"run": 30.0, "plan": 60.0, "harm": 20.0, "check": 8.0, "inspect": 8.0, "origin": 10.0}
"""Seconds that a job of a kind takes, as long as nothing better is known."""


@dataclass(frozen=True)
class Capacity:
    """What the machine bears: jobs at once, further places for short ones, bytes a job needs and that stay free."""

    places: int
    short: int = 0
    need: int = 600 * machine.MIB
    keep: int = 256 * machine.MIB
    free: Callable[[], int] = machine.free_memory


def own_ticket(kind: str, owner: str | None, name: str = "") -> Ticket:
    """Return a ticket that this process holds."""
    now, pid = time.time(), os.getpid()
    return Ticket(
        name, kind, owner or EVERYONE, now, beat=now, host=machine.host(), pid=pid, pid_created=process_created(pid)
    )


def ask(store: RunStore, kind: str, owner: str | None, name: str) -> Ticket:
    """Let a job of this process wait for a place; it is forgotten unless `beat` is called.

    Runs are asked for where they are made: see `RunStore.create`.
    """
    ticket = own_ticket(kind, owner, name)
    with writing(store.database) as db:
        tickets.put(db, ticket)
    return ticket


def ask_for_run(store: RunStore, run_id: str) -> None:
    """Let a run that this process has reserved wait for a place, which `keep` holds until a worker claims the run."""
    with writing(store.database) as db:
        owner = store.record(db, run_id).owner
        tickets.put(db, replace(own_ticket("run", owner), id=run_id))


def keep(store: RunStore, runs: Sequence[str]) -> dict[str, bool]:
    """Note a sign of life of the runs that this process holds; return of each whether it has a place."""
    with writing(store.database) as db:
        tickets.beat_own(db, runs)
        return {ticket.id: ticket.started is not None for ticket in tickets.read(db) if ticket.pid == os.getpid()}


def ask_again(store: RunStore, run_id: str) -> None:
    """Let a run that was interrupted, stopped or failed wait for a place to go on. Raises `RunError` if it can't."""
    with writing(store.database) as db:
        record = store.record(db, run_id)
        if not record.status.resumable:
            raise RunError(f"run {run_id} is {record.status} and cannot be resumed")
        db.execute(
            "UPDATE runs SET status = ?, pid = NULL, pid_created = NULL, heartbeat = NULL, finished = NULL, "
            "message = NULL, cancel = 0, updated = ? WHERE id = ?",
            (RunStatus.QUEUED, time.time(), run_id),
        )
        tickets.put(db, Ticket(run_id, "run", record.owner or EVERYONE, time.time()))


def beat(store: RunStore, job: str, pid: int | None = None) -> bool | None:
    """Note a sign of life; return whether the job has a place, `None` if it is no longer in the queue.

    `pid`: from now on this process works on it.
    """
    with writing(store.database) as db:
        tickets.beat(db, job)
        if pid is not None:
            db.execute("UPDATE queue SET pid = ?, pid_created = ? WHERE id = ?", (pid, process_created(pid), job))
        row = db.execute("SELECT started FROM queue WHERE id = ?", (job,)).fetchone()
    return None if row is None else row["started"] is not None


def leave(store: RunStore, job: str) -> None:
    """Take a job out of the queue: it is over, or wanted no more."""
    with writing(store.database) as db:
        tickets.drop(db, job)


def waiting(store: RunStore) -> list[Ticket]:
    """Return all tickets, of jobs that wait and of those at work."""
    with reading(store.database) as db:
        return tickets.read(db)


def admit(store: RunStore, capacity: Capacity) -> list[Ticket]:
    """Give free places to those whose turn it is; return the runs for which this process shall start workers."""
    with reading(store.database) as db:
        if not tickets.read(db):
            return []
    with writing(store.database) as db:
        queue = _put_in_order(db)
        counted, mine = tickets.turns(db), []
        free = capacity.free() - capacity.keep - promised(queue, capacity)
        while (ticket := _next(queue, counted, capacity)) is not None and _need(ticket, capacity) <= free:
            free -= _need(ticket, capacity)
            serve(ticket, counted)
            given = replace(ticket, started=time.time(), beat=time.time(), paused=False)
            if ticket.pid is None:
                pid = os.getpid()
                given = replace(given, host=machine.host(), pid=pid, pid_created=process_created(pid))
                mine.append(given)
            tickets.put(db, given)
            queue = [given if other.id == ticket.id else other for other in queue]
            db.executemany(
                "INSERT OR REPLACE INTO turns VALUES (?, ?)", [(name, counted[name]) for name in ticket.turns]
            )
    return mine


def standing(store: RunStore, job: str, capacity: Capacity) -> Standing | None:
    """Return where a job stands that waits; `None` if it is at work, or not in the queue."""
    with reading(store.database) as db:
        queue, counted, usual = tickets.read(db), tickets.turns(db), _usual(db)
        remaining = [_remaining(db, t, usual) for t in queue if t.started is not None]
    mine = next((t for t in queue if t.id == job and t.started is None), None)
    if mine is None:
        return None
    if mine.paused and not fresh(mine.beat):
        return Standing(0, 0.0, paused=True)
    order = in_order([t for t in queue if _eligible(t)], counted)
    before = next((k for k, t in enumerate(order) if t.id == job), len(order))
    seconds = waits(remaining, [usual[t.kind] for t in order[:before]], capacity.places)
    short_of = None
    if before == 0 and _next(queue, counted, capacity) is not None:
        free = capacity.free() - capacity.keep - promised(queue, capacity)
        short_of = (_need(mine, capacity), max(0, free)) if _need(mine, capacity) > free else None
    return Standing(before, seconds, short_of, mine.paused)


def promised(queue: list[Ticket], capacity: Capacity) -> int:
    """Return the bytes that jobs at work on this host are expected to take yet."""
    at_work = [t for t in queue if t.started is not None and t.host == machine.host() and t.pid is not None]
    # The process that gives places is not the job itself.
    held = {t.id: machine.used_memory(t.pid or 0) if t.pid != os.getpid() else 0 for t in at_work}
    return sum(max(0, _need(t, capacity) - held[t.id]) for t in at_work)


def _need(ticket: Ticket, capacity: Capacity) -> int:
    return ticket.memory or capacity.need


def _eligible(ticket: Ticket) -> bool:
    """Whether it waits and can take a place: a process that holds its ticket must be awake."""
    return ticket.started is None and (ticket.pid is None or fresh(ticket.beat))


def _next(queue: list[Ticket], counted: dict[str, int], capacity: Capacity) -> Ticket | None:
    """Return who may start now: the next in line, or, where all places are taken, the next short one for its own."""
    candidates = [t for t in queue if _eligible(t)]
    at_work = [t for t in queue if t.started is not None]
    short = sum(t.kind in SHORT for t in at_work)
    # Short jobs take places of their own first.
    if len(at_work) - min(short, capacity.short) < capacity.places:
        return next_in_line(candidates, counted)
    if short < capacity.short:
        return next_in_line([t for t in candidates if t.kind in SHORT], counted)
    return None


def _put_in_order(db: sqlite3.Connection) -> list[Ticket]:
    """Return the queue without jobs that are over, and with the places of silent ones given back."""
    kept = []
    for ticket in tickets.read(db):
        now = _checked(db, ticket)
        if now is None:
            tickets.drop(db, ticket.id)
        else:
            if now != ticket:
                tickets.put(db, now)
            kept.append(now)
    return kept


def _checked(db: sqlite3.Connection, ticket: Ticket) -> Ticket | None:
    """Return a ticket as it is after a look at its process; `None` if its job is over."""
    run = None
    if ticket.kind == "run":
        run = db.execute("SELECT status FROM runs WHERE id = ?", (ticket.id,)).fetchone()
        if run is None or not RunStatus(run["status"]).active:
            return None
    if ticket.pid is None:
        return ticket
    there = exists(ticket.pid, ticket.pid_created, ticket.host)
    far = ticket.host != machine.host()
    unclaimed = run is not None and run["status"] == RunStatus.QUEUED
    if not there or (not fresh(ticket.beat) and (far or (unclaimed and ticket.started is not None))):
        return _tried_again(db, ticket) if unclaimed else None
    if fresh(ticket.beat):
        return ticket
    if ticket.started is None and not ticket.paused and run is None:
        return None  # whoever waited is gone
    return replace(ticket, started=None, paused=True)


def _tried_again(db: sqlite3.Connection, ticket: Ticket) -> Ticket | None:
    """Return the ticket of a run whose worker ended before it took the run: it waits again, but not for ever."""
    tries = ticket.tries + (ticket.started is not None)
    said = (
        f"its worker was started {TRIES} times and ended each time before it began; worker.log in the run's folder "
        "may say why"
    )
    if tries >= TRIES:
        db.execute(
            "UPDATE runs SET status = ?, finished = ?, updated = ?, message = ? WHERE id = ?",
            (RunStatus.FAILED, time.time(), time.time(), said, ticket.id),
        )
        return None
    db.execute("UPDATE runs SET pid = NULL, pid_created = NULL, heartbeat = NULL WHERE id = ?", (ticket.id,))
    return Ticket(ticket.id, ticket.kind, ticket.owner, ticket.asked, tries=tries, memory=ticket.memory)


def _usual(db: sqlite3.Connection) -> dict[str, float]:
    """Return the seconds that jobs usually take, of runs by the latest ones."""
    rows = db.execute(
        "SELECT finished - started AS seconds FROM runs WHERE status = ? AND finished > started "
        "ORDER BY finished DESC LIMIT 10",
        (RunStatus.FINISHED,),
    ).fetchall()
    known = {"run": statistics.median(row["seconds"] for row in rows)} if rows else {}
    return USUAL | known


def _remaining(db: sqlite3.Connection, ticket: Ticket, usual: dict[str, float]) -> float:
    """Return about how many seconds a job at work still takes."""
    passed = time.time() - (ticket.started or time.time())
    if ticket.kind == "run":
        row = db.execute("SELECT fraction FROM runs WHERE id = ?", (ticket.id,)).fetchone()
        if row is not None and 0.05 < row["fraction"] <= 1.0:
            return float(passed * (1.0 - row["fraction"]) / row["fraction"])
    return max(1.0, usual.get(ticket.kind, 30.0) - passed)
