"""Which run of a store is the one that is about to be made: nothing is computed twice."""

from __future__ import annotations

import json
import sqlite3

from mtz_core.runs.records import RunStatus

DECIDES_NOTHING = ("title", "origin", "download")
"""Fields of a specification that say how a run is called and come by, not what it comes to; so do networks' names."""
ORDER = (RunStatus.FINISHED, RunStatus.RUNNING, RunStatus.QUEUED, RunStatus.CANCELLED, RunStatus.FAILED)
"""Of several runs with one fingerprint the first in this order is taken, then the oldest."""


def same_run(db: sqlite3.Connection, fingerprint: str, spec: str) -> str | None:
    """Return the run that has a fingerprint, or may come to have it: its specification (JSON) is the same, and it was
    asked for and has not begun, so nobody knows yet with which files and which program it will run."""
    rows = db.execute(
        "SELECT id, status FROM runs WHERE fingerprint = ? ORDER BY created, id", (fingerprint,)
    ).fetchall()
    if rows:
        return str(min(rows, key=lambda row: ORDER.index(RunStatus(row["status"])))["id"])
    wanted = deciding(spec)
    for row in db.execute(
        "SELECT id, spec FROM runs WHERE fingerprint IS NULL AND checkpoint_file IS NULL AND status IN (?, ?) "
        "ORDER BY created, id",
        (RunStatus.QUEUED, RunStatus.RUNNING),
    ):
        if deciding(row["spec"]) == wanted:
            return str(row["id"])
    return None


def finished_runs(db: sqlite3.Connection) -> dict[str, str]:
    """Return, for every fingerprint of a finished run, the oldest run that has it."""
    rows = db.execute(
        "SELECT fingerprint, id FROM runs WHERE fingerprint IS NOT NULL AND status = ? ORDER BY created DESC, id DESC",
        (RunStatus.FINISHED,),
    )
    return {row["fingerprint"]: row["id"] for row in rows}


def deciding(spec: str) -> str | None:
    """Return what of a specification (JSON) decides what the run comes to, in one form of text; `None`: it is no JSON.

    >>> deciding('{"title": "a", "networks": [{"name": "b", "parent": "c"}]}')
    '{"networks": [{"parent": "c"}]}'
    """
    try:
        fields = json.loads(spec)
    except ValueError:
        return None
    found = {name: value for name, value in fields.items() if name not in DECIDES_NOTHING}
    for network in found.get("networks", ()):
        network.pop("name", None)
    return json.dumps(found, sort_keys=True)


def note(db: sqlite3.Connection, run_id: str, fingerprint: str | None) -> None:
    """Note the fingerprint of a run that begins; one that goes on from a checkpoint keeps its own, or has none."""
    db.execute(
        "UPDATE runs SET fingerprint = CASE WHEN checkpoint_file IS NULL OR fingerprint = ? THEN ? END WHERE id = ?",
        (fingerprint, fingerprint, run_id),
    )
