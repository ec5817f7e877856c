"""Errors of the zipped network and of its parents on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mtz_core.graph.execution import execute
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.outputs.kind import Output, Scores
from mtz_core.outputs.kinds import CLASSES

BATCH = 512


def error_rate(
    answer: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, batch_size: int, device: torch.device
) -> float:
    """Return the share of images whose largest output is not their label, in %."""
    return measured(answer, images, labels, CLASSES, batch_size, device).error


def measured(
    answer: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    output: Output,
    batch_size: int,
    device: torch.device,
) -> Scores:
    """Return the errors of a task's answers to images (N, ...) with labels (N, ...)."""
    starts = range(0, len(images), batch_size)
    batches = ((images[k : k + batch_size].to(device), labels[k : k + batch_size]) for k in starts)
    with torch.no_grad():
        return output.scores((answer(x), y) for x, y in batches)


def scores(
    network: ZippedNetwork,
    data: Sequence[tuple[Tensor, Tensor] | None],
    outputs: Sequence[Output],
    device: torch.device,
    parents: bool = False,
) -> tuple[Scores, ...]:
    """Return every task's errors on its images, NaN where there are none; `parents`: of the parents' own."""
    found = []
    for t, (pair, output) in enumerate(zip(data, outputs, strict=True)):
        if pair is None:
            found.append(Scores(float("nan")))
            continue
        answer = parent(network, t) if parents else answers_of(network, t)
        found.append(measured(answer, *pair, output, BATCH, device))
    return tuple(found)


def parent(network: ZippedNetwork, task: int) -> Callable[[Tensor], Tensor]:
    """The parent itself, as a function: its traced copy with its own weights."""
    return network.graphs[task].network.outputs


def answers_of(network: ZippedNetwork, task: int) -> Callable[[Tensor], Tensor]:
    """The zipped network's answers of a task, as a function, with weights assembled once."""
    program, matrices = network.program(task), network.matrices(task)
    return lambda x: execute(program, x, matrices)
