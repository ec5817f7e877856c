"""Measures or estimates the harm of a finished run's merges after the run: torch's side of `undone` and `estimated`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from mtz_core.errors import RunError
from mtz_core.events import HarmMeasured
from mtz_core.layerwise.comparison import Calibrator
from mtz_core.layerwise.ledger import Ledger
from mtz_core.layerwise.walk import LayerWalk
from mtz_core.pairing.slots import shared_rows
from mtz_core.runs import estimated
from mtz_core.runs.encode import plain
from mtz_core.runs.estimated import Estimated, Neurons
from mtz_core.runs.inputs import gather, prepare
from mtz_core.runs.records import RunRecord
from mtz_core.runs.revisit import Revisited
from mtz_core.runs.store import RunStore
from mtz_core.runs.undone import Undone, keep
from mtz_core.zipping.harm import HarmMeter, Undoing
from mtz_core.zipping.pair_harm import PairMeter
from mtz_core.zipping.report import harm

WHAT = "merges can be undone"
UNSEEN = 2000
"""Inputs of each task that judge estimates, at most."""
FEWEST = 100
"""With fewer inputs that did not calibrate, those that did judge."""
OFTEN = 1.0
"""Seconds after which estimates are written down."""


def measure(
    store: RunStore,
    run_id: str,
    layer: str | None = None,
    neurons: Sequence[int | None] | None = None,
    dearest: int = 0,
) -> Iterator[Undone]:
    """Undo merges of a finished run for trial; keep what each wins back with the run, and yield it.

    Args:
        store: where the run is.
        run_id: the run.
        layer: the layer; `None`: every one.
        neurons: one for each task (`None`: none), of a pair of that layer that alone is undone.
        dearest: so many pairs of that layer are undone instead, one at a time: those that cost most.

    Raises:
        RunError: the run has no network, or shares no such pair.
        MTZError: networks or data of the run are not there any more.
    """
    record = store.get(run_id)
    meter = _meter(Revisited.of(store, record, prepare, WHAT))
    if layer is None:
        for trial in meter.measure():
            yield _kept(record, meter, trial, None)
        return
    group = _group(meter, layer)
    streams = meter.replay.streams(meter.reference[0])
    if neurons is None and not dearest:
        yield _kept(record, meter, meter.undo(group, None, streams), None)
        return
    pairs = [tuple(neurons)] if neurons is not None else _dearest(store, run_id, layer, dearest)
    for pair, slot in [(pair, _slot(meter, layer, pair)) for pair in pairs]:
        yield _kept(record, meter, meter.undo(group, [slot], streams), pair)


def estimate(store: RunStore, run_id: str, layer: str, most: int | None = None) -> Iterator[tuple[int, Estimated]]:
    """Estimate the harm of a layer's pairs, the dearest first; keep it with the run, and yield it with how many wait.

    Pairs that have an estimate are left out. What was found is kept when this is stopped, too.

    Args:
        store: where the run is.
        run_id: the run.
        layer: the layer.
        most: so many pairs of the layer are looked at, those that cost most; `None`: all.

    Raises:
        RunError: the run has no network, or shares nothing there.
        MTZError: networks or data of the run are not there any more.
    """
    record = store.get(run_id)
    run = Revisited.of(store, record, lambda of: gather(of.spec, unseen=UNSEEN), WHAT)
    inputs, meter = run.inputs, _meter(run)
    group = _group(meter, layer)
    enough = [len(x) >= FEWEST for x in inputs.unseen]
    judging = [b if ok else a for a, b, ok in zip(inputs.calibration, inputs.unseen, enough, strict=True)]
    known = estimated.of_layer(estimated.estimated(store, run_id), layer)
    wanted = [pair for pair in _dearest(store, run_id, layer, most) if pair not in known]
    slots = list(dict.fromkeys(_slot(meter, layer, pair) for pair in wanted))
    names, pairs = _names(store, run_id, meter, group), PairMeter(meter, group, judging)
    fresh, written = list[Estimated](), time.monotonic()
    try:
        for number, (slot, found) in enumerate(zip(slots, pairs.measure(slots), strict=True), start=1):
            each = Estimated(neurons=names[slot], unseen=tuple(enough), **vars(found))
            fresh.append(each)
            if time.monotonic() - written > OFTEN:
                estimated.keep(record, fresh)
                fresh, written = [], time.monotonic()
            yield len(slots) - number, each
    finally:
        if fresh:
            estimated.keep(record, fresh)


def _names(store: RunStore, run_id: str, meter: HarmMeter, group: int) -> dict[int, dict[str, tuple[Neurons, ...]]]:
    """For every shared slot of a group the pairs that it is, by layer."""
    found: dict[int, dict[str, tuple[Neurons, ...]]] = {}
    zipped = set(store.layers(run_id))
    for layer in (meter.job.joint.layers[k].name for k in meter.job.joint.producers(group)):
        for pair in _dearest(store, run_id, layer, None) if layer in zipped else ():
            named = found.setdefault(_slot(meter, layer, pair), {})
            named[layer] = (*named.get(layer, ()), pair)
    return found


def _dearest(store: RunStore, run_id: str, layer: str, count: int | None) -> list[Neurons]:
    """The pairs of a layer that cost most, all of them if no count is given."""
    arrays = store.layer_arrays(run_id, layer)
    if "pairs" not in arrays:
        return []
    chosen = arrays["pairs"][np.argsort(-arrays["costs"], kind="stable")[:count]]
    return [tuple(None if n < 0 else int(n) for n in pair) for pair in chosen]


def _meter(run: Revisited) -> HarmMeter:
    """The run as it stood at its end."""
    job, spec = run.job, run.spec
    calibrator = Calibrator(run.network, spec, job.alphas, run.sample.halves(spec.seed), answers=job.outputs)
    return HarmMeter(job, run.sample, LayerWalk(run.network, spec, Ledger(job.joint, run.shares), calibrator))


def _group(meter: HarmMeter, layer: str) -> int:
    """Number of the group whose channels a layer writes."""
    joint = meter.job.joint
    known = {joint.layers[k].name: g for g in meter.groups for k in joint.producers(g)}
    if layer not in known:
        raise RunError(f"no neuron of layer {layer!r} is shared in this run; those that share: {', '.join(known)}")
    return known[layer]


def _slot(meter: HarmMeter, layer: str, neurons: Neurons) -> int:
    """Number of the shared slot that holds these neurons of a layer."""
    joint = meter.job.joint
    members = next(found.members for found in joint.layers if found.name == layer)
    if len(neurons) != joint.tasks:
        raise RunError(f"{len(neurons)} neurons were named for {joint.tasks} networks; name one for each")
    if any(n is not None and not 0 <= n < own.width for n, own in zip(neurons, members, strict=True)):
        raise RunError(f"layer {layer!r} has {[own.width for own in members]} neurons; {list(neurons)} are not there")
    channels = [-1 if n is None else int(own.rows[n]) for n, own in zip(neurons, members, strict=True)]
    found = np.flatnonzero((shared_rows(meter.network.tables[_group(meter, layer)]) == channels).all(axis=1))
    if not len(found):
        raise RunError(f"neurons {list(neurons)} of layer {layer!r} are not one shared neuron in this run")
    return int(found[0])


def _kept(record: RunRecord, meter: HarmMeter, trial: Undoing, neurons: Neurons | None) -> Undone:
    event: HarmMeasured = harm({"fraction": 1.0, "seconds": 0.0}, meter, trial)
    found = Undone.of({**plain(event), "neurons": neurons})
    keep(record, [found])
    return found
