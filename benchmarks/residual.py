"""ResNet-14 of one, two and three tasks: zipping beside rival merging methods, on the same calibration images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import table
from benchmarks.quality import CPU, DISTIL, Task, calibration_images, load_task, spread, task_errors
from mtz_core import RetrainSpec, ZipSpec, zip_networks
from mtz_core.baselines import merge_networks
from mtz_core.evaluation import error_rate

SETS = {
    "digits, two seeds": ("mnist-0", "mnist-1"),
    "digits and fashion": ("mnist-0", "fashion-0"),
    "digits, fashion and letters": ("mnist-0", "fashion-0", "letters-0"),
}
Outcome = tuple[torch.nn.Module, float, float]
"""Network, size relative to the smallest parent, seconds."""
Merger = Callable[[Sequence[Task], list[Tensor], int], Outcome]


def zipping(**fields: Any) -> Merger:
    """The engine with some fields of `ZipSpec`."""

    def merge(tasks: Sequence[Task], calibration: list[Tensor], seed: int) -> Outcome:
        start = time.perf_counter()
        spec = ZipSpec(**fields, seed=seed)
        result = zip_networks([t.module for t in tasks], calibration, spec, retraining=[t.train for t in tasks])
        return result.network, result.counts.versus_smallest, time.perf_counter() - start

    return merge


def rival(**arguments: Any) -> Merger:
    """A method of `mtz_core.baselines`."""

    def merge(tasks: Sequence[Task], calibration: list[Tensor], seed: int) -> Outcome:
        result = merge_networks([t.module for t in tasks], calibration, **arguments)
        return result.network, result.counts.versus_smallest, result.seconds

    return merge


def methods(steps: int) -> dict[str, Merger]:
    """One entry per row of a table."""
    distil = RetrainSpec(steps=steps, schedule="final", **(DISTIL | {"batch_size": 64}))
    return {
        "MTZ, share 1.0": zipping(),
        "MTZ, share 0.8": zipping(share=0.8),
        "MTZ, share 0.5": zipping(share=0.5),
        f"MTZ, share 1.0, {steps} steps at the end, distilled": zipping(retrain=distil),
        "plain averaging": rival(method="average", reset=False),
        "activation matching, permute + reset": rival(method="permute"),
        "activation matching, zip + reset": rival(method="zip"),
        "activation matching, zip across networks only + reset": rival(method="zip", within=0.0),
    }


def compare(
    title: str, names: Sequence[str], rows: dict[str, Merger], root: Path | None, draws: int, images: int
) -> None:
    """Print errors of parents and of every method over the same calibration draws."""
    tasks = [load_task(name, root) for name in names]
    parents = [error_rate(t.module, *t.test, batch_size=512, device=CPU) for t in tasks]
    print(f"\n## ResNet-14: {title}\n")
    print(f"Test images: {', '.join(f'{len(t.test[0]):,}' for t in tasks)}; {images:,} unlabelled calibration images")
    print(f"per task; mean ± standard deviation over {draws} calibration draws. No retraining unless said.\n")
    lines = [["parents", *(f"{e:.2f}" for e in parents), "0", f"{len(tasks):.2f}×", ""]]
    for method, merge in rows.items():
        errors, size, seconds = [], 0.0, []
        for seed in range(draws):
            network, size, spent = merge(tasks, calibration_images(tasks, images, seed), seed)
            errors.append(task_errors(network, tasks))
            seconds.append(spent)
        increase = [statistics.fmean(found) - statistics.fmean(parents) for found in errors]
        per_task = [spread([found[t] for found in errors]) for t in range(len(tasks))]
        lines.append([method, *per_task, spread(increase), f"{size:.3f}×", f"{statistics.fmean(seconds):.1f}"])
    print(table(["method", *(f"{n}, error %" for n in names), "mean increase", "size", "seconds"], lines), flush=True)


def run(root: Path | None, draws: int, images: int = 1000, steps: int = 500, architecture: str = "resnet14") -> None:
    """One table for each set of tasks."""
    for title, names in SETS.items():
        compare(title, [f"{architecture}-{name}" for name in names], methods(steps), root, draws, images)
