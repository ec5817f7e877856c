"""Plan before merging: what sharing each group would cost, measured one group at a time, and the best shares.

Nothing is merged for good. First the networks are walked through once, as they are: every layer's neurons are
compared as if all inputs were shared, which gives the cost of pairing as a function of the number of shared channels.
What a cost means for the outputs differs from layer to layer. So for each channel group, at a few shares, that group
alone is merged in the otherwise untouched networks, the layers after it compensate as they would in a zip, and
the outputs are compared with the parents' on calibration images that took no part in it. What these trials add up to
is set against two zips for trial, of all groups together (see `rehearsal`). No labels are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core.budget.choice import Choice, Curve
from mtz_core.budget.curves import COARSE, GRID, MEASURED, changed_per_root, curve, halving_power, rising
from mtz_core.budget.plan import Plan
from mtz_core.budget.search import frontier, resolve
from mtz_core.calibration.samples import Goals
from mtz_core.calibration.stream import Twin, twins
from mtz_core.errors import SpecError
from mtz_core.layerwise.comparison import Calibrator
from mtz_core.layerwise.ledger import Fresh, Ledger, with_slots
from mtz_core.layerwise.walk import LayerWalk
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.outputs.kind import Output
from mtz_core.outputs.kinds import CLASSES
from mtz_core.outputs.types import changed_things
from mtz_core.pairing.slots import Table, complete
from mtz_core.pairing.subsets import Costs
from mtz_core.spec import ZipSpec
from mtz_core.structure.trunks import Trunk
from mtz_core.zipping.damage import RIDGE, Anew, Bench
from mtz_core.zipping.prepare import Given, Job, Sample, prepare
from mtz_core.zipping.rehearsal import rehearsed
from mtz_core.zipping.sizing import size_with

TOGETHER = "all layers together"
HALF = 0.5
"""Part of a layer's inputs that are shared when the influence of these is measured."""
FIT, JUDGE = 500, 500
"""Calibration images per task that merge, and that judge."""


@dataclass(frozen=True)
class Measuring:
    """Progress: `done` of `total` steps; `group` is what is looked at."""

    group: str
    done: int
    total: int


class Forecast:
    """Curves of all channel groups.

    Args:
        network: the parents, nothing shared; its weights are as before when `choice` has ended.
        spec: how they are to be zipped.
        alphas: task weights.
        images: calibration images per task.
        device: where the networks run.
        trunk: layers that all tasks are to compute alike, laid in `network`.
        outputs: what every network's outputs say; one class of several, if omitted.
    """

    def __init__(
        self,
        network: ZippedNetwork,
        spec: ZipSpec,
        alphas: tuple[float, ...],
        images: Sequence[Tensor],
        device: torch.device,
        trunk: Trunk | None = None,
        outputs: Sequence[Output] | None = None,
    ) -> None:
        outputs = outputs or [CLASSES] * network.tasks
        self.network, self.spec, self.device, self.trunk = network, spec, device, trunk
        divided = [_divided(x, spec.seed + 17 * t + 1) for t, x in enumerate(images)]
        self.fit = [fit for fit, _ in divided]
        self.full = network.joint.full_shares()
        halves = [torch.arange(len(x)) % 2 for x in self.fit]
        goals = [Goals(spec.activation_budget // (8 * network.tasks)) for _ in self.fit]
        calibrator = Calibrator(network, spec, alphas, halves, answers=outputs, goals=goals)
        self.walk = LayerWalk(network, spec, Ledger(network.joint, self.full), calibrator)
        simple = spec.model_copy(update={"ridge": RIDGE})
        shares = {} if spec.compensate else self.full
        # What outputs weigh is found once, for both.
        trying = replace(calibrator, spec=simple, exact=False)
        quick = LayerWalk(network, simple, Ledger(network.joint, shares), trying)
        self.bench = Bench(quick, alphas, [judge for _, judge in divided], outputs, device)
        self.part = sum(map(len, self.fit)) / max(1, sum(map(len, images)))
        self.tables: list[Table] = list(network.tables)
        self.slots: dict[tuple[str, float], list[Table]] = {}
        self.costs: dict[str, NDArray[np.float64]] = {}

    @classmethod
    def of(cls, job: Job, sample: Sample) -> Forecast:
        """Of a job, with some of its images."""
        return cls(job.network(), job.spec, job.alphas, sample.images, job.device, job.trunk, job.outputs)

    @property
    def grid(self) -> tuple[float, ...]:
        """Shares at which the cost of pairing is computed."""
        return COARSE if self.network.tasks > 2 and self.spec.sharing == "subsets" else GRID

    @property
    def hidden(self) -> list[int]:
        """Layers that can be zipped."""
        return self.walk.ledger.hidden()

    def groups(self) -> dict[str, int]:
        """Names and numbers of the groups that can be shared."""
        found = (self.network.joint.group_of(k) for k in self.hidden)
        return {group.name: group.number for group in found}

    @property
    def open(self) -> dict[str, int]:
        """Those of them that do not belong to the trunk: their shares can be chosen."""
        fixed = {} if self.trunk is None else self.trunk.groups
        return {name: g for name, g in self.groups().items() if name not in fixed}

    @property
    def steps(self) -> int:
        """How many steps `choice` takes."""
        gated = sum(self.gate(g) is not None for g in self.open.values())
        weighed = self.network.tasks if self.spec.weighs_outputs else 0
        groups = len(self.open) * len(MEASURED) + gated + int(self.trunk is not None)
        return weighed + len(self.hidden) + groups + len(MEASURED)

    def choice(self) -> Iterator[Measuring | Choice]:
        """Yield progress, and at last what can be chosen."""
        done = 0
        for t in range(self.network.tasks) if self.spec.weighs_outputs else ():
            for _ in self.walk.calibrator.weigh_outputs(t, self.fit[t], self.device):
                yield Measuring(f"outputs of network {t + 1}", done, self.steps)
            done += 1
        streams = self._streams()
        for index in self.hidden:
            yield Measuring(self._name(index), done, self.steps)
            self._compare(index, streams)
            done += 1
        before, streams, base = self.bench.answers(), self._streams(), 0.0
        known = (before, self.bench.answers(self.fit))
        self.bench.known = [torch.cat(pair) for pair in zip(*known, strict=True)]
        if self.trunk is not None:
            yield Measuring(self.trunk.name, done, self.steps)
            base = self._trunk_damage(self.trunk, streams, before)
            done += 1
        curves = [Curve(name, (self.full[name],), (0.0,)) for name in self.groups() if name not in self.open]
        for name, g in self.open.items():
            damage: list[float] = []
            for share in MEASURED:
                yield Measuring(name, done, self.steps)
                damage.append(self._damage(g, share, streams, before))
                done += 1
            gate, power = self.gate(g), 0.0
            if gate is not None:
                yield Measuring(name, done, self.steps)
                less = self._damage(g, MEASURED[-1], streams, before, self._with(gate, HALF))
                power = halving_power(damage[-1], less)
                done += 1
            made = curve(name, self.full[name], self.costs[name], damage, self.grid)
            curves.append(replace(made, gate=gate, power=power))
        own = (self.spec.own_bias, self.spec.own_scale, self.spec.own_input_scale)
        added = Choice(self.network.joint.structure, tuple(curves), *own, 1.0, self.trunk, base)
        together: list[tuple[float, float]] = []
        for shares in map(added.uniform, MEASURED):
            yield Measuring(TOGETHER, done, self.steps)
            found = rehearsed(self.walk, self.bench, shares, self._streams(), self.fit, self.part, known)
            together.append((added.divergence(shares), found))
            done += 1
        inputs = sum(map(len, self.fit)) + sum(map(len, self.bench.judge))
        yield replace(added, rate=changed_per_root(self.bench.seen), together=rising(together), inputs=inputs)

    def _streams(self) -> list[Twin]:
        spec = self.spec
        return twins(self.network, self.fit, spec.compensate, spec.batch_size, spec.activation_budget // 3, self.device)

    def gate(self, group: int) -> str | None:
        """The other shared group that a group's first layer reads, if it reads nothing else that tasks share."""
        joint = self.network.joint
        layer = joint.layers[next(k for k in self.hidden if joint.layers[k].group == group)].members[0]
        read = {int(g) for g in np.unique(layer.column_groups)}
        if len(read) != 1 or layer.banks > 1 or read == {group} or not read <= set(self.groups().values()):
            return None
        return joint.groups[read.pop()].name

    def _with(self, name: str, share: float) -> list[Table]:
        """Tables in which everything is shared but a part of one group."""
        tables, group = list(self.tables), self.groups()[name]
        tables[group] = self._table(group, np.concatenate(self.slots[name, share]))
        return tables

    def _table(self, group: int, slots: Table) -> Table:
        return complete(slots, self.network.joint.groups[group].widths)

    def _name(self, index: int) -> str:
        return self.network.joint.group_of(index).name

    def _compare(self, index: int, streams: Sequence[Twin]) -> None:
        """Pair the channels of a layer at every share, as if all its inputs were shared."""
        name, walk = self._name(index), self.walk
        seen = walk.compare(index, streams, self.tables, peaks=False, keep=False)
        self.bench.ridges[index] = seen.problem.ridge
        fresh = walk.ledger.fresh(index)
        if not all(len(channels) for channels in fresh.values()):
            return
        costs = walk.costs(seen, fresh)
        sums = self.costs.setdefault(name, np.zeros(len(self.grid)))
        slots = np.empty((0, self.network.tasks), dtype=np.int64)
        for k, share in enumerate(self.grid):
            slots = walk.sharing({name: round(share * self.full[name])}).slots(seen, costs, fresh, self.tables)
            sums[k] += _cost(slots, costs, fresh, seen.problem.alphas)
            self.slots.setdefault((name, share), []).append(slots)
        self.tables = with_slots(self.network.joint, self.tables, index, slots)
        walk.ledger.mark(index, fresh)

    def parameters(self, shares: Mapping[str, int]) -> int:
        """Size of the network that shares so many channels, as far as it can (see `sizing.size_with`)."""
        return size_with(self.network, self.spec, self.walk.ledger, shares)

    def _trunk_damage(self, trunk: Trunk, streams: Sequence[Twin], before: Sequence[Tensor]) -> float:
        """Mean divergence of the answers if the trunk alone is merged."""
        layers = self.network.joint.layers
        fixed = {k: self.tables[layers[k].group] for k in self.hidden if self._name(k) in trunk.groups}
        return self.bench.trial(fixed, streams, before, self.tables)

    def _damage(
        self,
        group: int,
        share: float,
        streams: Sequence[Twin],
        before: Sequence[Tensor],
        inputs: list[Table] | None = None,
    ) -> float:
        """Mean divergence of the answers from the parents' if only this group is merged.

        Its layers' inputs are shared as in the tables `inputs`, all of them if omitted; given ones change the pairing.
        """
        joint = self.network.joint
        producers = [k for k in self.hidden if joint.layers[k].group == group]
        table: Table | Anew = self._table(group, np.concatenate(self.slots[joint.groups[group].name, share]))
        if inputs is not None:
            table = _once(partial(self._paired_anew, producers[0], share, inputs))
        shared = self.tables if inputs is None else inputs
        return self.bench.trial(dict.fromkeys(producers, table), streams, before, shared)

    def _paired_anew(self, index: int, share: float, inputs: list[Table], streams: Sequence[Twin]) -> Table:
        """Slots of all channels that a layer writes, by their differences over the inputs that are shared now."""
        layer, name, quick = self.network.joint.layers[index], self._name(index), self.bench.walk
        every = {t: np.unique(layer.members[t].rows) for t in self.network.joint.sharing(index)}
        ledger = replace(self.walk.ledger, shares={name: round(share * self.full[name])})
        walk = LayerWalk(self.network, quick.spec, ledger, replace(quick.calibrator, exact=True))
        forks = [stream.fork(len(x)) for stream, x in zip(streams, self.fit, strict=True)]
        seen = walk.compare(index, forks, inputs)
        return self._table(layer.group, walk.slots(seen, walk.costs(seen, every), every, inputs))


def _divided(images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Images to merge by and images to judge by: a seeded random split, half and half."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    half = max(1, len(images) // 2)
    return images[order[: min(half, FIT)]], images[order[half : half + JUDGE]] if len(images) > 1 else images


def _once(found: Anew) -> Anew:
    """The first answer, from then on."""
    known: list[Table] = []

    def answer(streams: Sequence[Twin]) -> Table:
        if not known:
            known.append(found(streams))
        return known[0]

    return answer


def plan(
    networks: Sequence[nn.Module],
    calibration: Sequence[Tensor],
    spec: ZipSpec,
    evaluation: Sequence[Given | None] | None = None,
) -> Iterator[Measuring | Plan]:
    """Plan the shares of a zip whose specification has `share="auto"` and a budget: yield progress, then the plan.

    Args:
        networks: the parents, never modified.
        calibration: per task unlabelled inputs (N, ...).
        spec: how the networks are to be zipped.
        evaluation: per task labelled inputs, or `None`: labels show what the answers are.

    Raises:
        GraphError: a network cannot be traced or would be answered for wrongly, or the networks do not correspond.
        SpecError: the budget cannot be met, or there is none, or what the answers are is in doubt.
        DataError: labels do not fit.

    Example:
        >>> a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
        >>> spec = ZipSpec(share="auto", budget={"size": 1.8})
        >>> *_, found = plan([a, b], [torch.randn(200, 4), torch.randn(200, 4)], spec)
        >>> found.point.parameters <= 1.8 * 67
        True
    """
    job = prepare(networks, calibration, spec.model_copy(update={"retrain": None}), evaluation)
    yield from planned(Forecast.of(job, job.sample))


def planned(forecast: Forecast) -> Iterator[Measuring | Plan]:
    """Measure curves, then solve for the budget."""
    if forecast.spec.budget is None:
        raise SpecError("budget: a plan needs one, e.g. budget={'size': 1.5} with share='auto'")
    for item in forecast.choice():
        if isinstance(item, Measuring):
            yield item
        else:
            count = forecast.parameters
            changed = changed_things([output.type for output in forecast.bench.outputs])
            yield Plan(item, resolve(item, forecast.spec.budget, count), tuple(frontier(item, count)), changed)


def _cost(slots: Table, costs: Costs, fresh: Fresh, alphas: Sequence[float]) -> float:
    """Estimated cost of all slots (see `pairing.subsets`)."""
    index_of = {t: {int(c): k for k, c in enumerate(channels)} for t, channels in fresh.items()}
    total = 0.0
    for slot in slots:
        members = [t for t in fresh if slot[t] >= 0]
        weight = sum(alphas[t] for t in members)
        for a, t in enumerate(members):
            for u in members[a + 1 :]:
                pair = float(costs[t, u][index_of[t][int(slot[t])], index_of[u][int(slot[u])]])
                total += pair * (1.0 if len(members) == 2 else (alphas[t] + alphas[u]) ** 2 / weight)
    return total
