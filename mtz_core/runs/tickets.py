"""Rows of the queue: one ticket for each job that waits or works. All of it happens in the caller's transaction."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict

from mtz_core.runs.alive import process_created
from mtz_core.runs.turns import EVERYONE, Ticket
from mtz_core.system.machine import host


def read(db: sqlite3.Connection) -> list[Ticket]:
    """Return all tickets, the oldest first."""
    rows = db.execute("SELECT * FROM queue ORDER BY asked, id").fetchall()
    return [Ticket(**(dict(row) | {"paused": bool(row["paused"])})) for row in rows]


def put(db: sqlite3.Connection, ticket: Ticket) -> None:
    """Add a ticket, or replace the one of its name."""
    fields = asdict(ticket)
    names = ", ".join(fields)
    db.execute(
        f"INSERT OR REPLACE INTO queue ({names}) VALUES ({', '.join('?' * len(fields))})", tuple(fields.values())
    )


def hold(db: sqlite3.Connection, job: str, owner: str | None, counted: bool = True) -> None:
    """This process works on a run: it has a place, given or taken (a command that asks nobody counts, too).

    Unless it is `counted` it needs none: it works on another machine.
    """
    if not counted:
        drop(db, job)
        return
    now = time.time()
    given = (now, now, host(), os.getpid(), process_created(os.getpid()))
    known = db.execute("SELECT 1 FROM queue WHERE id = ?", (job,)).fetchone()
    if known is None:
        put(db, Ticket(job, "run", owner or EVERYONE, now))
    db.execute(
        "UPDATE queue SET started = coalesce(started, ?), beat = ?, host = ?, pid = ?, pid_created = ?, paused = 0 "
        "WHERE id = ?",
        (*given, job),
    )


def beat(db: sqlite3.Connection, job: str) -> None:
    """Note a sign of life."""
    db.execute("UPDATE queue SET beat = ? WHERE id = ?", (time.time(), job))


def beat_own(db: sqlite3.Connection, jobs: Sequence[str]) -> None:
    """Note a sign of life of jobs, as far as this process has them still."""
    now, pid = time.time(), os.getpid()
    db.executemany("UPDATE queue SET beat = ? WHERE id = ? AND pid = ?", [(now, job, pid) for job in jobs])


def drop(db: sqlite3.Connection, job: str) -> None:
    """A job is over, or wanted no more."""
    db.execute("DELETE FROM queue WHERE id = ?", (job,))


def turns(db: sqlite3.Connection) -> dict[str, int]:
    """Return in which turn each lane and owner was served last."""
    return {row["name"]: row["turn"] for row in db.execute("SELECT name, turn FROM turns")}
