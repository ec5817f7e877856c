"""From pairwise differences to slots: which channels of a group share a slot.

With two tasks this is an assignment. With more, a slot may hold channels of any subset of the tasks, so that an
unrelated task does not force its neurons on the others. What a slot costs is then estimated from its pairs: for tasks
with weights α and equal Grams, merging neurons costs

    Σ_{i<j} (α_i + α_j)² d_ij / Σ_i α_i,

with d_ij the functional difference of two tasks, weighted relative to each other. For two tasks that is exact.

What a slot saves depends on what the layer reads. A weight is saved where its row and its column are shared by the
same tasks: a slot of two tasks whose inputs are shared by others saves a channel, but no weight of the layer. So slots
are also to save as many weights as slots of all tasks would; the weights that they save lower their cost by a price,
and the least price is looked for that brings this about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mtz_core.methods.kinds import PAIRING
from mtz_core.pairing.assignment import pair_neurons
from mtz_core.pairing.slots import Table, complete, private_table, sharing_of
from mtz_core.structure.savings import saved

Costs = Mapping[tuple[int, int], NDArray[np.floating]]
"""(t, u) with t < u → (n_t, n_u) functional difference, with the weights of t and u relative to each other."""
SWEEPS = 20
MOVES = 64
GROWN_UP_TO = 600
"""Channels of all tasks up to which slots are also grown from single channels, which takes a cubic time."""
PRICES = (0.0, *(2.0**power for power in range(-4, 8)))
"""Of a saved weight, in what it costs on average if all slots hold all tasks."""
HALVINGS = 2
"""Of the interval in which the price of a saved weight lies."""
FORBIDDEN = 1e30
ROUNDING = 1e-9


def worth_of(columns: Table) -> NDArray[np.float64] | None:
    """Weights that a slot saves in a layer that reads `columns` (U, T), by the tasks in it; `None`: nobody shares any.

    Entry r is for the tasks whose bits are set in r. The unit is such that a slot of all T tasks saves T - 1.

    >>> worth = worth_of(np.array([[0, 0, -1], [1, 1, -1], [2, 2, 2]]))  # two that tasks 0 and 1 share, one of all
    >>> worth[[0b011, 0b101, 0b111]].tolist()
    [1.5, 0.5, 2.0]
    """
    tasks, shared = columns.shape[1], sharing_of(columns)
    sets = [tuple(t for t in range(tasks) if r >> t & 1) for r in range(1 << tasks)]
    found = np.array([saved({members: 1.0}, shared) for members in sets])
    worth: NDArray[np.float64] = found * ((tasks - 1) / max(1.0, found[-1]))
    return worth if found[-1] else None


def _members(slots: Table) -> NDArray[np.int64]:
    """The tasks in every slot as bits, (S,)."""
    bits: NDArray[np.int64] = (slots >= 0) @ (1 << np.arange(slots.shape[1]))
    return bits


def pair_subsets(
    costs: Costs,
    widths: Sequence[int],
    alphas: Sequence[float],
    savings: int,
    full: bool,
    worth: NDArray[np.float64] | None = None,
    method: str = "optimal",
) -> Table:
    """Divide channels into slots that save `savings` channels in all, at the least estimated cost.

    Args:
        costs: for every pair of tasks.
        widths: channels of every task.
        alphas: task weights.
        savings: Σ over slots of (tasks in it - 1).
        full: only slots of all tasks.
        worth: weights that a slot saves, by the tasks in it (see `worth_of`); slots are to save `savings` of these,
            too. `None`: that does not matter.
        method: name of a pairing method that compares; `PairingMethod` says what is made of its rule here.

    Returns:
        Slots of two or more tasks (S, T), -1 where a task has no part; the cheapest first. If it improves, a local
        optimum: every task's channels are paired optimally with those of all others, and no membership can move to a
        cheaper slot, both at the price that saved weights were given.
    """
    tasks, kind = len(widths), PAIRING.find(method)
    problem = _Problem(costs, tuple(alphas), tasks)
    slots = problem.complete_slots(widths, method)
    if full:
        slots = slots[np.argsort(problem.slot_costs(slots), kind="stable")][: savings // (tasks - 1)]
        return problem.paired_anew(slots, widths, full=True) if kind.improves else slots
    problem.worth = worth
    problem.unit = float(problem.slot_costs(slots).sum()) / max(1, len(slots) * (tasks - 1))
    if kind.joins:
        found = problem.joined(widths, savings)
    else:
        found = problem.optimal(slots, widths, savings) if kind.improves else problem.folded(slots, widths, savings)
    problem.price = 0.0
    if not found or (worth is not None and kind.improves):
        found.append(pair_subsets(costs, widths, alphas, savings, full=True, method=method))
    slots = min(found, key=lambda each: float(problem.slot_costs(each).sum()))
    slots = slots[(slots >= 0).sum(1) > 1]
    ordered: Table = slots[np.argsort(problem.slot_costs(slots), kind="stable")]
    return ordered


def _joined(slots: Table, a: int, b: int) -> Table:
    """The table with two of its slots united, which is the last one then."""
    return np.concatenate([np.delete(slots, [a, b], axis=0), np.maximum(slots[a], slots[b])[None]])


class _Problem:
    """Estimated costs of slots, less the `price` of the weights that they save (see `worth_of`)."""

    worth: NDArray[np.float64] | None = None
    price: float = 0.0
    unit: float = 1.0
    """What a saved weight costs on average if all slots hold all tasks."""

    def __init__(self, costs: Costs, alphas: tuple[float, ...], tasks: int) -> None:
        self.alphas, self.tasks = np.asarray(alphas), tasks
        self.weighted: dict[tuple[int, int], NDArray[np.float64]] = {}
        """(α_t + α_u)² d_tu, with a last row and column of zeros for tasks that a slot does not hold (-1)."""
        for (t, u), cost in costs.items():
            scaled = np.where(np.isfinite(cost), cost, FORBIDDEN) * (alphas[t] + alphas[u]) ** 2
            padded = np.pad(scaled, ((0, 1), (0, 1)))
            self.weighted[t, u], self.weighted[u, t] = padded, np.ascontiguousarray(padded.T)

    def sums(self, slots: Table) -> NDArray[np.float64]:
        """Σ over a slot's pairs of (α_i + α_j)² d_ij, (S,)."""
        total = np.zeros(len(slots))
        for t, u in combinations(range(self.tasks), 2):
            total += self.weighted[t, u][slots[:, t], slots[:, u]]
        return total

    def weights(self, slots: Table) -> NDArray[np.float64]:
        """Σ α over a slot's tasks, (S,)."""
        total: NDArray[np.float64] = (slots >= 0) @ self.alphas
        return total

    def slot_costs(self, slots: Table) -> NDArray[np.float64]:
        """Estimated cost of every slot, (S,)."""
        costs: NDArray[np.float64] = self.sums(slots) / np.maximum(self.weights(slots), 1e-300)
        return costs - self._credit(_members(slots))

    def _credit(self, members: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the weights that slots of these tasks save are worth, (S,)."""
        if self.worth is None or not self.price:
            return np.zeros(len(members))
        credit: NDArray[np.float64] = self.price * self.worth[members]
        return credit

    def saved(self, slots: Table) -> float:
        """Weights that slots save."""
        return np.inf if self.worth is None else float(self.worth[_members(slots)].sum()) + ROUNDING

    def prices(self, whole: Table, widths: Sequence[int], savings: int) -> Iterator[float]:
        """Prices to try, the least first that seems to be enough: each is tried roughly before it is given."""
        enough = [self.unit * price for price in PRICES]

        def fits(price: float) -> bool:
            self.price = price
            return self.saved(self.paired_anew(self.thinned(whole, savings), widths, full=False, sweeps=1)) >= savings

        first = 0 if self.worth is None else next((k for k, price in enumerate(enough) if fits(price)), len(enough) - 1)
        low, high = enough[max(0, first - 1)], enough[first]
        for _ in range(HALVINGS if first > 1 else 0):
            middle = (low + high) / 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        yield high
        yield from (price for price in enough if price > high)

    def joining(self, slots: Table, t: int, channels: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """What it costs to add each channel of task t, or some of them, to each slot without it, (S, n_t)."""
        sums, weights = self.sums(slots)[:, None], self.weights(slots)[:, None]
        chosen = np.arange(self._width(t)) if channels is None else channels
        added = np.zeros((len(slots), len(chosen)))
        for u in range(self.tasks):
            if u != t:
                added += self.weighted[u, t][slots[:, u, None], chosen]
        costs: NDArray[np.float64] = (sums + added) / (weights + self.alphas[t]) - sums / np.maximum(weights, 1e-300)
        members = _members(slots)
        return costs - (self._credit(members | (1 << t)) - self._credit(members))[:, None]

    def _width(self, t: int) -> int:
        return next(int(cost.shape[1]) - 1 for (_, u), cost in self.weighted.items() if u == t)

    def optimal(self, whole: Table, widths: Sequence[int], savings: int) -> list[Table]:
        """Slots that save enough, improved from the best starts, at the least price that brings this about."""
        everything = complete(whole, widths)
        for price in self.prices(everything, widths, savings):
            self.price = price
            starts = [self.thinned(everything, savings)]
            if sum(widths) <= GROWN_UP_TO and (grown := self.grown(widths, savings)) is not None:
                starts.append(grown)
            improved = [self.improved(start, widths) for start in starts]
            found = [slots for slots in improved if self.saved(slots) >= savings]
            if found:
                return found
        return []

    def joined(self, widths: Sequence[int], savings: int) -> list[Table]:
        """Slots that save enough, joined one by one, at the least price that brings this about."""
        return self._cheaply(savings, lambda: self.grown(widths, savings))

    def folded(self, whole: Table, widths: Sequence[int], savings: int) -> list[Table]:
        """The slots `whole` without their dearest memberships, at the least price at which these save enough."""
        everything = complete(whole, widths)
        return self._cheaply(savings, lambda: self.thinned(everything, savings))

    def _cheaply(self, savings: int, make: Callable[[], Table | None]) -> list[Table]:
        """What is made at the least price at which it saves enough."""
        for price in PRICES if self.worth is not None else PRICES[:1]:
            self.price = price * self.unit
            made = make()
            if made is not None and self.saved(made) >= savings:
                return [made]
        return []

    def complete_slots(self, widths: Sequence[int], method: str) -> Table:
        """Fold tasks one after the other, narrowest first, into slots of all tasks."""
        order = sorted(range(self.tasks), key=lambda t: widths[t])
        slots = np.full((widths[order[0]], self.tasks), -1, dtype=np.int64)
        slots[:, order[0]] = np.arange(len(slots))
        for t in order[1:]:
            pairs = pair_neurons(self.joining(slots, t), len(slots), method)
            slots[pairs[:, 0], t] = pairs[:, 1]
        return slots

    def thinned(self, slots: Table, savings: int) -> Table:
        """Take tasks out of slots, dearest membership first, until `savings` are left."""
        slots = slots.copy()
        alone: list[Table] = []
        while int(((slots >= 0).sum(1) - 1).clip(0).sum()) > savings:
            s, t, _ = self._dearest(slots)
            single = np.full((1, self.tasks), -1, dtype=np.int64)
            single[0, t] = slots[s, t]
            slots[s, t] = -1
            alone.append(single)
        return np.concatenate([slots, *alone])

    def grown(self, widths: Sequence[int], savings: int) -> Table | None:
        """Begin with every channel alone and join the cheapest until `savings` are saved; `None` if that gets stuck."""
        slots = private_table(widths)
        growth = _Growth(self, slots, widths)
        for step in range(savings):
            if not growth.join(step):
                return None
        return growth.result()

    def improved(self, slots: Table, widths: Sequence[int]) -> Table:
        """Pair channels anew and move memberships until neither lowers the cost."""
        slots = self.paired_anew(slots, widths, full=False)
        for _ in range(SWEEPS):
            moves = 0
            while moves < MOVES and (better := self.moved(slots)) is not None:
                slots, moves = better, moves + 1
            if not moves:
                break
            slots = self.paired_anew(slots, widths, full=False)
        return slots

    def _dearest(self, slots: Table) -> tuple[int, int, float]:
        """The membership whose end saves most: slot, task, saving."""
        present = slots >= 0
        tasks, held = np.nonzero((present & (present.sum(1) > 1)[:, None]).T)
        if not len(held):
            return (-1, -1, -np.inf)
        without = slots[held]
        without[np.arange(len(held)), tasks] = -1
        gains = self.slot_costs(slots)[held] - self.slot_costs(without)
        k = int(gains.argmax())
        return int(held[k]), int(tasks[k]), float(gains[k])

    def paired_anew(self, slots: Table, widths: Sequence[int], full: bool, sweeps: int = SWEEPS) -> Table:
        """Pair every task's channels anew with the slots of the others, until the total cost stops falling."""
        cost = float(self.slot_costs(slots).sum())
        for _ in range(sweeps):
            before = cost
            for t in range(self.tasks):
                trial = self._task_paired_anew(slots, t, widths[t], full)
                trial_cost = float(self.slot_costs(trial).sum())
                if trial_cost < cost:
                    slots, cost = trial, trial_cost
            if before - cost < 1e-6 * abs(before):
                break
        return slots

    def _task_paired_anew(self, slots: Table, t: int, width: int, full: bool) -> Table:
        others = slots.copy()
        joined = int(((slots[:, t] >= 0) & ((slots >= 0).sum(1) > 1)).sum())
        others[:, t] = -1
        others = others[(others >= 0).any(1)]
        pairs = pair_neurons(self.joining(others, t), joined)
        others[pairs[:, 0], t] = pairs[:, 1]
        if full:
            return others
        rest = np.setdiff1d(np.arange(width), pairs[:, 1])
        alone = np.full((len(rest), self.tasks), -1, dtype=np.int64)
        alone[:, t] = rest
        return np.concatenate([others, alone])

    def moved(self, slots: Table) -> Table | None:
        """End the dearest membership and take up the cheapest new one, if that lowers the cost."""
        s, t, saved = self._dearest(slots)
        if s < 0:
            return None
        without = slots.copy()
        without[s, t] = -1
        single = np.full((1, self.tasks), -1, dtype=np.int64)
        single[0, t] = slots[s, t]
        without = np.concatenate([without, single])
        found = self._cheapest(without)
        if found is None or found[2] >= saved * (1.0 - 1e-9):
            return None
        return _joined(without, found[0], found[1])

    def _cheapest(self, slots: Table) -> tuple[int, int, float] | None:
        """The single channel and the slot whose union costs least."""
        best: tuple[int, int, float] | None = None
        present = slots >= 0
        alone = present.sum(1) == 1
        for t in range(self.tasks):
            singles = np.flatnonzero(present[:, t] & alone)
            free = np.flatnonzero(~present[:, t])
            if len(singles) and len(free):
                costs = self.joining(slots[free], t, slots[singles, t])
                at = int(costs.argmin())
                value = float(costs.reshape(-1)[at])
                if best is None or value < best[2]:
                    best = (int(free[at // len(singles)]), int(singles[at % len(singles)]), value)
        return best


class _Growth:
    """Slots that are joined one by one, with what every next join would cost.

    `costs[t]` (S, n_t) is what it costs to add each channel of task t, if it is still alone, to each slot without
    task t; infinite elsewhere. A join changes one slot, so one row of each matrix, and ends some columns.
    """

    def __init__(self, problem: _Problem, slots: Table, widths: Sequence[int]) -> None:
        self.problem, self.slots, self.widths = problem, slots, widths
        self.first = np.cumsum([0, *widths])
        """Number of the slot that each task's first channel begins in."""
        self.alone = [np.ones(width, dtype=bool) for width in widths]
        self.age = np.arange(len(slots))
        self.costs = [np.where(slots[:, t, None] < 0, problem.joining(slots, t), np.inf) for t in range(len(widths))]
        self.least = [cost.min(axis=1, initial=np.inf) for cost in self.costs]
        self.where = [cost.argmin(axis=1) if cost.shape[1] else np.zeros(len(slots), int) for cost in self.costs]

    def join(self, step: int) -> bool:
        """Join the cheapest channel and slot; return whether there was one."""
        lowest = [float(least.min(initial=np.inf)) for least in self.least]
        t = int(np.argmin(lowest))
        if not np.isfinite(lowest[t]):
            return False
        slot = int(self.least[t].argmin())
        channel = int(self.where[t][slot])
        members = np.flatnonzero(self.slots[slot] >= 0)
        if len(members) == 1:
            self._end(int(members[0]), int(self.slots[slot, members[0]]))
        self._end(t, channel)
        left = int(self.first[t]) + channel
        self.slots[left], self.slots[slot, t], self.age[slot] = -1, channel, len(self.age) + step
        for u in range(len(self.widths)):
            self._set(u, left, None)
            free = self.slots[slot, u] < 0
            self._set(u, slot, self.problem.joining(self.slots[[slot]], u)[0] if free else None)
        return True

    def _end(self, t: int, channel: int) -> None:
        """A channel is alone no more."""
        self.alone[t][channel] = False
        self.costs[t][:, channel] = np.inf
        for row in np.flatnonzero(self.where[t] == channel):
            self._find(t, int(row))

    def _set(self, t: int, slot: int, costs: NDArray[np.float64] | None) -> None:
        self.costs[t][slot] = np.inf if costs is None else np.where(self.alone[t], costs, np.inf)
        self._find(t, slot)

    def _find(self, t: int, slot: int) -> None:
        if self.widths[t]:
            self.where[t][slot] = at = int(self.costs[t][slot].argmin())
            self.least[t][slot] = self.costs[t][slot, at]

    def result(self) -> Table:
        """The slots, those that were joined last at the end."""
        kept = np.flatnonzero((self.slots >= 0).any(axis=1))
        return self.slots[kept[np.argsort(self.age[kept], kind="stable")]]
