"""Many tasks: memory and time of eight networks, and of a plan of three; each in a process of its own.

Weights of the eight are freshly initialised with seeds: how many sets of tasks share neurons, and so memory and time,
depends on shapes rather than on what was learnt. What is planned are bundled networks.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Literal

from benchmarks.machine import table

EIGHT, PLAN = "eight", "plan"
SHARINGS = ("all", "subsets")
PLANNED = ("resnet14-mnist-0", "resnet14-fashion-0", "resnet14-letters-0")


def run(names: Sequence[str] = (EIGHT, PLAN), images: int = 1000, width: int = 256) -> None:
    """Print the tables that are named.

    Args:
        names: `EIGHT`, `PLAN`.
        images: per task.
        width: hidden neurons of each of eight perceptrons.
    """
    columns = ["peak memory, GB", "seconds", "of the processor"]
    if EIGHT in names:
        print(f"\n## Eight perceptrons 784-{width}-10, {images:,} images per task, share 0.5, no retraining\n")
        lines = []
        for sharing in SHARINGS:
            *spent, size, sets = _in_a_process(EIGHT, images, width, sharing)
            lines.append([sharing, f"{sets:.0f}", *_cells(spent), f"{size:.3f}×"])
        print(table(["sharing", "sets of tasks that share", *columns, "size"], lines), flush=True)
    if PLAN in names:
        print(f"\n## A plan of three tasks ({', '.join(PLANNED)}), {images:,} images per task\n")
        print(table(columns, [_cells(_in_a_process(PLAN, images))]), flush=True)


def _cells(spent: Sequence[float]) -> list[str]:
    memory, seconds, processor = spent
    return [f"{memory:.2f}", f"{seconds:.1f}", f"{processor:.1f}"]


def _in_a_process(*arguments: object) -> list[float]:
    """The numbers that a process of its own prints at last."""
    command = [sys.executable, "-m", "benchmarks.many", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} failed: {done.stderr.strip()[-2000:]}")
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def _eight(count: int, width: int, sharing: Literal["all", "subsets"]) -> None:
    """Print peak memory in GB, seconds of the zip and of the processor, the size, and how many sets of tasks share."""
    import torch
    from torch import nn

    from mtz_core import ZipSpec, zip_networks

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    parents, images = [], []
    for seed in range(8):
        torch.manual_seed(seed)
        parents.append(nn.Sequential(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10)).eval())
        coarse = torch.randn(count, 1, 7, 7, generator=generator)
        images.append(nn.functional.interpolate(coarse, (28, 28), mode="bicubic").clamp(min=0).flatten(1))
    start = time.perf_counter(), time.process_time()
    result = zip_networks(parents, images, ZipSpec(share=0.5, sharing=sharing))
    spent = _spent(start)
    sets = len({tuple(slot) for slot in (result.layers[0].pairs >= 0).tolist()})
    print(*spent, result.counts.versus_smallest, sets)


def _plan(count: int) -> None:
    """Print peak memory in GB, seconds to plan and of the processor."""
    import torch

    from benchmarks.planner import Planner
    from benchmarks.quality import calibration_images, load_task

    torch.set_num_threads(1)
    tasks = [load_task(name, None) for name in PLANNED]
    images = calibration_images(tasks, count, 0)
    start = time.perf_counter(), time.process_time()
    Planner.measured([task.module for task in tasks], images, 0)
    print(*_spent(start))


def _spent(start: tuple[float, float]) -> tuple[float, float, float]:
    """The most memory that this process has had in GB; seconds, and those of the processor, since the start."""
    seconds, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, seconds, processor


if __name__ == "__main__":
    kind, number, *rest = sys.argv[1:]
    if kind == EIGHT:
        _eight(int(number), int(rest[0]), "all" if rest[1] == "all" else "subsets")
    else:
        _plan(int(number))
