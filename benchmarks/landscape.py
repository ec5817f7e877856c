"""LeNet-300-100: what the choice of shares can bring there at all, at one size."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.machine import table
from benchmarks.planner import IMAGES, SETS, SHARES, changed_answers
from benchmarks.quality import Task, calibration_images, load_task, task_errors
from benchmarks.subsets import precise
from mtz_core import ZipSpec, zip_networks
from mtz_core.graph.correspondence import correspond
from mtz_core.graph.propagation import channel_graphs
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import plan_counts

LAYERS, WIDTHS = ("fc1", "fc2"), (300, 100)
SECOND = (0.0, 0.25, 0.5, 0.65, 0.8, 0.9, 1.0)
"""Shares of the second layer."""


def least_count(size: Callable[[int], int], limit: int, width: int) -> int:
    """The fewest shared neurons, up to `width`, with which the size, which falls, is at most `limit`.

    >>> least_count(lambda count: 100 - count, 70, 50)
    30
    """
    return next((count for count in range(width) if size(count) <= limit), width)


def plans(tasks: list[Task], share: float) -> list[tuple[int, int, int]]:
    """Shared neurons of both layers, and the size, for plans at most as large as with one share for both."""
    graphs = channel_graphs([task.module for task in tasks], [task.train[0][:2] for task in tasks])
    joint = correspond(graphs).structure

    def size(first: int, second: int) -> int:
        shares = dict(zip(LAYERS, (first, second), strict=True))
        return plan_counts(joint, shares, Keeping.all()).total

    limit = size(round(share * WIDTHS[0]), round(share * WIDTHS[1]))
    found = []
    for second in (round(part * WIDTHS[1]) for part in SECOND):
        first = least_count(lambda count, second=second: size(count, second), limit, WIDTHS[0])
        found.append((first, second, size(first, second)))
    return found


def run(root: Path | None, draws: int, images: int = IMAGES) -> None:
    """Print, for every set of tasks and size, the errors of several plans of this size."""
    torch.set_num_threads(1)
    print(f"\n## LeNet-300-100: plans of one size; {images:,} images, mean ± standard deviation over {draws} draws\n")
    lines = []
    for names in SETS:
        tasks = [load_task(f"lenet300-{name}", root) for name in names]
        for share in SHARES:
            for first, second, size in plans(tasks, share):
                errors, changed = [], []
                for draw in range(draws):
                    spec = ZipSpec(share=dict(zip(LAYERS, (first, second), strict=True)), seed=draw)
                    calibration = calibration_images(tasks, images, draw)
                    network = zip_networks([task.module for task in tasks], calibration, spec).network
                    errors.append(statistics.fmean(task_errors(network, tasks)))
                    changed.append(changed_answers(network, tasks))
                cells = [" + ".join(names), f"{share}", f"{first / WIDTHS[0]:.0%}", f"{second / WIDTHS[1]:.0%}"]
                lines.append([*cells, f"{size:,}", precise(errors), precise(changed)])
                print(f"  {' · '.join(lines[-1])}", flush=True)
    heading = ["tasks", "size of one share", *LAYERS, "numbers", "mean test error, %", "answers unlike the parents', %"]
    print("\n" + table(heading, lines), flush=True)
