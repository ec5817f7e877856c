"""The short way: networks and unlabelled data in, one zipped network and its layers' records out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mtz_core import events as ev
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.outputs.types import TaskType
from mtz_core.spec import TypeSpec, ZipSpec
from mtz_core.structure.sizes import ParameterCounts
from mtz_core.zipping.zipper import Zipper


@dataclass(frozen=True)
class LayerResult:
    """What happened in one layer; the fields are those of the events of the same names (numpy arrays)."""

    name: str
    differences: Mapping[tuple[int, int], ev.Floats] = field(repr=False)
    pairs: ev.Integers = field(repr=False)
    costs: ev.Floats = field(repr=False)
    merged: ev.Floats = field(repr=False)
    predicted: float
    measured: float
    scale: float
    ridge: float

    @property
    def difference(self) -> ev.Floats:
        """Functional difference of the neurons of task 0 and task 1, (n_0, n_1)."""
        return self.differences[(0, 1)]


@dataclass(frozen=True)
class ZipResult:
    """A zipped network, its layers' records, sizes, and test errors in % if evaluation data was given.

    `errors` (of what, `types` say) and `scores` are None and empty without evaluation data.
    """

    network: ZippedNetwork
    layers: tuple[LayerResult, ...]
    counts: ParameterCounts
    errors: tuple[float, ...] | None
    parent_errors: tuple[float, ...] | None
    seconds: float
    warnings: tuple[str, ...]
    images: tuple[int, ...] = ()
    """Calibration images of every task that were used."""
    notes: tuple[str, ...] = ()
    """What retraining came to, a sentence for each layer after which there was some."""
    types: tuple[TaskType, ...] = ()
    """What each task's answers are; `types[t].error` says what `errors[t]` counts."""
    scores: tuple[Mapping[str, float], ...] = ()
    """Further measures of every task by name, e.g. the mean average precision of attributes."""
    parent_scores: tuple[Mapping[str, float], ...] = ()


def zip_networks(
    networks: Sequence[nn.Module],
    calibration: Sequence[Tensor | Iterable[Any]],
    spec: ZipSpec | None = None,
    *,
    evaluation: Sequence[tuple[Tensor, Tensor] | None] | None = None,
    retraining: Sequence[Any] | None = None,
    types: Sequence[str | Mapping[str, Any] | TypeSpec | None] | None = None,
    on_event: Callable[[ev.Event], None] | None = None,
) -> ZipResult:
    """Zip several trained networks, one per task, into one.

    Args:
        networks: the parents, never modified.
        calibration: per task unlabelled inputs, a tensor (N, ...) or an iterable of batches.
        spec: how to zip; `ZipSpec()` shares every hidden layer fully and does not retrain.
        evaluation: per task `(images, labels)`, to report errors. Labels are classes (N,), 0 or 1 or values (N, K), or
            all this per pixel or token.
        retraining: per task inputs or `(images, labels)`; the calibration inputs if omitted.
        types: what each network's answers are, e.g. `["multiclass", "multilabel"]` (see `TypeSpec`); found, if omitted
            or None, where labels or the network leave no doubt. The same as `spec.types`.
        on_event: called with every event as it happens.

    Raises:
        MTZError: whatever is wrong with networks, data or specification, with the remedy.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
        >>> result = zip_networks([a, b], [torch.randn(200, 4), torch.randn(200, 4)])
        >>> result.network(torch.randn(5, 4), task=1).shape
        torch.Size([5, 3])
    """
    spec = (ZipSpec() if spec is None else spec).with_types(types)
    zipper = Zipper(networks, calibration, spec, evaluation=evaluation, retraining=retraining)
    differences: dict[str, ev.DifferenceComputed] = {}
    layers: list[LayerResult] = []
    warnings: tuple[str, ...] = ()
    images: tuple[int, ...] = ()
    notes: list[str] = []
    finished: ev.Finished | None = None
    for event in zipper.run():
        if on_event is not None:
            on_event(event)
        if isinstance(event, ev.Started):
            warnings, images = event.warnings, event.images
        elif isinstance(event, ev.DifferenceComputed):
            differences[event.layer] = event
        elif isinstance(event, ev.LayerZipped):
            layers.append(_layer_result(differences[event.layer], event))
        elif isinstance(event, ev.RetrainEnded):
            notes.append(event.text)
        elif isinstance(event, ev.Finished):
            finished = event
    assert finished is not None
    final = (finished.counts, finished.errors, finished.parent_errors, finished.seconds)
    said = (finished.types, finished.scores, finished.parent_scores)
    return ZipResult(zipper.network, tuple(layers), *final, warnings, images, tuple(notes), *said)


def _layer_result(difference: ev.DifferenceComputed, zipped: ev.LayerZipped) -> LayerResult:
    return LayerResult(
        zipped.layer,
        difference.differences,
        zipped.pairs,
        zipped.costs,
        zipped.merged,
        zipped.predicted,
        zipped.measured,
        zipped.scale,
        zipped.ridge,
    )
