"""All layers' shares at once, under a budget: a small integer program over measured curves (no torch here).

Every channel group has a *curve*: the predicted error as a function of the number of channels that it shares. Errors
of groups add up. Sizes do not: a weight is shared if its row and its column are, so a network's size is bilinear in
the shares of neighbouring groups. With shares on a grid and one binary variable per group and grid point, products of
two binaries are exact linear variables, and `scipy.optimize.milp` finds the optimum on the grid; single channels are
then moved until the budget is used up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from mtz_core.errors import NumericalError, SpecError
from mtz_core.structure import LayerSummary, NetworkStructure, ParameterCounts, plan_counts

SECONDS = 20.0
"""Time limit of one integer program; the best plan found by then is taken."""
STEPS = (1, 2, 4, 8, 16, 32)
"""Channels by which shares are moved off the grid."""
SWEEPS = 50
Shares = Mapping[str, int]


@dataclass(frozen=True)
class Curve:
    """Predicted error of one channel group alone: `errors[k]` if it shares `counts[k]` of its channels.

    `counts` increase from 0 to the width of the narrowest network; `errors` start at 0 and never decrease.
    `measured` are the counts at which the error was measured; the rest follows from the cost of pairing.
    """

    group: str
    counts: tuple[int, ...]
    errors: tuple[float, ...]
    measured: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Channels that can be shared."""
        return self.counts[-1]

    def error(self, count: int) -> float:
        """Predicted error if `count` channels are shared; linear between the points of the curve."""
        return float(np.interp(count, self.counts, self.errors))


@dataclass(frozen=True)
class Point:
    """One choice of all shares: parameters of the zipped network, and the predicted error."""

    parameters: int
    error: float
    shares: Mapping[str, int]


@dataclass(frozen=True)
class Choice:
    """What can be chosen: the networks' structures, corresponding layer by layer, and a curve per channel group."""

    structures: tuple[NetworkStructure, ...]
    curves: tuple[Curve, ...]
    own_bias: bool = False

    def counts(self, shares: Shares) -> ParameterCounts:
        """Size for given shares."""
        return plan_counts(self.structures, shares, self.own_bias)

    def error(self, shares: Shares) -> float:
        """Predicted error for given shares."""
        return sum(curve.error(shares.get(curve.group, 0)) for curve in self.curves)

    def point(self, shares: Shares) -> Point:
        """Size and predicted error for given shares."""
        return Point(self.counts(shares).total, self.error(shares), dict(shares))

    def uniform(self, share: float) -> dict[str, int]:
        """The same share for every group."""
        return {curve.group: round(share * curve.width) for curve in self.curves}

    def least(self) -> int:
        """Parameters if everything is shared."""
        return self.counts(self.uniform(1.0)).total


def smallest_error(choice: Choice, parameters: int) -> Point:
    """Shares of least predicted error among those whose network has at most `parameters` numbers.

    Raises:
        SpecError: even the smallest network is larger.
    """
    if choice.least() > parameters:
        raise SpecError(
            f"budget: the networks cannot be zipped into {parameters:,} parameters; with every layer fully shared "
            f"there are {choice.least():,} (size {choice.counts(choice.uniform(1.0)).versus_smallest:.3f})"
        )
    nothing = choice.uniform(0.0)
    if choice.counts(nothing).total <= parameters:
        return choice.point(nothing)
    shares = _Program(choice).solve(size=parameters)
    return choice.point(_moved(choice, _repaired(choice, shares, parameters), size=parameters))


def smallest_size(choice: Choice, error: float) -> Point:
    """Shares of least size among those whose predicted error is at most `error`."""
    shares = _Program(choice).solve(error=error)
    return choice.point(_moved(choice, shares, error=error))


def frontier(choice: Choice, points: int = 12) -> list[Point]:
    """Best points at evenly spaced sizes, from everything shared to nothing, each on the grid of the curves."""
    program = _Program(choice)
    least, most = choice.least(), choice.counts(choice.uniform(0.0)).total
    found = [choice.point(choice.uniform(1.0))]
    for size in np.linspace(least, most, points)[1:-1]:
        found.append(choice.point(_repaired(choice, program.solve(size=int(size)), int(size))))
    found.append(choice.point(choice.uniform(0.0)))
    return undominated(found)


def undominated(points: Iterable[Point]) -> list[Point]:
    """Points than which no other is both smaller and better, by size."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.parameters, p.error)):
        if not kept or point.error < kept[-1].error:
            kept.append(point)
    return kept


class _Program:
    """The integer program: x[g, k] = 1 if group g shares counts[k]; z of two groups are the products of their x."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        curves = choice.curves
        self.first = dict(zip((c.group for c in curves), np.cumsum([0] + [len(c.counts) for c in curves]), strict=False))
        self.curve = {c.group: c for c in curves}
        self.size = sum(len(c.counts) for c in curves)
        self.pairs: dict[tuple[str, str], int] = {}
        saved: dict[int, float] = {}
        self.rows: list[tuple[dict[int, float], float, float]] = []
        for curve in curves:
            self.rows.append(({self.first[curve.group] + k: 1.0 for k in range(len(curve.counts))}, 1.0, 1.0))
        tasks = len(choice.structures)
        for layer in choice.structures[0].layers:
            for variable, value in self._saved(layer).items():
                saved[variable] = saved.get(variable, 0.0) + (tasks - 1) * value
        self._reading()
        self.saved = np.zeros(self.size)
        self.saved[list(saved)] = list(saved.values())
        self.errors = np.zeros(self.size)
        for curve in curves:
            at = self.first[curve.group]
            self.errors[at : at + len(curve.counts)] = curve.errors

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

    def _saved(self, layer: LayerSummary) -> dict[int, float]:
        """Weights of a layer that are shared, by variable."""
        structure, group = self.choice.structures[0], layer.group
        if group not in self.curve or layer.alone:
            return {}
        rows = [round(c * layer.width / structure.group(group).width) for c in self.curve[group].counts]
        owned = sum(structure.group(name).width * per for name, per in layer.inputs.items())
        common = layer.columns - layer.unexplained - owned - int(self.choice.own_bias and layer.bias)
        found = {self.first[group] + k: row * common for k, row in enumerate(rows)}
        for name, per in layer.inputs.items():
            if name == group:
                for k, row in enumerate(rows):
                    found[self.first[group] + k] += row * per * self.curve[group].counts[k]
            elif name in self.curve:
                start, read = self._product(group, name), self.curve[name].counts
                for i, row in enumerate(rows):
                    for j, count in enumerate(read):
                        found[start + i * len(read) + j] = row * per * count
        return found

    def _reading(self) -> None:
        """A group whose first layer reads nothing in common but a bias shares nothing (see `effective_shares`)."""
        structure, seen = self.choice.structures[0], set()
        for layer in structure.layers:
            if layer.group not in self.curve or layer.alone or layer.group in seen:
                continue
            seen.add(layer.group)
            owned = sum(structure.group(name).width * per for name, per in layer.inputs.items())
            if layer.columns - int(layer.bias) - layer.unexplained - round(owned) > 0:
                continue
            terms = {self.first[layer.group]: 1.0}  # "shares none"
            for name in layer.inputs:
                if name in self.curve and name != layer.group:
                    terms[self.first[name]] = -1.0
            # x_out(none) ≥ Σ_in x_in(none) - (number of inputs - 1)
            self.rows.append((terms, 2.0 - len(terms), np.inf))

    def solve(self, size: float | None = None, error: float | None = None) -> dict[str, int]:
        """Least error within a size, or least size within an error.

        Raises:
            NumericalError: the solver found no plan in time.
        """
        parents = sum(structure.parameters for structure in self.choice.structures)
        rows = list(self.rows)
        unit = max(float(self.errors.max(initial=0.0)), 1e-30)
        if size is not None:
            objective = self.errors / unit
            rows.append((dict(enumerate((self.saved / parents).tolist())), (parents - size) / parents, np.inf))
        else:
            assert error is not None
            objective = -self.saved / parents
            rows.append((dict(enumerate((self.errors / unit).tolist())), -np.inf, error / unit))
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


def _repaired(choice: Choice, shares: Mapping[str, int], size: int) -> dict[str, int]:
    """Share more where rounding left the network too large: the cheapest channels first."""
    shares = dict(shares)
    while choice.counts(shares).total > size:
        now = choice.point(shares)
        best: tuple[float, str] | None = None
        for curve in choice.curves:
            if shares[curve.group] < curve.width:
                trial = choice.point({**shares, curve.group: shares[curve.group] + 1})
                price = (trial.error - now.error) / max(1e-9, now.parameters - trial.parameters)
                if best is None or price < best[0]:
                    best = (price, curve.group)
        if best is None:
            break
        shares[best[1]] += 1
    return shares


def _moved(
    choice: Choice, shares: Mapping[str, int], size: int | None = None, error: float | None = None
) -> dict[str, int]:
    """Move channels, of one group or from one to another, while that lowers what is minimised within the budget."""
    best = dict(shares)
    errors = {curve.group: curve for curve in choice.curves}

    def better(trial: dict[str, int], now: Point) -> Point | None:
        if any(not 0 <= count <= errors[g].width for g, count in trial.items()):
            return None
        predicted = choice.error(trial)
        if size is not None and predicted >= now.error - 1e-12:
            return None
        if error is not None and predicted > error + 1e-12:
            return None
        point = choice.point(trial)
        if size is not None and point.parameters > size:
            return None
        return point if size is not None or point.parameters < now.parameters else None

    now = choice.point(best)
    for _ in range(SWEEPS):
        before = now
        for trial in _neighbours(now.shares, errors):
            if (point := better(trial, now)) is not None:
                now = point
                break
        if now is before:
            break
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
