"""Errors of the zipped network and of its parents on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mtz_core.graph.execution import execute
from mtz_core.network.zipped import ZippedNetwork

BATCH = 512


def error_rate(
    answer: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, batch_size: int, device: torch.device
) -> float:
    """Return the share of images whose largest output is not their label, in %."""
    wrong = 0
    with torch.no_grad():
        for first in range(0, len(images), batch_size):
            batch = images[first : first + batch_size].to(device)
            predicted = answer(batch).argmax(1).cpu()
            wrong += int((predicted != labels[first : first + batch_size]).sum())
    return 100.0 * wrong / max(1, len(images))


def errors(
    network: ZippedNetwork, data: Sequence[tuple[Tensor, Tensor] | None], device: torch.device, parents: bool = False
) -> tuple[float, ...]:
    """Return every task's error in % on its images, NaN where there are none; `parents`: of the parents' own."""
    found = []
    for t, pair in enumerate(data):
        if pair is None:
            found.append(float("nan"))
            continue
        found.append(error_rate(parent(network, t) if parents else _answer(network, t), *pair, BATCH, device))
    return tuple(found)


def parent(network: ZippedNetwork, task: int) -> Callable[[Tensor], Tensor]:
    """The parent itself, as a function: its traced copy with its own weights."""
    return network.graphs[task].network.module


def _answer(network: ZippedNetwork, task: int) -> Callable[[Tensor], Tensor]:
    """A task's answers, with weights assembled once."""
    program, matrices = network.program(task), network.matrices(task)
    return lambda x: execute(program, x, matrices)
