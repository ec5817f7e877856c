"""What a zipped network and its parents answer to the same inputs, in the plain form of each type of task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mtz_core.network.zipped import ZippedNetwork
from mtz_core.outputs.kind import Output, some_places
from mtz_core.outputs.several import Several
from mtz_core.outputs.types import TaskType
from mtz_core.zipping.evaluation import answers_of, parent

BATCH = 256
Ask = Callable[[Tensor], Tensor]
"""Inputs (N, ...) → outputs."""
Sides = tuple[Ask, Ask]
"""A parent, and what became of it."""


@dataclass(frozen=True)
class Answered:
    """Answers of one output, each (N, P, K): classes (K = 1), 0 or 1 of each attribute, or values; P places.

    Of many places (pixels, tokens) there are `mtz_core.outputs.kind.PLACES`, the same for all. `truth` is what labels
    say, `None` without; `name` is the output's, where a network has several.
    """

    name: str
    type: TaskType
    parent: Tensor
    zipped: Tensor
    truth: Tensor | None


@dataclass(frozen=True)
class Drive:
    """Answers of all outputs of one task, and by how much the zipped network's differ from its parent's, (N,)."""

    answers: tuple[Answered, ...]
    divergence: Tensor


def both_sides(network: ZippedNetwork, task: int) -> Sides:
    """The task's parent, and the zipped network's answers of that task."""
    return parent(network, task), answers_of(network, task)


def drive(both: Sides, output: Output, inputs: Tensor, labels: Tensor | None, device: torch.device) -> Drive:
    """Ask a task's parent and the network that came out about inputs (N, ...).

    Args:
        both: of each, outputs for inputs; see `both_sides`.
        output: what the outputs say.
        inputs: (N, ...).
        labels: (N, ...), or `None`.
        device: where the networks run.

    The divergence is the task's own (see `Output.divergence`), in nats.
    """
    parts = output.parts if isinstance(output, Several) else (output,)
    names = output.names if isinstance(output, Several) else ("",)
    sides: list[list[list[Tensor]]] = [[[] for _ in parts] for _ in range(2)]
    apart = []
    with torch.no_grad():
        for batch in torch.split(inputs, BATCH):
            each = [answer(batch.to(device)) for answer in both]
            for side, outputs in zip(sides, each, strict=True):
                own = output.split(outputs) if isinstance(output, Several) else [outputs]
                for found, part, piece in zip(side, parts, own, strict=True):
                    found.append(_plain(part, part.predictions(piece)).cpu())
            apart.append(output.divergence(*(some_places(output.predictions(outputs)) for outputs in each)).cpu())
    truths = _truths(output, labels)
    answers = [
        Answered(name, part.type, torch.cat(mine), torch.cat(theirs), truth)
        for name, part, mine, theirs, truth in zip(names, parts, *sides, truths, strict=True)
    ]
    return Drive(tuple(answers), torch.cat(apart))


def asked_alone(
    ask: Callable[[Tensor], Tensor], output: Output, inputs: Tensor, labels: Tensor | None
) -> tuple[Answered, ...]:
    """Ask one network about inputs (N, ...) as `drive` asks two; `zipped` is then the same as `parent`."""
    parts = output.parts if isinstance(output, Several) else (output,)
    names = output.names if isinstance(output, Several) else ("",)
    with torch.no_grad():
        outputs = ask(inputs)
    own = output.split(outputs) if isinstance(output, Several) else [outputs]
    found = [_plain(part, part.predictions(piece)).cpu() for part, piece in zip(parts, own, strict=True)]
    truths = _truths(output, labels)
    return tuple(
        Answered(name, part.type, answers, answers, truth)
        for name, part, answers, truth in zip(names, parts, found, truths, strict=True)
    )


def _plain(output: Output, predictions: Tensor) -> Tensor:
    """Predictions (N, P, K) as what they say."""
    predictions = some_places(predictions)
    if output.type.kind == "multiclass":
        return predictions.argmax(-1, keepdim=True).int()
    return predictions.float() if output.type.kind == "regression" else (predictions > 0).int()


def _truths(output: Output, labels: Tensor | None) -> list[Tensor | None]:
    if isinstance(output, Several):
        given = [None] * len(output.parts) if labels is None else output.split_labels(labels)
        return [None if own is None else _truth(part, own) for part, own in zip(output.parts, given, strict=True)]
    return [None if labels is None else _truth(output, labels)]


def _truth(output: Output, labels: Tensor) -> Tensor:
    """Labels as (N, P, K), at the places that answers have."""
    found = output.labels(labels)
    found = found[..., None] if output.type.kind == "multiclass" else found
    return some_places(found.float() if output.type.kind == "regression" else found.int())
