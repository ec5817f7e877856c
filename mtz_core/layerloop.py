"""One layer at a time: measure its inputs, pair the channels that it writes, merge its neurons.

A channel group is paired when its first layer is reached. Later layers may write the same channels: those that add to
a residual stream, the depthwise convolution behind an expansion. What pairing costs there counts too, so the
calibration images are first sent ahead, through the layers that are still to come, as if the group were paired by
its first layer alone; then it is paired by all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.bankwork import BankWork
from mtz_core.calibration import LayerSamples
from mtz_core.folding import pair_tasks
from mtz_core.graph.channels import WeightLayer, channel_roles
from mtz_core.layerwork import LayerWork
from mtz_core.matching import Costs, block_partners, match_subsets, match_two, within_blocks, worth_of
from mtz_core.moments import SOURCES, BankMoments, Moments
from mtz_core.sensitivity import Sensitivity, sensitivities
from mtz_core.shares import participants
from mtz_core.slots import Members, Table, column_table, complete, row_table, shared_rows
from mtz_core.spec import ZipSpec
from mtz_core.stream import Twin
from mtz_core.work import Outcome, Work
from mtz_core.zipped import ZippedNetwork

ROWS_PER_INPUT = 8
"""With fewer calibration rows than this per input of a layer, its targets are not renewed: it would fit noise."""
TASKS_APART = 0.25
"""How far tasks are weighed by what an error of the size of their outputs would do: 0 not at all, 1 fully.

Fully, a task with confident answers would be given up: to second order its errors hardly matter.
"""
Fresh = dict[int, NDArray[np.int64]]
"""Task → channels of a group that are to be paired."""


@dataclass
class Measured:
    """The work of layer number `index`, its rows by channel, and what calibration saw."""

    index: int
    work: Work
    samples: Mapping[int, LayerSamples]
    top_images: Mapping[int, NDArray[np.int64]]
    top_values: Mapping[int, NDArray[np.float32]]
    differences: dict[tuple[int, int], NDArray[np.floating]]


@dataclass
class LayerLoop:
    """State of a zip between layers: the network, what is shared, which channels are decided.

    `shares` gives the number of shared channels per group name; `decided[g][t]` are the channels of group g whose
    place in task t is settled.
    """

    network: ZippedNetwork
    spec: ZipSpec
    alphas: tuple[float, ...]
    shares: Mapping[str, int]
    halves: Sequence[Tensor]
    decided: dict[int, list[set[int]]]
    outputs: list[dict[str, Sensitivity]] = field(default_factory=list)
    """For each task, how much the outputs of its layers matter, by layer; empty: all alike."""
    known_roles: dict[tuple[int, tuple[int, int]], tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=dict
    )

    def weigh_outputs(self, t: int, images: Tensor, device: torch.device) -> Iterator[float]:
        """Find out from a network's own answers how much the outputs of its layers matter; tasks come in order."""
        program, matrices = self.network.program(t), self.network.graphs[t].matrices(device)
        budget, seed = self.spec.activation_budget, self.spec.seed + t
        found = yield from sensitivities(program, images, matrices, budget, seed, device)
        self.outputs[t:] = [found]

    def tasks(self, index: int) -> Members:
        """Tasks whose neurons in layer number `index` can be shared."""
        layers = [graph.layers[index] for graph in self.network.graphs]
        able = participants(self.network.graphs, layers[0].group)
        return tuple(t for t in able if layers[t].width)

    def hidden(self) -> list[int]:
        """Layers that are zipped, in order."""
        groups = self.network.graphs[0].groups
        every = range(len(self.network.graphs[0].layers))
        named = [k for k in every if groups[self.network.graphs[0].layers[k].group].name in self.shares]
        return [k for k in named if len(self.tasks(k)) > 1]

    def stations(self) -> list[int]:
        """Layers at which something is done, in order: those that are zipped, and with compensation all others."""
        layers = zip(*(graph.layers for graph in self.network.graphs), strict=True)
        present = [k for k, per_task in enumerate(layers) if any(layer.width for layer in per_task)]
        return present if self.spec.compensate else self.hidden()

    def ahead(self, index: int) -> list[int]:
        """Layers through which images are sent ahead before the channels of layer `index` are paired."""
        if not self.spec.looks_ahead or self.spec.pairing == "random":
            return []
        hidden, group = self.hidden(), self.network.graphs[0].layers[index].group
        later = [k for k in hidden if k > index and self.network.graphs[0].layers[k].group == group]
        return [k for k in hidden if index < k <= later[-1]] if later else []

    def fresh(self, index: int) -> Fresh:
        """Channels that layer `index` writes and no earlier layer of its group has decided."""
        layers = [graph.layers[index] for graph in self.network.graphs]
        known = self.decided.setdefault(layers[0].group, [set() for _ in layers])
        found = {}
        for t in self.tasks(index):
            channels = np.unique(layers[t].rows)
            found[t] = channels[[int(c) not in known[t] for c in channels]]
        return found

    def wanted(self, index: int, fresh: Fresh) -> int:
        """How many slots of all tasks the share asks for among the fresh channels.

        A layer that widens a residual stream decides its own portion of the stream's share.
        """
        group = self.network.graphs[0].layers[index].group
        widths = [len(channels) for channels in fresh.values()]
        narrowest = min(self.network.widths[t][group] for t in fresh)
        asked = self.shares[self.network.graphs[0].groups[group].name]
        return min(round(asked * min(widths) / max(1, narrowest)), *widths)

    def measure(
        self, index: int, streams: Sequence[Twin], tables: Sequence[Table], peaks: bool = True, keep: bool = True
    ) -> Measured:
        """Calibrate layer `index` as if its inputs were shared as in `tables`, and compare its neurons.

        Without compensation only what the tasks share there is looked at. `peaks`: also on which images neurons fire
        most. `keep`: input rows are kept for `merge`.
        """
        network, compared = self.network, self.tasks(index) if index in self.hidden() else ()
        layers = [graph.layers[index] for graph in network.graphs]
        tasks = tuple(t for t, layer in enumerate(layers) if layer.width) if self.spec.compensate else compared
        inputs = column_table(layers, tables, network.widths, network.owns_bias(index))
        inputs[:, [t for t in range(network.tasks) if t not in tasks]] = -1
        if not self.spec.compensate:
            inputs = shared_rows(inputs)
        matrices = [network.matrix(index, t).detach() for t in range(network.tasks)]
        samples, images, values = {}, {}, {}
        for t in tasks:
            samples[t] = LayerSamples(
                network.graphs[t],
                layers[t],
                streams[t],
                matrices[t],
                inputs[inputs[:, t] >= 0, t],
                self.halves[t],
                self.spec.positions,
                self.spec.seed + 1_000_003 * (index * network.tasks + t + 1),
                self.spec.row_budget // len(tasks) if keep and self._renewable(index, t) else 0,
            )
            images[t], values[t] = samples[t].calibrate(peaks)
        found = {t: each.moments for t, each in samples.items()}
        alphas, unit = self._weights(samples)
        spec = self.spec.model_copy(update={"scale": "shared"}) if index in network.common else self.spec
        masks = [network.mask(index, t) for t in range(network.tasks)]
        work: Work
        if layers[tasks[0]].groups > 1:
            banks = {t: m for t, m in found.items() if isinstance(m, BankMoments)}
            entries = network.entries(index, tables)
            depthwise = layers[tasks[0]].depthwise
            work = BankWork.prepare(tasks, matrices, masks, entries, depthwise, banks, alphas, spec)
            work.compensate()
        else:
            moments = {t: m for t, m in found.items() if isinstance(m, Moments)}
            outputs = {t: known.matrix for t in tasks if (known := self._sensitivity(t, layers[t])) is not None}
            work = LayerWork.prepare(tasks, matrices, masks, inputs, moments, alphas, spec, outputs)
            work.compensate()
            fresh = {t: first_rows(layers[t], self.fresh(index)[t]) for t in compared}
            if fresh and all(len(rows) for rows in fresh.values()) and len(work.columns):
                work.choose_ridge(work.provisional(fresh))
        work.unit = unit
        differences = {(t, u): _numpy(work.difference(t, u)) for t, u in combinations(compared, 2)}
        return Measured(index, work, samples, images, values, differences)

    def _rows_ahead(self, index: int, t: int, images: int) -> int:
        """Input rows that so many images of task t give layer `index`."""
        graph = self.network.graphs[t]
        layer = graph.layers[index]
        shape = graph.network.shapes[layer.nodes[0]] if layer.width else (0, 0)
        places = math.prod(shape[1:]) // max(1, layer.width)
        return images * len(layer.nodes) * min(places, self.spec.positions or places)

    def _renewable(self, index: int, t: int) -> bool:
        """Whether the calibration images give enough rows to renew targets by."""
        rows = self._rows_ahead(index, t, len(self.halves[t]))
        return rows >= ROWS_PER_INPUT * self.network.graphs[t].layers[index].columns

    def row_bytes(self, images: Sequence[int]) -> int:
        """Memory for the rows of one layer, given the images of every task, that are kept to renew targets."""
        most = 0
        for index in self.stations() if self.spec.row_budget else []:
            total = 0
            for t, graph in enumerate(self.network.graphs):
                layer = graph.layers[index]
                if layer.width and self._renewable(index, t):
                    values = layer.columns * layer.groups + 2 * layer.width
                    size = graph.network.example.element_size()
                    total += self._rows_ahead(index, t, images[t]) * values * size
            most = max(most, total)
        return min(most, self.spec.row_budget)

    def costs(self, index: int, measured: Measured, fresh: Fresh) -> dict[tuple[int, int], NDArray[np.float64]]:
        """Difference of every pair of fresh channels in layer `index`: the sum over the rows that write them."""
        costs = {}
        for (t, u), difference in measured.differences.items():
            rows_t = rows_by_channel(self.network.graphs[t].layers[index], fresh[t])
            rows_u = rows_by_channel(self.network.graphs[u].layers[index], fresh[u])
            total = np.zeros((len(rows_t), len(rows_u)))
            for k in range(min(rows_t.shape[1], rows_u.shape[1])):
                total += difference[np.ix_(rows_t[:, k], rows_u[:, k])]
            costs[t, u] = total * measured.work.unit
        return costs

    def _sensitivity(self, task: int, layer: WeightLayer) -> Sensitivity | None:
        return self.outputs[task].get(layer.name) if task < len(self.outputs) else None

    def _weights(self, samples: Mapping[int, LayerSamples]) -> tuple[tuple[float, ...], float]:
        """Task weights for one layer, and the unit of its losses.

        A network with large outputs would otherwise count for more than one with small ones, and a layer for more
        than another. Where it is known how much the outputs matter, a task whose answers are easily upset counts more.
        """
        if not (self.spec.compensate and self.spec.normalise):
            return self.alphas, 1.0
        relative = [a / s.spread if (s := samples.get(t)) and s.spread > 0 else 0.0 for t, a in enumerate(self.alphas)]
        matter = {t: found.unit * s.spread for t, s in samples.items() if (found := self._sensitivity(t, s.layer))}
        if len(matter) == len(samples):
            relative = [r * matter.get(t, 1.0) ** TASKS_APART for t, r in enumerate(relative)]
        relative = [r or max(relative) for r in relative]
        total = sum(relative)
        return (tuple(r / total for r in relative), total) if total > 0 else (self.alphas, 1.0)

    def slots(self, index: int, costs: Costs, fresh: Fresh, measured: Measured, tables: Sequence[Table]) -> Table:
        """Choose slots among the fresh channels of layer `index`, as channels of its group (S, T)."""
        network, tasks = self.network, tuple(fresh)
        wanted = self.wanted(index, fresh)
        slots = np.full((0, network.tasks), -1, dtype=np.int64)
        if wanted == 0:
            return slots
        group, method = network.graphs[0].layers[index].group, self.spec.pairing
        allowed = self._allowed(group, costs, fresh, tables)
        free = all(bool(np.isfinite(cost).all()) for cost in allowed.values())
        if method == "random" and not free:  # the best pairs by costs that are drawn, within what is allowed
            chance, method = np.random.default_rng(self.spec.seed), "optimal"
            allowed = {p: np.where(np.isfinite(c), chance.random(c.shape), np.inf) for p, c in allowed.items()}
        exact = free and isinstance(measured.work, LayerWork) and not self.ahead(index) and self.spec.sharing == "all"
        if len(tasks) == 2:
            local = match_two(allowed[tasks[0], tasks[1]], wanted, method, self.spec.seed)
        elif method == "random" or (exact and isinstance(measured.work, LayerWork)):
            local = self._complete(index, measured.work, fresh, wanted)
        else:
            widths = [len(fresh[t]) for t in tasks]
            numbered = {(tasks.index(t), tasks.index(u)): cost for (t, u), cost in allowed.items()}
            weights = [measured.work.alphas[t] for t in tasks]
            saved = wanted * (len(tasks) - 1)
            worth = worth_of(measured.work.inputs[:, tasks]) if isinstance(measured.work, LayerWork) else None
            full = self.spec.sharing == "all"
            local = match_subsets(numbered, widths, weights, saved, full, worth, method)
        local = _permitted(local, tasks, allowed)
        slots = np.full((len(local), network.tasks), -1, dtype=np.int64)
        for k, t in enumerate(tasks):
            held = local[:, k] >= 0
            slots[held, t] = fresh[t][local[held, k]]
        return slots

    def _complete(self, index: int, work: Work, fresh: Fresh, wanted: int) -> Table:
        """Slots of all tasks by the exact cost of merging, for three or more tasks."""
        if not isinstance(work, LayerWork):
            rng = np.random.default_rng(self.spec.seed)
            return np.stack([rng.permutation(len(channels))[:wanted] for channels in fresh.values()], axis=1)
        weights, grams = work.common(tuple(fresh))
        rows = {t: first_rows(self.network.graphs[t].layers[index], fresh[t]) for t in fresh}
        chosen = [weights[t][torch.as_tensor(rows[t], device=weights[t].device)] for t in fresh]
        pairs, _ = pair_tasks(chosen, [grams[t] for t in fresh], wanted, self.spec.pairing, self.spec.seed)
        return pairs

    def _allowed(self, group: int, costs: Costs, fresh: Fresh, tables: Sequence[Table]) -> Costs:
        """The costs, infinite where roles, blocks of grouped convolutions or attention heads do not allow a pair.

        Blocks are paired between the first task and each other one; that decides which of the others' belong together.
        """
        found: dict[tuple[int, int], NDArray[np.floating]] = {}
        partners: dict[tuple[int, int], dict[int, int]] = {}
        first = next(iter(fresh))
        for (t, u), cost in costs.items():
            settled = self._paired_blocks(t, u, tables)
            if t != first:
                mine, theirs = partners[first, t], partners[first, u]
                settled = {a: theirs[block] for block, a in mine.items() if block in theirs} | settled
            found[t, u], partners[t, u] = self._within_blocks(group, (t, u), cost, fresh, settled)
        return found

    def _within_blocks(
        self, group: int, pair: tuple[int, int], cost: NDArray[np.floating], fresh: Fresh, settled: Mapping[int, int]
    ) -> tuple[NDArray[np.floating], dict[int, int]]:
        """The allowed costs of one pair of tasks, and which blocks are partners; some are `settled`."""
        t, u = pair
        cost = self._same_roles(group, pair, cost, fresh)
        blocks = [self.network.graphs[x].groups[group].blocks for x in pair]
        if blocks[0] is None or blocks[1] is None:
            return cost, {}
        mine, theirs = blocks[0][fresh[t]], blocks[1][fresh[u]]
        partner = {a: b for a, b in settled.items() if a in mine}
        left_t, left_u = ~np.isin(mine, list(partner)), ~np.isin(theirs, list(partner.values()))
        if left_t.any() and left_u.any():
            partner |= block_partners(cost[np.ix_(left_t, left_u)], mine[left_t], theirs[left_u])
        return within_blocks(cost, mine, theirs, partner), partner

    def _same_roles(
        self, group: int, pair: tuple[int, int], cost: NDArray[np.floating], fresh: Fresh
    ) -> NDArray[np.floating]:
        """Forbid pairs of channels that other layers read or write: sharing them would share no weight there."""
        mine, theirs = self._roles(group, pair)
        a, b = mine[fresh[pair[0]]], theirs[fresh[pair[1]]]
        if len(np.unique(np.concatenate([a, b]))) == 1:
            return cost
        return np.where(a[:, None] == b[None, :], cost, np.inf)

    def _roles(self, group: int, pair: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A number for the role of every channel in two tasks; equal numbers, equal roles."""
        if (group, pair) not in self.known_roles:
            graphs = [self.network.graphs[x] for x in pair]
            joint = enumerate(zip(*(graph.layers for graph in graphs), strict=True))
            both = {k for k, layers in joint if all(layer.width for layer in layers)}
            parts = [channel_roles(graph.layers, group, graph.groups[group].width, both) for graph in graphs]
            # A layer that comes between in one network only keeps another from reading the group there.
            known = set[int].intersection(*({x for role in per for x in role} for per in parts))
            roles = [[tuple(x for x in role if x in known) for role in per] for per in parts]
            numbers = {role: k for k, role in enumerate(dict.fromkeys([*roles[0], *roles[1]]))}
            mine, theirs = (np.array([numbers[role] for role in each], dtype=np.int64) for each in roles)
            self.known_roles[group, pair] = (mine, theirs)
        return self.known_roles[group, pair]

    def _paired_blocks(self, t: int, u: int, tables: Sequence[Table]) -> dict[int, int]:
        """Blocks of task t and task u that share channels in some group already."""
        partner: dict[int, int] = {}
        for g, table in enumerate(tables):
            blocks = [self.network.graphs[x].groups[g].blocks for x in (t, u)]
            if blocks[0] is not None and blocks[1] is not None:
                both = table[(table[:, t] >= 0) & (table[:, u] >= 0)]
                for a, b in zip(blocks[0][both[:, t]], blocks[1][both[:, u]], strict=True):
                    partner.setdefault(int(a), int(b))
        return partner

    def look_ahead(
        self, index: int, measured: Measured, fresh: Fresh, streams: Sequence[Twin]
    ) -> Iterator[tuple[str, Costs]]:
        """Yield, for every later layer that writes the fresh channels, its name and the costs summed so far.

        Costs of layers that are added up have one unit. Layers that meet otherwise (a gate, a depthwise convolution)
        count relative to the strength of their outputs.
        """
        network, graph = self.network, self.network.graphs[0]
        group = graph.layers[index].group
        own = self.costs(index, measured, fresh)
        tables = list(network.tables)
        self.provide(tables, index, self.slots(index, own, fresh, measured, tables))
        branches = [stream.fork(len(halves)) for stream, halves in zip(streams, self.halves, strict=True)]
        addend = {index: graph.layers[index].addend}
        sums = {addend[index]: own}
        power = {addend[index]: _power(measured)}
        for k in self.ahead(index):
            layer = graph.layers[k]
            mine = layer.group == group
            if not mine and not any(len(channels) for channels in self.fresh(k).values()):
                continue
            if not mine and any((tables[layer.group] >= 0).sum(1) > 1):
                continue
            seen = self.measure(k, branches, tables, peaks=False, keep=False)
            if not mine:
                inner = self.fresh(k)
                self.provide(tables, k, self.slots(k, self.costs(k, seen, inner), inner, seen, tables))
                yield layer.name, {}
                continue
            both = {t: np.intersect1d(fresh[t], network.graphs[t].layers[k].rows) for t in fresh if t in self.tasks(k)}
            if len(both) > 1 and all(len(channels) for channels in both.values()):
                found = self.costs(k, seen, both)
                total = sums.setdefault(layer.addend, {pair: np.zeros_like(cost) for pair, cost in own.items()})
                for (t, u), cost in found.items():
                    at = np.ix_(np.searchsorted(fresh[t], both[t]), np.searchsorted(fresh[u], both[u]))
                    total[t, u][at] += cost
                power[layer.addend] = power.get(layer.addend, 0.0) + _power(seen)
            yield layer.name, {}
        unit = power[addend[index]]
        together = {pair: np.zeros_like(cost) for pair, cost in own.items()}
        for number, costs in sums.items():
            for pair, cost in costs.items():
                together[pair] += cost * (unit / power[number] if power[number] > 0 else 0.0)
        yield "", together

    def provide(self, tables: list[Table], index: int, slots: Table) -> None:
        """Share `slots` in a copy of the group's table."""
        group = self.network.graphs[0].layers[index].group
        widths = [self.network.widths[t][group] for t in range(self.network.tasks)]
        tables[group] = complete(np.concatenate([shared_rows(tables[group]), slots]), widths)

    def decide(self, index: int, fresh: Fresh, slots: Table) -> None:
        """Settle the fresh channels of layer `index`: pair `slots`, leave the rest private."""
        group = self.network.graphs[0].layers[index].group
        self.mark(index, fresh)
        self.network.pair(group, slots)

    def mark(self, index: int, fresh: Fresh) -> None:
        """The place of the fresh channels of layer `index` is settled."""
        for t, channels in fresh.items():
            self.decided[self.network.graphs[0].layers[index].group][t].update(int(c) for c in channels)

    def merge(self, measured: Measured, rows: Table) -> Outcome:
        """Merge the rows (K, T) of a layer.

        Where a ReLU follows, targets are renewed for the weights so found, `spec.relu_rounds` times.
        """
        work = measured.work
        bounded = [t for t, s in measured.samples.items() if s.bounded and self._renewable(measured.index, t)]
        rounds = self.spec.relu_rounds if bounded and (len(rows) or work.compensated) else 0
        for number in range(1, rounds + 1):
            weights = work.merged_weights(rows)
            for t in bounded:
                measured.samples[t].renew(weights[t])
            judged = number in (1, 2, rounds)
            found = {t: measured.samples[t].moments for t in bounded}
            work.renew(found, SOURCES if judged else ("calibration",))
            if number == 1:
                work.compensate([t for t in bounded if t not in work.own_ridge])
            elif number == 2:
                work.compensate(bounded)
                work.choose_ridge(rows)
        for samples in measured.samples.values():
            samples.forget()
        return work.merge(rows)

    def rows(self, index: int) -> Table:
        """Rows of layer `index` that two or more tasks share, (K, T)."""
        layers = [graph.layers[index] for graph in self.network.graphs]
        group = layers[0].group
        widths = [self.network.widths[t][group] for t in range(self.network.tasks)]
        return shared_rows(row_table(layers, self.network.tables[group], widths))


def _permitted(slots: Table, tasks: Members, allowed: Costs) -> Table:
    """The slots (S, T) without those that hold a pair which is not allowed; `allowed` is finite for all others."""
    kept = np.ones(len(slots), dtype=bool)
    for (t, u), cost in allowed.items():
        pair = slots[:, [tasks.index(t), tasks.index(u)]]
        both = np.flatnonzero((pair >= 0).all(axis=1))
        kept[both] &= np.isfinite(cost[pair[both, 0], pair[both, 1]])
    return slots[kept]


def rows_by_channel(layer: WeightLayer, channels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that write each of the channels, (C, rows per channel)."""
    order = np.argsort(layer.rows, kind="stable")
    first = np.searchsorted(layer.rows[order], channels)
    count = int(np.bincount(layer.rows)[channels].min()) if len(channels) else 1
    rows: NDArray[np.int64] = order[first[:, None] + np.arange(count)]
    return rows


def first_rows(layer: WeightLayer, channels: NDArray[np.int64]) -> NDArray[np.int64]:
    """One row of each of the channels, in the order of the channels."""
    return rows_by_channel(layer, channels)[:, 0] if len(channels) else channels


def _power(measured: Measured) -> float:
    tasks = {t for pair in measured.differences for t in pair}
    return sum(measured.work.power(t) for t in tasks)


def _numpy(tensor: Tensor) -> NDArray[np.floating]:
    return tensor.detach().cpu().numpy()
