"""What undoing merges would win back: the neurons of a channel group, or of one slot, go back to their own tasks.

The undone channels are private again, in the layers that write them and in those that read them, as if they had not
been paired. All earlier layers stay as they are, and all other pairs of all layers stay paired. From the first undone
layer on every layer is merged again, the way the run merged it, out of what it then reads: later layers were fitted
to what the merged neurons gave, and left as they are they would answer for inputs that are not there any more. No
pairs are searched and no retraining steps are taken, so this costs a part of a run; what comes out is compared with
the same without undoing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mtz_core.calibration.stream import Stream, Twin, twins
from mtz_core.graph.execution import Matrices, execute
from mtz_core.layerwise.problem import Ridges, settled_ridges
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.outputs.kind import Output, some_places
from mtz_core.pairing.slots import Table, complete, shared_rows

if TYPE_CHECKING:
    from mtz_core.layerwise.comparison import Calibrator

Weights = dict[int, list[Tensor]]
"""Layer → matrix (n_t, d_t) of every task; layers that are missing are the parents'."""
Judged = tuple[Tensor, Tensor | None]
"""Images (N, ...) of a task and, where there are any, their labels."""


@dataclass(frozen=True)
class Standing:
    """Error in % of every task, and divergence of its answers from the parent's in nats per image."""

    errors: tuple[float, ...]
    divergences: tuple[float, ...]


@dataclass
class Replay:
    """Merges layers again with given slots.

    Args:
        calibrator: puts layers of the parents in front of images; its network shares nothing, and is not changed.
        stations: layers at which something is done, in order.
        hidden: those of them that are merged.
        images: calibration images of every task.
        device: where the networks run.
        ridges: of every layer, found when it is merged for the first time: whatever is undone, the ridges stay.
    """

    calibrator: Calibrator
    stations: Sequence[int]
    hidden: Sequence[int]
    images: Sequence[Tensor]
    device: torch.device
    ridges: dict[int, Ridges] = field(default_factory=dict)

    def weights(self, tables: Sequence[Table], first: int, start: Weights, streams: Sequence[Twin]) -> Weights:
        """Return all layers' weights if the groups have these slot tables, merged anew from layer `first` on.

        Args:
            tables: slot table of every channel group.
            first: number of the first layer that is merged anew.
            start: weights of the layers before.
            streams: images that have come no further than `first` (see `streams`); they are left where they are.
        """
        parents, spec = self.calibrator.network, self.calibrator.spec
        joint, weights = parents.joint, {k: own for k, own in start.items() if k < first}
        forks = [self._through(t, stream, weights) for t, stream in enumerate(streams)]
        for k in (k for k in self.stations if k >= first):
            rows = shared_rows(parents.row_slots(k, tables[joint.layers[k].group]))
            rows = rows if k in self.hidden else rows[:0]
            tasks = {t: np.empty(0, dtype=np.int64) for t in joint.sharing(k)}
            known = self.ridges.get(k)
            seen = self.calibrator.compare(k, forks, tables, tasks, peaks=False, pairs=False, ridges=known)
            seen.problem.choose_ridge(rows)
            weights[k] = list(seen.merge(rows, spec.relu_rounds, judged=False).weights)
            self.ridges.setdefault(k, settled_ridges(seen.problem))
            if joint.layers[k].repeated:
                for fork in forks:
                    fork.restart()
        return weights

    def streams(self, weights: Weights) -> list[Twin]:
        """Calibration images at the start of a network with these weights."""
        parents, spec = self.calibrator.network, self.calibrator.spec
        made = twins(parents, self.images, spec.compensate, spec.batch_size, spec.activation_budget, self.device)
        return [self._through(t, twin, weights) for t, twin in enumerate(made)]

    def bring(self, streams: Sequence[Twin], index: int) -> None:
        """Bring streams to a layer, so that what goes on from there need not begin anew."""
        for graph, stream in zip(self.calibrator.network.graphs, streams, strict=True):
            for node in graph.layers[index].nodes[:1]:
                for _ in stream.inputs(node, stream.sequel(node).summand):
                    pass

    def _through(self, t: int, twin: Twin, weights: Weights) -> Twin:
        """The same images on a way of their own, through a network of other weights."""
        fork = twin.fork(len(twin.zipped.images))
        return replace(fork, matrices=lambda: looked_up(self.calibrator.network, t, weights))


class Judge:
    """Measures networks of given weights on the judged images of every task.

    Args:
        parents: the networks, nothing shared.
        judged: images, and labels where there are any; without labels errors are answers that are not the parent's.
        outputs: what every task's outputs say.
        batch_size, budget: images in a batch, and bytes of activations that may be kept.
        device: where the networks run.
    """

    def __init__(
        self,
        parents: ZippedNetwork,
        judged: Sequence[Judged],
        outputs: Sequence[Output],
        batch_size: int,
        budget: int,
        device: torch.device,
    ) -> None:
        self.parents, self.judged, self.outputs, self.device = parents, judged, outputs, device
        share = budget // max(1, len(judged))
        self._streams = [
            Stream(parents.program(t), images, batch_size, share, device) for t, (images, _) in enumerate(judged)
        ]
        self._before = [list(self._of_parent(t)) for t in range(parents.tasks)]

    def standing(self, weights: Weights, start: Weights | None = None, first: int = 0) -> Standing:
        """How every task does with these weights.

        Those of the layers before `first` may be given as `start`: what they put out is kept for later calls, which
        must have the same ones there.
        """
        found = [self._task(t, weights, start, first) for t in range(self.parents.tasks)]
        return Standing(tuple(error for error, _ in found), tuple(divergence for _, divergence in found))

    def _task(self, t: int, weights: Weights, start: Weights | None, first: int) -> tuple[float, float]:
        (images, labels), output = self.judged[t], self.outputs[t]
        totals = np.zeros(2)

        def seen() -> Iterator[tuple[Tensor, Tensor]]:
            for (where, answers), kept in zip(self._answers(t, weights, start, first), self._before[t], strict=True):
                parent, now = kept.double().to(self.device), some_places(output.predictions(answers))
                changed, divergence = output.changed(parent, now), output.divergence(parent, now).clamp(min=0.0)
                totals[:] += float(changed.sum()), float(divergence.sum())
                yield answers, answers if labels is None else labels[where]

        if labels is not None:
            error = output.scores(seen()).error
        else:
            for _ in seen():
                pass
            error = 100.0 * float(totals[0]) / len(images)
        return error, float(totals[1]) / len(images)

    def _answers(self, t: int, weights: Weights, start: Weights | None, first: int) -> Iterator[tuple[slice, Tensor]]:
        matrices, nodes = looked_up(self.parents, t, weights), self.parents.graphs[t].layers[first].nodes
        if start is None or not nodes:
            return self._whole(t, matrices)
        return self._streams[t].answers(nodes[0], looked_up(self.parents, t, start), matrices)

    def _whole(self, t: int, matrices: Matrices) -> Iterator[tuple[slice, Tensor]]:
        stream, program = self._streams[t], self.parents.program(t)
        for first in stream.starts:
            where = slice(first, min(first + stream.batch_size, len(stream.images)))
            with torch.no_grad():
                yield where, execute(program, stream.images[where].to(self.device), matrices)

    def _of_parent(self, t: int) -> Iterator[Tensor]:
        """The parent's predictions, batch by batch, at `some_places`."""
        for _, answers in self._whole(t, looked_up(self.parents, t, {})):
            yield some_places(self.outputs[t].predictions(answers)).float().cpu()


def looked_up(parents: ZippedNetwork, t: int, weights: Mapping[int, Sequence[Tensor]]) -> Matrices:
    """Task t's matrices by layer name, as they are now."""
    graph, known = parents.graphs[t], parents.matrices(t)
    named = {graph.layers[k].name: own[t] for k, own in weights.items() if graph.layers[k].width}
    return lambda name: named[name] if name in named else known(name)


def without(tables: Sequence[Table], group: int, slots: Sequence[int] | None = None) -> list[Table]:
    """The slot tables of all groups once some of a group's shared slots (all, if omitted) are private again.

    Args:
        tables: slot table (S, T) of every group.
        group: number of the group.
        slots: which of its `shared_rows`, by index.
    """
    table = tables[group]
    shared = shared_rows(table)
    kept = np.delete(shared, np.arange(len(shared)) if slots is None else slots, axis=0)
    widths = [int(table[:, t].max(initial=-1)) + 1 for t in range(table.shape[1])]
    changed = list(tables)
    changed[group] = complete(kept, widths)
    return changed
