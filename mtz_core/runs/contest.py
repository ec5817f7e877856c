"""The rivals of a run: the same networks, data and draw of calibration inputs, merged by other methods (no torch)."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtz_core.runs.records import RunRecord, RunStatus
from mtz_core.runs.same import deciding
from mtz_core.spec import EvaluationSpec, RivalSpec, RunSpec, ZipSpec
from mtz_core.structure.joint import joined
from mtz_core.structure.networks import structure_from_json
from mtz_core.structure.sizes import plan_counts, shared_count


def rival_spec(base: RunSpec, method: str, share: float) -> RunSpec:
    """Return the specification of a rival of a run: all that it was given, and another method.

    Networks, number and draw of calibration inputs, evaluation inputs and types are those of the run.
    """
    return RunSpec(
        networks=base.networks,
        calibration=base.calibration,
        evaluation=EvaluationSpec(**{**base.evaluation.model_dump(), "harm": False}),
        zip=ZipSpec(share=share, types=base.zip.types, seed=base.zip.seed),
        rival=RivalSpec(method=method),
        data_root=base.data_root,
        download=base.download,
    )


def shares_beside(spec: RunSpec, started: Mapping[str, Any] | None, total: int) -> list[float]:
    """Return the share ratios at which rivals stand beside a run: all, and the run's own.

    Where the run's layers have different shares, its own is the one ratio, in whole percent, at which the networks
    are planned to be as large as the run's (`total` numbers).

    Args:
        spec: of the run.
        started: what its `Started` event said, `None` if it is not known.
        total: numbers that it stores.
    """
    share = spec.zip.share
    if not isinstance(share, float):
        share = 1.0 if started is None else _as_large(started, total)
    return [1.0, share] if 0.0 < share < 1.0 else [1.0]


def _as_large(started: Mapping[str, Any], total: int) -> float:
    joint = joined([structure_from_json(structure) for structure in started["structures"]])

    def size(percent: int) -> int:
        shared = {g.name: shared_count(percent / 100, g.widths) for g in joint.groups if g.sharing}
        return plan_counts(joint, shared).total

    ratios = range(1, 101)
    first = bisect_left(ratios, -total, key=lambda percent: -size(percent))  # the first that is no larger
    around = [ratios[k] for k in (first - 1, first) if 0 <= k < len(ratios)]
    return min(around, key=lambda percent: abs(size(percent) - total)) / 100


def missing(wanted: Iterable[RunSpec], records: Iterable[RunRecord]) -> list[RunSpec]:
    """Return the wanted runs that are neither known nor on their way; those that failed or were stopped are missing."""
    known = {_asked(r.spec) for r in records if _stands(r) and r.spec.rival is not None}
    found: dict[str | None, RunSpec] = {}
    for spec in wanted:
        if (key := _asked(spec)) not in known:
            found.setdefault(key, spec)
    return list(found.values())


def ended(rivals: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the runs that failed or were stopped, of each specification the newest, unless one of its runs did not.

    `rivals` come newest first.
    """
    known = {_asked(record.spec) for record in rivals if _stands(record)}
    found: dict[str | None, RunRecord] = {}
    for record in rivals:
        if (key := _asked(record.spec)) not in known:
            found.setdefault(key, record)
    return list(found.values())


def _asked(spec: RunSpec) -> str | None:
    """What a specification asks for, whatever it is called."""
    return deciding(spec.model_dump_json())


def _stands(record: RunRecord) -> bool:
    """Whether a run has finished or may yet."""
    return record.status is RunStatus.FINISHED or record.status.active


def seconds_left(records: Sequence[RunRecord], more: int, places: int = 1) -> float | None:
    """Estimate how long runs take that are on their way, and `more` that are not yet; `None` while nobody knows.

    Args:
        records: of rivals of one set of networks; those that finished say how long one takes.
        more: runs that are not even made.
        places: jobs at once.
    """
    done = [float(r.summary.get("seconds") or 0.0) for r in records if r.status is RunStatus.FINISHED]
    going = [r for r in records if r.status is RunStatus.RUNNING]
    known = [(r.fraction, float(r.summary.get("seconds") or 0.0)) for r in going if r.fraction > 0.1]
    if not done and not known:
        return None
    usual = statistics.median(done or [seconds / fraction for fraction, seconds in known])
    waiting = sum(r.status is RunStatus.QUEUED for r in records) + more
    left = sum(usual * (1.0 - r.fraction) for r in going) + usual * waiting
    return left / max(1, min(places, len(going) + waiting))
