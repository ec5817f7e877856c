"""Rivals beside our runs, in words: where one of them lies below ours at about the same size, and where none does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mtz_core.figures.compare import RELATIVE, Measure, RunPoint
from mtz_core.figures.text import error_text, percent_text, times_text

NEAR = 0.1
"""Sizes that differ by no more than this part are about the same."""
NAMED = 3
"""So many rivals are named in one sentence."""


@dataclass(frozen=True)
class Duel:
    """A rival's run beside the best of our runs of about its size; `ours` is `None` where we have none there."""

    rival: RunPoint
    ours: RunPoint | None


def duels(points: Sequence[RunPoint], task: int | None, measure: Measure) -> list[Duel]:
    """Pair every rival's run with the best of our runs that is at most `NEAR` larger or smaller.

    Args:
        points: runs on the same networks; those without the value of `measure` are left out.
        task: whose error; `None` takes the mean.
        measure: see `RunPoint.value`.
    """
    known = [p for p in points if not math.isnan(p.value(measure, task))]
    ours = [p for p in known if not p.rival]

    def best(rival: RunPoint) -> RunPoint | None:
        near = [p for p in ours if abs(p.total - rival.total) <= NEAR * rival.total]
        return min(near, key=lambda p: p.value(measure, task), default=None)

    return [Duel(p, best(p)) for p in known if p.rival]


def verdict(points: Sequence[RunPoint], who: str, task: int | None, measure: Measure) -> str:
    """Say where rivals lie below ours at about the same size, in numbers; empty without rivals.

    `who` is whose error it is, as `task` says: `mean`, or the name of a task.
    """
    found = duels(points, task, measure)
    if not found:
        return ""
    met = [duel for duel in found if duel.ours is not None]
    apart = [duel.rival for duel in found if duel.ours is None]
    lost = [d for d in met if d.ours is not None and d.rival.value(measure, task) < d.ours.value(measure, task)]
    same = f"at about the same size (within {percent_text(NEAR)})"
    what = f"{who} error" if measure == "test error" else f"{who} error, {measure}"
    said = []
    if lost:
        worst = sorted(lost, key=lambda d: _gap(d, task, measure))[:NAMED]
        listed = "; ".join(_against(d, task, measure) for d in worst)
        more = f", and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        said.append(
            f"{len(lost)} of {len(met)} {_runs(len(met))} of rivals {'lie' if len(lost) > 1 else 'lies'} below ours "
            f"{same}, in {what}: {listed}{more}."
        )
    elif met:
        closest = min(met, key=lambda d: _gap(d, task, measure))
        said.append(
            f"No rival lies below ours {same}, of {len(met)} {_runs(len(met))}; closest in {what} comes "
            f"{_against(closest, task, measure)}."
        )
    if apart:
        listed = ", ".join(f"{_called(p)} ({_size(p)} of all parents)" for p in apart[:NAMED])
        more = f" and {len(apart) - NAMED} more" if len(apart) > NAMED else ""
        said.append(f"None of ours has about the size of {listed}{more}, to compare with.")
    return " ".join(said)


def _runs(count: int) -> str:
    return "run" if count == 1 else "runs"


def _gap(duel: Duel, task: int | None, measure: Measure) -> float:
    """By how much the rival's value is larger than ours."""
    assert duel.ours is not None
    return duel.rival.value(measure, task) - duel.ours.value(measure, task)


def _against(duel: Duel, task: int | None, measure: Measure) -> str:
    assert duel.ours is not None
    theirs, own = (_text(p.value(measure, task), measure) for p in (duel.rival, duel.ours))
    return f"{_called(duel.rival)}: {theirs} at {_size(duel.rival)} of all parents, ours {own} at {_size(duel.ours)}"


def _called(rival: RunPoint) -> str:
    """The method with its settings."""
    return rival.method.removeprefix("rival: ")


def _size(point: RunPoint) -> str:
    return percent_text(point.size("of all parents"), 1)


def _text(value: float, measure: Measure) -> str:
    if measure == RELATIVE:
        return times_text(value)
    return error_text(value) if measure == "test error" else f"{value:+.2f} points".replace("-", "−")
