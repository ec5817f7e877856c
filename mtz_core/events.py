"""What the zipper tells its listeners, in order: planned (if asked for), started, per layer calibrated → difference →
zipped → retrained → evaluated, then measuring (if asked for), finished or failed.

A rival method tells less: started → parents evaluated → merging → merged → merging (measuring each task) → finished.

Events are frozen, hold numpy arrays and plain numbers only, and need no torch to be read. `fraction` is the share
of the whole run's work that is done, in [0, 1]; `seconds` counts from the start of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mtz_core.outputs.types import TaskType
from mtz_core.structure.networks import NetworkStructure
from mtz_core.structure.sizes import ParameterCounts

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Common to all events."""

    fraction: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ImagesTried(Event):
    """So many calibration images per task were tried: layer `done` of `total`.

    After the last layer, `loss` is the expected one, `fall` the part by which a layer's fell (geometric mean) and
    `regret` that by which pairs got better, with twice as many images; `enough` says that more would change little.
    See `mtz_core.zipping.sufficiency`.
    """

    images: int
    done: int
    total: int
    loss: float
    fall: float
    regret: float
    enough: bool


@dataclass(frozen=True, kw_only=True)
class Planning(Event):
    """Shares are being planned: step `done` of `total` looks at channel group `group`."""

    group: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Planned(Event):
    """All shares were chosen under the budget, before anything is merged.

    `shares` are channels per group; `parameters` and `error` (`changed` that are predicted to change, in %,
    see `TaskType.changed`) say what to expect. `curves[group]` holds `counts`, `errors` (of this group alone)
    and the `measured` counts; `frontier` the best predicted points at other sizes, as (parameters, error), by size.
    All was measured by so many `inputs` (0: nobody knows), which says how far it may be off (`budget.spread`).
    """

    shares: Mapping[str, int]
    parameters: int
    error: float
    curves: Mapping[str, Mapping[str, tuple[float, ...]]]
    frontier: tuple[tuple[float, ...], ...]
    changed: str = "answers"
    inputs: int = 0


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """The networks correspond, calibration is in order; `layers` will be zipped in this order."""

    layers: tuple[str, ...]
    structures: tuple[NetworkStructure, ...]
    shared: Mapping[str, int]
    alphas: tuple[float, ...]
    retrain_steps: int
    warnings: tuple[str, ...] = ()
    images: tuple[int, ...] = ()
    """Calibration images of every task that are used."""
    trunk: str | None = None
    """The last layer that is computed once for tasks that see the same images."""
    types: tuple[TaskType, ...] = ()
    """What each task's answers are; `TaskType.error` says what its errors count."""


@dataclass(frozen=True, kw_only=True)
class OutputsWeighed(Event):
    """So large a `part` of task `task`'s images was asked how much each layer's outputs matter to the answer."""

    task: int
    part: float


@dataclass(frozen=True, kw_only=True)
class LayerCalibrated(Event):
    """Moments of a layer's inputs are known: `rows[t]` input rows of task t were accumulated."""

    layer: str
    rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LookedAhead(Event):
    """Before `layer`'s channels are paired, the differences of `producer`, which writes to the same, were computed."""

    layer: str
    producer: str


@dataclass(frozen=True, kw_only=True)
class DifferenceComputed(Event):
    """Functional differences of all neuron pairs: `differences[(t, u)]` has shape (n_t, n_u).

    Where it is known how much each neuron matters, pairs that matter more differ more (see `LayerZipped.matters`).
    Neurons that cannot be paired (of different blocks of a grouped convolution) have the largest difference of all.
    """

    layer: str
    differences: Mapping[tuple[int, int], Floats]
    ridge: float


@dataclass(frozen=True, kw_only=True)
class LayerZipped(Event):
    """A layer's neurons were paired and merged.

    `pairs` (k, T) holds neuron indices in the parents' own numbering, cheapest first, -1 where a task has no part;
    `costs` (k,) what merging each adds to its loss: its functional difference, and with compensation that of the final
    targets and scales. `predicted` is the cross-validated loss of the merged neurons,
    `measured` their loss on the evaluation images where there are any (else on the calibration images): both are
    Σ_neurons Σ_t α_t ½ E(w·x - y_t)², where y_t is what the neuron puts out in the parent, and private neurons count,
    too; without compensation y_t = w_t·x. `scale` is the same sum for w = 0, so `predicted / scale` is relative.
    `weights[t]` (n_t, d_t) are the incoming weights that were compared (the parents' own, compensated or retrained
    where layers before were merged), `merged` (k, d) the shared neurons' over the shared
    input columns; `columns[t]` (d,) says which column of parent t each of these is, -1 for none. In a grouped
    convolution columns count from the start of each neuron's own group.
    `top_images[t]` (n_t, m) lists the calibration images on which each neuron fires most, `top_values[t]` how much.
    `matters[t]` (n_t,) is how much an error of each neuron's output changes the answer of network t, one on average;
    `scales[t]` (n_t,) by how much network t multiplies what each neuron shares, and `gains[t]` (d_t,) what each input
    shares (only ratios between networks mean something). They are empty where there is no such thing.
    """

    layer: str
    group: str
    pairs: Integers
    costs: Floats
    predicted: float
    measured: float
    scale: float
    measured_on: Literal["evaluation", "calibration"]
    ridge: float
    counts: ParameterCounts
    weights: tuple[Floats, ...] = field(repr=False)
    merged: Floats = field(repr=False)
    columns: tuple[Integers, ...] = field(repr=False)
    top_images: tuple[Integers, ...] = field(repr=False)
    top_values: tuple[Floats, ...] = field(repr=False)
    matters: tuple[Floats, ...] = field(default=(), repr=False)
    scales: tuple[Floats, ...] = field(default=(), repr=False)
    gains: tuple[Floats, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class LayerCompensated(Event):
    """A layer that shares nothing (a head, a frozen layer) was fitted to its parent's outputs.

    The numbers mean the same as in `LayerZipped`, summed over all its neurons.
    """

    layer: str
    predicted: float
    measured: float
    scale: float
    measured_on: Literal["evaluation", "calibration"]


@dataclass(frozen=True, kw_only=True)
class Merging(Event):
    """The rival `method` merges all layers at once; or its network is measured on the inputs of `task`."""

    method: str
    task: int | None = None


@dataclass(frozen=True, kw_only=True)
class Merged(Event):
    """The rival `method` is done; its network has these sizes."""

    method: str
    counts: ParameterCounts


@dataclass(frozen=True, kw_only=True)
class RetrainStep(Event):
    """One optimiser step on all tasks; `step` counts through the whole run, `losses[t]` is task t's batch loss."""

    layer: str | None
    step: int
    losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RetrainEnded(Event):
    """The steps after `layer` (`None`: after the last one) are over, and the best state is kept.

    Of `wanted` steps `taken` were taken; the state of step `kept` among them is kept, 0 being the one before. `before`
    and `after` are the judged losses of the first and of the kept state on `images[t]` images of task t that were held
    back (0: too few to hold any back). So often as `returns` says, the loss rose, the network went back to its best
    state and the rate was halved. `text` says all this in a sentence, with steps counted through the whole run.
    """

    layer: str | None
    wanted: int
    taken: int
    kept: int
    before: float
    after: float
    returns: int
    images: tuple[int, ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """Errors in % on held-out images, `errors[t]` of task t (NaN: task t has no labels), of what `TaskType.error` says.

    `scores[t]` are further measures by name, where there are any: mean average precision of attributes, mean
    intersection over union of places, mean absolute error of values.

    `stage` says of what: the parents themselves, the network after zipping `layer`, during its retraining (at
    `step`), after it, the finished network on the images of the stages before (`ended`), or on all test images.
    """

    stage: Literal["parents", "zipped", "retraining", "retrained", "ended", "final"]
    layer: str | None
    step: int
    errors: tuple[float, ...]
    images: tuple[int, ...]
    counts: ParameterCounts
    scores: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Harm:
    """What undoing the merge of channel group `group` alone wins back (see `mtz_core.zipping.undoing`).

    `layers` write its channels and are undone together. `before` is the same merges done again from `calibration`
    images of each task, without retraining steps, `after` that without this merge: `errors_…[t]` are task t's errors
    in % on `images[t]` images that judge (of labels where `labelled[t]`, else answers that are not the parent's), and
    `divergences_…[t]` the mean divergence of its answers from the parent's, in nats per image.
    """

    group: str
    layers: tuple[str, ...]
    errors_before: tuple[float, ...]
    errors_after: tuple[float, ...]
    divergences_before: tuple[float, ...]
    divergences_after: tuple[float, ...]
    images: tuple[int, ...]
    labelled: tuple[bool, ...]
    calibration: int


@dataclass(frozen=True, kw_only=True)
class HarmMeasured(Harm, Event):
    """The harm of one group, whose pairs were all undone."""


@dataclass(frozen=True, kw_only=True)
class LayerFinished(Event):
    """Nothing more happens to `layer` before the next one starts: the moment to save a checkpoint."""

    layer: str


@dataclass(frozen=True, kw_only=True)
class Result(Event):
    """The zipped network is ready; errors and scores as in `Evaluated`, and `types` as in `Started`."""

    counts: ParameterCounts
    errors: tuple[float, ...] | None
    parent_errors: tuple[float, ...] | None
    types: tuple[TaskType, ...] = ()
    scores: tuple[Mapping[str, float], ...] = ()
    parent_scores: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Measuring(Result):
    """What follows only measures the harm of so many `merges`, and may be cut off: the moment to save the network."""

    merges: int


@dataclass(frozen=True, kw_only=True)
class Finished(Result):
    """Nothing follows."""


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """The run ended early: `error` is the class name, `message` says what to do."""

    error: str
    message: str
