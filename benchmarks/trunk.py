"""Two tasks that see the same images: layers computed once, and what that costs in error and saves in time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import table
from benchmarks.quality import calibration_images, load_task, parents_errors, spread, task_errors
from mtz_core import Together, ZipSpec, zip_networks
from mtz_core.graph.correspondence import correspond
from mtz_core.graph.propagation import channel_graphs
from mtz_core.structure.trunks import trunks

NAMES = ("mnist-0", "fashion-0")
MOST = 5
"""Trunks that are looked at, evenly spread over all lengths."""
BATCH, REPEATS = 64, 31


def run(
    root: Path | None, draws: int, architectures: Sequence[str] = ("lenet5", "resnet14"), images: int = 1000
) -> None:
    """Per trunk: multiplications, time, and error with everything shared and with only the trunk shared."""
    print("\n## Tasks that see the same images: layers computed once\n")
    print(f"{images:,} unlabelled images per task, no retraining; increase of the mean error in points, {draws} draws.")
    print(f"Time: of all answers to {BATCH} images, in that of one network's (medians of {REPEATS}).\n")
    lines = []
    for architecture in architectures:
        tasks = [load_task(f"{architecture}-{name}", root) for name in NAMES]
        modules = [task.module for task in tasks]
        calibration = [calibration_images(tasks, images, seed) for seed in range(draws)]
        joint = correspond(channel_graphs(modules, [x[:2] for x in calibration[0]])).structure
        structures = joint.networks
        single = min(structure.multiplications for structure in structures)
        parents = statistics.fmean(parents_errors(tasks))
        possible = trunks(joint)
        chosen = sorted({round(k * (len(possible) - 1) / (MOST - 1)) for k in range(MOST)})
        for trunk in (None, *(possible[k] for k in chosen)):
            name = None if trunk is None else trunk.name
            increase: dict[float, list[float]] = {1.0: [], 0.0: []}
            for seed in range(draws):
                for share, found in increase.items():
                    spec = ZipSpec(share=share, trunk=name, seed=seed)
                    network = zip_networks(modules, calibration[seed], spec).network
                    found.append(statistics.fmean(task_errors(network, tasks)) - parents)
            count = sum(s.multiplications for s in structures) if trunk is None else trunk.multiplications
            time_taken = _ratio(Together(network), modules[0], tasks[0].test[0][:BATCH])
            cells = [f"{count / single:.2f}×", f"{time_taken:.2f}×", spread(increase[1.0]), spread(increase[0.0])]
            lines.append([architecture, name or "none", *cells])
            print(f"  {' · '.join(lines[-1])}", flush=True)
    heading = [
        "network",
        "computed once up to",
        "multiplications",
        "time",
        "all layers shared",
        "no other layer shared",
    ]
    print("\n" + table(heading, lines), flush=True)


def _ratio(together: Together, single: torch.nn.Module, x: Tensor) -> float:
    """Time of all answers relative to that of one network, measured by turns."""
    both: tuple[Callable[[Tensor], object], ...] = (together.frozen(), single)
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for _ in range(REPEATS):
            for call, found in zip(both, seconds, strict=True):
                start = time.perf_counter()
                call(x)
                found.append(time.perf_counter() - start)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])
