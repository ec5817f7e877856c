"""The loop of Multi-Task Zipping (He, Zhou, Thiele 2018, Algorithm 1) as a generator of events.

For every hidden layer in order of execution: accumulate the moments of its inputs in the partly zipped network,
compute functional differences, pair, merge, and retrain lightly if asked to. The loop prints nothing, draws nothing
and stores nothing; listeners read its events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from mtz_core import events as ev
from mtz_core.budget.plan import plan_data
from mtz_core.calibration.stream import Twin, twins
from mtz_core.errors import CheckpointError
from mtz_core.layerwise.ahead import pair_layer
from mtz_core.layerwise.comparison import Calibrator
from mtz_core.layerwise.ledger import Ledger
from mtz_core.layerwise.walk import LayerWalk
from mtz_core.spec import RetrainSpec, ZipSpec
from mtz_core.zipping.checkpoint import Checkpoint, Standing
from mtz_core.zipping.evaluation import parent, scores
from mtz_core.zipping.forecast import Forecast, Measuring, planned
from mtz_core.zipping.harm import HarmMeter
from mtz_core.zipping.prepare import Data, Given, prepare, resumed
from mtz_core.zipping.progress import WorkClock
from mtz_core.zipping.report import beside_parents, compensated, differences, harms, result, started, zipped
from mtz_core.zipping.retraining import Retrained, retrain
from mtz_core.zipping.sufficiency import trial_sizes, trials

EVALUATIONS = 20
"""After every layer, while the network is retrained."""


class Zipper:
    """Zips T networks; `run` does the work.

    Args:
        networks: trained parents, one per task; never modified.
        calibration: per task unlabelled inputs, as one tensor (N, ...) or an iterable of batches (of a batch that is
            a tuple, the first element is used). They should be shuffled or cover all classes.
        spec: how to zip.
        evaluation: per task labelled inputs `(images, labels)`, or `None`; report errors, and show what answers are.
        retraining: per task inputs, or `(images, labels)`; the calibration inputs if omitted.
        live_images: at most this many evaluation images are used for reports before the final one.
        harm: also measure what undoing each merge would win back.

    Raises:
        GraphError: a network cannot be traced or would be answered for wrongly, or the networks do not correspond.
        SpecError, DataError: the specification or the data does not fit the networks.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        calibration: Sequence[Data],
        spec: ZipSpec | None = None,
        *,
        evaluation: Sequence[Given | None] | None = None,
        retraining: Sequence[Data | Given] | None = None,
        live_images: int | None = None,
        harm: bool = False,
    ) -> None:
        spec = ZipSpec() if spec is None else spec
        self.job = job = prepare(networks, calibration, spec, evaluation, retraining, live_images)
        self.spec, self.network, self.sample = spec, job.network(), job.sample
        calibrator = Calibrator(self.network, spec, job.alphas, self.sample.halves(spec.seed), answers=job.outputs)
        self._walk = LayerWalk(self.network, spec, Ledger(job.joint, job.shares), calibrator)
        self.hidden, self.stations = self._walk.ledger.hidden(), self._walk.stations()
        self._planned, self._settled = spec.share != "auto", spec.calibration != "enough"
        self._finished, self._steps, self._spared, self._harm = list[int](), 0, 0, harm
        first = {job.joint.layers[index].group: index for index in reversed(self.hidden)}.values()
        ahead = {index: self._walk.ahead(index) for index in first}
        self._clock = WorkClock(spec, self.network, self.stations, ahead, self.sample.counts)

    def checkpoint(self) -> Checkpoint:
        """State after the layers finished so far; valid right after a `LayerFinished` event."""
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        standing = Standing(
            list(self._finished), self._walk.ledger.data(), self._steps, self._spared,
            dict(self._walk.ledger.shares) if self.spec.share == "auto" else None,
            max(self.sample.counts) if self.spec.calibration == "enough" else None,
            self.network.description(),
        )  # fmt: skip
        return Checkpoint(tensors, standing.data())

    def _resume(self, checkpoint: Checkpoint) -> None:
        standing = Standing.read(checkpoint.meta)
        if standing.finished != self.stations[: len(standing.finished)]:
            raise CheckpointError("the checkpoint belongs to another specification; start the run again")
        if not self._settled:
            self._settle(standing.images)
        if not self._planned:
            self._walk, self._planned = self._walk.sharing(standing.plan or {}), True
        self._walk.ledger.take_over(standing.decided)
        self.network.restore(standing.network, checkpoint.tensors)
        self.network.to(self.job.device)
        self._finished, self._steps, self._spared = standing.finished, standing.steps, standing.spared

    def run(self, resume: Checkpoint | None = None) -> Iterator[ev.Event]:
        """Do the work, yielding events (see `mtz_core.events`); closing the generator stops it.

        Args:
            resume: a checkpoint of an earlier, interrupted run of the same specification.

        Raises:
            MTZError: with a remedy, e.g. when calibration data gives NaN.
        """
        self._clock.begin()
        if self._harm:
            self._clock.foresee("harm", len(self.hidden))
        if resume is not None:
            self._resume(resume)
            self._clock.skip(self._finished, self._steps + self._spared)
        if not self._settled:
            yield from self._try_images()
        if not self._planned:
            yield from self._plan()
        yield started(self._clock.now(), self.job, self.sample, self._walk.ledger.shares)
        yield self._evaluated("parents", None, parents=True)
        streams = self._streams()
        if self.spec.weighs_outputs:
            yield from self._weigh_outputs()
        retraining, layers = self.spec.retrain, self.job.joint.layers
        layerwise = retraining if retraining is not None and retraining.schedule == "layerwise" else None
        latest: int | None = None
        for index, following in zip(self.stations, [*self.stations[1:], None], strict=True):
            latest = index if index in self.hidden else latest
            if index in self._finished:
                continue
            yield from self._zip_layer(index, streams) if index == latest else self._compensate_layer(index, streams)
            # Layers that share nothing are fitted before the steps that belong to the layer before them: fitted
            # afterwards, they would forget what they have learnt.
            if layerwise is not None and latest is not None and following in (None, *self.hidden):
                steps = _portion(layerwise.steps, len(self.hidden), self.hidden.index(latest))
                if steps:
                    yield from self._retrain(layerwise, steps, layers[latest].name)
                    _restart(streams)
            self._finished.append(index)
            yield ev.LayerFinished(**self._clock.now(), layer=layers[index].name)
        if retraining is not None and layerwise is None:
            yield from self._retrain(retraining, retraining.steps, None)
        yield from self._finish()

    def _try_images(self) -> Iterator[ev.Event]:
        """Find out how many calibration images are enough, and go on with these."""
        mixed = [x[order] for x, order in zip(self.sample.images, self.sample.orders(self.spec.seed), strict=True)]
        sizes = trial_sizes(list(self.sample.counts)) if self.hidden else []
        self._clock.foresee("try", len(sizes) * len(self.hidden))
        walk, number = trials(self.job.network(), self.spec, self.job.alphas, mixed, self.job.device), 0
        while sizes:
            try:
                trial = next(walk)
            except StopIteration as end:
                self._settle(end.value)
                self._clock.leave("try")
                return
            self._clock.advance(("try", number))
            number += trial.done < trial.total
            data: dict[str, Any] = {**self._clock.now(), **asdict(trial), "enough": trial.enough}
            yield ev.ImagesTried(**data)
        self._settled = True

    def _settle(self, count: int | None) -> None:
        """Calibrate on at most so many images of every task."""
        self.sample, self._settled = resumed(self.job, count), True
        calibrator = replace(self._walk.calibrator, halves=self.sample.halves(self.spec.seed))
        self._walk = replace(self._walk, calibrator=calibrator)

    def _plan(self) -> Iterator[ev.Event]:
        """Choose all shares under the budget."""
        forecast = Forecast.of(self.job, self.sample)
        self._clock.foresee("plan", forecast.steps)
        for item in planned(forecast):
            if isinstance(item, Measuring):
                self._clock.advance(("plan", item.done))
                yield ev.Planning(**self._clock.now(), group=item.group, done=item.done, total=item.total)
            else:
                self._walk = self._walk.sharing({**self._walk.ledger.shares, **item.point.shares})
                self._planned = True
                self._clock.advance(("plan", forecast.steps))
                data: dict[str, Any] = {**self._clock.now(), **plan_data(item)}
                yield ev.Planned(**data)

    def _streams(self) -> list[Twin]:
        """Calibration images, then the evaluation images on which each layer's loss is measured."""
        spec, both = self.spec, _with_live(self.sample.images, self.job.live)
        budget = spec.activation_budget - self._walk.calibrator.row_bytes(self.stations, list(map(len, both)))
        return twins(self.network, both, spec.compensate, spec.batch_size, budget, self.job.device)

    def _weigh_outputs(self) -> Iterator[ev.Event]:
        """How much the outputs of each layer matter to every parent's answer, if there is still something to merge."""
        left = [self.job.joint.group_of(k).name for k in self.hidden if k not in self._finished]
        for t, images in enumerate(self.sample.images):
            if not any(self._walk.ledger.shares[name] for name in left):
                self._clock.advance(("weigh", t))
                continue
            for part in self._walk.calibrator.weigh_outputs(t, images, self.job.device):
                self._clock.advance(("weigh", t), 1.0 - part)
                yield ev.OutputsWeighed(**self._clock.now(), task=t, part=part)

    def _compensate_layer(self, index: int, streams: Sequence[Twin]) -> Iterator[ev.Event]:
        """A layer that shares nothing makes up for what the merges before it have changed."""
        seen = self._walk.compare(index, streams, self.network.tables, peaks=False)
        self._clock.advance(("calibrate", index))
        outcome = seen.merge(np.empty((0, self.network.tasks), dtype=np.int64), self.spec.relu_rounds)
        self.network.set_weights(index, outcome.weights)
        self._clock.advance(("merge", index))
        yield compensated(self._clock.now(), self.job.joint.layers[index].name, outcome)

    def _zip_layer(self, index: int, streams: Sequence[Twin]) -> Iterator[ev.Event]:
        walk, network, layer = self._walk, self.network, self.job.joint.layers[index]
        seen = walk.compare(index, streams, network.tables)
        self._clock.advance(("calibrate", index))
        rows = tuple(seen.rows.get(t, 0) for t in range(network.tasks))
        yield ev.LayerCalibrated(**self._clock.now(), layer=layer.name, rows=rows)
        yield differences(self._clock.now(), layer.name, seen)

        for producer in pair_layer(walk, index, seen, streams):
            self._clock.advance(("ahead", index, producer))
            yield ev.LookedAhead(**self._clock.now(), layer=layer.name, producer=producer)
        pairs = walk.rows(index)
        compared = [seen.problem.compared(t) for t in range(network.tasks)]
        outcome = seen.merge(pairs, self.spec.relu_rounds)
        network.merge(index, outcome.weights, outcome.factors)
        self._clock.advance(("merge", index))
        names = (layer.name, self.job.joint.group_of(index).name)
        yield zipped(self._clock.now(), *names, seen, outcome, compared, network.counts(), self.sample.chosen)
        if layer.repeated:
            _restart(streams)
        yield self._evaluated("zipped", layer.name)

    def _retrain(self, spec: RetrainSpec, steps: int, layer: str | None) -> Iterator[ev.Event]:
        job, first = self.job, self._steps
        every = spec.evaluate_every or max(1, steps // EVALUATIONS)
        teachers = [parent(self.network, t) for t in range(self.network.tasks)]
        seed = self.spec.seed + 7919 * (first + 1)
        for item in retrain(self.network, job.retraining, teachers, job.alphas, spec, steps, seed, job.device):
            if isinstance(item, Retrained):
                due = first + self._spared
                self._clock.spare(("step", due + k + 1) for k in range(item.taken, item.wanted))
                self._spared += item.wanted - item.taken
                data: dict[str, Any] = {**self._clock.now(), **asdict(item)}
                yield ev.RetrainEnded(**data, layer=layer, text=item.text(layer, first, spec.targets))
                continue
            self._steps += 1
            self._clock.advance(("step", self._steps + self._spared))
            yield ev.RetrainStep(**self._clock.now(), layer=layer, step=self._steps, losses=item)
            if (self._steps - first) % every == 0 and self._steps - first < steps:
                yield self._evaluated("retraining", layer)
        yield self._evaluated("retrained", layer)

    def _evaluated(self, stage: Any, layer: str | None, parents: bool = False) -> ev.Evaluated:
        data = self.job.evaluation if stage == "final" else self.job.live
        found = scores(self.network, data, self.job.outputs, self.job.device, parents)
        return ev.Evaluated(
            **self._clock.now(),
            stage=stage,
            layer=layer,
            step=self._steps,
            errors=tuple(each.error for each in found),
            images=tuple(0 if pair is None else len(pair[0]) for pair in data),
            counts=self.network.counts(),
            scores=tuple(each.more for each in found),
        )

    def meter(self) -> HarmMeter:
        """What undoes merges of the network for trial, once it is zipped."""
        return HarmMeter(self.job, self.sample, self._walk)

    def _finish(self) -> Iterator[ev.Event]:
        job, final, parents = self.job, None, None
        if any(pair is not None for pair in job.evaluation):
            if _are_fewer(job.live, job.evaluation):
                yield self._evaluated("ended", None)
            parents = scores(self.network, job.evaluation, job.outputs, job.device, parents=True)
            final = beside_parents(self._evaluated("final", None), parents)
            yield final
        if self._harm:
            ready = result(self._clock.now(), job, self.network.counts(), final, parents)
            yield ev.Measuring(**ready, merges=len(self.meter().groups))
            yield from harms(self._clock, self.meter())
        self._clock.end()
        yield ev.Finished(**result(self._clock.now(), job, self.network.counts(), final, parents))


def _with_live(images: Sequence[torch.Tensor], live: Sequence[Given | None]) -> list[torch.Tensor]:
    """Each task's calibration images, and behind them as many of its evaluation images at most."""
    pairs = zip(images, live, strict=True)
    return [x if pair is None else torch.cat([x, pair[0][: len(x)]]) for x, pair in pairs]


def _are_fewer(live: Sequence[Given | None], every: Sequence[Given | None]) -> bool:
    """Whether some task is not evaluated on all its images before the end."""
    pairs = zip(live, every, strict=True)
    return any(len(some[0]) < len(whole[0]) for some, whole in pairs if some is not None and whole is not None)


def _restart(streams: Sequence[Twin]) -> None:
    """Weights upstream have changed."""
    for stream in streams:
        stream.restart()


def _portion(total: int, parts: int, index: int) -> int:
    """Size of part `index` when `total` is divided as evenly as whole numbers allow."""
    return total * (index + 1) // parts - total * index // parts
