"""Tasks of the benchmarks, and ways to pair and retrain without compensation: the paper's experiments."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import table
from mtz_core import RetrainSpec, ZipSpec, load_data, load_parent, zip_networks
from mtz_core.data.sampling import stratified_sample
from mtz_core.errors import DataError
from mtz_core.zipping.evaluation import error_rate

CPU = torch.device("cpu")
DISTIL = {"targets": "distill", "learning_rate": 1e-2, "batch_size": 256}
LABELS = {"targets": "labels", "learning_rate": 3e-3, "batch_size": 256}
"""Chosen for the LeNet-300-100 pair on the bundled 5,000 MNIST images, which are neither in the parents' training
data nor in the official test set; taken over elsewhere."""


@dataclass(frozen=True)
class Task:
    """A parent with its data: `train` is the full training part where it was found, else the calibration split."""

    name: str
    module: torch.nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load_task(name: str, root: Path | None) -> Task:
    """Load a bundled parent and the largest data that can be found for its task."""
    parent = load_parent(name)
    try:
        train = load_data(parent.task, "train", root)
    except DataError:
        train = load_data(parent.task, "calibration")
    return Task(name, parent.module, train, load_data(parent.task, "test", root))


def calibration_images(tasks: list[Task], images: int, seed: int) -> list[Tensor]:
    """Per task a stratified draw of unlabelled images."""
    drawn = []
    for t, task in enumerate(tasks):
        chosen = torch.as_tensor(stratified_sample(task.train[1].numpy(), images, seed * 100 + t))
        drawn.append(task.train[0][chosen])
    return drawn


def task_errors(network: torch.nn.Module, tasks: list[Task]) -> list[float]:
    """Test error in % of a network that answers all tasks."""
    return [
        error_rate(lambda x, k=k: network(x, task=k), *task.test, batch_size=512, device=CPU)
        for k, task in enumerate(tasks)
    ]


def parents_errors(tasks: list[Task]) -> list[float]:
    """Test error in % of every parent on its own task."""
    return [error_rate(task.module, *task.test, batch_size=512, device=CPU) for task in tasks]


def zipped_errors(tasks: list[Task], spec: ZipSpec, images: int, seed: int) -> tuple[list[float], float, float]:
    """Test errors in %, size relative to the smallest parent, and seconds of one zip."""
    calibration = calibration_images(tasks, images, seed)
    start = time.perf_counter()
    spec = spec.model_copy(update={"seed": seed})
    result = zip_networks([t.module for t in tasks], calibration, spec, retraining=[t.train for t in tasks])
    seconds = time.perf_counter() - start
    return task_errors(result.network, tasks), result.counts.versus_smallest, seconds


def compare(title: str, names: list[str], methods: dict[str, dict[str, Any]], root: Path | None, draws: int) -> None:
    """Print one row per method: mean test error of each task over the calibration draws, and its spread."""
    tasks = [load_task(name, root) for name in names]
    parents = parents_errors(tasks)
    tested = " and ".join(f"{len(t.test[0]):,}" for t in tasks)
    print(f"\n## {title}\n")
    print(f"Test images: {tested}; retraining images: {' and '.join(f'{len(t.train[0]):,}' for t in tasks)};")
    print(f"1,000 calibration images per task; mean ± standard deviation over {draws} calibration draws.\n")
    rows = [["parents", *(f"{e:.2f}" for e in parents), "0", "2.00×", ""]]
    for method, changes in methods.items():
        outcomes = [zipped_errors(tasks, ZipSpec(**changes), 1000, seed) for seed in range(draws)]
        columns = [[errors[t] for errors, _, _ in outcomes] for t in range(len(tasks))]
        increase = [statistics.fmean(errors) - statistics.fmean(parents) for errors, _, _ in outcomes]
        seconds = statistics.fmean(s for _, _, s in outcomes)
        rows.append([method, *map(spread, columns), spread(increase), f"{outcomes[0][1]:.3f}×", f"{seconds:.1f}"])
    print(table(["method", *(f"{n}, error %" for n in names), "mean increase", "size", "seconds"], rows))


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; of a single value, which has no spread, the value."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.fmean(values):.2f} ± {statistics.pstdev(values):.2f}"


def _pairings(retrain: RetrainSpec | None) -> dict[str, dict[str, Any]]:
    plain = {"retrain": retrain, "compensate": False}
    return {
        "MTZ, optimal pairing": plain,
        "MTZ, greedy pairing (the paper)": {**plain, "pairing": "greedy"},
        "Euclidean pairing": {**plain, "metric": "euclidean"},
        "random pairing": {**plain, "pairing": "random"},
    }


def same_task(root: Path | None, draws: int) -> None:
    """Two LeNet-300-100 of one task, every hidden layer fully shared, at most 550 steps of layer-wise retraining."""
    labels, distil = RetrainSpec(steps=550, **LABELS), RetrainSpec(steps=550, **DISTIL)
    plain = {"compensate": False}
    methods = {
        "MTZ without retraining": {**plain, "retrain": None},
        "MTZ, 550 steps layer-wise, labels": {**plain, "retrain": labels},
        "MTZ, 550 steps layer-wise, distilled": {**plain, "retrain": distil},
        "MTZ, 550 steps at the end, distilled": {**plain, "retrain": distil.model_copy(update={"schedule": "final"})},
        "random pairing, 550 steps layer-wise, distilled": {**plain, "retrain": distil, "pairing": "random"},
    }
    names = ["lenet300-mnist-0", "lenet300-mnist-1"]
    compare("LeNet-300-100, one task, two seeds, fully shared", names, methods, root, draws)


def two_tasks(root: Path | None, draws: int) -> None:
    """LeNet-5 of digits and of clothes, every hidden layer fully shared, without and with 600 steps."""
    distil = RetrainSpec(steps=600, **(DISTIL | {"batch_size": 128}))
    names = ["lenet5-mnist-0", "lenet5-fashion-0"]
    compare("LeNet-5, digits and fashion, fully shared, no retraining", names, _pairings(None), root, draws)
    compare("The same with 600 label-free steps, layer-wise", names, _pairings(distil), root, draws)
