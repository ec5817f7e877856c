"""What a layer's events say: numbers of a comparison and an outcome as plain arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mtz_core import events as ev
from mtz_core.layerwise.comparison import Comparison, as_array
from mtz_core.layerwise.ledger import Ledger
from mtz_core.layerwise.outcome import Outcome
from mtz_core.layerwise.problem import LayerProblem
from mtz_core.outputs.kind import Scores
from mtz_core.outputs.values import ABSOLUTE
from mtz_core.structure.sizes import ParameterCounts
from mtz_core.zipping.prepare import Job, Sample
from mtz_core.zipping.progress import WorkClock

if TYPE_CHECKING:
    from mtz_core.zipping.harm import HarmMeter, Undoing

Now = Mapping[str, float]
"""Fraction of the work that is done, and seconds."""


def started(now: Now, job: Job, sample: Sample, shares: Mapping[str, int]) -> ev.Started:
    """All is in order, and these layers will be zipped."""
    joint = job.joint
    return ev.Started(
        **now,
        layers=tuple(joint.layers[k].name for k in Ledger(joint, shares).hidden()),
        structures=joint.structure.networks,
        shared=dict(shares),
        alphas=job.alphas,
        retrain_steps=0 if job.spec.retrain is None else job.spec.retrain.steps,
        warnings=job.warnings(sample, shares),
        images=sample.counts,
        trunk=None if job.trunk is None else job.trunk.name,
        types=job.types,
    )


def differences(now: Now, name: str, seen: Comparison) -> ev.DifferenceComputed:
    """The differences of all pairs of neurons; those that are not allowed get the largest of all."""
    shown = {pair: _finite(difference) for pair, difference in seen.differences.items()}
    return ev.DifferenceComputed(**now, layer=name, differences=shown, ridge=seen.problem.ridge)


def compensated(now: Now, name: str, outcome: Outcome) -> ev.LayerCompensated:
    """A layer that shares nothing was fitted."""
    return ev.LayerCompensated(
        **now,
        layer=name,
        predicted=outcome.predicted,
        measured=outcome.measured,
        scale=outcome.scale,
        measured_on=outcome.measured_on,
    )


def zipped(
    now: Now,
    name: str,
    group: str,
    seen: Comparison,
    outcome: Outcome,
    compared: Sequence[Tensor],
    counts: ParameterCounts,
    chosen: Sequence[Tensor],
) -> ev.LayerZipped:
    """A layer was merged.

    Args:
        now: see `Now`.
        name, group: of the layer and of the channels that it writes.
        seen: what was known of it.
        outcome: what came out.
        compared: weights (n_t, d_t) of every task that were compared.
        counts: sizes of the network so far.
        chosen: numbers of the calibration images among those that were given.
    """
    tasks = range(len(compared))
    nothing = np.empty((0, 0))
    images, values = seen.top_images, seen.top_values
    return ev.LayerZipped(
        **now,
        layer=name,
        group=group,
        pairs=outcome.pairs,
        costs=as_array(outcome.costs),
        predicted=outcome.predicted,
        measured=outcome.measured,
        scale=outcome.scale,
        measured_on=outcome.measured_on,
        ridge=seen.problem.ridge,
        counts=counts,
        weights=tuple(map(as_array, compared)),
        merged=as_array(outcome.merged),
        columns=tuple(outcome.columns[:, t] for t in tasks),
        top_images=tuple(chosen[t].numpy()[images[t]] if t in images else nothing.astype(np.int64) for t in tasks),
        top_values=tuple(values.get(t, nothing) for t in tasks),
        matters=_importances(seen.problem, len(compared)),
        scales=tuple(as_array(scale) for scale in outcome.scales or ()),
        gains=tuple(as_array(gain) for gain in outcome.gains or ()),
    )


def harm(now: Now, meter: HarmMeter, undone: Undoing) -> ev.HarmMeasured:
    """A group's merges were undone for trial."""
    joint, hidden = meter.job.joint, meter.walk.ledger.hidden()
    return ev.HarmMeasured(
        **now,
        group=joint.groups[undone.group].name,
        layers=tuple(joint.layers[k].name for k in hidden if joint.layers[k].group == undone.group),
        errors_before=undone.before.errors,
        errors_after=undone.after.errors,
        divergences_before=undone.before.divergences,
        divergences_after=undone.after.divergences,
        images=tuple(len(images) for images, _ in meter.judged),
        labelled=tuple(labels is not None for _, labels in meter.judged),
        calibration=meter.images,
    )


def harms(clock: WorkClock, meter: HarmMeter) -> Iterator[ev.Event]:
    """Every merge is undone for trial, one after the other."""
    for number, undone in enumerate(meter.measure(), start=1):
        clock.advance(("harm", number))
        yield harm(clock.now(), meter, undone)
    clock.leave("harm")


def beside_parents(final: ev.Evaluated, parents: Sequence[Scores]) -> ev.Evaluated:
    """The last errors, with the mean absolute error of values in those of the parents, too."""
    both = []
    for more, before in zip(final.scores, parents, strict=True):
        reference = before.more.get(ABSOLUTE)
        times = {f"{ABSOLUTE}, times the parent's": more[ABSOLUTE] / reference} if reference else {}
        both.append({**more, **times})
    return replace(final, scores=tuple(both))


def result(
    now: Now, job: Job, counts: ParameterCounts, final: ev.Evaluated | None, parents: Sequence[Scores] | None
) -> dict[str, Any]:
    """What came out, as fields of an event; nothing is known of errors where there were no labels."""
    return {
        **now,
        "counts": counts,
        "errors": None if final is None else final.errors,
        "parent_errors": None if parents is None else tuple(each.error for each in parents),
        "types": job.types,
        "scores": () if final is None else final.scores,
        "parent_scores": tuple(each.more for each in parents or ()),
    }


def _importances(problem: LayerProblem, tasks: int) -> tuple[ev.Floats, ...]:
    """How much each neuron of every task matters; nothing unless it is known of all of them."""
    known = [problem.importance(t) for t in range(tasks)]
    found = [as_array(importance) for importance in known if importance is not None]
    return tuple(found) if len(found) == tasks else ()


def _finite(difference: Any) -> Any:
    finite = np.isfinite(difference)
    return difference if finite.all() else np.where(finite, difference, difference[finite].max(initial=0.0))
