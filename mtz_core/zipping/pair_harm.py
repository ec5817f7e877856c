"""The harm of single pairs, from unlabelled inputs: which pair's undoing brings the answers nearest to the parents'.

Each pair is undone exactly, as `HarmMeter.undo` does it: later layers make up for a merge, so nothing shorter says
what undoing it does (docs/method.md has the measurements). Only what judges differs. One pair of hundreds moves few
answers, and nearly all of the divergence comes from the few inputs where a network hesitates, so that the divergence
itself ranks pairs by chance. Softened by the temperature by which errors are weighed, every input says something. The
inputs should be ones that no weight was fitted to: on those that were, undoing looks good where it only fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mtz_core.calibration.sensitivity import TEMPERATURE
from mtz_core.calibration.stream import Stream, Twin
from mtz_core.graph.execution import execute
from mtz_core.zipping.findings import PairHarm
from mtz_core.zipping.harm import HarmMeter
from mtz_core.zipping.undoing import Weights, looked_up, without

KEPT = 256 * 2**20
"""Bytes of every task's parent's answers that are kept: of large answers, fewer inputs judge."""


@dataclass
class PairMeter:
    """Undoes the pairs of one channel group, one at a time.

    Args:
        meter: the zipped network.
        group: number of the group.
        inputs: unlabelled inputs of every task that judge, best ones that did not calibrate.
        temperature: by which answers are softened.
    """

    meter: HarmMeter
    group: int
    inputs: Sequence[Tensor]
    temperature: float = TEMPERATURE

    def measure(self, slots: Sequence[int]) -> Iterator[PairHarm]:
        """Undo each of these shared slots (numbers among the group's `shared_rows`) alone."""
        for slot in slots:
            yield self.judged(self.undone(slot))

    def undone(self, slot: int) -> Weights:
        """Return the weights of all layers if this pair had not been merged."""
        tables = without(self.meter.network.tables, self.group, [slot])
        return self.meter.replay.weights(tables, self._first, self.meter.start, self._streams)

    def judged(self, weights: Weights) -> PairHarm:
        """Compare a network of these weights with the zipped one."""
        won = [self._before[t] - self._divergences(t, weights) for t in range(len(self._judging))]
        spread = [float(w.std(correction=1)) if len(w) > 1 else math.inf for w in won]
        return PairHarm(
            won=tuple(float(w.mean()) for w in won),
            errors=tuple(s / math.sqrt(len(w)) for s, w in zip(spread, won, strict=True)),
            images=tuple(map(len, won)),
        )

    @property
    def _first(self) -> int:
        return self.meter.first(self.group)

    @cached_property
    def _streams(self) -> list[Twin]:
        """Calibration inputs in front of the group's first layer."""
        streams = self.meter.replay.streams(self.meter.start)
        self.meter.replay.bring(streams, self._first)
        return streams

    @cached_property
    def _judging(self) -> list[Stream]:
        """Inputs that judge, which stop where the group begins."""
        job, parents = self.meter.job, self.meter.replay.calibrator.network
        share = job.spec.activation_budget // len(self.inputs)
        made = []
        for t, inputs in enumerate(self.inputs):
            with torch.no_grad():
                answer = execute(parents.program(t), inputs[:1].to(job.device), looked_up(parents, t, {}))
            count = max(2, KEPT // max(1, answer.numel() * answer.element_size()))
            made.append(Stream(parents.program(t), inputs[:count], job.spec.batch_size, share, job.device))
        return made

    @cached_property
    def _targets(self) -> list[list[Tensor]]:
        """The parents' softened answers, batch by batch."""
        parents = self.meter.replay.calibrator.network
        return [
            [self.meter.job.outputs[t].targets(answers, self.temperature).cpu() for answers in self._answers(t, {}, {})]
            for t in range(parents.tasks)
        ]

    @cached_property
    def _before(self) -> list[Tensor]:
        """Divergence (N,) of the zipped network's answers from every parent's."""
        return [self._divergences(t, self.meter.start) for t in range(len(self._judging))]

    def _divergences(self, t: int, weights: Weights) -> Tensor:
        output, found = self.meter.job.outputs[t], []
        for answers, wanted in zip(self._answers(t, weights, self.meter.start), self._targets[t], strict=True):
            found.append(output.distillation(answers, wanted.to(answers.device), self.temperature).double().cpu())
        return torch.cat(found)

    def _answers(self, t: int, weights: Weights, start: Weights) -> Iterator[Tensor]:
        """Answers, batch by batch; all layers before the group have the weights `start`."""
        parents, stream = self.meter.replay.calibrator.network, self._judging[t]
        matrices, nodes = looked_up(parents, t, weights), parents.graphs[t].layers[self._first].nodes
        if start and nodes:
            for _, answers in stream.answers(nodes[0], looked_up(parents, t, start), matrices):
                yield answers
            return
        for first in stream.starts:
            with torch.no_grad():
                images = stream.images[first : first + stream.batch_size].to(stream.device)
                yield execute(parents.program(t), images, matrices)
