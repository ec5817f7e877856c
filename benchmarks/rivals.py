"""Settings of the rival methods, chosen where nothing is reported: other pairs, and no test image."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import table
from benchmarks.quality import Task, calibration_images, load_task, spread, task_errors
from mtz_core.baselines import merge_networks
from mtz_core.data.sampling import stratified_sample

PAIRS = (("mnist-1", "letters-0"), ("fashion-0", "letters-0"))
CANDIDATES: tuple[dict[str, Any], ...] = (
    *({"method": "permute", "side": side} for side in ("written", "read")),
    *(
        {"method": "zip", "side": side, "linkage": linkage, "within": within}
        for side in ("written", "read")
        for linkage in ("least", "average")
        for within in (0.0, 0.5, 1.0)
    ),
    *(
        {"method": "zip", "side": "read", "discount": discount, "within": within}
        for discount in (0.3, 0.01)
        for within in (0.0625, 0.5)
    ),
    *({"method": "pleas", "align": "permute", "ridge": ridge} for ridge in (1e-3, 1e-5, 1e-1)),
    *({"method": "regmean", "align": align, "reduce": 0.9} for align in ("permute", "average")),
    {"method": "match"},
    {"method": "pleas", "align": "match", "ridge": 1e-3},
    {"method": "regmean", "align": "permute", "reduce": 0.1},
)
"""What is tried; ZipIt!'s own α 0.3 and β 0.125 are `discount` 0.3 and `within` 0.0625 for two networks."""
METHODS = tuple(dict.fromkeys(candidate["method"] for candidate in CANDIDATES))


def held_out(task: Task, images: int, seed: int, position: int, most: int) -> Task:
    """The task with images of its training part instead of test images, none of them in the calibration draw."""
    labels = task.train[1]
    drawn = torch.as_tensor(stratified_sample(labels.numpy(), images, seed * 100 + position))
    left = torch.ones(len(labels), dtype=torch.bool)
    left[drawn] = False
    rest = torch.nonzero(left)[:, 0]
    chosen = rest[torch.as_tensor(stratified_sample(labels[rest].numpy(), min(most, len(rest)), seed))]
    return replace(task, test=(task.train[0][chosen], labels[chosen]))


def errors(
    tasks: list[Task], images: int, most: int, draws: int, candidates: Sequence[Mapping[str, Any]]
) -> Iterator[list[float]]:
    """Mean error over the tasks, in %, of every candidate; one list per calibration draw."""
    for seed in range(draws):
        calibration = calibration_images(tasks, images, seed)
        measured = [held_out(task, images, seed, t, most) for t, task in enumerate(tasks)]
        modules = [task.module for task in tasks]
        found = []
        for candidate in candidates:
            network = merge_networks(modules, calibration, **candidate).network
            found.append(statistics.fmean(task_errors(network, measured)))
            print(f"  {candidate['method']} · {settings_text(candidate)} · {found[-1]:.2f}", flush=True)
        yield found


def settings_text(candidate: Mapping[str, Any]) -> str:
    """The settings of a candidate, as one would say them."""
    return ", ".join(f"{name} {value}" for name, value in candidate.items() if name != "method")


def run(
    root: Path | None,
    draws: int,
    images: int = 1000,
    most: int = 2000,
    architecture: str = "resnet14",
    methods: Sequence[str] = (),
) -> None:
    """One row per candidate of the `methods` (all if none is named): its error on every pair."""
    candidates = [candidate for candidate in CANDIDATES if not methods or candidate["method"] in methods]
    print("\n## Settings of the rival methods\n")
    print(f"Mean error of both tasks in %, on up to {most:,} images a task of the training part that are not among the")
    print(f"{images:,} calibration images; mean ± standard deviation over {draws} calibration draws.\n")
    columns = []
    for pair in PAIRS:
        tasks = [load_task(f"{architecture}-{name}", root) for name in pair]
        columns.append(list(zip(*errors(tasks, images, most, draws, candidates), strict=True)))
    lines = []
    for k, candidate in enumerate(candidates):
        found = [column[k] for column in columns]
        mean = statistics.fmean(statistics.fmean(values) for values in found)
        row = [
            candidate["method"],
            settings_text(candidate),
            *(spread(list(values)) for values in found),
            f"{mean:.2f}",
        ]
        lines.append(row)
    print(table(["method", "settings", *map(" and ".join, PAIRS), "mean"], lines), flush=True)
