"""What a reader of the run store gets: plain frozen records."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from mtz_core.errors import RunError
from mtz_core.outputs.types import TaskType
from mtz_core.spec import RunSpec

RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")


class RunStatus(StrEnum):
    """Where a run stands.

    `LOST` and `PAUSED` are never written: they are running records whose worker is no longer there, or is there and
    gives no sign of life (stopped by a signal, or hanging).
    """

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    PAUSED = "paused"

    @property
    def active(self) -> bool:
        """Whether more events may come."""
        return self in (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.PAUSED)

    @property
    def resumable(self) -> bool:
        """Whether `resume` may continue the run."""
        return self in (RunStatus.LOST, RunStatus.CANCELLED, RunStatus.FAILED)


@dataclass(frozen=True)
class RunRecord:
    """One run. Times are Unix seconds; `fraction` is the share of the work that is done.

    `attempt` grows by one whenever the run is resumed: events after the checkpoint are then superseded, so whoever
    caches events or arrays keys the cache by `(id, attempt)`. `pid`, `pid_created`, `host` and `heartbeat` identify the
    worker. `owner` is the browser that started it (`None`: the command line, or everyone); `waiting` says that it has
    no place among those at work (see `mtz_core.runs.queue`). `fingerprint` stands for all that decides the result (see
    `mtz_core.runs.fingerprint`; `None`: not known, or the run went on with another version of the program).
    """

    id: str
    title: str
    status: RunStatus
    created: float
    updated: float
    started: float | None
    finished: float | None
    pid: int | None
    fraction: float
    message: str | None
    spec: RunSpec
    summary: dict[str, Any]
    path: Path
    attempt: int = 1
    pid_created: float | None = None
    heartbeat: float | None = None
    host: str | None = None
    owner: str | None = None
    tags: tuple[str, ...] = ()
    waiting: bool = False
    fingerprint: str | None = None

    @property
    def types(self) -> tuple[TaskType, ...]:
        """What each task's answers are; empty before the run has found out."""
        return tuple(TaskType.read(data) for data in self.summary.get("types", ()))


def require_zipped(record: RunRecord, what: str) -> None:
    """Raise `RunError` for the run of a rival, which leaves no zipped network; `what` says what is done with one."""
    if (rival := record.spec.rival) is not None:
        raise RunError(
            f"run {record.id} was merged by the rival method {rival.method!r}, of which sizes, errors and answers are "
            f"kept, and no network; {what} in a run that zips. merge_networks of mtz_core.baselines makes it again"
        )


def with_result(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a run that only measured any more, with what was found before."""
    return {**summary, **(summary.get("zipped") or {}), "zipped": None}


def cut_text(why: str | None, measured: int, summary: Mapping[str, Any]) -> str:
    """Say that a zip is done though its measurement was cut off: somebody stopped it, or `why` it ended.

    >>> cut_text(None, 2, {"merges": 5})
    'The zip is done. Measuring its harm was stopped: 2 of 5 merges are measured.'
    """
    ended = "was stopped" if why is None else "ended early"
    said = f"The zip is done. Measuring its harm {ended}: {measured} of {summary.get('merges', 0)} merges are measured."
    return f"{said} {why}".rstrip() if why else said


@dataclass(frozen=True)
class StoredEvent:
    """One event: `kind` is its class name, `data` its fields without arrays (NaN as `None`); `seq` only ever grows."""

    seq: int
    time: float
    kind: str
    data: dict[str, Any]


def new_run_id() -> str:
    """Return an identifier that sorts by creation time, e.g. `20260131-235959-3fa2b1` (UTC)."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(3)


def checked_run_id(run_id: object) -> str:
    """Return `run_id` if it is well formed. Raises `RunError` otherwise, so that no identifier can name a path."""
    if isinstance(run_id, str) and RUN_ID.fullmatch(run_id):
        return run_id
    raise RunError(
        f"{run_id!r:.60} is not a run identifier; one looks like 20260131-235959-3fa2b1 (see the list of runs)"
    )
