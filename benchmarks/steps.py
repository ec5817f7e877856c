"""How few label-free retraining steps a zip still needs: error after none, some and many steps of distillation.

And what the defaults of the specification come to, at the end and layer by layer: errors before → after.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import table
from benchmarks.quality import calibration_images, load_task, parents_errors, spread, task_errors
from benchmarks.zipping import ARCHITECTURES, DISTILLED, PAPER
from mtz_core import RetrainSpec, ZipSpec, zip_networks

NAMES = ("mnist-0", "fashion-0")
STEPS = (0, 10, 30, 100, 300)
DEFAULTS = (RetrainSpec(schedule="final", steps=100), RetrainSpec())
PAGE_IMAGES = 500
"""Calibration images per task that the dashboard takes, unless told otherwise."""


def run(root: Path | None, draws: int, architectures: Sequence[str] = ARCHITECTURES, images: int = 1000) -> None:
    """Two rows per architecture: the engine's default and the paper's formulas, both distilled at the end."""
    print("\n## Label-free steps after the zip, every hidden layer fully shared\n")
    print(f"Digits and clothes, {images:,} unlabelled images per task, distillation at the end; increase of the mean")
    print(f"error over the parents in points, {draws} draws.\n")
    lines = []
    for architecture in architectures:
        tasks = [load_task(f"{architecture}-{name}", root) for name in NAMES]
        modules = [task.module for task in tasks]
        parents = statistics.fmean(parents_errors(tasks))
        for method, fields in (("ours", {}), ("paper", PAPER)):
            cells = []
            for steps in STEPS:
                retrain = DISTILLED.model_copy(update={"steps": steps}) if steps else None
                increase = []
                for seed in range(draws):
                    spec = ZipSpec(**{**fields, "retrain": retrain, "seed": seed})
                    drawn = calibration_images(tasks, images, seed)
                    network = zip_networks(modules, drawn, spec, retraining=[task.train for task in tasks]).network
                    increase.append(statistics.fmean(task_errors(network, tasks)) - parents)
                cells.append(spread(increase))
            lines.append([architecture, method, *cells])
            print(f"  {' · '.join(lines[-1])}", flush=True)
    print("\n" + table(["network", "zip", *(f"{steps} steps" for steps in STEPS)], lines), flush=True)
    _defaults(root, architectures)


def _defaults(root: Path | None, architectures: Sequence[str]) -> None:
    """One row per architecture and schedule, as the dashboard retrains."""
    print(f"\n## Retraining at its defaults, {PAGE_IMAGES} calibration images per task, every hidden layer shared\n")
    lines = []
    for architecture in architectures:
        tasks = [load_task(f"{architecture}-{name}", root) for name in NAMES]
        modules, drawn = [task.module for task in tasks], calibration_images(tasks, PAGE_IMAGES, 0)
        before = task_errors(zip_networks(modules, drawn).network, tasks)
        for retrain in DEFAULTS:
            result = zip_networks(modules, drawn, ZipSpec(retrain=retrain), retraining=[task.train for task in tasks])
            pairs = zip(before, task_errors(result.network, tasks), strict=True)
            cells = [f"{old:.2f} → {new:.2f}" for old, new in pairs]
            lines.append([architecture, retrain.schedule, str(retrain.steps), *cells])
            print(f"  {' · '.join(lines[-1])}: {result.notes[-1]}", flush=True)
    print("\n" + table(["network", "schedule", "steps", *(f"{name}, error %" for name in NAMES)], lines), flush=True)
