"""What merging a few layers alone does to the answers: nothing is merged for good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mtz_core.calibration.stream import Stream, Twin
from mtz_core.graph.execution import execute
from mtz_core.layerwise.walk import LayerWalk
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.outputs.kind import Output, some_places
from mtz_core.pairing.slots import Table, shared_rows

if TYPE_CHECKING:
    from mtz_core.layerwise.comparison import SeenBefore

RIDGE = 1e-3
"""Of the layers that compensate; searching for it at every step would not change the order of the groups."""

Anew = Callable[[Sequence[Twin]], Table]
"""Slots of a group that are found when its first layer is reached, given the images on their way."""


@dataclass
class Bench:
    """Merges layers for trial and compares the answers with the parents'.

    Args:
        walk: how layers are merged and compensated.
        alphas: task weights.
        judge: images of every task to judge by.
        outputs: what every task's outputs say.
        device: where the networks run.
    """

    walk: LayerWalk
    alphas: tuple[float, ...]
    judge: Sequence[Tensor]
    outputs: Sequence[Output]
    device: torch.device
    ridges: dict[int, float] = field(default_factory=dict)
    """Ridge of every layer's merge."""
    seen: list[tuple[float, float]] = field(default_factory=list)
    """Divergence and answers that are likely to change in %, of every trial and on whatever images it was judged by."""
    judged: list[Stream] = field(default_factory=list)
    """The images that judge, on their way through the parents as far as no trial has changed anything."""
    entered: tuple[int, SeenBefore] = field(default_factory=lambda: (-1, {}))
    """The layer that was merged first in the latest trial, and what calibration saw of it: always the same."""
    known: list[Tensor] = field(default_factory=list)
    """Every task's predictions by the parents on all images that there are; empty: on those that judge."""

    @property
    def network(self) -> ZippedNetwork:
        """The parents; its weights are as before after every trial."""
        return self.walk.network

    def answers(self, given: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Every task's predictions on given images, those that judge if omitted, at `outputs.kind.some_places`."""
        found = []
        for t, (images, output) in enumerate(zip(given or self.judge, self.outputs, strict=True)):
            program, matrices = self.network.program(t), self.network.matrices(t)
            with torch.no_grad():
                batches = torch.split(images, self.walk.spec.batch_size)
                parts = [
                    some_places(output.predictions(execute(program, x.to(self.device), matrices))) for x in batches
                ]
            found.append(torch.cat(parts))
        return found

    def trial(
        self,
        slots: Mapping[int, Table | Anew],
        streams: Sequence[Twin],
        before: Sequence[Tensor],
        inputs: Sequence[Table],
    ) -> float:
        """Return the mean divergence of the answers from those before if some layers alone are merged.

        Args:
            slots: for every layer that is merged the slots of the group that it writes, or how they are found.
            streams: calibration images, which are brought to the first of these layers.
            before: the parents' answers.
            inputs: slot tables of what the merged layers read.
        """
        network, first = self.network, min(slots)
        stations = [k for k in self.walk.stations() if k >= first]
        kept = {k: [network.matrix(k, t).detach() for t in range(network.tasks)] for k in stations}
        if self.entered[0] != first:
            self.entered = (first, {})
        self._advance(streams, first)
        forks = [stream.fork(len(h)) for stream, h in zip(streams, self.walk.calibrator.halves, strict=True)]
        for k in stations:
            rows = np.empty((0, network.tasks), dtype=np.int64)
            if k in slots:
                table = slots[k]
                table = table if isinstance(table, np.ndarray) else table(forks)
                rows = shared_rows(network.row_slots(k, table))
            elif not self.walk.spec.compensate:
                continue
            tables, known = inputs if k in slots else network.tables, self.entered[1] if k == first else None
            seen = self.walk.compare(k, forks, tables, peaks=False, keep=False, known=known)
            network.set_weights(k, seen.problem.merged_weights(rows, self.ridges.get(k, RIDGE)))
            if network.joint.layers[k].repeated:
                for fork in forks:
                    fork.restart()
        divergence = self.compared(before, self._answers_after(stations))
        for k, matrices in kept.items():
            network.set_weights(k, matrices)
        return divergence

    def compared(self, before: Sequence[Tensor], now: Sequence[Tensor]) -> float:
        """Task-weighted divergence; that and the answers that are likely to change are `seen`."""
        divergence, changed, known = 0.0, 0.0, self.known or before
        for alpha, output, x, y, many in zip(self.alphas, self.outputs, before, now, known, strict=True):
            divergence += alpha * float(output.divergence(x, y).mean().clamp(min=0.0))
            changed += alpha * output.likely(x, y, many)
        self.seen.append((divergence, 100.0 * changed))
        return divergence

    def _answers_after(self, changed: Sequence[int]) -> list[Tensor]:
        """Predictions on the images that judge if the weights of some layers have changed, and only these."""
        network, spec, found = self.network, self.walk.spec, []
        if not self.judged:
            budget = spec.activation_budget // (3 * network.tasks)
            self.judged = [
                Stream(network.program(t), images, spec.batch_size, budget, self.device)
                for t, images in enumerate(self.judge)
            ]
        for t, (stream, output) in enumerate(zip(self.judged, self.outputs, strict=True)):
            nodes = (node for k in changed for node in network.graphs[t].layers[k].nodes)
            last = list(stream.program.layers)[-1]
            first, now = min(nodes, key=stream.program.position, default=last), network.matrices(t)
            parts = [some_places(output.predictions(answers)) for _, answers in stream.answers(first, now, now)]
            found.append(torch.cat(parts))
        return found

    def _advance(self, streams: Sequence[Twin], index: int) -> None:
        """Bring the streams to a layer, so that forks start there."""
        for t, stream in enumerate(streams):
            for node in self.network.graphs[t].layers[index].nodes[:1]:
                for _ in stream.inputs(node, stream.sequel(node).summand):
                    pass
