"""One layer in front of calibration images: what it reads, and how different its neurons are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.calibration.moments import SOURCES
from mtz_core.calibration.samples import Goals, LayerSamples, Seen
from mtz_core.calibration.sensitivity import Sensitivity, sensitivities
from mtz_core.calibration.stream import Twin
from mtz_core.graph.channels import WeightLayer, first_rows, rows_by_channel
from mtz_core.layerwise.dense import DenseProblem
from mtz_core.layerwise.grouped import GroupedProblem
from mtz_core.layerwise.ledger import Fresh
from mtz_core.layerwise.outcome import Outcome, merged
from mtz_core.layerwise.problem import Given, LayerProblem, Ridges, settle
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.outputs.kind import Output
from mtz_core.outputs.kinds import CLASSES
from mtz_core.pairing.slots import Members, Table, shared_rows
from mtz_core.spec import ZipSpec

ROWS_PER_INPUT = 8
"""With fewer calibration rows than this per input of a layer, its targets are not renewed: it would fit noise."""
TASKS_APART = 0.25
"""How far tasks are weighed by what an error of the size of their outputs would do: 0 not at all, 1 fully.

Fully, a task with confident answers would be given up: to second order its errors hardly matter.
"""


SeenBefore = dict[tuple[int, bytes], Seen]
"""What calibration saw of a layer, by task and columns that took part."""


@dataclass(frozen=True)
class Comparison:
    """The problem of layer number `index`, what calibration saw, and differences of its neurons, by pair of tasks."""

    index: int
    problem: LayerProblem
    samples: Mapping[int, LayerSamples]
    renewable: Members
    """Tasks whose targets can be renewed: a ReLU follows, and there are rows enough."""
    top_images: Mapping[int, NDArray[np.int64]]
    top_values: Mapping[int, NDArray[np.float32]]
    differences: Mapping[tuple[int, int], NDArray[np.floating]]

    @property
    def rows(self) -> dict[int, int]:
        """Calibration rows of every task that takes part."""
        return {t: samples.moments.rows for t, samples in self.samples.items()}

    @property
    def power(self) -> float:
        """Strength of the wanted outputs of the tasks that are compared."""
        return sum(self.problem.power(t) for t in {t for pair in self.differences for t in pair})

    def costs(self, members: Sequence[WeightLayer], fresh: Fresh) -> dict[tuple[int, int], NDArray[np.float64]]:
        """Difference of every pair of fresh channels: the sum over the rows that write them."""
        costs = {}
        for (t, u), difference in self.differences.items():
            rows_t = rows_by_channel(members[t], fresh[t])
            rows_u = rows_by_channel(members[u], fresh[u])
            total = np.zeros((len(rows_t), len(rows_u)))
            for k in range(min(rows_t.shape[1], rows_u.shape[1])):
                total += difference[np.ix_(rows_t[:, k], rows_u[:, k])]
            costs[t, u] = total * self.problem.unit
        return costs

    def merge(self, rows: Table, rounds: int, judged: bool = True) -> Outcome:
        """Merge the rows (K, T); unless that is `judged`, all losses are 0.

        Where a ReLU follows, targets are renewed for the weights so found, `rounds` times.
        """
        problem, bounded = self.problem, self.renewable
        rounds = rounds if bounded and (len(rows) or problem.compensated) else 0
        for number in range(1, rounds + 1):
            weights = problem.merged_weights(rows)
            for t in bounded:
                self.samples[t].renew(weights[t])
            both = number in (1, 2, rounds)
            found = {t: self.samples[t].moments for t in bounded}
            problem.renew(found, SOURCES if both else ("calibration",))
            if number == 1:
                problem.compensate([t for t in bounded if t not in problem.own_ridge])
            elif number == 2:
                problem.compensate(bounded)
                problem.choose_ridge(rows)
        for samples in self.samples.values():
            samples.forget()
        return merged(problem, rows, judged)


@dataclass(frozen=True)
class Calibrator:
    """Puts layers in front of calibration images: `halves[t]` says to which half each image of task t belongs."""

    network: ZippedNetwork
    spec: ZipSpec
    alphas: tuple[float, ...]
    halves: Sequence[Tensor]
    outputs: list[dict[str, Sensitivity]] = field(default_factory=list)
    """For each task, how much the outputs of its layers matter, by layer; empty: all alike."""
    answers: Sequence[Output] = ()
    """What each network's outputs say; empty: one class of several."""
    goals: Sequence[Goals] = ()
    """Where what the layers of each parent give is kept; empty: it is found anew."""
    exact: bool = True
    """Whether moments are summed in double precision (see `Accumulator`)."""

    def weigh_outputs(self, t: int, images: Tensor, device: torch.device) -> Iterator[float]:
        """Find out from a network's own answers how much the outputs of its layers matter; tasks come in order."""
        program, matrices = self.network.program(t), self.network.graphs[t].matrices(device)
        budget, seed = self.spec.activation_budget, self.spec.seed + t
        said = self.answers[t] if self.answers else CLASSES
        found = yield from sensitivities(program, images, matrices, budget, seed, device, said)
        self.outputs[t:] = [found]

    def compare(
        self,
        index: int,
        streams: Sequence[Twin],
        tables: Sequence[Table],
        fresh: Fresh,
        *,
        peaks: bool = True,
        keep: bool = True,
        pairs: bool = True,
        ridges: Ridges | None = None,
        known: SeenBefore | None = None,
    ) -> Comparison:
        """Calibrate layer `index` as if its inputs were shared as in `tables`, and compare the neurons of some tasks.

        Without compensation only what the tasks share there is looked at.

        Args:
            index: number of the layer.
            streams: calibration images of every task on their way.
            tables: slot tables of all channel groups.
            fresh: the tasks that are compared, and which of their channels are to be paired: these judge a ridge.
            peaks: also find on which images neurons fire most.
            keep: input rows are kept for `Comparison.merge`.
            pairs: also compare the neurons; without that, nobody has settled a ridge.
            ridges: what to take instead of searching for ridges.
            known: what the same images have shown of this layer before, which is not looked at again; added to.
        """
        network, layer = self.network, self.network.joint.layers[index]
        tasks = layer.present if self.spec.compensate else tuple(fresh)
        inputs = network.column_slots(index, tables)
        inputs[:, [t for t in range(network.tasks) if t not in tasks]] = -1
        if not self.spec.compensate:
            inputs = shared_rows(inputs)
        matrices = [network.matrix(index, t).detach() for t in range(network.tasks)]
        samples, images, values = {}, {}, {}
        for t in tasks:
            budget = self.spec.row_budget // len(tasks) if keep and self._enough_rows(index, t) else 0
            samples[t] = self._samples(index, t, streams[t], matrices[t], inputs, budget)
            key = (t, samples[t].columns.tobytes())
            images[t], values[t] = samples[t].calibrate(peaks, None if known is None else known.get(key))
            if known is not None:
                known.setdefault(key, samples[t].seen)
        renewable = tuple(t for t in tasks if samples[t].bounded and self._enough_rows(index, t))
        problem = self._problem(index, tasks, matrices, inputs, tables, samples)
        if ridges is not None:
            settle(problem, ridges)
        problem.compensate()
        if not pairs:
            return Comparison(index, problem, samples, renewable, images, values, {})
        rows = {t: first_rows(layer.members[t], channels) for t, channels in fresh.items()}
        if (quick := problem.quick_pairs(rows)) is not None:
            problem.choose_ridge(quick)
        differences = {(t, u): as_array(problem.difference(t, u)) for t, u in combinations(fresh, 2)}
        return Comparison(index, problem, samples, renewable, images, values, differences)

    def _samples(self, index: int, t: int, stream: Twin, matrix: Tensor, inputs: Table, budget: int) -> LayerSamples:
        network = self.network
        return LayerSamples(
            network.graphs[t],
            network.graphs[t].layers[index],
            stream,
            matrix,
            inputs[inputs[:, t] >= 0, t],
            self.halves[t],
            self.spec.positions,
            self.spec.seed + 1_000_003 * (index * network.tasks + t + 1),
            budget,
            self.goals[t] if self.goals else None,
            self.exact,
        )

    def _problem(
        self,
        index: int,
        tasks: Members,
        matrices: Sequence[Tensor],
        inputs: Table,
        tables: Sequence[Table],
        samples: Mapping[int, LayerSamples],
    ) -> LayerProblem:
        network, layer = self.network, self.network.joint.layers[index]
        alphas, unit = self._weights(samples)
        alike = {"scale": "shared"} if index in network.common else {}
        alike |= {"input_scale": "shared"} if index < network.trunk else {}
        kind: type[LayerProblem] = GroupedProblem if layer.members[tasks[0]].banks > 1 else DenseProblem
        return kind.of(
            Given(
                tasks=tasks,
                matrices=matrices,
                masks=[network.mask(index, t) for t in range(network.tasks)],
                inputs=inputs,
                entries=network.entries(index, tables) if kind is GroupedProblem else (),
                depthwise=layer.members[tasks[0]].depthwise,
                moments={t: each.moments for t, each in samples.items()},
                alphas=alphas,
                spec=self.spec.model_copy(update=alike) if alike else self.spec,
                outputs={t: known.matrix for t in tasks if (known := self._matters(t, layer.members[t])) is not None},
                unit=unit,
            )
        )

    def _matters(self, task: int, layer: WeightLayer) -> Sensitivity | None:
        return self.outputs[task].get(layer.name) if task < len(self.outputs) else None

    def _weights(self, samples: Mapping[int, LayerSamples]) -> tuple[tuple[float, ...], float]:
        """Task weights for one layer, and the unit of its losses.

        A network with large outputs would otherwise count for more than one with small ones, and a layer for more
        than another. Where it is known how much the outputs matter, a task whose answers are easily upset counts more.
        """
        if not self.spec.normalise:
            return self.alphas, 1.0
        relative = [a / s.spread if (s := samples.get(t)) and s.spread > 0 else 0.0 for t, a in enumerate(self.alphas)]
        matter = {t: found.unit * s.spread for t, s in samples.items() if (found := self._matters(t, s.layer))}
        if len(matter) == len(samples):
            relative = [r * matter.get(t, 1.0) ** TASKS_APART for t, r in enumerate(relative)]
        relative = [r or max(relative) for r in relative]
        total = sum(relative)
        return (tuple(r / total for r in relative), total) if total > 0 else (self.alphas, 1.0)

    def _row_count(self, index: int, t: int, images: int) -> int:
        """Input rows that so many images of task t give layer `index`."""
        graph = self.network.graphs[t]
        layer = graph.layers[index]
        shape = graph.network.shapes[layer.nodes[0]] if layer.width else (0, 0)
        windows = shape[0] // len(graph.network.example)
        places = windows * math.prod(shape[1:]) // max(1, layer.width)
        return images * len(layer.nodes) * min(places, self.spec.positions or places)

    def _enough_rows(self, index: int, t: int) -> bool:
        """Whether the calibration images give enough rows to renew targets by."""
        rows = self._row_count(index, t, len(self.halves[t]))
        return rows >= ROWS_PER_INPUT * self.network.graphs[t].layers[index].columns

    def row_bytes(self, indices: Sequence[int], images: Sequence[int]) -> int:
        """Memory for the kept rows of one of some layers, the largest, given the images of every task."""
        most = 0
        for index in indices if self.spec.row_budget else ():
            total = 0
            for t, graph in enumerate(self.network.graphs):
                layer = graph.layers[index]
                if layer.width and self._enough_rows(index, t):
                    values = layer.columns * layer.banks + 2 * layer.width
                    total += self._row_count(index, t, images[t]) * values * graph.network.example.element_size()
            most = max(most, total)
        return min(most, self.spec.row_budget)


def as_array(tensor: Tensor) -> NDArray[np.floating]:
    """The numbers of a tensor."""
    return tensor.detach().cpu().numpy()
