"""Where the difference of two neurons comes from, found after a run from its networks and calibration inputs.

The layer is compared again, as the run compared it (see `before`), and the quadratic form of the one pair is taken
apart: over the inputs, and over the directions in which these vary. Beside it stand what both neurons put out, whether
each half of the calibration inputs would have paired them too, and how alike parents and zipped network are.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from mtz_core.calibration.sensitivity import Sensitivity
from mtz_core.errors import SpecError
from mtz_core.graph.channels import WeightLayer
from mtz_core.layerwise.comparison import Calibrator
from mtz_core.layerwise.problem import Compared
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.pairing.slots import Table, shared_rows
from mtz_core.zipping.before import Before
from mtz_core.zipping.findings import BIAS, RAW, Directions, Integers, Likeness, PairFindings, Parts, Stability
from mtz_core.zipping.likeness import ROWS, Both, likeness, likeness_of_layers
from mtz_core.zipping.prepare import Job, Sample
from mtz_core.zipping.responses import IMAGES, responses
from mtz_core.zipping.stability import compared_halves, paired_again, why_not


@dataclass(frozen=True)
class Asked:
    """Neuron `neurons[0]` of task `tasks[0]` and neuron `neurons[1]` of task `tasks[1]`, of layer number `index`."""

    index: int
    tasks: tuple[int, int]
    neurons: tuple[int, int]


@dataclass(frozen=True)
class Origins:
    """A zipped network that is looked into again: what was zipped, from which inputs, with which shares."""

    job: Job
    sample: Sample
    zipped: ZippedNetwork
    shares: dict[str, int]

    @cached_property
    def parents(self) -> ZippedNetwork:
        """The parents in one, nothing shared."""
        return self.job.network()

    def layers(self) -> Iterator[Likeness]:
        """Compare parents and zipped network at every layer."""
        yield from likeness_of_layers(Both.of(self.job, self.zipped, self.parents, self.sample, ROWS // 2))

    def ask(self, layer: str, tasks: tuple[int, int], neurons: tuple[int, int]) -> Asked:
        """Check what is asked. Raises `SpecError` if there are no such layer, tasks or neurons."""
        joint = self.job.joint
        found = next((each for each in joint.layers if each.name == layer), None)
        if found is None:
            raise SpecError(f"there is no layer {layer!r}; layers are {', '.join(each.name for each in joint.layers)}")
        t, u = tasks
        if not (t < u and {t, u} <= set(joint.sharing(found.index))):
            raise SpecError(
                f"tasks {t} and {u} are not compared in layer {layer!r}; those that are: {joint.sharing(found.index)}"
            )
        for task, neuron in zip(tasks, neurons, strict=True):
            if not 0 <= neuron < found.members[task].width:
                raise SpecError(
                    f"layer {layer!r} has neurons 0 to {found.members[task].width - 1} in task {task}; "
                    f"{neuron} is not there"
                )
        return Asked(found.index, tasks, neurons)

    def trace(self, asked: Asked) -> Iterator[str | PairFindings]:
        """Yield what is being done, in words, and at last what was found.

        Raises:
            SpecError: the two neurons read nothing in common.
        """
        (t, u), (i, j) = asked.tasks, asked.neurons
        outputs: list[dict[str, Sensitivity]] = []
        yield from self._weighed(outputs)
        yield "comparing the layer again"
        before = self._before(asked.index, self.sample, outputs)
        compared = before.compared().problem.form(t, u, i, j)
        yield "taking the difference apart"
        parts, directions = self._parts(asked, compared), _directions(compared)
        yield "looking at what both neurons put out"
        both = Both.of(self.job, self.zipped, self.parents, self.sample, IMAGES)
        here = (both, self.sample, asked.index)
        sides = (responses(*here, t, i, u, j), responses(*here, u, j, t, i))
        alike = Both.of(self.job, self.zipped, self.parents, self.sample, ROWS // 2)
        likes = (likeness(alike, asked.index, t), likeness(alike, asked.index, u))
        stability = yield from self._stability(asked, before, outputs)
        yield PairFindings(
            self.job.joint.layers[asked.index].name, asked.tasks, asked.neurons, float(parts.values.sum()), parts,
            directions, sides, likes, stability,
        )  # fmt: skip

    def _before(self, index: int, sample: Sample, outputs: list[dict[str, Sensitivity]]) -> Before:
        return Before.of(self.job, self.zipped, self.shares, index, sample, outputs)

    def _weighed(self, found: list[dict[str, Sensitivity]]) -> Iterator[str]:
        """Find how much every layer's outputs matter, as the run did."""
        if not self.job.spec.weighs_outputs:
            return
        halves = self.sample.halves(self.job.spec.seed)
        calibrator = Calibrator(self.parents, self.job.spec, self.job.alphas, halves, found, answers=self.job.outputs)
        for t, images in enumerate(self.sample.images):
            yield f"weighing outputs, network {t + 1} of {len(self.sample.images)}"
            for _ in calibrator.weigh_outputs(t, images, self.job.device):
                pass

    def _parts(self, asked: Asked, compared: Compared) -> Parts:
        """The difference over inputs, with what each weight reads."""
        members = self.job.joint.layers[asked.index].members
        columns = np.asarray(compared.columns, dtype=np.int64)
        reads = [
            _reads(members[task], neuron, columns[:, side])
            for side, (task, neuron) in enumerate(zip(asked.tasks, asked.neurons, strict=True))
        ]
        named = np.concatenate([reads[0], reads[1][:, 1:]], axis=1)
        channels, first, number = np.unique(named, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        groups = tuple(group.name for group in self.job.joint.groups)
        values = compared.form.contributions().cpu().numpy().astype(np.float64)
        return Parts(values, columns, place[number.reshape(-1)], channels[order], groups)

    def _stability(
        self, asked: Asked, before: Before, outputs: list[dict[str, Sensitivity]]
    ) -> Generator[str, None, Stability]:
        """Pair the layer again on each half, and compare."""
        why = why_not(before, self.zipped)
        if why:
            return Stability(why=why)
        found: list[Table] = []
        for half in (0, 1):
            numbers = [torch.nonzero(each == half)[:, 0] for each in self.sample.halves(self.job.spec.seed)]
            if min(map(len, numbers)) < 2:
                return Stability(why="There are too few calibration inputs to divide.")
            again = self._before(asked.index, self.sample.narrowed(numbers), outputs)
            found.append((yield from paired_again(again, f"pairing again on half {half + 1} of the inputs")))
        run = shared_rows(self.zipped.row_slots(asked.index))
        return compared_halves(before, run, (found[0], found[1]), asked.tasks, asked.neurons)


def _directions(compared: Compared) -> Directions:
    found = compared.form.directions()
    values, squares, parts = (x.cpu().numpy() for x in (found.values, found.squares, found.parts))
    return Directions(values, squares, parts, found.rest)


def _reads(layer: WeightLayer, row: int, columns: Integers) -> Integers:
    """Group and channel (d, 2) that the columns of one row read; of raw inputs the channel is their number."""
    positions = len(layer.column_groups) // layer.banks
    bank = row // max(1, layer.width // layer.banks)
    position = columns // layer.kernel_size
    bias = np.full(len(columns), layer.bias) & (columns == layer.columns - 1)
    at = np.where(bias, 0, position + bank * positions)
    groups, channels = layer.column_groups[at], layer.column_channels[at]
    groups = np.where(groups < 0, RAW, groups)
    channels = np.where(groups == RAW, at, channels)
    return np.stack([np.where(bias, BIAS, groups), np.where(bias, 0, channels)], axis=1)
