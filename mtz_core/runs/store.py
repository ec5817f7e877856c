"""The run store: one SQLite file that indexes runs and their events, one folder per run for arrays and weights.

A run is readable whatever moment its writer is killed at: every file is complete before the row that mentions it is
committed. Several workers may write and any number of readers read at the same time. Nothing here needs torch.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from mtz_core.errors import RunError, SpecError
from mtz_core.events import Evaluated, Event, Finished, LayerZipped, Started
from mtz_core.runs.alive import is_alive, process_created
from mtz_core.runs.database import reading, writing
from mtz_core.runs.encode import encode, plain
from mtz_core.runs.files import Array, StoredArrays, read_array, slug, write_array, write_atomically
from mtz_core.runs.records import RunRecord, RunStatus, StoredEvent, checked_run_id, new_run_id
from mtz_core.spec import RunSpec, dump_run_spec, parse_run_spec

Events = list[StoredEvent]  # inside the class, `list` is the method
Names = list[str]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredCheckpoint:
    """What `save_checkpoint` kept: tensors as arrays and JSON data."""

    tensors: dict[str, Array]
    meta: dict[str, Any]


class RunStore:
    """Runs under one folder (default: `$MTZ_RUNS`, else `./runs`), which is made on the first write.

    Every method that takes a run identifier raises `RunError` if it is malformed or unknown.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root or os.environ.get("MTZ_RUNS") or "runs").absolute()
        self._database = self.root / "runs.sqlite3"

    # Readers

    def get(self, run_id: str) -> RunRecord:
        """Return a run's record. Raises `RunError` if there is none, or if its specification can't be read."""
        with reading(self._database) as db:
            return self._record(self._row(db, run_id))

    def list(self, limit: int | None = None) -> list[RunRecord]:
        """Return the records of all (or the `limit` latest) runs, newest first; unreadable ones are only logged."""
        with reading(self._database) as db:
            rows = db.execute(
                "SELECT * FROM runs ORDER BY created DESC, id DESC LIMIT ?", (-1 if limit is None else limit,)
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
        with reading(self._database) as db:
            self._row(db, run_id)
            rows = db.execute(
                f"SELECT seq, time, kind, data FROM events WHERE run = ? AND seq > ? {wanted} ORDER BY seq",
                (run_id, after, *(kinds or ())),
            ).fetchall()
        return [_stored_event(row) for row in rows]

    def last_event(self, run_id: str, kind: str | None = None) -> StoredEvent | None:
        """Return the latest event (of that kind), or `None`."""
        with reading(self._database) as db:
            self._row(db, run_id)
            row = db.execute(
                "SELECT seq, time, kind, data FROM events WHERE run = ? AND (? IS NULL OR kind = ?) "
                "ORDER BY seq DESC LIMIT 1",
                (run_id, kind, kind),
            ).fetchone()
        return None if row is None else _stored_event(row)

    def layers(self, run_id: str) -> Names:
        """Return the layers that have arrays so far, in the order in which they were zipped."""
        with reading(self._database) as db:
            self._row(db, run_id)
            rows = db.execute(
                "SELECT layer FROM arrays WHERE run = ? GROUP BY layer ORDER BY min(seq)", (run_id,)
            ).fetchall()
        return [row["layer"] for row in rows]

    def layer_arrays(self, run_id: str, layer: str) -> StoredArrays:
        """Return a layer's arrays by name; each is read when it is asked for.

        Raises `RunError` if the layer has none (yet).
        """
        with reading(self._database) as db:
            record_path = self.root / str(self._row(db, run_id)["id"])
            rows = db.execute(
                "SELECT key, file FROM arrays WHERE run = ? AND layer = ? ORDER BY seq", (run_id, layer)
            ).fetchall()
        if not rows:
            raise RunError(f"run {run_id} has no arrays of layer {layer!r} (yet); `layers` lists those that it has")
        return StoredArrays({row["key"]: record_path / "arrays" / row["file"] for row in rows})

    def images(self, run_id: str, task: int) -> Array:
        """Return the calibration images (m, C, H, W) of a task. Raises `RunError` if they weren't kept."""
        path = self.get(run_id).path / f"images-{int(task)}.npy"
        if not path.exists():
            raise RunError(f"run {run_id} has no calibration images of task {task} (yet)")
        return read_array(path)

    # Anybody

    def create(self, spec: RunSpec) -> RunRecord:
        """Make a queued run. Raises `RunError` if the store cannot be written."""
        names = [n.parent or f"{n.architecture}:{n.weights.name if n.weights else ''}" for n in spec.networks]
        summary = {
            "tasks": [n.data or name for n, name in zip(spec.networks, names, strict=True)],
            "parents": names, "layers": [], "counts": None,
            "errors": None, "parent_errors": None, "seconds": 0.0, "warnings": [],
        }  # fmt: skip
        now = time.time()
        run_id = new_run_id()
        with writing(self._database) as db:
            folder = self.root / run_id
            try:
                (folder / "arrays").mkdir(parents=True)
            except OSError as error:
                raise RunError(f"cannot make {folder}: {error.strerror or error}") from error
            write_atomically(folder / "spec.yaml", dump_run_spec(spec).encode())
            db.execute(
                "INSERT INTO runs (id, title, status, created, updated, spec, summary) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run_id, spec.title, RunStatus.QUEUED, now, now, spec.model_dump_json(), json.dumps(summary)),
            )
        return self.get(run_id)

    def request_cancel(self, run_id: str) -> None:
        """Ask the worker to stop; a run without a worker is cancelled at once. Raises `RunError` if it has ended."""
        with writing(self._database) as db:
            record = self._record(self._row(db, run_id))
            if record.status.active and record.pid is not None:
                db.execute("UPDATE runs SET cancel = 1 WHERE id = ?", (run_id,))
            elif record.status.active or record.status is RunStatus.LOST:
                _set_status(db, run_id, RunStatus.CANCELLED, "cancelled")
            else:
                raise RunError(f"run {run_id} is {record.status}; only a queued or running one can be cancelled")

    def delete(self, run_id: str) -> None:
        """Remove a run and its files. Raises `RunError` while its worker is alive."""
        with writing(self._database) as db:
            record = self._record(self._row(db, run_id))
            if record.status.active and record.pid is not None:
                raise RunError(f"run {run_id} is {record.status}; cancel it before deleting it")
            for table, column in (("arrays", "run"), ("events", "run"), ("runs", "id")):
                db.execute(f"DELETE FROM {table} WHERE {column} = ?", (run_id,))
        shutil.rmtree(record.path, ignore_errors=True)

    # The worker

    def claim(self, run_id: str, *, resume: bool = False) -> RunRecord:
        """Make this process the run's worker: status running, events after the last checkpoint dropped.

        Raises `RunError` if another worker has the run, or it has ended and `resume` is not set, or it is finished.
        """
        with writing(self._database) as db:
            row = self._row(db, run_id)
            record = self._record(row)
            others = record.pid not in (None, os.getpid())
            if not ((record.status is RunStatus.QUEUED and not others) or (resume and record.status.resumable)):
                hint = "; resume continues it" if record.status.resumable else ""
                raise RunError(f"run {run_id} is {record.status} and cannot be started{hint}")
            now, keep = time.time(), row["checkpoint_seq"]
            db.execute("DELETE FROM arrays WHERE run = ? AND seq > ?", (run_id, keep))
            db.execute("DELETE FROM events WHERE run = ? AND seq > ?", (run_id, keep))
            last = db.execute("SELECT data FROM events WHERE run = ? AND seq = ?", (run_id, keep)).fetchone()
            db.execute(
                "UPDATE runs SET status = ?, started = coalesce(started, ?), updated = ?, finished = NULL, pid = ?, "
                "pid_created = ?, heartbeat = ?, cancel = 0, fraction = ?, message = ?, "
                "attempt = attempt + (started IS NOT NULL), summary = ? WHERE id = ?",
                (
                    RunStatus.RUNNING, now, now, os.getpid(), process_created(os.getpid()), now,
                    json.loads(last["data"])["fraction"] if last else 0.0, "starting…",
                    json.dumps(record.summary | {"errors": None}), run_id,
                ),
            )  # fmt: skip
            kept = {item["file"] for item in db.execute("SELECT file FROM arrays WHERE run = ?", (run_id,))}
            kept.add(row["checkpoint_file"])
        for path in (*record.path.glob("arrays/*"), *record.path.glob("checkpoint-*"), *record.path.glob(".*.tmp")):
            if path.name not in kept:
                path.unlink(missing_ok=True)
        return self.get(run_id)

    def expect_worker(self, run_id: str, pid: int | None) -> None:
        """Note that process `pid` is about to claim the run (`None`: that one will be started)."""
        created = None if pid is None else process_created(pid)
        with writing(self._database) as db:
            row = self._row(db, run_id)
            if pid is None or row["status"] == RunStatus.QUEUED:
                db.execute(
                    "UPDATE runs SET status = ?, pid = ?, pid_created = ?, heartbeat = ?, updated = ?, "
                    "finished = NULL, message = 'starting…', cancel = 0 WHERE id = ?",
                    (RunStatus.QUEUED, pid, created, time.time(), time.time(), run_id),
                )

    def append(self, run_id: str, event: Event) -> int:
        """Store an event and its arrays, update fraction and summary, and return the event's number."""
        data, arrays = encode(event)
        layer = data.get("layer")
        folder = self.get(run_id).path / "arrays"
        files = {key: f"{slug(str(layer))}-{key}-{secrets.token_hex(4)}.npy" for key in arrays}
        for key, array in arrays.items():
            write_array(folder / files[key], array)
        kind, now = type(event).__name__, time.time()
        with writing(self._database) as db:
            row = self._row(db, run_id)
            seq = int(row["last_seq"]) + 1
            db.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
                (run_id, seq, now, kind, layer, json.dumps(data, ensure_ascii=False)),
            )
            db.executemany(
                "INSERT INTO arrays VALUES (?, ?, ?, ?, ?)",
                [(run_id, seq, layer, key, file) for key, file in files.items()],
            )
            summary = json.loads(row["summary"]) | _summary_of(event, data)
            db.execute(
                "UPDATE runs SET last_seq = ?, fraction = ?, updated = ?, heartbeat = ?, summary = ? WHERE id = ?",
                (seq, data["fraction"] or 0.0, now, now, json.dumps(summary, ensure_ascii=False), run_id),
            )
        return seq

    def update_summary(self, run_id: str, **fields: Any) -> None:
        """Replace some fields of the run's summary."""
        with writing(self._database) as db:
            summary = json.loads(self._row(db, run_id)["summary"]) | plain(fields)
            db.execute(
                "UPDATE runs SET summary = ?, updated = ? WHERE id = ?", (json.dumps(summary), time.time(), run_id)
            )

    def save_images(self, run_id: str, task: int, images: Array) -> None:
        """Keep the calibration images (m, C, H, W) that `top_images` refer to."""
        write_array(self.get(run_id).path / f"images-{int(task)}.npy", np.asarray(images, dtype=np.float32))

    def set_status(self, run_id: str, status: RunStatus, message: str | None = None) -> None:
        """Set status and message; a status that ends the run also notes when."""
        with writing(self._database) as db:
            self._row(db, run_id)
            _set_status(db, run_id, status, message)

    def heartbeat(self, run_id: str, message: str | None = None) -> None:
        """Say that the worker is alive (and, with `message`, what it is doing)."""
        with writing(self._database) as db:
            self._row(db, run_id)
            db.execute(
                "UPDATE runs SET heartbeat = ?, message = coalesce(?, message) WHERE id = ?",
                (time.time(), message, run_id),
            )

    def cancel_requested(self, run_id: str) -> bool:
        """Return whether somebody asked the worker to stop."""
        with reading(self._database) as db:
            return bool(self._row(db, run_id)["cancel"])

    def save_checkpoint(self, run_id: str, tensors: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
        """Keep all that is needed to continue after the latest event; replaces the checkpoint before."""
        content = safetensors_bytes(dict(tensors), metadata={"meta": json.dumps(plain(meta))})
        file = f"checkpoint-{secrets.token_hex(4)}.safetensors"
        folder = self.get(run_id).path
        write_atomically(folder / file, content)
        with writing(self._database) as db:
            before = self._row(db, run_id)["checkpoint_file"]
            db.execute("UPDATE runs SET checkpoint_file = ?, checkpoint_seq = last_seq WHERE id = ?", (file, run_id))
        if before:
            (folder / before).unlink(missing_ok=True)

    def load_checkpoint(self, run_id: str) -> StoredCheckpoint | None:
        """Return the latest checkpoint, `None` if there is none. Raises `RunError` if it is damaged."""
        with reading(self._database) as db:
            row = self._row(db, run_id)
        if row["checkpoint_file"] is None:
            return None
        path = self.root / run_id / row["checkpoint_file"]
        try:
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                return StoredCheckpoint(tensors, json.loads(file.metadata()["meta"]))
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise RunError(f"the checkpoint {path} cannot be read: {error}; start the run anew") from error

    # Helpers

    def _row(self, db: sqlite3.Connection, run_id: str) -> sqlite3.Row:
        row: sqlite3.Row | None = db.execute("SELECT * FROM runs WHERE id = ?", (checked_run_id(run_id),)).fetchone()
        if row is None:
            raise RunError(f"there is no run {run_id} in {self.root}; it may have been deleted, or is in another store")
        return row

    def _record(self, row: sqlite3.Row) -> RunRecord:
        fields = {name: row[name] for name in RunRecord.__dataclass_fields__ if name not in ("path", "spec", "summary")}
        try:
            fields |= {"spec": parse_run_spec(json.loads(row["spec"])), "summary": json.loads(row["summary"])}
            fields |= {"status": RunStatus(row["status"]), "path": self.root / row["id"]}
        except (ValueError, SpecError) as error:
            raise RunError(f"run {row['id']} cannot be read: {error}; it was written by another version") from error
        record = RunRecord(**fields)
        claimed = record.status is RunStatus.RUNNING or (record.status is RunStatus.QUEUED and record.pid is not None)
        if claimed and not is_alive(record):
            return RunRecord(**(fields | {"status": RunStatus.LOST, "message": "the worker process is gone"}))
        return record


def _stored_event(row: sqlite3.Row) -> StoredEvent:
    return StoredEvent(row["seq"], row["time"], row["kind"], json.loads(row["data"]))


def _set_status(db: sqlite3.Connection, run_id: str, status: RunStatus, message: str | None) -> None:
    now = time.time()
    db.execute(
        "UPDATE runs SET status = ?, message = ?, updated = ?, finished = ? WHERE id = ?",
        (status, message, now, None if status.active else now, run_id),
    )


def _summary_of(event: Event, data: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"seconds": data["seconds"]}
    if isinstance(event, Started):
        fields |= {"layers": data["layers"], "warnings": data["warnings"]}
    elif isinstance(event, LayerZipped):
        fields["counts"] = data["counts"]
    elif isinstance(event, Evaluated) and event.stage == "parents":
        fields["parent_errors"] = data["errors"]
    elif isinstance(event, Finished):
        fields |= {name: data[name] for name in ("counts", "errors", "parent_errors")}
    return fields
