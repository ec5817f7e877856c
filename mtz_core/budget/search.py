"""All layers' shares at once, under a budget: a small integer program over measured curves (no torch here).

Every channel group has a *curve*: by how much the outputs are predicted to diverge from the parents' (in nats) if it
shares so many channels. Divergences of groups add up. Sizes do not: a weight is shared if its row and its column are,
so a network's size is bilinear in the shares of neighbouring groups. With shares on a grid and one binary variable per
group and grid point, products of two binaries are exact linear variables, and `scipy.optimize.milp` finds the optimum
on the grid; single channels are then moved until the budget is used up.

What groups do together is not what they add up to, but rises with it (`Choice.expected`): the order of plans stays.
Small divergences D are small shifts of the outputs, of size √D; the part of the answers that change grows like that.
So the predicted error is `rate`·√D, in % of the answers, with a rate measured along with the curves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mtz_core.budget.choice import Choice, Count, Curve, Point, Shares
from mtz_core.budget.program import Program
from mtz_core.errors import SpecError
from mtz_core.spec import BudgetSpec

STEPS = (1, 2, 4, 8, 16, 32)
"""Channels by which shares are moved off the grid."""
SWEEPS = 50
CLEAR = 0.9
"""A plan is taken if its predicted divergence is at most this part of what one share for all groups would give. Smaller
gains did not show in merged networks.
"""
CORRECTIONS = 6


def resolve(choice: Choice, budget: BudgetSpec, count: Count | None = None) -> Point:
    """The best shares under a budget.

    Args:
        choice: what can be chosen.
        budget: the limit.
        count: the true size for given shares, where it is known better than `choice` knows it.

    Raises:
        SpecError: the budget cannot be met.
        NumericalError: the solver found nothing in time.
    """
    count = choice.parameters if count is None else count
    if budget.error is not None:
        return counted(smallest_size(choice, budget.error), count)
    if budget.only_macs:
        return counted(choice.point(choice.uniform(0.0)), count)
    smallest = choice.smallest
    limit = budget.parameters if budget.size is None else math.floor(budget.size * smallest + 1e-6)
    assert limit is not None
    everything = counted(choice.point(choice.uniform(1.0)), count)
    if everything.parameters > limit:
        raise SpecError(
            f"budget: {limit:,} parameters are too few for these networks; with every layer fully shared they take "
            f"{everything.parameters:,} (size {math.ceil(1000 * everything.parameters / smallest) / 1000})"
        )
    best, aim, tried = everything, limit, set()
    for _ in range(CORRECTIONS):
        if aim in tried:
            break
        tried.add(aim)
        found = counted(smallest_error(choice, aim), count)
        if found.parameters <= limit and found.divergence < best.divergence:
            best = found
        aim += limit - found.parameters
    best = _filled(choice, best, limit, count)
    if sum(curve.least < curve.width for curve in choice.curves) < 2:
        return best
    even = even_share(choice, limit, count)
    clear = best.divergence - choice.base <= CLEAR * (even.divergence - choice.base)
    return best if clear else replace(even, even=True)


def even_share(choice: Choice, limit: int, count: Count) -> Point:
    """The least share, the same for every group, with which the network has at most `limit` parameters."""
    widest = max((curve.width for curve in choice.curves), default=1)
    low, high = 0, 2 * widest  # all that is shared in steps of half a channel of the widest group
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if count(choice.uniform(middle / (2 * widest))) <= limit else (middle + 1, high)
    return counted(choice.point(choice.uniform(low / (2 * widest))), count)


def counted(point: Point, count: Count) -> Point:
    """The point with its true size."""
    return replace(point, parameters=count(point.shares))


def smallest_error(choice: Choice, parameters: int) -> Point:
    """Shares of least predicted error among those whose network has at most `parameters` numbers, if there are any."""
    for share in (0.0, 1.0):
        point = choice.point(choice.uniform(share))
        if (point.parameters <= parameters) == (share == 0.0):
            return point
    shares = Program(choice).solve(size=parameters)
    return choice.point(_moved(choice, _repaired(choice, shares, parameters), size=parameters))


def smallest_size(choice: Choice, error: float) -> Point:
    """Shares of least size among those whose predicted error is at most `error` (in %)."""
    limit = choice.allowed(error)
    everything = choice.point(choice.uniform(1.0))
    if everything.divergence <= limit:
        return everything
    if choice.base > limit:
        raise SpecError(
            f"budget: {error:g} % of changed answers are too few; what all tasks have in common is predicted to change "
            f"{choice.error(choice.base):.2f} %"
        )
    found = Program(choice).solve(divergence=limit - choice.base)
    return choice.point(_moved(choice, found, divergence=limit))


def frontier(choice: Choice, count: Count | None = None, points: int = 12) -> list[Point]:
    """Best points at evenly spaced sizes, from everything shared to nothing, each on the grid of the curves."""
    if all(curve.least == curve.width for curve in choice.curves):
        only = choice.point(choice.uniform(1.0))
        return [only if count is None else counted(only, count)]
    program = Program(choice)
    least, most = (choice.parameters(choice.uniform(share)) for share in (1.0, 0.0))
    found = [choice.point(choice.uniform(1.0))]
    for size in np.linspace(least, most, points)[1:-1]:
        found.append(choice.point(_repaired(choice, program.solve(size=int(size)), int(size))))
    found.append(choice.point(choice.uniform(0.0)))
    return undominated(found if count is None else [counted(point, count) for point in found])


def undominated(points: Iterable[Point]) -> list[Point]:
    """Points than which no other is both smaller and better, by size."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.parameters, p.divergence)):
        if not kept or point.divergence < kept[-1].divergence:
            kept.append(point)
    return kept


def _repaired(choice: Choice, shares: Shares, size: int) -> dict[str, int]:
    """Share more where rounding left the network too large: the cheapest channels first."""
    now = choice.point(shares)
    while now.parameters > size:
        trials = [
            choice.point({**now.shares, curve.group: now.shares[curve.group] + 1})
            for curve in choice.curves
            if now.shares[curve.group] < curve.width
        ]
        smaller = [trial for trial in trials if trial.parameters < now.parameters]
        if not smaller:
            return choice.uniform(1.0)
        before = now
        now = min(smaller, key=lambda p: (p.divergence - before.divergence) / (before.parameters - p.parameters))
    return dict(now.shares)


def _filled(choice: Choice, point: Point, limit: int, count: Count) -> Point:
    """Share less while the limit leaves room: the channels first whose prediction gains most per number."""
    now = point
    for step in reversed(STEPS):
        while True:
            names = [curve.group for curve in choice.curves if now.shares[curve.group] - step >= curve.least]
            trials = [choice.point({**now.shares, name: now.shares[name] - step}) for name in names]
            better = [counted(trial, count) for trial in trials if trial.divergence < now.divergence]
            fitting = [trial for trial in better if trial.parameters <= limit]
            if not fitting:
                break
            before = now
            now = max(
                fitting, key=lambda p: (before.divergence - p.divergence) / max(1, p.parameters - before.parameters)
            )
    return now


def _moved(choice: Choice, shares: Shares, size: int | None = None, divergence: float | None = None) -> dict[str, int]:
    """Move channels, of one group or from one to another, while that lowers what is minimised within the budget."""
    curves = {curve.group: curve for curve in choice.curves}

    def better(trial: Shares, now: Point) -> bool:
        if any(not curves[g].least <= count <= curves[g].width for g, count in trial.items()):
            return False
        predicted = choice.divergence(trial)
        if size is not None:
            return predicted < now.divergence * (1.0 - 1e-9) and choice.parameters(trial) <= size
        return predicted <= (divergence or 0.0) and choice.parameters(trial) < now.parameters

    now = choice.point(shares)
    for _ in range(SWEEPS):
        found = next((trial for trial in _neighbours(now.shares, curves) if better(trial, now)), None)
        if found is None:
            break
        now = choice.point(found)
    return dict(now.shares)


def _neighbours(shares: Shares, curves: Mapping[str, Curve]) -> Iterable[dict[str, int]]:
    names: Sequence[str] = list(curves)
    for step in reversed(STEPS):
        for name in names:
            yield {**shares, name: shares[name] - step}
            yield {**shares, name: shares[name] + step}
    for down in names:
        for up in names:
            if up != down:
                for a in STEPS:
                    for b in STEPS:
                        yield {**shares, down: shares[down] - a, up: shares[up] + b}
