"""A rival's run: networks merged by a method of `mtz_core.baselines`, measured and told as a zip is.

Networks, data, types, errors and answers are those of a zip; only what happens between them differs. A method merges
all layers in one call, so a run that was interrupted starts anew, and there are no layers to look into.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from mtz_core import events as ev
from mtz_core.errors import RunError
from mtz_core.outputs.kind import Scores
from mtz_core.runs.rival_check import merged, require_able
from mtz_core.spec import RivalSpec, ZipSpec
from mtz_core.structure.sizes import ParameterCounts
from mtz_core.zipping.answered import Ask, Sides
from mtz_core.zipping.checkpoint import Checkpoint
from mtz_core.zipping.evaluation import BATCH, measured
from mtz_core.zipping.prepare import Data, Given, Labelled, prepare
from mtz_core.zipping.report import beside_parents, result

UNKNOWN = Scores(float("nan"))


class Rival:
    """Merges T networks as a rival does; `run` does the work.

    Args:
        networks: trained parents, one per task; never modified.
        calibration: per task unlabelled inputs.
        spec: share, types and seed; the other fields do not apply.
        rival: which method, and how.
        evaluation: per task labelled inputs `(images, labels)`, or `None`.
        live_images: at most this many of them show the parents' errors before the merge.

    Raises:
        MTZError: the networks, the data or the settings are outside what a zip or this method takes.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        calibration: Sequence[Data],
        spec: ZipSpec,
        rival: RivalSpec,
        evaluation: Sequence[Given | None] | None = None,
        live_images: int | None = None,
    ) -> None:
        assert isinstance(spec.share, float)  # the specification has been validated
        self.rival, self.share = rival, spec.share
        self.job = prepare(networks, calibration, spec, evaluation, None, live_images)
        self.sample = self.job.sample
        require_able(self.job.networks, self.sample.images, rival, self.share)
        self.network: nn.Module | None = None
        self._clock = _Clock(self.sample.counts, _counted(self.job.live), _counted(self.job.evaluation))

    def run(self, resume: Checkpoint | None = None) -> Iterator[ev.Event]:
        """Do the work, yielding events; an interrupted run has no checkpoint (`resume` is `None`) and starts anew.

        Raises:
            MTZError: with a remedy, where the method cannot merge these networks.
        """
        job, clock, method = self.job, self._clock, self.rival.method
        tasks = range(len(job.networks))
        clock.begin()
        yield self._started()
        sizes = tuple(network.parameters for network in job.joint.structure.networks)
        yield self._evaluated("parents", self._parents(job.live), job.live, ParameterCounts(0, sizes, sizes))
        clock.advance("live")
        yield ev.Merging(**clock.now(), method=method)
        found = merged(job.networks, self.sample.images, self.rival, self.share)
        self.network, counts = found.network, found.counts
        clock.advance("merge")
        yield ev.Merged(**clock.now(), method=method, counts=counts)
        final = parents = None
        if any(pair is not None for pair in job.evaluation):
            scores = []
            for t in tasks:
                yield ev.Merging(**clock.now(), method=method, task=t)
                scores.append(self._score(t, self.sides(t)[1], job.evaluation[t]))
                clock.advance("merged", t)
            parents = self._parents(job.evaluation)
            clock.advance("parents")
            final = beside_parents(self._evaluated("final", scores, job.evaluation, counts), parents)
            yield final
        yield ev.Finished(**result({**clock.now(), "fraction": 1.0}, job, counts, final, parents))

    def sides(self, task: int) -> Sides:
        """The task's parent, and the merged network's answers of that task. Raises `RunError` before it is merged."""
        if self.network is None:
            raise RunError("the networks are not merged yet")
        return self._parent(task), partial(self.network, task=task)

    def checkpoint(self) -> Checkpoint:
        """Never asked for: no layer is finished before all are."""
        raise RunError("a rival's run has no checkpoint; it starts anew")

    def _started(self) -> ev.Started:
        job = self.job
        return ev.Started(
            **self._clock.now(), layers=(), structures=job.joint.structure.networks, shared={}, alphas=job.alphas,
            retrain_steps=0, warnings=tuple(dict.fromkeys((*job.assumed, *job.odd))), images=self.sample.counts,
            types=job.types,
        )  # fmt: skip

    def _parent(self, task: int) -> Ask:
        return self.job.joint.graphs[task].network.outputs

    def _parents(self, data: Sequence[Labelled | None]) -> list[Scores]:
        return [self._score(t, self._parent(t), pair) for t, pair in enumerate(data)]

    def _score(self, task: int, answer: Ask, pair: Labelled | None) -> Scores:
        return UNKNOWN if pair is None else measured(answer, *pair, self.job.outputs[task], BATCH, torch.device("cpu"))

    def _evaluated(
        self,
        stage: Literal["parents", "final"],
        scores: Sequence[Scores],
        data: Sequence[Labelled | None],
        counts: ParameterCounts,
    ) -> ev.Evaluated:
        return ev.Evaluated(
            **self._clock.now(), stage=stage, layer=None, step=0, errors=tuple(each.error for each in scores),
            images=tuple(_counted(data)), counts=counts, scores=tuple(each.more for each in scores),
        )  # fmt: skip


class _Clock:
    """How much of the work is done, counted in inputs times the networks that read them.

    A merged network runs all T bodies for every task; the last part is what it and the parents answer, which is kept.
    """

    def __init__(self, images: Sequence[int], live: Sequence[int], tested: Sequence[int]) -> None:
        tasks, self._done, self._began = len(images), 0.0, time.monotonic()
        self._units: dict[tuple[str, int], float] = {
            ("live", 0): sum(live), ("merge", 0): 2.0 * tasks * sum(images), ("parents", 0): sum(tested),
            ("answers", 0): (1.0 + tasks) * sum(tested) + 1.0,
        }  # fmt: skip
        self._units |= {("merged", t): float(tasks * count) for t, count in enumerate(tested)}
        self._total = sum(self._units.values())

    def begin(self) -> None:
        self._began = time.monotonic()

    def advance(self, what: str, number: int = 0) -> None:
        self._done += self._units.pop((what, number), 0.0)

    def now(self) -> dict[str, Any]:
        return {"fraction": self._done / self._total, "seconds": time.monotonic() - self._began}


def _counted(data: Sequence[Labelled | None]) -> list[int]:
    return [0 if pair is None else len(pair[0]) for pair in data]
