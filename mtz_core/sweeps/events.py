"""What a sweep tells whoever started it."""

from __future__ import annotations

from dataclasses import dataclass

from mtz_core.runs.records import RunRecord, RunStatus
from mtz_core.sweeps.plan import Point


@dataclass(frozen=True)
class Begun:
    """The workers are there: `different` runs for so many `points`, of which `known` are finished already."""

    points: int
    different: int
    known: int
    workers: str


@dataclass(frozen=True)
class Result:
    """How a point ended: finished, failed, or cancelled; `record` is its run, if it came to one.

    `taken`: the run was not computed by this command. `message` says why it failed, or what is to be known of it.
    """

    point: Point
    status: RunStatus
    record: RunRecord | None
    taken: bool
    message: str | None = None


@dataclass(frozen=True)
class Moved:
    """How far a sweep is: runs by what is done with them.

    `fraction` is the share of the work of this command that is done, `elsewhere` are runs that other processes are at,
    `left` about how many seconds are left (`None`: unknown), `waits` says what the next point waits for.
    """

    done: int
    failed: int
    working: int
    elsewhere: int
    different: int
    fraction: float
    left: float | None
    waits: str | None = None
    stopping: bool = False


Event = Begun | Result | Moved
