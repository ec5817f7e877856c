"""Made-up but consistent runs, written through the store's own interface: no torch, no networks, no training.

Differences, pairs and costs agree with one another (`costs` are the differences of the pairs, cheapest first), counts
follow from the structures, and errors rise and recover as those of a real run do.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtz_core.events import (
    DifferenceComputed,
    Evaluated,
    Event,
    Failed,
    Finished,
    HarmMeasured,
    LayerCalibrated,
    LayerFinished,
    LayerZipped,
    Measuring,
    RetrainEnded,
    RetrainStep,
    Started,
)
from mtz_core.runs.records import RunRecord, RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.spec import RunSpec, parse_run_spec
from mtz_core.structure.joint import joined
from mtz_core.structure.networks import GroupSummary, LayerSummary, NetworkStructure
from mtz_core.structure.sizes import plan_counts
from mtz_core.zipping.findings import Directions, Likeness, PairFindings, Parts, Responses, Stability

TASKS = ("mnist", "fashion", "letters")
CLASSES = {"mnist": 10, "fashion": 10, "letters": 26}


@dataclass(frozen=True)
class Layer:
    """A hidden layer: `per_channel` columns for each channel of the layer before, `kernel` for convolutions."""

    name: str
    width: int
    per_channel: int = 1
    kernel: tuple[int, ...] = ()


LENET300 = (Layer("fc1", 300), Layer("fc2", 100))
LENET5 = (Layer("conv1", 20, kernel=(5, 5)), Layer("conv2", 50, 25, (5, 5)), Layer("fc1", 500, 16))
INPUTS = {"": 784, "conv": 25}


def structure(layers: Sequence[Layer], classes: int, bias: bool = True) -> NetworkStructure:
    """Return a chain of `layers` and a head, as the engine would describe it."""
    summaries, groups, before = [], [], None
    for layer in layers:
        first = 25 if layer.kernel else 784
        columns = int(bias) + (first if before is None else before.width * layer.per_channel)
        inputs = {} if before is None else {before.name: layer.per_channel}
        kind = "Conv2d" if layer.kernel else "Linear"
        summaries.append(LayerSummary(layer.name, kind, layer.width, columns, layer.name, inputs, layer.kernel))
        groups.append(GroupSummary(layer.name, layer.width, (layer.name,)))
        before = layer
    assert before is not None
    summaries.append(LayerSummary("head", "Linear", classes, before.width + 1, None, {before.name: 1}))
    return NetworkStructure(tuple(summaries), tuple(groups))


def synthetic_spec(tasks: int = 2, *, title: str = "", architecture: str = "lenet300", **zip_fields: Any) -> RunSpec:
    """Return a specification that names bundled parents."""
    return parse_run_spec(
        {
            "title": title or f"{architecture}, {tasks} tasks",
            "networks": [{"parent": f"{architecture}-{TASKS[t % 3]}-0"} for t in range(tasks)],
            "zip": {"retrain": {"steps": 60, "evaluate_every": 10}, **zip_fields},
        }
    )


def synthetic_events(
    *,
    tasks: int = 2,
    layers: Sequence[Layer] = LENET300,
    share: float = 0.8,
    images: int = 200,
    seed: int = 0,
    bias: bool = True,
) -> Iterator[Event]:
    """Yield the events of a complete run, in the engine's order."""
    rng = np.random.default_rng(seed)
    clock = _Clock(total=2.0 + len(layers) * 37.0)
    names = [TASKS[t % 3] for t in range(tasks)]
    structures = tuple(structure(layers, CLASSES[name], bias) for name in names)
    shared = {layer.name: round(share * layer.width) for layer in layers}
    alphas = (1.0 / tasks,) * tasks
    nothing = plan_counts(joined(structures), {})
    parent_errors = tuple(round(1.5 + 4.0 * t + 0.1 * float(rng.random()), 2) for t in range(tasks))
    yield Started(
        **clock(), layers=tuple(layer.name for layer in layers), structures=structures, shared=shared, alphas=alphas,
        retrain_steps=30 * len(layers), warnings=(),
    )  # fmt: skip

    def evaluated(stage: Any, layer: str | None, step: int, extra: float, counts: Any, shown: int = 1000) -> Evaluated:
        errors = tuple(round(error + extra * (1.0 + 0.2 * t), 2) for t, error in enumerate(parent_errors))
        return Evaluated(
            **clock(), stage=stage, layer=layer, step=step, errors=errors, images=(shown,) * tasks, counts=counts
        )

    yield evaluated("parents", None, 0, 0.0, nothing)
    zipped: dict[str, int] = {}
    step, rest, counts = 0, 0.0, nothing
    for layer in layers:
        positions = 16 if layer.kernel else 1
        yield LayerCalibrated(**clock(), layer=layer.name, rows=(images * positions,) * tasks)
        differences = _differences(rng, layer.width, tasks)
        yield DifferenceComputed(**clock(), layer=layer.name, differences=differences, ridge=1e-3)
        zipped[layer.name] = shared[layer.name]
        counts = plan_counts(joined(structures), zipped)
        columns = next(item.columns for item in structures[0].layers if item.name == layer.name)
        event = _zipped(rng, clock, layer.name, differences, shared[layer.name], columns, tasks, images, counts)
        yield event
        loss = rest + 6.0 * event.predicted / event.scale * 10.0
        yield evaluated("zipped", layer.name, step, loss, counts)
        for i in range(30):
            step += 1
            left = float(np.exp(-i / 8.0))
            losses = tuple(float(0.05 + 0.6 * left * (1 + 0.1 * t) + 0.03 * rng.random()) for t in range(tasks))
            yield RetrainStep(**clock(), layer=layer.name, step=step, losses=losses)
            if step % 10 == 0:
                yield evaluated("retraining", layer.name, step, rest + (loss - rest) * (0.1 + 0.9 * left), counts)
        rest += 0.1 * (loss - rest)
        yield RetrainEnded(
            **clock(), layer=layer.name, wanted=30, taken=30, kept=30, before=0.2, after=0.1, returns=0,
            images=(100,) * tasks, text=f"Retraining after {layer.name} went on to step {step}",
        )  # fmt: skip
        yield evaluated("retrained", layer.name, step, rest, counts)
        yield LayerFinished(**clock(), layer=layer.name)
    final = evaluated("final", None, step, rest, counts, 2000)
    yield final
    found = {"counts": counts, "errors": final.errors, "parent_errors": parent_errors}
    yield Measuring(**clock(), **found, merges=len(layers))
    for number, layer in enumerate(layers, start=1):
        yield HarmMeasured(
            **clock(), group=layer.name, layers=(layer.name,), calibration=images, images=(1000,) * tasks,
            errors_before=tuple(error + 2.0 for error in parent_errors), labelled=(True,) * tasks,
            errors_after=tuple(error + 2.0 - 0.25 / number - 0.05 * t for t, error in enumerate(parent_errors)),
            divergences_before=(0.02,) * tasks, divergences_after=(0.02 - 0.005 / number,) * tasks,
        )  # fmt: skip
    yield Finished(fraction=1.0, seconds=clock()["seconds"], **found)


def synthetic_run(
    store: RunStore,
    *,
    tasks: int = 2,
    layers: Sequence[Layer] | None = None,
    status: str = "finished",
    seed: int = 0,
    title: str = "",
    share: float = 0.8,
    images: int = 200,
    bias: bool = True,
    origin: str | None = None,
    **zip_fields: Any,
) -> RunRecord:
    """Write a made-up run and return its record; further fields are those of its `ZipSpec`.

    `status` is any `RunStatus`: `"running"`, `"failed"`, `"cancelled"`, `"lost"` stop in the middle (a running one is
    this process's, for as long as it lives), `"queued"` has no events. `layers` defaults to LeNet-300-100; `LENET5` has
    convolutions, and without `bias` no hidden layer has one.
    """
    wanted, layers = RunStatus(status), tuple(layers or LENET300)
    architecture = "lenet5" if any(layer.kernel for layer in layers) else "lenet300"
    spec = synthetic_spec(tasks, title=title, architecture=architecture, share=share, **zip_fields)
    record = store.create(spec.model_copy(update={"origin": origin}))
    store.update_summary(record.id, tasks=[TASKS[t % 3] for t in range(tasks)])
    if wanted is RunStatus.QUEUED:
        return store.get(record.id)
    store.claim(record.id)
    rng = np.random.default_rng(seed)
    for task in range(tasks):
        store.save_images(record.id, task, _images(rng, images))
    events = list(synthetic_events(tasks=tasks, layers=layers, share=share, images=images, seed=seed, bias=bias))
    if wanted is not RunStatus.FINISHED:
        events = [event for event in events if not isinstance(event, HarmMeasured | Measuring)]
        events = events[: 2 + (len(events) - 2) * 2 // 3]
    for event in events:
        store.append(record.id, event)
    message = None
    if wanted is RunStatus.FAILED:
        message = "the Gram of layer 'fc2' holds NaN for task 1; check its calibration images"
        last = events[-1]
        store.append(
            record.id,
            Failed(fraction=last.fraction, seconds=last.seconds, error="NumericalError", message=message),
        )
    if wanted in (RunStatus.RUNNING, RunStatus.LOST):
        with sqlite3.connect(store.root / "runs.sqlite3") as db:
            pid = None if wanted is RunStatus.RUNNING else 2**22 + 1  # larger than any process identifier
            db.execute("UPDATE runs SET heartbeat = NULL, pid = coalesce(?, pid) WHERE id = ?", (pid, record.id))
            db.execute("UPDATE runs SET message = 'zipping' WHERE id = ?", (record.id,))
        db.close()
    else:
        store.set_status(record.id, wanted, message)
    return store.get(record.id)


class _Clock:
    """Counts the events of a run as its work."""

    def __init__(self, total: float) -> None:
        self.total, self.done = total, 0

    def __call__(self) -> dict[str, float]:
        self.done += 1
        return {"fraction": min(0.999, (self.done - 1) / self.total / 1.15), "seconds": 0.25 * self.done}


def _differences(rng: np.random.Generator, width: int, tasks: int) -> dict[tuple[int, int], Any]:
    """Half of the neurons have a close partner, at a position that only a permutation finds."""
    features = [rng.normal(size=(width, 8))]
    for _ in range(tasks - 1):
        noise = np.where(np.arange(width) < width // 2, 0.15, 1.0)[:, None] * rng.normal(size=(width, 8))
        features.append((features[0] + noise)[rng.permutation(width)])
    return {
        (t, u): np.square(features[t][:, None] - features[u][None]).mean(-1) / 2.0
        for t in range(tasks)
        for u in range(t + 1, tasks)
    }


def _zipped(
    rng: np.random.Generator, clock: _Clock, name: str, differences: dict[tuple[int, int], Any], k: int, columns: int,
    tasks: int, images: int, counts: Any,
) -> LayerZipped:  # fmt: skip
    width = differences[0, 1].shape[0]
    partners = [_greedy(differences[0, t], k) for t in range(1, tasks)]
    pairs = np.stack([np.arange(width), *partners], axis=1)
    costs = sum(differences[0, t][pairs[:, 0], pairs[:, t]] for t in range(1, tasks)) / (tasks - 1)
    order = np.argsort(costs, kind="stable")[:k]
    pairs, costs = pairs[order], costs[order]
    weights = tuple(rng.normal(scale=columns**-0.5, size=(width, columns)).astype(np.float32) for _ in range(tasks))
    tops = [np.sort(rng.exponential(size=(width, 9)).astype(np.float32), axis=1)[:, ::-1] for _ in range(tasks)]
    return LayerZipped(
        **clock(), layer=name, group=name, pairs=pairs, costs=costs, predicted=float(costs.sum()) / 4,
        measured=float(costs.sum()) / 4 * 1.05, scale=float(width), measured_on="evaluation", ridge=1e-3, counts=counts,
        weights=weights, merged=sum(w[pairs[:, t]] for t, w in enumerate(weights)) / tasks,
        columns=(np.arange(columns),) * tasks,
        top_images=tuple(rng.integers(0, images, size=(width, 9)) for _ in range(tasks)), top_values=tuple(tops),
        matters=tuple(np.linspace(0.5, 1.5, width) for _ in range(tasks)),
        scales=tuple(np.linspace(1.0, 1.0 + t, width) for t in range(tasks)),
        gains=tuple(np.linspace(1.0, 1.5 + t, columns) for t in range(tasks)),
    )  # fmt: skip


def _greedy(difference: Any, k: int) -> Any:
    """Return a permutation that pairs rows with columns, cheapest first."""
    width = difference.shape[0]
    partner = np.full(width, -1)
    free = np.ones(width, dtype=bool)
    for row in np.argsort(difference.min(axis=1), kind="stable"):
        column = int(np.argmin(np.where(free, difference[row], np.inf)))
        partner[row], free[column] = column, False
    return partner


def _images(rng: np.random.Generator, count: int) -> Any:
    """Return blurry strokes: (count, 1, 28, 28) in [0, 1]."""
    y, x = np.mgrid[0:28, 0:28]
    angle, offset = rng.uniform(0, np.pi, size=(2, count, 1, 1))
    distance = np.cos(angle) * (x - 14) + np.sin(angle) * (y - 14) - 3 * np.cos(offset * 2)
    inside = (x - 14) ** 2 + (y - 14) ** 2 < 100
    return (np.exp(-(distance**2) / 6) * inside)[:, None].astype(np.float32)


if __name__ == "__main__":
    began = time.perf_counter()
    target = RunStore()
    for wanted_status in ("finished", "failed", "running"):
        print(synthetic_run(target, status=wanted_status).id, wanted_status)
    print(f"{target.root}: {time.perf_counter() - began:.1f} s")


def synthetic_findings(layer: str, neurons: tuple[int, int], *, inputs: int = 24, seed: int = 0) -> PairFindings:
    """Return made-up findings of a pair of the first two tasks, whose parts agree with one another."""
    rng = np.random.default_rng(seed)
    values, squares = np.sort(rng.random(inputs))[::-1].copy(), rng.random(inputs) ** 3
    parts = 0.5 * values * squares
    split = rng.normal(size=inputs)
    split *= parts.sum() / split.sum()
    channels = np.stack([np.zeros(inputs), np.arange(inputs), rng.permutation(inputs)], axis=1).astype(np.int64)
    columns = np.stack([np.arange(inputs)] * 2, axis=1)
    spectrum = np.exp(-np.arange(30) / 4.0)
    sides, likes = [], []
    for t in (0, 1):
        points = np.cumsum(rng.normal(size=(60, 3)), axis=1).astype(np.float32)
        numbers = rng.permutation(40)[:5]
        top = np.sort(rng.random(5).astype(np.float32))[::-1].copy()
        sides.append(Responses(points, (0.9, 0.2), 40, numbers, top, numbers[::-1].copy(), top, ""))
        likes.append(Likeness(layer, t, 0.98 - 0.1 * t, 40, spectrum, 200, 785, 4.2, 3.1))
    stability = Stability(80, (80, 80), (60, 64), 55, 21.3, (True, False))
    return PairFindings(
        layer, (0, 1), neurons, float(parts.sum()), Parts(split, columns, np.arange(inputs), channels, (layer,)),
        Directions(values, squares, parts, 0.0), (sides[0], sides[1]), (likes[0], likes[1]), stability,
    )  # fmt: skip
