"""Parts of compensation taken away one at a time: on pairs, and on images, of which nothing else is reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import table
from benchmarks.quality import calibration_images, load_task, parents_errors, spread, task_errors
from benchmarks.rivals import PAIRS, held_out
from mtz_core import ZipSpec, zip_networks

VARIANTS: Mapping[str, dict[str, Any]] = {
    "as it is by default": {},
    "no renewed targets before ReLUs": {"relu_rounds": 0},
    "shared scales": {"scale": "shared"},
    "shared biases": {"bias": "shared"},
    "shared scales and biases": {"scale": "shared", "bias": "shared"},
    "losses not relative to output variance": {"normalise": False},
    "errors of all outputs count alike": {"weighting": "equal"},
    "streams paired by all their layers": {"streams": "all"},
    "random pairs": {"pairing": "random"},
    "none of it: no compensation": {"compensate": False, "streams": "first"},
}


def run(
    root: Path | None,
    draws: int,
    architectures: Sequence[str] = ("lenet300", "lenet5", "resnet14"),
    images: int = 1000,
    most: int = 2000,
) -> None:
    """One row per variant: mean increase of the error over the parents', per network and pair of tasks."""
    print("\n## Compensation, one part taken away\n")
    print(
        f"Mean increase of both tasks' error in points, on up to {most:,} images a task of the training part that are"
    )
    print(f"not among the {images:,} calibration images; {draws} calibration draws. All hidden layers fully shared.\n")
    columns: dict[str, dict[str, list[float]]] = {name: {} for name in VARIANTS}
    seconds = dict.fromkeys(VARIANTS, 0.0)
    for architecture in architectures:
        for pair in PAIRS:
            title = f"{architecture}: {' + '.join(pair)}"
            tasks = [load_task(f"{architecture}-{name}", root) for name in pair]
            for seed in range(draws):
                measured = [held_out(task, images, seed, t, most) for t, task in enumerate(tasks)]
                before = parents_errors(measured)
                calibration = calibration_images(tasks, images, seed)
                for name, fields in VARIANTS.items():
                    start = time.perf_counter()
                    result = zip_networks([task.module for task in tasks], calibration, ZipSpec(**fields, seed=seed))
                    seconds[name] += time.perf_counter() - start
                    increase = statistics.fmean(task_errors(result.network, measured)) - statistics.fmean(before)
                    columns[name].setdefault(title, []).append(increase)
    titles = list(next(iter(columns.values())))
    usual = seconds["as it is by default"]
    lines = [
        [name, *(spread(found[title]) for title in titles), f"{seconds[name] / usual:.2f}"]
        for name, found in columns.items()
    ]
    print(table(["variant", *titles, "time"], lines), flush=True)
