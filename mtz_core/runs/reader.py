"""Reading runs: everything here opens the store read-only, and never waits for a writer."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from mtz_core.errors import RunError, SpecError
from mtz_core.runs.alive import exists, is_alive
from mtz_core.runs.database import reading
from mtz_core.runs.files import Array, StoredArrays, read_array
from mtz_core.runs.records import RunRecord, RunStatus, StoredEvent, checked_run_id, with_result
from mtz_core.spec import RunSpec, parse_run_spec
from mtz_core.system.machine import host
from mtz_core.system.paths import runs_folder

Events = list[StoredEvent]  # inside the class, `list` is the method
Names = list[str]
log = logging.getLogger(__name__)
RUNS = (
    "SELECT runs.*, queue.id IS NOT NULL AS ticket, queue.id IS NOT NULL AND queue.started IS NULL AS waiting "
    "FROM runs LEFT JOIN queue ON queue.id = runs.id"
)


class RunReader:
    """Runs under one folder (default: see `runs_folder`), which is made on the first write.

    Every method that takes a run identifier raises `RunError` if it is malformed or unknown.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root or runs_folder()).absolute()
        self.database = self.root / "runs.sqlite3"

    def get(self, run_id: str) -> RunRecord:
        """Return a run's record. Raises `RunError` if there is none, or if its specification can't be read."""
        with reading(self.database) as db:
            return self._record(self._row(db, run_id))

    def list(self, limit: int | None = None, tags: Sequence[str] = ()) -> list[RunRecord]:
        """Return the records of all (or the `limit` latest) runs, newest first; unreadable ones are only logged.

        With `tags`, only of those that have all of them.
        """
        known = "CASE WHEN json_valid(runs.tags) THEN runs.tags ELSE '[]' END"
        tagged = f"EXISTS (SELECT 1 FROM json_each({known}) WHERE json_each.value = ?)"
        where = f"WHERE {' AND '.join([tagged] * len(tags))}" if tags else ""
        with reading(self.database) as db:
            rows = db.execute(
                f"{RUNS} {where} ORDER BY created DESC, runs.id DESC LIMIT ?", (*tags, -1 if limit is None else limit)
            ).fetchall()
        records = []
        for row in rows:
            try:
                records.append(self._record(row))
            except RunError as error:
                log.warning("%s", error)
        return records

    def events(self, run_id: str, after: int = 0, kinds: Sequence[str] | None = None) -> Events:
        """Return the events with `seq > after`, in order; `kinds` (class names) narrows them."""
        wanted = "" if kinds is None else f"AND kind IN ({','.join('?' * len(kinds))})"
        with reading(self.database) as db:
            self._row(db, run_id)
            rows = db.execute(
                f"SELECT seq, time, kind, data FROM events WHERE run = ? AND seq > ? {wanted} ORDER BY seq",
                (run_id, after, *(kinds or ())),
            ).fetchall()
        return [_stored_event(row) for row in rows]

    def last_event(self, run_id: str, kind: str | None = None) -> StoredEvent | None:
        """Return the latest event (of that kind), or `None`."""
        with reading(self.database) as db:
            self._row(db, run_id)
            row = db.execute(
                "SELECT seq, time, kind, data FROM events WHERE run = ? AND (? IS NULL OR kind = ?) "
                "ORDER BY seq DESC LIMIT 1",
                (run_id, kind, kind),
            ).fetchone()
        return None if row is None else _stored_event(row)

    def layers(self, run_id: str) -> Names:
        """Return the layers that have arrays so far, in the order in which they were zipped."""
        with reading(self.database) as db:
            self._row(db, run_id)
            rows = db.execute(
                "SELECT layer FROM arrays WHERE run = ? GROUP BY layer ORDER BY min(seq)", (run_id,)
            ).fetchall()
        return [row["layer"] for row in rows]

    def layer_arrays(self, run_id: str, layer: str) -> StoredArrays:
        """Return a layer's arrays by name; each is read when it is asked for.

        Raises `RunError` if the layer has none (yet).
        """
        with reading(self.database) as db:
            record_path = self.root / str(self._row(db, run_id)["id"])
            rows = db.execute(
                "SELECT key, file FROM arrays WHERE run = ? AND layer = ? ORDER BY seq", (run_id, layer)
            ).fetchall()
        if not rows:
            raise RunError(f"run {run_id} has no arrays of layer {layer!r} (yet); `layers` lists those that it has")
        return StoredArrays({row["key"]: record_path / "arrays" / row["file"] for row in rows})

    def images(self, run_id: str, task: int) -> Array:
        """Return the calibration inputs (m, ...) of a task. Raises `RunError` if they weren't kept."""
        path = self.get(run_id).path / f"images-{int(task)}.npy"
        if not path.exists():
            raise RunError(f"run {run_id} has no calibration images of task {task} (yet)")
        return read_array(path)

    # Rows

    def record(self, db: sqlite3.Connection, run_id: str) -> RunRecord:
        """Return a run's record, for whoever has opened the database."""
        return self._record(self._row(db, run_id))

    def _row(self, db: sqlite3.Connection, run_id: str) -> sqlite3.Row:
        row: sqlite3.Row | None = db.execute(f"{RUNS} WHERE runs.id = ?", (checked_run_id(run_id),)).fetchone()
        if row is None:
            raise RunError(f"there is no run {run_id} in {self.root}; it may have been deleted, or is in another store")
        return row

    def _record(self, row: sqlite3.Row) -> RunRecord:
        fields = {name: row[name] for name in RunRecord.__dataclass_fields__ if name not in ("path", "spec", "summary")}
        try:
            fields |= {"spec": _specification(row["spec"]), "summary": json.loads(row["summary"])}
            fields |= {"status": RunStatus(row["status"]), "path": self.root / row["id"]}
            fields |= {"tags": tuple(json.loads(row["tags"])), "waiting": bool(row["waiting"])}
        except (ValueError, SpecError) as error:
            raise RunError(
                f"run {row['id']} cannot be read: {error}; it was written by another version, or with "
                "a method that this process does not know"
            ) from error
        record = RunRecord(**fields)
        # A start that came to nothing is tried again for as long as the run is in the queue.
        started = record.status is RunStatus.QUEUED and record.pid is not None and not row["ticket"]
        if (record.status is not RunStatus.RUNNING and not started) or is_alive(record):
            return record
        if record.host in (None, host()) and exists(record.pid, record.pid_created, record.host):
            return replace(record, status=RunStatus.PAUSED, message="the worker process gives no sign of life")
        if record.summary.get("zipped"):
            message = "The zip is done. The process that measured its harm is gone; what it had measured is kept."
            return replace(
                record, status=RunStatus.FINISHED, message=message, fraction=1.0, summary=with_result(record.summary),
                finished=record.updated,
            )  # fmt: skip
        return replace(record, status=RunStatus.LOST, message="the worker process is gone")


@lru_cache(maxsize=1024)
def _specification(text: str) -> RunSpec:
    """Read a specification, which never changes: pages look at the same runs every second."""
    return parse_run_spec(json.loads(text))


def _stored_event(row: sqlite3.Row) -> StoredEvent:
    return StoredEvent(row["seq"], row["time"], row["kind"], json.loads(row["data"]))
