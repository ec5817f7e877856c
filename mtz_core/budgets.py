"""All layers' shares at once, under a budget: a small integer program over measured curves (no torch here).

Every channel group has a *curve*: by how much the outputs are predicted to diverge from the parents' (in nats) if it
shares so many channels. Divergences of groups add up. Sizes do not: a weight is shared if its row and its column are,
so a network's size is bilinear in the shares of neighbouring groups. With shares on a grid and one binary variable per
group and grid point, products of two binaries are exact linear variables, and `scipy.optimize.milp` finds the optimum
on the grid; single channels are then moved until the budget is used up.

Small divergences D are small shifts of the outputs, of size √D; the part of the answers that change grows like that.
So the predicted error is `rate`·√D, in % of the answers, with a rate measured along with the curves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from mtz_core.errors import NumericalError, SpecError
from mtz_core.spec import BudgetSpec
from mtz_core.structure import JointLayer, JointStructure, NetworkStructure, joined, plan_counts
from mtz_core.trunks import Trunk

SECONDS = 20.0
"""Time limit of one integer program; the best plan found by then is taken."""
STEPS = (1, 2, 4, 8, 16, 32)
"""Channels by which shares are moved off the grid."""
SWEEPS = 50
CLEAR = 0.9
"""A plan is taken if its predicted divergence is at most this part of what one share for all groups would give. Smaller
gains did not show in merged networks.
"""
CORRECTIONS = 6
Shares = Mapping[str, int]
Count = Callable[[Shares], int]


@dataclass(frozen=True)
class Curve:
    """Predicted divergence of one channel group alone: `divergences[k]` if it shares `counts[k]` of its channels.

    `counts` increase from 0 to the width of the narrowest network; `divergences` start at 0 and never decrease. A group
    that is shared fully in any case has one count, its width, and the divergence 0.
    `measured` are the counts at which the outputs were looked at; in between the cost of pairing gives the shape.
    A group whose layer reads another group, the `gate`, is compared over what is shared there only, and the rest
    adapts: if a part u of the gate is shared, divergences are u ** `power` times as large.
    """

    group: str
    counts: tuple[int, ...]
    divergences: tuple[float, ...]
    measured: tuple[int, ...] = ()
    gate: str | None = None
    power: float = 0.0

    @property
    def width(self) -> int:
        """Channels that can be shared."""
        return self.counts[-1]

    @property
    def least(self) -> int:
        """Channels that are shared in any case."""
        return self.counts[0]

    def divergence(self, count: int) -> float:
        """Predicted divergence if `count` channels are shared; linear between the points of the curve."""
        return float(np.interp(count, self.counts, self.divergences))


@dataclass(frozen=True)
class Point:
    """One choice of all shares: parameters of the zipped network, predicted divergence, and predicted error in %.

    `even`: all groups got the same share, since no other choice is clearly better.
    """

    parameters: int
    divergence: float
    error: float
    shares: Mapping[str, int]
    even: bool = False


@dataclass(frozen=True)
class Choice:
    """What can be chosen: the networks' structures, corresponding layer by layer, and a curve per channel group."""

    structures: tuple[NetworkStructure, ...]
    curves: tuple[Curve, ...]
    own_bias: bool = False
    own_scale: bool = False
    rate: float = 1.0
    """Answers that change, in %, per square root of the divergence."""
    trunk: Trunk | None = None
    """Layers that all tasks compute alike."""
    base: float = 0.0
    """Divergence of the trunk alone."""

    @cached_property
    def joint(self) -> JointStructure:
        """The networks side by side."""
        return joined(self.structures)

    @property
    def tasks(self) -> int:
        """Number of networks."""
        return len(self.structures)

    def parameters(self, shares: Shares) -> int:
        """Size for given shares, counted as if all tasks shared every neuron that is shared (see `plan_counts`)."""
        inside = () if self.trunk is None else self.trunk.common
        return plan_counts(self.structures, shares, self.own_bias, self.own_scale, inside).total

    def common(self, layer: JointLayer) -> int:
        """Numbers saved per shared row whatever inputs are shared: raw inputs, and a bias and a scale if not own."""
        members = layer.members.values()
        own = self.trunk is None or not layer.inside(self.trunk.common)
        bias = not (own and self.own_bias) and all(each.bias for each in members)
        scale = own and self.own_scale and all(each.groups == 1 for each in members)
        return self.joint.raw(layer) + int(bias) - int(scale)

    def divergence(self, shares: Shares) -> float:
        """Predicted divergence for given shares."""
        widths = {curve.group: curve.width for curve in self.curves}
        total = self.base
        for curve in self.curves:
            part = 1.0 if curve.gate is None else shares.get(curve.gate, 0) / max(1, widths[curve.gate])
            total += curve.divergence(shares.get(curve.group, 0)) * part**curve.power
        return total

    def error(self, divergence: float) -> float:
        """Answers that are predicted to change, in %."""
        return min(100.0, self.rate * math.sqrt(divergence))

    def point(self, shares: Shares) -> Point:
        """Size and predictions for given shares."""
        divergence = self.divergence(shares)
        return Point(self.parameters(shares), divergence, self.error(divergence), dict(shares))

    def uniform(self, share: float) -> dict[str, int]:
        """The same share for every group, but for those that are shared in any case."""
        return {curve.group: max(curve.least, round(share * curve.width)) for curve in self.curves}


def part_of(joint: JointStructure, layer: JointLayer) -> float:
    """Part of its group's channels that a layer writes."""
    task, own = min(layer.members.items())
    return own.width / joint.groups[layer.group].members[task].width


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
    smallest = min(structure.parameters for structure in choice.structures)
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
    shares = _Program(choice).solve(size=parameters)
    return choice.point(_moved(choice, _repaired(choice, shares, parameters), size=parameters))


def smallest_size(choice: Choice, error: float) -> Point:
    """Shares of least size among those whose predicted error is at most `error` (in %)."""
    limit = (error / choice.rate) ** 2 if choice.rate > 0 else math.inf
    everything = choice.point(choice.uniform(1.0))
    if everything.divergence <= limit:
        return everything
    if choice.base > limit:
        raise SpecError(
            f"budget: {error:g} % of changed answers are too few; what all tasks have in common is predicted to change "
            f"{choice.error(choice.base):.2f} %"
        )
    found = _Program(choice).solve(divergence=limit - choice.base)
    return choice.point(_moved(choice, found, divergence=limit))


def frontier(choice: Choice, count: Count | None = None, points: int = 12) -> list[Point]:
    """Best points at evenly spaced sizes, from everything shared to nothing, each on the grid of the curves."""
    if all(curve.least == curve.width for curve in choice.curves):
        only = choice.point(choice.uniform(1.0))
        return [only if count is None else counted(only, count)]
    program = _Program(choice)
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


class _Program:
    """The integer program: x[g, k] = 1 if group g shares counts[k]; z of two groups are the products of their x."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        curves = choice.curves
        self.first = dict(
            zip((c.group for c in curves), np.cumsum([0] + [len(c.counts) for c in curves]), strict=False)
        )
        self.curve = {c.group: c for c in curves}
        self.size = sum(len(c.counts) for c in curves)
        self.pairs: dict[tuple[str, str], int] = {}
        saved: dict[int, float] = {}
        self.rows: list[tuple[dict[int, float], float, float]] = []
        for curve in curves:
            self.rows.append(({self.first[curve.group] + k: 1.0 for k in range(len(curve.counts))}, 1.0, 1.0))
        for layer in choice.joint.layers:
            for variable, value in self._saved(layer).items():
                saved[variable] = saved.get(variable, 0.0) + value
        for curve in curves:
            if curve.gate is not None:
                self._product(curve.group, curve.gate)
        self._reading()
        self.saved = np.zeros(self.size)
        self.saved[list(saved)] = list(saved.values())
        self.divergences = np.zeros(self.size)
        for curve in curves:
            own = np.asarray(curve.divergences)
            if curve.gate is None:
                at = self.first[curve.group]
                self.divergences[at : at + len(own)] += own
                continue
            gate = self.curve[curve.gate]
            parts = (np.asarray(gate.counts) / max(1, gate.width)) ** curve.power
            at = self.pairs[curve.group, curve.gate]
            self.divergences[at : at + len(own) * len(parts)] += np.outer(own, parts).reshape(-1)

    def _product(self, a: str, b: str) -> int:
        """Number of the first of the variables that stand for the products of two groups' binaries."""
        if (a, b) in self.pairs:
            return self.pairs[a, b]
        n, m, start = len(self.curve[a].counts), len(self.curve[b].counts), self.size
        self.pairs[a, b] = start
        self.size += n * m
        for i in range(n):
            terms = {start + i * m + j: 1.0 for j in range(m)}
            self.rows.append(({**terms, self.first[a] + i: -1.0}, 0.0, 0.0))
        for j in range(m):
            terms = {start + i * m + j: 1.0 for i in range(n)}
            self.rows.append(({**terms, self.first[b] + j: -1.0}, 0.0, 0.0))
        return start

    def _saved(self, layer: JointLayer) -> dict[int, float]:
        """Numbers that sharing saves in a layer, by variable."""
        networks = self.choice.joint
        target = networks.groups[layer.group]
        writing = [t for t in target.sharing if t in layer.members]
        if target.name not in self.curve or len(writing) < 2:
            return {}
        part, first = part_of(networks, layer), self.first[target.name]
        rows = np.asarray(self.curve[target.name].counts, dtype=np.float64)
        found = dict(enumerate((part * self.choice.common(layer) * (len(writing) - 1) * rows).tolist(), start=first))
        for group, per in networks.reads(layer):
            weight = part * min(per.values()) * (sum(t in per for t in writing) - 1)
            if weight <= 0:
                continue
            if group.name == target.name:
                for k, count in enumerate(rows):
                    found[first + k] += weight * count * count
            elif group.name in self.curve:
                start = self._product(target.name, group.name)
                read = np.asarray(self.curve[group.name].counts, dtype=np.float64)
                found |= dict(enumerate((weight * np.outer(rows, read)).reshape(-1).tolist(), start=start))
        return found

    def _reading(self) -> None:
        """A group whose first layer could read something in common shares nothing unless it does."""
        networks, seen = self.choice.joint, set()
        for layer in networks.layers:
            name = networks.groups[layer.group].name
            if name not in self.curve or name in seen or self.curve[name].least:
                continue
            seen.add(name)
            sources = networks.sources(layer)
            if networks.raw(layer) > 0 or not sources or any(self.curve[s].least for s in sources if s in self.curve):
                continue
            terms = {self.first[name]: 1.0}  # "shares none"
            for source in sources:
                if source in self.curve and source != name:
                    terms[self.first[source]] = -1.0
            # x_out(none) ≥ Σ_in x_in(none) - (number of inputs - 1)
            self.rows.append((terms, 2.0 - len(terms), np.inf))

    def solve(self, size: float | None = None, divergence: float | None = None) -> dict[str, int]:
        """Least divergence within a size, or least size within a divergence.

        Raises:
            NumericalError: the solver found no plan in time.
        """
        parents = sum(network.parameters for network in self.choice.joint.networks)
        rows = list(self.rows)
        unit = max(float(self.divergences.max(initial=0.0)), 1e-30)
        if size is not None:
            objective = self.divergences / unit
            rows.append((dict(enumerate((self.saved / parents).tolist())), (parents - size) / parents, np.inf))
        else:
            assert divergence is not None
            objective = -self.saved / parents
            rows.append((dict(enumerate((self.divergences / unit).tolist())), -np.inf, divergence / unit))
        entries = [(r, v, x) for r, (terms, _, _) in enumerate(rows) for v, x in terms.items() if x]
        r, v, x = zip(*entries, strict=True)
        matrix = coo_array((x, (r, v)), shape=(len(rows), self.size)).tocsr()
        low, high = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
        binary = sum(len(curve.counts) for curve in self.choice.curves)
        result = milp(
            objective,
            integrality=(np.arange(self.size) < binary).astype(int),
            bounds=Bounds(0.0, 1.0),
            constraints=LinearConstraint(matrix, low, high),
            options={"time_limit": SECONDS, "mip_rel_gap": 1e-4},
        )
        if result.x is None:
            raise NumericalError(f"no plan was found within {SECONDS:.0f} s: {result.message}; set the shares yourself")
        return {g: self._chosen(result.x, g) for g in self.curve}

    def _chosen(self, x: NDArray[np.float64], group: str) -> int:
        counts = self.curve[group].counts
        start = self.first[group]
        return counts[int(np.argmax(x[start : start + len(counts)]))]


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
