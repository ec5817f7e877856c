"""Light retraining of a zipped network on all tasks, with labels or by distillation from the parents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mtz_core.errors import DataError
from mtz_core.network.dense import DenseLayer
from mtz_core.network.grouped import GroupedLayer
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.spec import RetrainSpec


@dataclass(frozen=True)
class RetrainingData:
    """One task's images (N, ...) and labels (N,); labels are `None` for distillation."""

    images: Tensor
    labels: Tensor | None


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
) -> Iterator[tuple[float, ...]]:
    """Take `steps` optimiser steps, yielding the tasks' batch losses after each.

    Every step draws one batch per task; the loss is Σ_t α_t · loss_t, with cross-entropy to the labels or, when
    distilling, τ² · KL(parent ‖ zipped) of the outputs at temperature τ. The learning rate falls to zero along half
    a cosine. Dropout is off and normalisation statistics stay: a few steps would only disturb them. Zeros of pruned
    layers stay zero.

    Raises:
        DataError: labels are missing for `targets="labels"`, or the loss becomes NaN.
    """
    parameters = [block for layer in network.layers for block in layer.parameters()]
    flags = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = _optimizer(parameters, spec)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, steps))
    samplers = [_batches(len(d.images), spec.batch_size, seed + t) for t, d in enumerate(data)]
    try:
        for step in range(steps):
            optimizer.zero_grad(set_to_none=True)
            losses = []
            for t, (task, sampler) in enumerate(zip(data, samplers, strict=True)):
                chosen = next(sampler)
                images = task.images[chosen].to(device)
                labels = None if task.labels is None else task.labels[chosen].to(device)
                loss = _loss(network(images, task=t), images, labels, teachers[t], spec)
                (alphas[t] * loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                losses.append(float(loss.detach()))
            if not all(value == value and abs(value) != float("inf") for value in losses):
                raise DataError(f"the loss became NaN or infinite at step {step + 1}; lower the learning rate")
            optimizer.step()
            schedule.step()
            for layer in network.layers:
                assert isinstance(layer, DenseLayer | GroupedLayer)
                layer.apply_masks()
            yield tuple(losses)
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)
            parameter.grad = None


def _optimizer(parameters: Sequence[Tensor], spec: RetrainSpec) -> torch.optim.Optimizer:
    if spec.optimizer == "adam":
        return torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    return torch.optim.SGD(parameters, lr=spec.learning_rate, momentum=0.9, weight_decay=spec.weight_decay)


def _batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Endless shuffled batches of indices."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (part for part in torch.split(order, size) if len(part) == size or count < size)


def _loss(outputs: Tensor, images: Tensor, labels: Tensor | None, teacher: Teacher, spec: RetrainSpec) -> Tensor:
    if spec.targets == "labels":
        if labels is None:
            raise DataError("retraining with labels needs (images, labels) per task; give them or distil")
        return F.cross_entropy(outputs, labels)
    with torch.no_grad():
        wanted = teacher(images)
    tau = spec.temperature
    return F.kl_div(
        F.log_softmax(outputs / tau, 1), F.log_softmax(wanted / tau, 1), log_target=True, reduction="batchmean"
    ) * (tau * tau)
