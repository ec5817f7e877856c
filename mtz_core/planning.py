"""Plan before merging: what sharing each group would cost, measured one group at a time, and the best shares.

Nothing is merged for good. First the networks are walked through once, as they are: every layer's neurons are
compared as if all inputs were shared, which gives the cost of pairing as a function of the number of shared channels.
What a cost means for the outputs differs from layer to layer. So for each channel group, at a few shares, that group
alone is merged in the otherwise untouched networks, the layers after it compensate as they would in a zip, and
the outputs are compared with the parents' on calibration images that took no part in it. No labels are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core.budgets import Choice, Curve, frontier, resolve
from mtz_core.errors import SpecError
from mtz_core.graph.execution import execute
from mtz_core.graph.match import correspond
from mtz_core.graph.propagation import channel_graphs
from mtz_core.layerloop import Fresh, LayerLoop
from mtz_core.matching import Costs
from mtz_core.plans import Plan
from mtz_core.selfcheck import require_identity
from mtz_core.shares import full_shares
from mtz_core.slots import Members, Table, column_table, complete, row_table, shared_rows
from mtz_core.spec import ZipSpec
from mtz_core.stream import Twin, twins
from mtz_core.structure import effective_shares
from mtz_core.trunks import Trunk, trunk_of
from mtz_core.zipped import ZippedNetwork

GRID = tuple(k / 20 for k in range(21))
"""Shares at which the cost of pairing is computed."""
COARSE = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
"""The same where any subset of the tasks may share, which is a longer search."""
MEASURED = (0.5, 1.0)
"""Shares at which the change of the outputs is measured."""
HALF = 0.5
"""Part of a layer's inputs that are shared when the influence of these is measured."""
STEEPEST = 1.0
FIT, JUDGE = 500, 500
"""Calibration images per task that merge, and that judge."""
RIDGE = 1e-3
"""Of the layers that compensate; searching for it at every step would not change the order of the groups."""
POWERS = (1.0, 3.0)
"""Least and largest exponent with which the outputs' change grows with the cost."""


@dataclass(frozen=True)
class Measuring:
    """Progress: `done` of `total` steps; `group` is what is looked at."""

    group: str
    done: int
    total: int


@dataclass
class Forecast:
    """Curves of all channel groups.

    Args:
        network: the parents, nothing shared; its weights are as before when `choice` has ended.
        spec: how they are to be zipped.
        alphas: task weights.
        images: calibration images per task.
        device: where the networks run.
        trunk: layers that all tasks are to compute alike, laid in `network`.
    """

    network: ZippedNetwork
    spec: ZipSpec
    alphas: tuple[float, ...]
    images: Sequence[Tensor]
    device: torch.device
    trunk: Trunk | None = None

    def __post_init__(self) -> None:
        graphs = self.network.graphs
        self.fit, self.judge = zip(*(self._divided(t) for t in range(len(self.images))), strict=True)
        halves = [torch.arange(len(x)) % 2 for x in self.fit]
        self.structures = tuple(graph.structure() for graph in graphs)
        self.full = full_shares(graphs)
        self.loop = LayerLoop(self.network, self.spec, self.alphas, self.full, halves, {})
        quick = self.spec.model_copy(update={"ridge": RIDGE})
        shares = {} if self.spec.compensate else self.full
        self.quick = LayerLoop(self.network, quick, self.alphas, shares, halves, {})
        self.tables: list[Table] = list(self.network.tables)
        self.slots: dict[tuple[str, float], list[Table]] = {}
        self.costs: dict[str, NDArray[np.float64]] = {}
        self.seen: list[tuple[float, float]] = []
        """Divergence and changed answers in %, of every measurement."""
        self.ridges: dict[int, float] = {}

    @property
    def subsets(self) -> bool:
        """Whether some of the tasks may share what others do not."""
        return len(self.images) > 2 and self.spec.sharing == "subsets"

    @property
    def grid(self) -> tuple[float, ...]:
        """Shares at which the cost of pairing is computed."""
        return COARSE if self.subsets else GRID

    def _divided(self, t: int) -> tuple[Tensor, Tensor]:
        """Images to merge by and images to judge by: a seeded random split, half and half."""
        images = self.images[t]
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.spec.seed + 17 * t + 1))
        half = max(1, len(images) // 2)
        return images[order[: min(half, FIT)]], images[order[half : half + JUDGE]] if len(images) > 1 else images

    def _streams(self) -> list[Twin]:
        spec = self.spec
        return twins(self.network, self.fit, spec.compensate, spec.batch_size, spec.activation_budget // 2, self.device)

    def groups(self) -> dict[str, int]:
        """Names and numbers of the groups that can be shared."""
        layers = self.network.graphs[0].layers
        names = self.network.graphs[0].groups
        return {names[layers[k].group].name: layers[k].group for k in self.loop.hidden()}

    @property
    def open(self) -> dict[str, int]:
        """Those of them that do not belong to the trunk: their shares can be chosen."""
        fixed = {} if self.trunk is None else self.trunk.groups
        return {name: g for name, g in self.groups().items() if name not in fixed}

    @property
    def steps(self) -> int:
        """How many steps `choice` takes."""
        gated = sum(self.gate(g) is not None for g in self.open.values())
        weighed = len(self.images) if self.spec.weighs_outputs else 0
        trunk = int(self.trunk is not None)
        return weighed + len(self.loop.hidden()) + len(self.open) * len(MEASURED) + gated + trunk

    def choice(self) -> Iterator[Measuring | Choice]:
        """Yield progress, and at last what can be chosen."""
        done = 0
        if self.spec.weighs_outputs:
            for t in range(len(self.images)):
                for _ in self.loop.weigh_outputs(t, self.fit[t], self.device):
                    yield Measuring(f"outputs of network {t + 1}", done, self.steps)
                done += 1
            self.quick.outputs = self.loop.outputs
        streams = self._streams()
        for index in self.loop.hidden():
            yield Measuring(self._name(index), done, self.steps)
            self._compare(index, streams)
            done += 1
        answers = [self._answers(t) for t in range(len(self.images))]
        streams = self._streams()
        curves, base = [], 0.0
        if self.trunk is not None:
            yield Measuring(self.trunk.name, done, self.steps)
            fixed = [index for index in self.loop.hidden() if self._name(index) in self.trunk.groups]
            base = self._merged(dict.fromkeys(fixed), streams, answers)
            done += 1
        for name in self.groups():
            if name not in self.open:
                curves.append(Curve(name, (self.full[name],), (0.0,)))
        for name, g in self.open.items():
            damage = []
            for share in MEASURED:
                yield Measuring(name, done, self.steps)
                damage.append(self._damage(g, share, streams, answers))
                done += 1
            gate, power = self.gate(g), 0.0
            if gate is not None:
                yield Measuring(name, done, self.steps)
                less = self._damage(g, MEASURED[-1], streams, answers, self._with(gate, HALF))
                power = halving_power(damage[-1], less)
                done += 1
            made = curve(name, self.full[name], self.costs[name], damage, self.grid)
            curves.append(replace(made, gate=gate, power=power))
        rate = changed_per_root(self.seen)
        own = (self.spec.own_bias, self.spec.own_scale)
        yield Choice(self.structures, tuple(curves), *own, rate, self.trunk, base)

    def gate(self, group: int) -> str | None:
        """The other shared group that a group's first layer reads, if it reads nothing else that tasks share."""
        graph = self.network.graphs[0]
        layer = next(graph.layers[k] for k in self.loop.hidden() if graph.layers[k].group == group)
        read = {int(g) for g in np.unique(layer.column_groups)}
        if len(read) != 1 or layer.groups > 1 or read == {group} or not read <= set(self.groups().values()):
            return None
        return graph.groups[read.pop()].name

    def _with(self, name: str, share: float) -> list[Table]:
        """Tables in which everything is shared but a part of one group."""
        tables, group = list(self.tables), self.groups()[name]
        tables[group] = self._table(group, np.concatenate(self.slots[name, share]))
        return tables

    def _name(self, index: int) -> str:
        graph = self.network.graphs[0]
        return graph.groups[graph.layers[index].group].name

    def _compare(self, index: int, streams: Sequence[Twin]) -> None:
        """Pair the channels of a layer at every share, as if all its inputs were shared."""
        name, loop = self._name(index), self.loop
        seen = loop.measure(index, streams, self.tables, peaks=False, keep=False)
        self.ridges[index] = seen.work.ridge
        fresh = loop.fresh(index)
        if not all(len(channels) for channels in fresh.values()):
            return
        costs = loop.costs(index, seen, fresh)
        sums = self.costs.setdefault(name, np.zeros(len(self.grid)))
        slots = np.empty((0, self.network.tasks), dtype=np.int64)
        for k, share in enumerate(self.grid):
            part = replace(loop, shares={name: round(share * self.full[name])})
            slots = part.slots(index, costs, fresh, seen, self.tables)
            sums[k] += _cost(slots, costs, fresh, seen.work.alphas)
            self.slots.setdefault((name, share), []).append(slots)
        loop.provide(self.tables, index, slots)
        loop.mark(index, fresh)

    def parameters(self, shares: Mapping[str, int]) -> int:
        """Size of the network that shares so many channels, as far as it can.

        Exact for dense networks without grouped convolutions whose neurons are shared by all or none. Where any subset
        may share, as many weights are saved, but for residual streams, where it comes close.
        """
        network, graphs = self.network, self.network.graphs
        loop = replace(self.loop, shares={**shares, **effective_shares(self.structures, shares)}, decided={})
        tables = list(network.tables)
        for index in loop.hidden():
            group, fresh = graphs[0].layers[index].group, loop.fresh(index)
            if all(len(channels) for channels in fresh.values()):
                slots = self._some(index, loop, fresh)
                tables[group] = self._table(group, np.concatenate([shared_rows(tables[group]), slots]))
                loop.mark(index, fresh)
        total = sum(network.parent_sizes)
        for index in loop.hidden():
            layers = [graph.layers[index] for graph in graphs]
            group = layers[0].group
            rows = by_tasks(row_table(layers, tables[group], [network.widths[t][group] for t in range(network.tasks)]))
            if any(layer.groups > 1 for layer in layers):
                total -= round(joint(rows, None) * min(layer.columns for layer in layers))
                continue
            columns = by_tasks(column_table(layers, tables, network.widths, network.owns_bias(index)))
            total -= round(joint(rows, columns))
            if self.spec.own_scale and columns and index not in network.common:
                total += round(joint(rows, None))
        return total

    def _some(self, index: int, loop: LayerLoop, fresh: Fresh) -> Table:
        """As many slots (S, T) of fresh channels as the shares ask for; which ones, does not matter to the size."""
        slots = np.full((loop.wanted(index, fresh), self.network.tasks), -1, dtype=np.int64)
        for t, channels in fresh.items():
            slots[:, t] = channels[: len(slots)]
        return slots

    def _table(self, group: int, slots: Table) -> Table:
        return complete(slots, [self.network.widths[t][group] for t in range(self.network.tasks)])

    def _damage(
        self,
        group: int,
        share: float,
        streams: Sequence[Twin],
        answers: Sequence[Tensor],
        inputs: list[Table] | None = None,
    ) -> float:
        """Mean divergence of the outputs from the parents' if only this group is merged.

        Its layers' inputs are shared as in the tables `inputs`, all of them if omitted; given ones change the pairing.
        """
        graphs = self.network.graphs
        name = graphs[0].groups[group].name
        producers = [k for k in self.loop.hidden() if graphs[0].layers[k].group == group]
        table = self._table(group, np.concatenate(self.slots[name, share]))
        anew = (producers[0], share) if inputs is not None else None
        return self._merged(dict.fromkeys(producers, table), streams, answers, inputs, anew)

    def _merged(
        self,
        tables: Mapping[int, Table | None],
        streams: Sequence[Twin],
        answers: Sequence[Tensor],
        inputs: list[Table] | None = None,
        anew: tuple[int, float] | None = None,
    ) -> float:
        """Mean divergence of the outputs from the parents' if these layers alone are merged.

        Args:
            tables: for every layer that is merged the slots of the group that it writes; `None`: all that can be.
            streams: calibration images.
            answers: of the parents.
            inputs: slot tables of what the layers read, as if it were shared so; all of it if omitted.
            anew: a layer whose channels, and those of all others, are to be paired anew, and their share.
        """
        network = self.network
        first = min(tables)
        stations = [k for k in self.quick.stations() if k >= first]
        before = {k: [network.matrix(k, t).detach() for t in range(network.tasks)] for k in stations}
        self._advance(streams, first)
        forks = [stream.fork(len(x)) for stream, x in zip(streams, self.fit, strict=True)]
        shared = self.tables if inputs is None else inputs
        renewed: Table | None = None
        for k in stations:
            layers = [graph.layers[k] for graph in network.graphs]
            rows = np.empty((0, network.tasks), dtype=np.int64)
            if k in tables:
                group = layers[0].group
                if anew is not None and k == anew[0]:
                    renewed = self._paired_anew(k, anew[1], forks, shared)
                table = renewed if renewed is not None else tables[k]
                table = self.tables[group] if table is None else table
                rows = shared_rows(row_table(layers, table, [network.widths[t][group] for t in range(network.tasks)]))
            elif not self.spec.compensate:
                continue
            seen = self.quick.measure(k, forks, shared if k in tables else network.tables, peaks=False, keep=False)
            seen.work.ridge = self.ridges.get(k, RIDGE)
            network.set_weights(k, seen.work.merged_weights(rows))
            if any(len(layer.nodes) > 1 for layer in layers):
                for fork in forks:
                    fork.restart()
        now = [self._answers(t) for t in range(network.tasks)]
        divergence = sum(a * _divergence(x, y) for a, x, y in zip(self.alphas, answers, now, strict=True))
        changed = sum(
            a * float((x.argmax(1) != y.argmax(1)).double().mean())
            for a, x, y in zip(self.alphas, answers, now, strict=True)
        )
        self.seen.append((divergence, 100.0 * changed))
        for k, matrices in before.items():
            network.set_weights(k, matrices)
        return divergence

    def _paired_anew(self, index: int, share: float, streams: Sequence[Twin], inputs: list[Table]) -> Table:
        """Slots of all channels that a layer writes, by their differences over the inputs that are shared now."""
        layers = [graph.layers[index] for graph in self.network.graphs]
        name, every = self._name(index), {t: np.unique(layers[t].rows) for t in self.loop.tasks(index)}
        loop = replace(self.loop, shares={name: round(share * self.full[name])}, spec=self.quick.spec)
        seen = loop.measure(index, [stream.fork(len(x)) for stream, x in zip(streams, self.fit, strict=True)], inputs)
        return self._table(layers[0].group, loop.slots(index, loop.costs(index, seen, every), every, seen, inputs))

    def _advance(self, streams: Sequence[Twin], index: int) -> None:
        """Bring the streams to a layer, so that forks start there."""
        for t, stream in enumerate(streams):
            layer = self.network.graphs[t].layers[index]
            for node in layer.nodes[:1]:
                for _ in stream.inputs(node, stream.sequel(node).summand):
                    pass

    def _answers(self, t: int) -> Tensor:
        """Logarithms of the outputs' soft predictions on the judging images, (N, classes)."""
        program, matrices = self.network.program(t), self.network.matrices(t)
        with torch.no_grad():
            parts = [execute(program, x.to(self.device), matrices) for x in self.judge[t].split(self.spec.batch_size)]
        return torch.cat(parts).double().flatten(1).log_softmax(-1)


def plan(networks: Sequence[nn.Module], calibration: Sequence[Tensor], spec: ZipSpec) -> Iterator[Measuring | Plan]:
    """Plan the shares of a zip whose specification has `share="auto"` and a budget: yield progress, then the plan.

    Args:
        networks: the parents, never modified.
        calibration: per task unlabelled inputs (N, ...).
        spec: how the networks are to be zipped.

    Raises:
        GraphError: a network cannot be traced or would be answered for wrongly, or the networks do not correspond.
        SpecError: the budget cannot be met, or there is none.

    Example:
        >>> a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
        >>> spec = ZipSpec(share="auto", budget={"size": 1.7})
        >>> *_, found = plan([a, b], [torch.randn(200, 4), torch.randn(200, 4)], spec)
        >>> found.point.parameters <= 1.7 * 67
        True
    """
    device = torch.device(spec.device)
    own = channel_graphs(networks, [images[:2].to(device) for images in calibration])
    require_identity(networks, own)
    graphs = correspond(own)
    trunk = trunk_of([graph.structure() for graph in graphs], spec.trunk, spec.macs)
    laid = 0 if trunk is None else len(trunk.layers)
    network = ZippedNetwork(networks, graphs, spec.sparse, spec.own_bias, laid).to(device)
    yield from planned(Forecast(network, spec, spec.task_weights(len(networks)), calibration, device, trunk))


def planned(forecast: Forecast) -> Iterator[Measuring | Plan]:
    """Measure curves, then solve for the budget."""
    if forecast.spec.budget is None:
        raise SpecError("budget: a plan needs one, e.g. budget={'size': 1.5} with share='auto'")
    for item in forecast.choice():
        if isinstance(item, Measuring):
            yield item
        else:
            count = forecast.parameters
            yield Plan(item, resolve(item, forecast.spec.budget, count), tuple(frontier(item, count)))


def joint(rows: Mapping[Members, float], columns: Mapping[Members, float] | None) -> float:
    """Numbers that are saved in a block of weights: for tasks that share both row and column, all but one.

    `columns` may be `None`: one column that all tasks have in common.

    >>> joint({(0, 1): 3, (0, 1, 2): 1}, {(1, 2): 2, (0, 1, 2): 5})
    27
    """
    if columns is None:
        return sum(n * (len(r) - 1) for r, n in rows.items())
    return sum(n * m * max(0, len(set(r) & set(c)) - 1) for r, n in rows.items() for c, m in columns.items())


def by_tasks(table: Table) -> dict[Members, float]:
    """How many slots of a table each set of two or more tasks holds."""
    patterns, counts = np.unique(shared_rows(table) >= 0, axis=0, return_counts=True)
    return {tuple(int(t) for t in np.flatnonzero(p)): float(n) for p, n in zip(patterns, counts, strict=True)}


def halving_power(whole: float, half: float) -> float:
    """Exponent p of a divergence ∝ u^p that falls from `whole` to `half` if u is halved; between 0 and `STEEPEST`."""
    return float(np.clip(np.log2(max(whole, 1e-12) / max(half, 1e-12)), 0.0, STEEPEST))


def changed_per_root(seen: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope through zero of changed answers over the square root of the divergence."""
    roots = np.sqrt([divergence for divergence, _ in seen])
    squares = float((roots * roots).sum())
    return float((roots * [changed for _, changed in seen]).sum() / squares) if squares > 0 else 0.0


def curve(
    name: str,
    width: int,
    costs: NDArray[np.float64],
    damage: Sequence[float],
    grid: Sequence[float] = GRID,
) -> Curve:
    """A curve through the measured changes, by the cost of pairing in between.

    Between two measured shares the change is a power of the cost, E ∝ c^p; below the first it goes on with that power.
    """
    costs = np.maximum.accumulate(costs)
    at = [list(grid).index(share) for share in MEASURED]
    changes = np.maximum.accumulate(np.maximum(damage, 1e-12))
    errors = np.zeros(len(grid))
    for k, cost in enumerate(costs):
        if cost <= 0.0 or k == 0:
            continue
        upper = next((i for i, j in enumerate(at) if j >= k), len(at) - 1)
        i = max(1, upper)
        low, high = costs[at[i - 1]], costs[at[i]]
        power = np.log(changes[i] / changes[i - 1]) / np.log(high / low) if high > low > 0.0 else 1.0
        power = float(np.clip(power, *POWERS)) if k < at[0] else float(power)
        anchor = i - 1 if k < at[0] else i
        errors[k] = changes[anchor] * (cost / costs[at[anchor]]) ** power if costs[at[anchor]] > 0 else 0.0
    errors = np.maximum.accumulate(errors)
    counts = [round(share * width) for share in grid]
    kept = [k for k in range(len(grid)) if k == 0 or counts[k] > counts[k - 1]]
    measured = sorted({round(share * width) for share in MEASURED})
    return Curve(
        name,
        tuple(counts[k] for k in kept),
        tuple(float(errors[k]) for k in kept),
        tuple(measured),
    )


def _cost(slots: Table, costs: Costs, fresh: Fresh, alphas: Sequence[float]) -> float:
    """Estimated cost of all slots (see `matching`)."""
    place = {t: {int(c): k for k, c in enumerate(channels)} for t, channels in fresh.items()}
    total = 0.0
    for slot in slots:
        members = [t for t in fresh if slot[t] >= 0]
        weight = sum(alphas[t] for t in members)
        for a, t in enumerate(members):
            for u in members[a + 1 :]:
                pair = float(costs[t, u][place[t][int(slot[t])], place[u][int(slot[u])]])
                total += pair * (1.0 if len(members) == 2 else (alphas[t] + alphas[u]) ** 2 / weight)
    return total


def _divergence(parent: Tensor, other: Tensor) -> float:
    """Mean Kullback-Leibler divergence of soft predictions given as logarithms (N, classes)."""
    return float((parent.exp() * (parent - other)).sum(1).mean().clamp(min=0.0))
