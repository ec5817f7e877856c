"""The loop of Multi-Task Zipping (He, Zhou, Thiele 2018, Algorithm 1) as a generator of events.

For every hidden layer in order of execution: accumulate the moments of its inputs in the partly zipped network,
compute functional differences, pair, merge, and retrain lightly if asked to. The loop prints nothing, draws nothing
and stores nothing; listeners read its events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtz_core import events as ev
from mtz_core.bankwork import BankWork
from mtz_core.data_input import as_images, as_labelled, check_shapes, network_dtype
from mtz_core.errors import CheckpointError, DataError, SpecError
from mtz_core.evaluation import error_rate
from mtz_core.graph.channels import HEAD
from mtz_core.graph.execution import execute
from mtz_core.graph.propagation import channel_graphs
from mtz_core.layerloop import LayerLoop
from mtz_core.layerwork import LayerWork
from mtz_core.matching import Costs
from mtz_core.planning import Forecast, Measuring, planned
from mtz_core.plans import plan_data
from mtz_core.retraining import Retrained, RetrainingData, held_back, retrain
from mtz_core.shares import resolve_shares
from mtz_core.spec import RetrainSpec, ZipSpec
from mtz_core.stream import Twin, twins
from mtz_core.structure import effective_shares, unfounded
from mtz_core.sufficiency import trial_sizes, trials
from mtz_core.trunks import trunk_of
from mtz_core.work import Work
from mtz_core.workclock import WorkClock
from mtz_core.zipped import ZippedNetwork

Data = Tensor | Iterable[Any]


@dataclass(frozen=True)
class Checkpoint:
    """All that is needed to go on after a finished layer: tensors, and JSON-able data beside them."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


class Zipper:
    """Zips T networks; `run` does the work.

    Args:
        networks: trained parents, one per task; never modified.
        calibration: per task unlabelled inputs, as one tensor (N, ...) or an iterable of batches (of a batch that is
            a tuple, the first element is used). They should be shuffled or cover all classes.
        spec: how to zip.
        evaluation: per task labelled inputs `(images, labels)`, or `None`; only used to report errors.
        retraining: per task inputs, or `(images, labels)`; the calibration inputs if omitted.
        live_images: at most this many evaluation images are used for reports before the final one.

    Raises:
        GraphError: a network cannot be traced, or the networks do not correspond.
        SpecError, DataError: the specification or the data does not fit the networks.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        calibration: Sequence[Data],
        spec: ZipSpec | None = None,
        *,
        evaluation: Sequence[tuple[Tensor, Tensor] | None] | None = None,
        retraining: Sequence[Data | tuple[Tensor, Tensor]] | None = None,
        live_images: int | None = None,
    ) -> None:
        self.spec = spec = ZipSpec() if spec is None else spec
        if len(networks) < 2:
            raise SpecError(f"zipping needs two or more networks, got {len(networks)}")
        for what, given in (("calibration", calibration), ("evaluation", evaluation), ("retraining", retraining)):
            if given is not None and len(given) != len(networks):
                raise DataError(f"{what} holds data of {len(given)} tasks for {len(networks)} networks; give one each")
        self.device = _device(spec.device)
        dtypes = [network_dtype(network) for network in networks]
        self.images = [as_images(data, f"calibration[{t}]", dtypes[t]) for t, data in enumerate(calibration)]
        self.networks = tuple(networks)
        self.alphas = spec.task_weights(len(networks))
        graphs = channel_graphs(networks, [images[:2].to(self.device) for images in self.images])
        self.network = ZippedNetwork(networks, graphs, spec.sparse, spec.own_bias)
        graphs = list(self.network.graphs)
        self.structures = tuple(graph.structure() for graph in graphs)
        self.trunk = trunk_of(self.structures, spec.trunk, spec.macs)
        if self.trunk is not None:
            self.network.lay_trunk(len(self.trunk.layers))
        asked = resolve_shares(1.0 if spec.share == "auto" else spec.share, graphs)
        asked |= {} if self.trunk is None else self.trunk.groups
        effective = effective_shares(self.structures, asked)
        self.shares = {name: effective.get(name, count) for name, count in asked.items()}
        self._blocked = [name for name, count in asked.items() if count > self.shares[name]]
        self.evaluation = [
            None if given is None else as_labelled(given, f"evaluation[{t}]", dtypes[t])
            for t, given in enumerate(evaluation or [None] * len(networks))
        ]
        check_shapes(self.images, [pair and pair[0] for pair in self.evaluation], "evaluation")
        self.live = [
            None if pair is None else (pair[0][:live_images], pair[1][:live_images]) for pair in self.evaluation
        ]
        self.retraining = self._retraining_data(retraining, dtypes) if spec.retrain is not None else []
        if self.retraining:
            check_shapes(self.images, [data.images for data in self.retraining], "retraining")
        self._teachers = [self._teacher(t) for t in range(len(networks))]
        self._halves = [self._split(t) for t in range(len(networks))]
        self._finished: list[int] = []
        self._planned = spec.share != "auto"
        self._settled: int | None = None if spec.calibration == "enough" else max(map(len, self.images))
        self._chosen = [torch.arange(len(images)) for images in self.images]
        self._decided: dict[int, list[set[int]]] = {}
        self.loop = LayerLoop(self.network, spec, self.alphas, self.shares, self._halves, self._decided)
        self.hidden = self.loop.hidden()
        self.stations = self.loop.stations()
        self._steps = self._spared = 0
        ahead = {index: self.loop.ahead(index) for index in self._first_producers()}
        self._clock = WorkClock(spec, self.network, self.stations, ahead, [len(images) for images in self.images])

    def _first_producers(self) -> list[int]:
        """The first layer of every channel group that is zipped."""
        first: dict[int, int] = {}
        for index in self.hidden:
            first.setdefault(self.network.graphs[0].layers[index].group, index)
        return list(first.values())

    def _retraining_data(self, given: Sequence[Any] | None, dtypes: Sequence[torch.dtype]) -> list[RetrainingData]:
        assert self.spec.retrain is not None
        labelled, seed = self.spec.retrain.targets == "labels", self.spec.seed
        if given is None:
            if labelled:
                raise DataError(
                    "retrain.targets is 'labels' but no labelled data was given; pass retraining=[(images, labels), …] "
                    "or retrain with targets='distill', which needs none"
                )
            return [RetrainingData(x, None, held_back(x, seed + t)) for t, x in enumerate(self.images)]
        data = []
        for t, item in enumerate(given):
            if labelled:
                images, labels = as_labelled(item, f"retraining[{t}]", dtypes[t])
            else:
                given_images = item[0] if isinstance(item, tuple) else item
                images, labels = as_images(given_images, f"retraining[{t}]", dtypes[t]), None
            data.append(RetrainingData(images, labels, held_back(images, seed + t, self.images[t])))
        return data

    def _teacher(self, t: int) -> Any:
        """The parent itself, as a function: its traced copy with its own weights."""
        return self.network.graphs[t].network.module.to(self.device)

    def _split(self, t: int) -> Tensor:
        """Half 0 or 1 of every calibration image: a seeded, balanced, random split."""
        halves = torch.arange(len(self.images[t])) % 2
        return halves[torch.randperm(len(halves), generator=torch.Generator().manual_seed(self.spec.seed + t))]

    def checkpoint(self) -> Checkpoint:
        """State after the layers finished so far; valid right after a `LayerFinished` event."""
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        decided = {str(g): [sorted(channels) for channels in per] for g, per in self._decided.items()}
        meta = {"finished": list(self._finished), "decided": decided, "steps": self._steps, "spared": self._spared}
        if self.spec.share == "auto":
            meta["plan"] = dict(self.shares)
        if self.spec.calibration == "enough":
            meta["images"] = self._settled
        return Checkpoint(tensors, {**meta, "network": self.network.description()})

    def _resume(self, checkpoint: Checkpoint) -> None:
        try:
            finished, decided = list(checkpoint.meta["finished"]), dict(checkpoint.meta["decided"])
            self._decided.clear()
            self._decided.update({int(g): [set(channels) for channels in per] for g, per in decided.items()})
            self._steps, self._spared = int(checkpoint.meta["steps"]), int(checkpoint.meta["spared"])
            network = checkpoint.meta["network"]
            if self._settled is None:
                self._settle(int(checkpoint.meta["images"]))
            if not self._planned:
                self._share({str(name): int(count) for name, count in checkpoint.meta["plan"].items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint is damaged ({error}); start the run again") from error
        if finished != self.stations[: len(finished)]:
            raise CheckpointError("the checkpoint belongs to another specification; start the run again")
        self.network.restore(network, checkpoint.tensors)
        self.network.to(self.device)
        self._finished = finished

    def run(self, resume: Checkpoint | None = None) -> Iterator[ev.Event]:
        """Do the work, yielding events (see `mtz_core.events`); closing the generator stops it.

        Args:
            resume: a checkpoint of an earlier, interrupted run of the same specification.

        Raises:
            MTZError: with a remedy, e.g. when calibration data gives NaN.
        """
        self._clock.begin()
        if resume is not None:
            self._resume(resume)
            self._clock.skip(self._finished, self._steps + self._spared)
        retraining = self.spec.retrain
        layers = self.network.graphs[0].layers
        if self._settled is None:
            yield from self._try_images()
        if not self._planned:
            yield from self._plan()
        yield ev.Started(
            **self._clock.now(),
            layers=tuple(layers[k].name for k in self.hidden),
            structures=self.structures,
            shared=dict(self.shares),
            alphas=self.alphas,
            retrain_steps=0 if retraining is None else retraining.steps,
            warnings=self._warnings(),
            images=tuple(len(images) for images in self.images),
            trunk=None if self.trunk is None else self.trunk.name,
        )
        yield self._evaluated("parents", None, parents=True)
        streams = self._streams()
        if self.spec.weighs_outputs:
            yield from self._weigh_outputs()
        latest: int | None = None
        for index, following in zip(self.stations, [*self.stations[1:], None], strict=True):
            latest = index if index in self.hidden else latest
            if index in self._finished:
                continue
            if index == latest:
                yield from self._zip_layer(index, streams)
                yield self._evaluated("zipped", layers[index].name)
            else:
                yield from self._compensate_layer(index, streams)
            # Layers that share nothing are fitted before the steps that belong to the layer before them: fitted
            # afterwards, they would forget what they have learnt.
            layerwise = retraining is not None and retraining.schedule == "layerwise"
            if retraining is not None and layerwise and latest is not None and (following in (None, *self.hidden)):
                steps = _portion(retraining.steps, len(self.hidden), self.hidden.index(latest))
                if steps:
                    yield from self._retrain(retraining, steps, layers[latest].name)
                    for stream in streams:
                        stream.restart()
            self._finished.append(index)
            yield ev.LayerFinished(**self._clock.now(), layer=layers[index].name)
        if retraining is not None and retraining.schedule == "final":
            yield from self._retrain(retraining, retraining.steps, None)
        yield from self._finish()

    def _try_images(self) -> Iterator[ev.Event]:
        """Find out how many calibration images are enough, and go on with these."""
        network = self._parents()
        mixed = [images[order] for images, order in zip(self.images, self._orders(), strict=True)]
        sizes = trial_sizes([len(images) for images in mixed]) if self.hidden else []
        self._clock.foresee("try", len(sizes) * len(self.hidden))
        if not sizes:
            self._settle(max(map(len, mixed)))
            return
        walk, number = trials(network.to(self.device), self.spec, self.alphas, mixed, self.device), 0
        while True:
            try:
                trial = next(walk)
            except StopIteration as end:
                self._settle(end.value)
                self._clock.leave("try")
                return
            self._clock.advance(("try", number))
            number += trial.done < trial.total
            yield ev.ImagesTried(
                **self._clock.now(),
                images=trial.images,
                done=trial.done,
                total=trial.total,
                loss=trial.loss,
                fall=trial.fall,
                regret=trial.regret,
                enough=trial.enough,
            )

    def _parents(self) -> ZippedNetwork:
        """Another network with nothing shared yet."""
        spec, trunk = self.spec, self.network.trunk
        return ZippedNetwork(self.networks, self.network.graphs, spec.sparse, spec.own_bias, trunk)

    def _orders(self) -> list[Tensor]:
        """The order in which each task's images are tried."""
        seeds = (self.spec.seed + 29 * t + 3 for t in range(len(self.images)))
        chances = (torch.Generator().manual_seed(seed) for seed in seeds)
        return [torch.randperm(len(x), generator=chance) for x, chance in zip(self.images, chances, strict=True)]

    def _settle(self, count: int) -> None:
        """Calibrate on at most so many images of every task."""
        for t, order in enumerate(self._orders()):
            self._chosen[t] = order[:count].sort().values
        self.images = [images[chosen] for images, chosen in zip(self.images, self._chosen, strict=True)]
        self._halves[:] = [self._split(t) for t in range(len(self.images))]
        self._settled = count

    def _plan(self) -> Iterator[ev.Event]:
        """Choose all shares under the budget."""
        forecast = Forecast(
            self._parents().to(self.device), self.spec, self.alphas, self.images, self.device, self.trunk
        )
        self._clock.foresee("plan", forecast.steps)
        for item in planned(forecast):
            if isinstance(item, Measuring):
                self._clock.advance(("plan", item.done))
                yield ev.Planning(**self._clock.now(), group=item.group, done=item.done, total=item.total)
            else:
                self._share(item.point.shares)
                self._clock.advance(("plan", forecast.steps))
                data: dict[str, Any] = {**self._clock.now(), **plan_data(item)}
                yield ev.Planned(**data)

    def _share(self, shares: Mapping[str, int]) -> None:
        """Share as many channels as were planned."""
        self.shares.update(shares)
        self._planned = True

    def _streams(self) -> list[Twin]:
        """Calibration images, then the evaluation images on which each layer's loss is measured."""
        spec, both = self.spec, []
        for images, live in zip(self.images, self.live, strict=True):
            both.append(images if live is None else torch.cat([images, live[0][: len(images)]]))
        budget = spec.activation_budget - self.loop.row_bytes([len(images) for images in both])
        return twins(self.network, both, spec.compensate, spec.batch_size, budget, self.device)

    def _weigh_outputs(self) -> Iterator[ev.Event]:
        """How much the outputs of each layer matter to every parent's answer, if there is still something to merge."""
        graph = self.network.graphs[0]
        left = [graph.groups[graph.layers[k].group].name for k in self.hidden if k not in self._finished]
        for t in range(len(self.images)):
            if not any(self.shares[name] for name in left):
                self._clock.advance(("weigh", t))
                continue
            for part in self.loop.weigh_outputs(t, self.images[t], self.device):
                self._clock.advance(("weigh", t), 1.0 - part)
                yield ev.OutputsWeighed(**self._clock.now(), task=t, part=part)

    def _compensate_layer(self, index: int, streams: Sequence[Twin]) -> Iterator[ev.Event]:
        """A layer that shares nothing makes up for what the merges before it have changed."""
        name = self.network.graphs[0].layers[index].name
        seen = self.loop.measure(index, streams, self.network.tables, peaks=False)
        self._clock.advance(("calibrate", index))
        outcome = self.loop.merge(seen, np.empty((0, self.network.tasks), dtype=np.int64))
        self.network.set_weights(index, outcome.weights)
        self._clock.advance(("merge", index))
        yield ev.LayerCompensated(
            **self._clock.now(),
            layer=name,
            predicted=outcome.predicted,
            measured=outcome.measured,
            scale=outcome.scale,
            measured_on=outcome.measured_on,
        )

    def _zip_layer(self, index: int, streams: Sequence[Twin]) -> Iterator[ev.Event]:
        network, loop = self.network, self.loop
        per_task = [graph.layers[index] for graph in network.graphs]
        name, group = per_task[0].name, per_task[0].group
        seen = loop.measure(index, streams, network.tables)
        rows = tuple(seen.samples[t].moments.rows if t in seen.samples else 0 for t in range(network.tasks))
        self._clock.advance(("calibrate", index))
        yield ev.LayerCalibrated(**self._clock.now(), layer=name, rows=rows)
        shown = {pair: _shown(difference) for pair, difference in seen.differences.items()}
        yield ev.DifferenceComputed(**self._clock.now(), layer=name, differences=shown, ridge=seen.work.ridge)

        fresh = loop.fresh(index)
        if all(len(channels) for channels in fresh.values()):
            costs: Costs = loop.costs(index, seen, fresh)
            if loop.wanted(index, fresh) and loop.ahead(index):
                for producer, together in loop.look_ahead(index, seen, fresh, streams):
                    costs = together or costs
                    if producer:
                        self._clock.advance(("ahead", index, producer))
                        yield ev.LookedAhead(**self._clock.now(), layer=name, producer=producer)
            loop.decide(index, fresh, loop.slots(index, costs, fresh, seen, network.tables))
        paired = loop.rows(index)
        if isinstance(seen.work, BankWork) or not any(len(channels) for channels in fresh.values()):
            seen.work.choose_ridge(paired)  # the pairing came from elsewhere: judge the ridge by it
        compared = tuple(_numpy(seen.work.compared(t)) for t in range(network.tasks))
        outcome = loop.merge(seen, paired)
        network.merge(index, outcome.weights, outcome.scales)
        self._clock.advance(("merge", index))
        nothing = np.empty((0, 0))
        yield ev.LayerZipped(
            **self._clock.now(),
            layer=name,
            group=network.graphs[0].groups[group].name,
            pairs=outcome.pairs,
            costs=_numpy(outcome.costs),
            predicted=outcome.predicted,
            measured=outcome.measured,
            scale=outcome.scale,
            measured_on=outcome.measured_on,
            ridge=seen.work.ridge,
            counts=network.counts(),
            weights=compared,
            merged=_numpy(outcome.merged),
            columns=tuple(outcome.columns[:, t] for t in range(network.tasks)),
            top_images=tuple(
                self._chosen[t].numpy()[seen.top_images[t]] if t in seen.top_images else nothing.astype(np.int64)
                for t in range(network.tasks)
            ),
            top_values=tuple(seen.top_values.get(t, nothing) for t in range(network.tasks)),
            matters=_diagonals(seen.work, network.tasks),
            scales=tuple(_numpy(scale) for scale in outcome.scales or ()),
        )
        if any(len(layer.nodes) > 1 for layer in per_task):
            for stream in streams:
                stream.restart()

    def _retrain(self, spec: RetrainSpec, steps: int, layer: str | None) -> Iterator[ev.Event]:
        first = self._steps
        seed = self.spec.seed + 7919 * (first + 1)
        walk = retrain(self.network, self.retraining, self._teachers, self.alphas, spec, steps, seed, self.device)
        for item in walk:
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
            if (self._steps - first) % spec.evaluate_every == 0 and self._steps - first < steps:
                yield self._evaluated("retraining", layer)
        yield self._evaluated("retrained", layer)

    def _evaluated(self, stage: Any, layer: str | None, parents: bool = False) -> ev.Evaluated:
        errors = self._errors(self.live, parents)
        return ev.Evaluated(
            **self._clock.now(),
            stage=stage,
            layer=layer,
            step=self._steps,
            errors=errors,
            images=tuple(0 if pair is None else len(pair[0]) for pair in self.live),
            counts=self.network.counts(),
        )

    def _errors(self, data: Sequence[tuple[Tensor, Tensor] | None], parents: bool) -> tuple[float, ...]:
        errors = []
        for t, pair in enumerate(data):
            if pair is None:
                errors.append(float("nan"))
                continue
            matrices = self.network.matrices(t)
            program = self.network.program(t)
            answer = self._teachers[t] if parents else lambda x, p=program, m=matrices: execute(p, x, m)
            errors.append(error_rate(answer, *pair, batch_size=512, device=self.device))
        return tuple(errors)

    def _finish(self) -> Iterator[ev.Event]:
        known = any(pair is not None for pair in self.evaluation)
        errors = self._errors(self.evaluation, parents=False) if known else None
        parents = self._errors(self.evaluation, parents=True) if known else None
        counts = self.network.counts()
        if errors is not None:
            images = tuple(0 if pair is None else len(pair[0]) for pair in self.evaluation)
            yield ev.Evaluated(
                **self._clock.now(),
                stage="final",
                layer=None,
                step=self._steps,
                errors=errors,
                images=images,
                counts=counts,
            )
        self._clock.end()
        yield ev.Finished(**self._clock.now(), counts=counts, errors=errors, parent_errors=parents)

    def _warnings(self) -> tuple[str, ...]:
        """What a user should know although nothing is wrong."""
        notes = []
        for t, images in enumerate(self.images):
            if len(images) < 100:
                notes.append(f"task {t} has only {len(images)} calibration images; predictions will be rough")
        for t, graph in enumerate(self.network.graphs):
            for group in graph.groups:
                if group.width and group.frozen is not None and group.frozen != HEAD:
                    notes.append(f"{', '.join(group.producers)} stay private (network {t}): {group.frozen}")
        for name in self._blocked:
            notes.append(f"{name} shares nothing: none of the channels that it reads is shared; share those first")
        for name in unfounded(self.structures, self.shares):
            notes.append(f"{name} reads nothing in common: its neurons are paired as they come, for the layers behind")
        return tuple(dict.fromkeys(notes))


def _diagonals(work: Work, tasks: int) -> tuple[ev.Floats, ...]:
    """How much each neuron of every task matters; nothing unless it is known of all of them."""
    weights = work.outputs if isinstance(work, LayerWork) else {}
    return tuple(_numpy(weights[t].diagonal()) for t in range(tasks)) if len(weights) == tasks else ()


def _portion(total: int, parts: int, index: int) -> int:
    """Size of part `index` when `total` is divided as evenly as whole numbers allow."""
    return total * (index + 1) // parts - total * index // parts


def _shown(difference: Any) -> Any:
    """Differences without infinities: pairs that are not allowed get the largest of all."""
    finite = np.isfinite(difference)
    return difference if finite.all() else np.where(finite, difference, difference[finite].max(initial=0.0))


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SpecError(f"device: {name!r} was asked for, but torch finds no CUDA GPU here; use 'cpu'")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SpecError(f"device: {name!r} was asked for, but torch finds no Metal GPU here; use 'cpu'")
    return device
