"""Light retraining of a zipped network on all tasks, with labels or by distillation from the parents.

Some images are held back to judge it by. What is judged best is kept, so the network is never judged worse after
retraining than before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mtz_core.errors import DataError
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.outputs.kind import Output
from mtz_core.outputs.kinds import CLASSES
from mtz_core.spec import RetrainSpec
from mtz_core.zipping.relative import RelativeSteps

PART, MOST, FEWEST = 5, 400, 20
"""Every fifth image of a task is held back, at most 400; none of fewer than 20, which are judged by themselves."""
EVERY, ALARM = 10, 3.0
"""Steps between two judgements; a batch's loss of three times the best judged one asks for a judgement at once."""
RISE, CHANCE = 1.25, 2.0
"""A rise, from which the network goes back to its best state: its judged loss is higher by a quarter, and by two
standard errors. Less is borne with: images that calibrated are fitted too well at first, by 15 % in a ResNet-20."""
IN_VAIN = 3
"""So many returns without anything better in between end the retraining."""


@dataclass(frozen=True)
class RetrainingData:
    """One task's images (N, ...), labels (N, ...) or `None` for distillation, and the numbers of the images held back.

    `output` is what the network's outputs say.
    """

    images: Tensor
    labels: Tensor | None
    held: Tensor
    output: Output = CLASSES

    @property
    def learnt(self) -> Tensor:
        """Numbers of the images to learn from: all others, or all where none is left."""
        rest = torch.ones(len(self.images), dtype=torch.bool)
        rest[self.held] = False
        return rest.nonzero()[:, 0] if rest.any() else self.held


def held_back(images: Tensor, seed: int, calibration: Tensor | None = None) -> Tensor:
    """Draw the numbers of the images to judge by: a part of many, all of few.

    Those that calibrated come last: the zipped network fits them better than others, so they would judge it too kindly
    before the first step.
    """
    count = len(images)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if calibration is not None:
        known = {_key(image) for image in calibration}
        seen = torch.tensor([_key(image) in known for image in images])
        order = order[seen[order].to(torch.int8).argsort(stable=True)]
    return order if count < FEWEST else order[: min(count // PART, MOST)]


def _key(image: Tensor) -> bytes:
    return image.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


@dataclass(frozen=True)
class Retrained:
    """How retraining went: after `taken` of `wanted` steps the state of step `kept` (0: before the first) is kept.

    `before` and `after` are the judged losses of the first and of the kept state, on `images[t]` images of task t that
    were held back; 0 stands for a task with too few images, which is judged on all that it learns from. `returns` says
    how often the loss rose, so that the rate was halved.
    """

    wanted: int
    taken: int
    kept: int
    before: float
    after: float
    returns: int
    images: tuple[int, ...]

    def text(self, layer: str | None, first: int, targets: str) -> str:
        """Say it in a sentence; `first` steps were taken in earlier portions.

        Example:
            >>> print(Retrained(100, 40, 20, 0.15, 0.125, 3, (9, 9)).text(None, 0, "distill").replace("; ", ";\\n"))
            Retraining stopped at step 40: agreement with the parents fell 3 times;
            the state of step 20 is kept (divergence on inputs held back 0.15 → 0.125)
        """
        what, loss = ("parents", "divergence") if targets == "distill" else ("labels", "loss")
        after = "" if layer is None else f" after {layer}"
        ended = "stopped at" if self.taken < self.wanted else "went on to"
        fell = f": agreement with the {what} fell {'once' if self.returns == 1 else f'{self.returns} times'}"
        kept = (
            f"the state of step {first + self.kept}" if self.kept else "nothing was better than what was before, which"
        )
        on = "held back" if all(self.images) else f"held back, all where there are fewer than {FEWEST},"
        return (
            f"Retraining{after} {ended} step {first + self.taken}{fell if self.returns else ''}; {kept} is kept "
            f"({loss} on inputs {on} {self.before:.3g} → {self.after:.3g})"
        )


Teacher = Callable[[Tensor], Tensor]


def retrain(
    network: ZippedNetwork,
    data: Sequence[RetrainingData],
    teachers: Sequence[Teacher],
    alphas: Sequence[float],
    spec: RetrainSpec,
    steps: int,
    seed: int,
    device: torch.device,
) -> Iterator[tuple[float, ...] | Retrained]:
    """Take up to `steps` optimiser steps, yielding the tasks' batch losses after each, and at last how it went.

    Every step draws one batch per task; the loss is Σ_t α_t · loss_t, with -log p(labels) or, when distilling,
    τ² · KL(parent ‖ zipped) of the outputs at temperature τ, as the task's type has them (see `mtz_core.outputs`):
    softmax and cross-entropy for classes, the sum of all attributes' for yes or no, squared errors for values. Steps
    are relative to the size of each weight (see `mtz_core.zipping.relative`); their rate falls to zero along half a
    cosine. Dropout is off and normalisation statistics stay: a few steps would only disturb them. Zeros of pruned
    layers stay zero.

    The same loss on images that are held back judges the network: before the first step, after every `EVERY` and after
    the last. Distilling, it says how well the answers agree with the parents', and needs no labels; with labels it is
    their loss, since they are what is asked for. The best state is kept. Where the judged loss rises by a
    quarter and beyond chance (or a batch's is not finite), the network goes back to its best state and the rate is
    halved; after `IN_VAIN` returns with nothing better in between it ends early.

    Raises:
        DataError: labels are missing for `targets="labels"`, or the loss is NaN or infinite before the first step.
    """
    chances = [torch.Generator().manual_seed(seed + t) for t in range(len(data))]
    samplers = [_batches(task.learnt, spec.batch_size, chance) for task, chance in zip(data, chances, strict=True)]
    judge = _Judge(data, teachers, alphas, spec, device)
    with _trainable(network) as parameters:
        best = _State.of(parameters, judge(network))
        before = best.loss.mean
        if not math.isfinite(before):
            raise DataError("the loss is NaN or infinite before the first step; look at the inputs and the networks")
        moves = RelativeSteps(network, spec.optimizer, spec.weight_decay)
        kept = returns = vain = step = 0
        for step in range(1, steps + 1):
            batches = [_batch(task, next(sampler)) for task, sampler in zip(data, samplers, strict=True)]
            losses = _gradients(network, batches, judge.outputs, teachers, alphas, spec, device)
            sound = all(math.isfinite(loss) for loss in losses)
            if sound:
                moves.take(spec.learning_rate * 0.5**returns * _cosine(step, steps))
            yield losses
            alarm = not math.fsum(map(math.prod, zip(alphas, losses, strict=True))) <= ALARM * best.loss.mean
            if step % EVERY and step < steps and not alarm:
                continue
            loss = judge(network) if sound else None
            if loss is not None and loss.mean < best.loss.mean:
                best, kept, vain = _State.of(parameters, loss), step, 0
            elif loss is None or loss.rose_from(best.loss):
                best.restore(parameters)
                moves.forget()
                returns, vain = returns + 1, vain + 1
                if vain == IN_VAIN:
                    break
        best.restore(parameters)
    held = tuple(len(task.held) if len(task.held) < len(task.images) else 0 for task in data)
    yield Retrained(steps, step, kept, before, best.loss.mean, returns, held)


@dataclass(frozen=True)
class _Loss:
    """Losses of the images held back, one tensor for each task, and the tasks' weights."""

    parts: tuple[Tensor, ...]
    alphas: Sequence[float]

    @property
    def mean(self) -> float:
        """Σ_t α_t · mean loss of task t."""
        return sum(alpha * float(part.mean()) for alpha, part in zip(self.alphas, self.parts, strict=True))

    def rose_from(self, other: _Loss) -> bool:
        """Whether it is much higher than another, and beyond chance, image by image; what is not a number is."""
        steps = [one - two for one, two in zip(self.parts, other.parts, strict=True)]
        squares = (a * a * float(d.var(correction=0)) / len(d) for a, d in zip(self.alphas, steps, strict=True))
        bound = max((RISE - 1.0) * other.mean, CHANCE * math.sqrt(sum(squares)))
        return not self.mean - other.mean <= bound


@dataclass(frozen=True)
class _State:
    """A copy of all parameters, and how the network that has them is judged."""

    copies: tuple[Tensor, ...]
    loss: _Loss

    @classmethod
    def of(cls, parameters: Sequence[Tensor], loss: _Loss) -> _State:
        return cls(tuple(parameter.detach().clone() for parameter in parameters), loss)

    def restore(self, parameters: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, copy in zip(parameters, self.copies, strict=True):
                parameter.copy_(copy)


class _Judge:
    """Losses of a network on images held back, whose targets are computed once."""

    def __init__(
        self,
        data: Sequence[RetrainingData],
        teachers: Sequence[Teacher],
        alphas: Sequence[float],
        spec: RetrainSpec,
        device: torch.device,
    ) -> None:
        self.alphas, self.spec, self.device = alphas, spec, device
        self.parts = []
        for task, teacher in zip(data, teachers, strict=True):
            pieces = [_batch(task, part) for part in torch.split(task.held, max(spec.batch_size, 64))]
            self.parts.append([(x, _wanted(x.to(device), y, task.output, teacher, spec)) for x, y in pieces])
        self.outputs = [task.output for task in data]

    @torch.no_grad()
    def __call__(self, network: ZippedNetwork) -> _Loss:
        found = []
        for t, (pieces, output) in enumerate(zip(self.parts, self.outputs, strict=True)):
            losses = [
                _losses(network.outputs(x.to(self.device), task=t), wanted, output, self.spec) for x, wanted in pieces
            ]
            found.append(torch.cat(losses).cpu().double())
        return _Loss(tuple(found), self.alphas)


@contextmanager
def _trainable(network: ZippedNetwork) -> Iterator[list[Tensor]]:
    """All that the layers store, with gradients within."""
    parameters: list[Tensor] = list(network.layers.parameters())
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield parameters
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)
            parameter.grad = None


def _batches(images: Tensor, size: int, chance: torch.Generator) -> Iterator[Tensor]:
    """Endless shuffled batches of `images`, the numbers to choose from."""
    while True:
        order = images[torch.randperm(len(images), generator=chance)]
        yield from (part for part in torch.split(order, size) if len(part) == size or len(images) < size)


def _batch(task: RetrainingData, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
    return task.images[chosen], None if task.labels is None else task.labels[chosen]


def _gradients(
    network: ZippedNetwork,
    batches: Sequence[tuple[Tensor, Tensor | None]],
    outputs: Sequence[Output],
    teachers: Sequence[Teacher],
    alphas: Sequence[float],
    spec: RetrainSpec,
    device: torch.device,
) -> tuple[float, ...]:
    """Leave the gradient of Σ_t α_t · loss_t in the parameters; return the losses."""
    network.layers.zero_grad(set_to_none=True)
    losses = []
    for t, (images, labels) in enumerate(batches):
        x = images.to(device)
        wanted = _wanted(x, labels, outputs[t], teachers[t], spec)
        loss = _losses(network.outputs(x, task=t), wanted, outputs[t], spec).mean()
        (alphas[t] * loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        losses.append(float(loss.detach()))
    return tuple(losses)


def _cosine(step: int, steps: int) -> float:
    """The part of the rate that is left in step 1, 2, … of `steps`."""
    return 0.5 * (1.0 + math.cos(math.pi * (step - 1) / steps))


def _wanted(images: Tensor, labels: Tensor | None, output: Output, teacher: Teacher, spec: RetrainSpec) -> Tensor:
    """Labels (N, ...), or what is distilled of the parent's outputs (N, P, K)."""
    if spec.targets == "labels":
        if labels is None:
            raise DataError("retraining with labels needs (images, labels) per task; give them or distil")
        return labels.to(images.device)
    with torch.no_grad():
        return output.targets(teacher(images), spec.temperature)


def _losses(outputs: Tensor, wanted: Tensor, output: Output, spec: RetrainSpec) -> Tensor:
    """Loss of every image, (N,)."""
    if spec.targets == "labels":
        return output.loss(outputs, wanted)
    return output.distillation(outputs, wanted, spec.temperature)
