"""The harm that every merge does: what undoing it alone would win back, in each task's own error.

All layers that write one channel group are undone together: they share one pairing. Replays (see `undoing`) take
about as long as `ALLOWED` zips, whatever the depth: where they would take longer, fewer calibration images are used.
They are compared with the same merges done again from the same images, by the same ridges, with nothing undone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from mtz_core.calibration.sensitivity import Sensitivity
from mtz_core.calibration.stream import Twin
from mtz_core.layerwise.comparison import Calibrator
from mtz_core.layerwise.walk import LayerWalk
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.pairing.slots import shared_rows
from mtz_core.zipping.prepare import Job, Sample
from mtz_core.zipping.undoing import Judge, Judged, Replay, Standing, Weights, without

ALLOWED = 3.0
"""Zips that all replays together may cost in calibration."""
FEWEST = 300
"""Calibration images of each task that are used in any case, if there are so many."""


@dataclass(frozen=True)
class Undoing:
    """A network with the merges of channel group number `group` undone (`slots`: of these alone), and without."""

    group: int
    before: Standing
    after: Standing


@dataclass
class HarmMeter:
    """Undoes merges of a zipped network, one group or slot at a time.

    Args:
        job: what was zipped.
        sample: the calibration images.
        walk: how layers were merged; its network is the zipped one.
    """

    job: Job
    sample: Sample
    walk: LayerWalk

    @property
    def network(self) -> ZippedNetwork:
        """The zipped network."""
        return self.walk.network

    @property
    def groups(self) -> list[int]:
        """Groups of which channels are shared, in the order in which their first layers are merged."""
        found = dict.fromkeys(self.job.joint.layers[k].group for k in self.walk.ledger.hidden())
        return [g for g in found if len(shared_rows(self.network.tables[g]))]

    def first(self, group: int) -> int:
        """The first layer that writes a group's channels and was merged."""
        return next(k for k in self.walk.ledger.hidden() if self.job.joint.layers[k].group == group)

    @cached_property
    def images(self) -> int:
        """Calibration images of each task that replays use, at most."""
        stations, most = self.walk.stations(), max(self.sample.counts)
        tails = sum(sum(k >= self.first(g) for k in stations) for g in self.groups) / max(1, len(stations))
        if tails <= ALLOWED:
            return most
        return min(most, max(FEWEST, math.ceil(most * ALLOWED / tails)))

    @cached_property
    def replay(self) -> Replay:
        """Merges again, on these images."""
        seed, spec, walk = self.job.spec.seed, self.job.spec, self.walk
        fewer = self.sample
        if self.images < max(self.sample.counts):
            orders = self.sample.orders(seed)
            fewer = self.sample.narrowed([order[: self.images].sort().values for order in orders])
        calibrator = Calibrator(
            self.job.network(), spec, self.job.alphas, fewer.halves(seed), self._weighed(), answers=self.job.outputs
        )
        return Replay(calibrator, walk.stations(), walk.ledger.hidden(), fewer.images, self.job.device)

    def _weighed(self) -> list[dict[str, Sensitivity]]:
        """How much every layer's outputs matter; a run that was resumed after its last layer does not know."""
        found = self.walk.calibrator
        if self.job.spec.weighs_outputs and not found.outputs:
            for t, images in enumerate(self.sample.images):
                for _ in found.weigh_outputs(t, images, self.job.device):
                    pass
        return found.outputs

    @cached_property
    def judge(self) -> Judge:
        """On live evaluation images, on calibration images where there are none."""
        spec = self.job.spec
        return Judge(
            self.replay.calibrator.network,
            self.judged,
            self.job.outputs,
            spec.batch_size,
            spec.activation_budget,
            self.job.device,
        )

    @property
    def judged(self) -> list[Judged]:
        """Images that judge, and labels where there are any."""
        pairs = zip(self.job.live, self.sample.images, strict=True)
        return [(images, None) if live is None else live for live, images in pairs]

    @cached_property
    def start(self) -> Weights:
        """What undoing is compared with: the same merges from the same images."""
        first = self.walk.stations()[0]
        return self.replay.weights(self.network.tables, first, {}, self.replay.streams({}))

    @cached_property
    def reference(self) -> tuple[Weights, Standing]:
        """The same, and how it does."""
        return self.start, self.judge.standing(self.start)

    def measure(self) -> Iterator[Undoing]:
        """Undo every group, in order."""
        streams = self.replay.streams(self.reference[0])
        for group in self.groups:
            yield self.undo(group, None, streams)

    def undo(self, group: int, slots: Sequence[int] | None = None, streams: Sequence[Twin] | None = None) -> Undoing:
        """Undo a group's merges, or of its shared slots only those with these numbers."""
        start, before = self.reference
        first = self.first(group)
        ways = self.replay.streams(start) if streams is None else streams
        self.replay.bring(ways, first)
        weights = self.replay.weights(without(self.network.tables, group, slots), first, start, ways)
        return Undoing(group, before, self.judge.standing(weights, start, first))
