"""Shares on a grid as a small integer program: products of two binaries are exact linear variables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from mtz_core.budget.choice import Choice
from mtz_core.errors import NumericalError
from mtz_core.structure.joint import JointLayer
from mtz_core.structure.savings import Reading

SECONDS = 20.0
"""Time limit of one integer program; the best plan found by then is taken."""


class Program:
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
        joint = self.choice.joint
        target, reading = joint.groups[layer.group], Reading.of(joint, layer, self.choice.keeping)
        if target.name not in self.curve or len(reading.tasks) < 2:
            return {}
        first = self.first[target.name]
        rows = np.asarray(self.curve[target.name].counts, dtype=np.float64)
        constant = reading.part * reading.constant * (len(reading.tasks) - 1)
        found = dict(enumerate((constant * rows).tolist(), start=first))
        lost = np.where(np.round(reading.part * rows) > 0, 1.0, 0.0) if reading.gained else np.zeros_like(rows)
        for k, each in enumerate(lost):
            found[first + k] -= reading.common * (len(reading.tasks) - 1) * each
        for group, per, tasks in reading.groups:
            weight = per * (len(tasks) - 1)
            if weight <= 0:
                continue
            less = reading.part * rows - lost
            if group.name == target.name:
                for k, count in enumerate(rows):
                    found[first + k] += weight * less[k] * count
            elif group.name in self.curve:
                start = self._product(target.name, group.name)
                read = np.asarray(self.curve[group.name].counts, dtype=np.float64)
                found |= dict(enumerate((weight * np.outer(less, read)).reshape(-1).tolist(), start=start))
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
