"""The run store: one SQLite file that indexes runs and their events, one folder per run for arrays and weights.

A run is readable whatever moment its writer is killed at: every file is complete before the row that mentions it is
committed. Several workers may write and any number of readers read at the same time. Nothing here needs torch.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from mtz_core.errors import RunError
from mtz_core.events import Evaluated, Event, Finished, LayerZipped, Measuring, Merged, Started
from mtz_core.runs import tickets
from mtz_core.runs.alive import process_created
from mtz_core.runs.database import reading, writing
from mtz_core.runs.encode import encode, plain
from mtz_core.runs.files import Array, slug, write_array, write_atomically
from mtz_core.runs.reader import RunReader
from mtz_core.runs.records import RunRecord, RunStatus, cut_text, new_run_id, with_result
from mtz_core.runs.same import same_run
from mtz_core.runs.turns import Ticket
from mtz_core.spec import RunSpec, dump_run_spec
from mtz_core.system.machine import host
from mtz_core.zoo.catalog import catalog

__all__ = ["RunRecord", "RunStatus", "RunStore", "StoredCheckpoint"]


@dataclass(frozen=True)
class StoredCheckpoint:
    """What `save_checkpoint` kept: tensors as arrays and JSON data."""

    tensors: dict[str, Array]
    meta: dict[str, Any]


class RunStore(RunReader):
    """Reads as `RunReader` does, and writes.

    What a worker writes (`append` and the methods after it) raises `RunError` once another process has claimed the run.
    """

    # Anybody

    def create(
        self, spec: RunSpec, owner: str | None = None, ticket: Ticket | None = None, fingerprint: str | None = None
    ) -> RunRecord:
        """Make a queued run, of a browser if it has an `owner`. Raises `RunError` if the store cannot be written.

        With a `ticket` it waits for a place (see `mtz_core.runs.queue`), from the moment at which it exists. With a
        `fingerprint` the run that has it is returned instead, if there is one (see `mtz_core.runs.fingerprint`).
        """
        names = [n.title for n in spec.networks]
        summary = {
            "tasks": [n.data or _task(name) for n, name in zip(spec.networks, names, strict=True)],
            "inputs": [], "parents": names, "layers": [], "counts": None,
            "errors": None, "parent_errors": None, "seconds": 0.0, "warnings": [], "types": [],
        }  # fmt: skip
        run_id = new_run_id()
        folder = self.root / run_id
        try:
            (folder / "arrays").mkdir(parents=True)
        except OSError as error:
            raise RunError(f"cannot make {folder}: {error.strerror or error}") from error
        write_atomically(folder / "spec.yaml", dump_run_spec(spec).encode())
        row = (run_id, spec.title, RunStatus.QUEUED, spec.model_dump_json(), json.dumps(summary), owner, fingerprint)
        entered = None
        try:
            entered = self._enter(row, ticket)
        finally:
            if entered != run_id:
                shutil.rmtree(folder, ignore_errors=True)
        return self.get(entered)

    def _enter(self, row: tuple[str | None, ...], ticket: Ticket | None) -> str:
        """Let a run exist from now on: one after the other, so those that wait stand in the order of their making.

        Returns its identifier, or that of the run that has its fingerprint already.
        """
        with writing(self.database) as db:
            if row[-1] is not None and (known := same_run(db, row[-1], str(row[3]))) is not None:
                return known
            now = time.time()
            db.execute(
                "INSERT INTO runs (id, title, status, spec, summary, owner, fingerprint, created, updated) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, now, now),
            )
            if ticket is not None:
                tickets.put(db, replace(ticket, id=str(row[0]), asked=now))
        return str(row[0])

    def request_cancel(self, run_id: str) -> None:
        """Ask the worker to stop; a run without a worker is cancelled at once. Raises `RunError` if it has ended."""
        with writing(self.database) as db:
            record = self._record(self._row(db, run_id))
            if record.status.active and record.pid is not None:
                db.execute("UPDATE runs SET cancel = 1 WHERE id = ?", (run_id,))
                if record.status is RunStatus.PAUSED:  # it hears of it should it ever go on
                    _set_status(db, run_id, RunStatus.CANCELLED, "cancelled")
            elif record.status.active or record.status is RunStatus.LOST:
                _set_status(db, run_id, RunStatus.CANCELLED, "cancelled")
            else:
                raise RunError(f"run {run_id} is {record.status}; only a queued or running one can be cancelled")

    def delete(self, run_id: str) -> None:
        """Remove a run and its files. Raises `RunError` while its worker is alive."""
        with writing(self.database) as db:
            record = self._record(self._row(db, run_id))
            if record.status.active and record.pid is not None:
                raise RunError(f"run {run_id} is {record.status}; cancel it before deleting it")
            for table, column in (("arrays", "run"), ("events", "run"), ("runs", "id"), ("queue", "id")):
                db.execute(f"DELETE FROM {table} WHERE {column} = ?", (run_id,))
        shutil.rmtree(record.path, ignore_errors=True)

    # The worker

    def reserve(self, run_id: str, *, resume: bool = False) -> RunRecord:
        """Note that this process is about to start a worker for the run, which is queued until the worker claims it.

        Raises `RunError` if a worker has the run or is being started, or it has ended and may not be resumed.
        """
        with writing(self.database) as db:
            row = self._row(db, run_id)
            record = self._startable(row, resume, (None,))
            db.execute(
                "UPDATE runs SET status = ?, pid = ?, pid_created = ?, host = ?, heartbeat = NULL, updated = ?, "
                "finished = NULL, message = 'starting…', cancel = 0 WHERE id = ?",
                (RunStatus.QUEUED, os.getpid(), process_created(os.getpid()), host(), time.time(), run_id),
            )
        return record

    def hand_over(self, run_id: str, pid: int) -> None:
        """Note the process to which the run was handed after `reserve`, unless it has claimed the run already."""
        with writing(self.database) as db:
            self._row(db, run_id)
            db.execute(
                "UPDATE runs SET pid = ?, pid_created = ?, heartbeat = ? WHERE id = ? AND status = ? AND pid = ?",
                (pid, process_created(pid), time.time(), run_id, RunStatus.QUEUED, os.getpid()),
            )
            db.execute(
                "UPDATE queue SET pid = ?, pid_created = ?, beat = ? WHERE id = ? AND pid = ?",
                (pid, process_created(pid), time.time(), run_id, os.getpid()),
            )

    def claim(
        self, run_id: str, *, resume: bool = False, launcher: int | None = None, counted: bool = True
    ) -> RunRecord:
        """Make this process the run's worker: status running, events after the last checkpoint dropped.

        `launcher` is the process that reserved the run for this one; it has a place in the queue from now on if it is
        `counted`. Raises `RunError` as `reserve` does.
        """
        with writing(self.database) as db:
            row = self._row(db, run_id)
            record = self._startable(row, resume, (None, launcher, os.getpid()))
            now, keep = time.time(), row["checkpoint_seq"]
            db.execute("DELETE FROM arrays WHERE run = ? AND seq > ?", (run_id, keep))
            db.execute("DELETE FROM events WHERE run = ? AND seq > ?", (run_id, keep))
            last = db.execute("SELECT data FROM events WHERE run = ? AND seq = ?", (run_id, keep)).fetchone()
            db.execute(
                "UPDATE runs SET status = ?, started = coalesce(started, ?), updated = ?, finished = NULL, pid = ?, "
                "pid_created = ?, host = ?, heartbeat = ?, cancel = cancel AND ?, fraction = ?, message = 'starting…', "
                "attempt = attempt + (started IS NOT NULL), summary = ? WHERE id = ?",
                (
                    RunStatus.RUNNING, now, now, os.getpid(), process_created(os.getpid()), host(), now,
                    record.status is RunStatus.QUEUED, json.loads(last["data"])["fraction"] if last else 0.0,
                    json.dumps(record.summary | {"errors": None, "zipped": None}), run_id,
                ),
            )  # fmt: skip
            tickets.hold(db, run_id, record.owner, counted)
            kept = {item["file"] for item in db.execute("SELECT file FROM arrays WHERE run = ?", (run_id,))}
            kept.add(row["checkpoint_file"])
        for path in (*record.path.glob("arrays/*"), *record.path.glob("checkpoint-*"), *record.path.glob(".*.tmp")):
            if path.name not in kept:
                path.unlink(missing_ok=True)
        return self.get(run_id)

    def append(self, run_id: str, event: Event) -> int:
        """Store an event and its arrays, update fraction and summary, and return the event's number."""
        data, arrays = encode(event)
        layer = data.get("layer")
        folder = self.get(run_id).path / "arrays"
        files = {key: f"{slug(str(layer))}-{key}-{secrets.token_hex(4)}.npy" for key in arrays}
        for key, array in arrays.items():
            write_array(folder / files[key], array)
        kind, now = type(event).__name__, time.time()
        with writing(self.database) as db:
            row = self._own(db, run_id)
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
        with writing(self.database) as db:
            summary = json.loads(self._own(db, run_id)["summary"]) | plain(fields)
            db.execute(
                "UPDATE runs SET summary = ?, updated = ? WHERE id = ?", (json.dumps(summary), time.time(), run_id)
            )

    def save_images(self, run_id: str, task: int, images: Array) -> None:
        """Keep the calibration inputs (m, ...) that `top_images` refer to."""
        write_array(self.get(run_id).path / f"images-{int(task)}.npy", np.asarray(images, dtype=np.float32))

    def set_status(self, run_id: str, status: RunStatus, message: str | None = None) -> None:
        """Set status and message; a status that ends the run also notes when.

        A run that only measured any more has finished, whatever ended that; its message then says how far it came.
        """
        with writing(self.database) as db:
            self._own(db, run_id)
            _set_status(db, run_id, status, message)

    def heartbeat(self, run_id: str, message: str | None = None) -> bool:
        """Say that the worker is alive (and, with `message`, what it is doing); return whether it has its place still.

        A worker that gave no sign of life for long has lost it to another job, and waits until it has one again.
        """
        with writing(self.database) as db:
            held = not self._own(db, run_id)["waiting"]
            tickets.beat(db, run_id)
            db.execute(
                "UPDATE runs SET heartbeat = ?, message = coalesce(?, message) WHERE id = ?",
                (time.time(), message, run_id),
            )
        return held

    def cancel_requested(self, run_id: str) -> bool:
        """Return whether somebody asked the worker to stop."""
        with reading(self.database) as db:
            return bool(self._row(db, run_id)["cancel"])

    def save_checkpoint(self, run_id: str, tensors: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
        """Keep all that is needed to continue after the latest event; replaces the checkpoint before."""
        content = safetensors_bytes(dict(tensors), metadata={"meta": json.dumps(plain(meta))})
        file = f"checkpoint-{secrets.token_hex(4)}.safetensors"
        folder = self.get(run_id).path
        write_atomically(folder / file, content)
        with writing(self.database) as db:
            before = self._own(db, run_id)["checkpoint_file"]
            db.execute("UPDATE runs SET checkpoint_file = ?, checkpoint_seq = last_seq WHERE id = ?", (file, run_id))
        if before:
            (folder / before).unlink(missing_ok=True)

    def load_checkpoint(self, run_id: str) -> StoredCheckpoint | None:
        """Return the latest checkpoint, `None` if there is none. Raises `RunError` if it is damaged."""
        with reading(self.database) as db:
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

    def _own(self, db: sqlite3.Connection, run_id: str) -> sqlite3.Row:
        row = self._row(db, run_id)
        if row["pid"] is None and row["ticket"]:
            raise RunError(f"run {run_id} waits in the queue; no process may write to it")
        if row["pid"] not in (None, os.getpid()):
            raise RunError(f"run {run_id} now belongs to process {row['pid']}; this one stops writing to it")
        return row

    def _startable(self, row: sqlite3.Row, resume: bool, pids: tuple[int | None, ...]) -> RunRecord:
        record = self._record(row)
        if (record.status is RunStatus.QUEUED and record.pid in pids) or (resume and record.status.resumable):
            return record
        state = "being started" if record.status is RunStatus.QUEUED else str(record.status)
        hint = "; resume continues it" if record.status.resumable else ""
        raise RunError(f"run {row['id']} is {state} and cannot be started{hint}")


def _set_status(db: sqlite3.Connection, run_id: str, status: RunStatus, message: str | None) -> None:
    now = time.time()
    if status in (RunStatus.FAILED, RunStatus.CANCELLED):
        summary = json.loads(db.execute("SELECT summary FROM runs WHERE id = ?", (run_id,)).fetchone()["summary"])
        if summary.get("zipped"):
            (done,) = db.execute(
                "SELECT count(*) FROM events WHERE run = ? AND kind = 'HarmMeasured'", (run_id,)
            ).fetchone()
            message = cut_text(None if status is RunStatus.CANCELLED else message or "", done, summary)
            status = RunStatus.FINISHED
            db.execute(
                "UPDATE runs SET summary = ?, fraction = 1.0 WHERE id = ?", (json.dumps(with_result(summary)), run_id)
            )
    db.execute(
        "UPDATE runs SET status = ?, message = ?, updated = ?, finished = ? WHERE id = ?",
        (status, message, now, None if status.active else now, run_id),
    )
    if not status.active:
        tickets.drop(db, run_id)


def _summary_of(event: Event, data: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"seconds": data["seconds"]}
    if isinstance(event, Started):
        fields |= {"layers": data["layers"], "warnings": data["warnings"], "types": data["types"]}
    elif isinstance(event, LayerZipped | Merged):
        fields["counts"] = data["counts"]
    elif isinstance(event, Evaluated) and event.stage == "parents":
        fields["parent_errors"] = data["errors"]
    elif isinstance(event, Measuring | Finished):
        found = {name: data[name] for name in ("counts", "errors", "parent_errors", "scores", "parent_scores")}
        measuring = isinstance(event, Measuring)
        fields |= {"zipped": found, "merges": data["merges"]} if measuring else found | {"zipped": None}
    return fields


def _task(parent: str) -> str:
    """Return what a bundled parent was trained for; the name itself where it is unknown."""
    known = catalog().get(parent)
    return known.task if known else parent
