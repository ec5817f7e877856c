"""Progress of a zip, by a rough count of its operations."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from mtz_core.calibration.sensitivity import IMAGES
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.spec import ZipSpec

Unit = tuple[str | int, ...]
"""A piece of work: ("calibrate", layer), ("merge", layer), ("ahead", layer, name), ("weigh", task),
("step", number) or ("end",)."""


class WorkClock:
    """How much of the work is done, by a rough count of operations; good enough for a progress bar."""

    SPEED = 1.5e10

    def __init__(
        self,
        spec: ZipSpec,
        network: ZippedNetwork,
        hidden: Sequence[int],
        ahead: Mapping[int, Sequence[int]],
        images: Sequence[int],
    ) -> None:
        self.start = time.monotonic()
        self.units: dict[Unit, float] = {}
        size = sum(network.parent_sizes)
        calibrate, compare = {}, {}
        for index in hidden:
            layer = network.joint.layers[index]
            d, n = max(own.columns for own in layer.members), max(layer.widths)
            banks = max(own.banks for own in layer.members)
            rows = sum(images) * ((spec.positions or 64) if layer.kernel else 1)
            calibrate[index] = 0.04 + 2.0 * rows * min(d, rows) * d * banks / self.SPEED
            compare[index] = 0.05 + (4.0 * d**3 + 8.0 * d * d * n) / self.SPEED
            self.units[("calibrate", index)] = calibrate[index]
            self.units[("merge", index)] = compare[index]
        names = [layer.name for layer in network.joint.layers]
        for index, later in ahead.items():
            for k in later:
                self.units[("ahead", index, names[k])] = calibrate[k] + compare[k] / 2
        if spec.retrain is not None:
            step = 0.004 + 6.0 * size * spec.retrain.batch_size / self.SPEED
            self.units |= {("step", k + 1): step for k in range(spec.retrain.steps)}
        self.units[("end",)] = 0.2
        if spec.weighs_outputs:
            kernels = any(layer.kernel for layer in network.joint.layers)
            for t, count in enumerate(images):
                passes = 6.0 * min(count, IMAGES) * network.parent_sizes[t]
                self.units[("weigh", t)] = 0.1 + passes * (8 if kernels else 1) / self.SPEED
        self.whole = dict(self.units)
        self.total = sum(self.units.values())
        self.done = 0.0

    def begin(self) -> None:
        self.start = time.monotonic()

    def advance(self, unit: Unit, left: float = 0.0) -> None:
        """A unit is done, but for the part `left` of what it was."""
        before, after = self.units.pop(unit, 0.0), self.whole.get(unit, 0.0) * left
        self.done += before - after
        if left:
            self.units[unit] = after

    def foresee(self, what: str, steps: int) -> None:
        """Something comes first, in so many steps, numbered from one: about as much work as the zip itself."""
        share = self.total / max(1, steps)
        self.units |= {(what, k): share if k else 0.0 for k in range(steps + 1)}
        self.total += share * steps

    def leave(self, what: str) -> None:
        """What is left of it is not needed."""
        self.spare([u for u in self.units if u[0] == what])

    def spare(self, units: Iterable[Unit]) -> None:
        """These units are not needed."""
        for unit in units:
            self.total -= self.units.pop(unit, 0.0)

    def skip(self, layers: Sequence[int], steps: int) -> None:
        """Count what an earlier run finished: whole layers and so many retraining steps."""
        done = [u for u in self.units if u[0] in ("calibrate", "merge", "ahead") and u[1] in layers]
        for unit in [*done, *(("step", k + 1) for k in range(steps))]:
            self.advance(unit)

    def end(self) -> None:
        self.done = self.total

    def now(self) -> dict[str, float]:
        fraction = min(1.0, self.done / self.total) if self.total else 1.0
        return {"fraction": fraction, "seconds": time.monotonic() - self.start}
