"""Planned shares beside one share for all layers, at equal size, without retraining."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import table
from benchmarks.quality import CPU, Task, calibration_images, load_task, parents_errors, task_errors
from mtz_core import ZipSpec, zip_networks
from mtz_core.api import ZipResult
from mtz_core.budget.choice import Choice, Count, Point
from mtz_core.budget.search import resolve
from mtz_core.graph.correspondence import correspond
from mtz_core.graph.propagation import channel_graphs
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.spec import BudgetSpec
from mtz_core.zipping.evaluation import error_rate
from mtz_core.zipping.forecast import Forecast, Measuring

SETS = (("mnist-0", "mnist-1"), ("mnist-0", "fashion-0"), ("mnist-0", "fashion-0", "letters-0"))
SHARES = (0.8, 0.5)
IMAGES = 1000


@dataclass(frozen=True)
class Planner:
    """The curves of a set of parents, measured on given calibration images, from which any budget is solved."""

    networks: tuple[torch.nn.Module, ...]
    calibration: tuple[Tensor, ...]
    seed: int
    choice: Choice
    count: Count
    seconds: float

    @classmethod
    def measured(cls, networks: Sequence[torch.nn.Module], calibration: Sequence[Tensor], seed: int) -> Planner:
        """Measure the curves."""
        start = time.perf_counter()
        spec = ZipSpec(seed=seed)
        joint = correspond(channel_graphs(networks, [images[:2] for images in calibration]))
        network = ZippedNetwork(networks, joint, spec.sparse, spec.own_bias)
        forecast = Forecast(network, spec, spec.task_weights(len(networks)), calibration, CPU)
        choice = next(item for item in forecast.choice() if not isinstance(item, Measuring))
        seconds = time.perf_counter() - start
        return cls(tuple(networks), tuple(calibration), seed, choice, forecast.parameters, seconds)

    def within(self, limit: int) -> tuple[Point, ZipResult]:
        """The plan of at most `limit` parameters, and the zip that follows it.

        The size is exact for two tasks; for more, in residual streams, it is corrected by what came out.
        """
        aim = limit
        for _ in range(5):
            point = resolve(self.choice, BudgetSpec(parameters=aim), self.count)
            spec = ZipSpec(share=dict(point.shares), seed=self.seed)
            planned = zip_networks(self.networks, self.calibration, spec)
            if planned.counts.total <= limit:
                break
            aim -= math.ceil(1.3 * (planned.counts.total - limit)) + 50
        return point, planned


def row(names: list[str], shares: tuple[float, ...], root: Path | None, draw: int) -> list[list[str]]:
    """Lines of the table for one set of parents: mean test errors of uniform and planned shares."""
    tasks = [load_task(name, root) for name in names]
    modules = [task.module for task in tasks]
    parents = statistics.fmean(parents_errors(tasks))
    calibration = calibration_images(tasks, IMAGES, draw)
    planner = Planner.measured(modules, calibration, draw)
    choice, lines = planner.choice, []
    for share in shares:
        uniform = zip_networks(modules, calibration, ZipSpec(share=share, seed=draw))
        limit = uniform.counts.total
        point, planned = planner.within(limit)
        errors = [task_errors(each.network, tasks) for each in (uniform, planned)]
        means = [statistics.fmean(each) for each in errors]
        sizes = [each.counts.versus_smallest for each in (uniform, planned)]
        chosen = ", ".join(f"{c.group} {point.shares[c.group] / c.width:.0%}" for c in choice.curves)
        mark = "lower" if means[1] < means[0] else "equal" if means[1] == means[0] else "higher"
        mark = f"{mark} (the same share)" if point.even else mark
        mark = mark if planned.counts.total <= limit else f"{mark}, but larger"
        uniformly = choice.error(choice.divergence(choice.uniform(share)))
        cells = [" + ".join(names), f"{share}", f"{parents:.3f}"]
        cells += [f"{mean:.3f} ({size:.4f}×)" for mean, size in zip(means, sizes, strict=True)]
        changed = [f"{changed_answers(each.network, tasks):.3f}" for each in (uniform, planned)]
        predicted = f"{uniformly:.2f} → {point.error:.2f}"
        lines.append([*cells, mark, " → ".join(changed), predicted, f"{planner.seconds:.0f}", chosen])
        print(lines[-1], [[round(e, 2) for e in each] for each in errors], flush=True)
    return lines


def changed_answers(network: ZippedNetwork, tasks: Sequence[Task]) -> float:
    """Test images in % whose answer is not their parent's, right or wrong, mean of the tasks."""
    parts = []
    for k, task in enumerate(tasks):
        with torch.no_grad():
            answers = torch.cat([task.module(x).argmax(1) for x in torch.split(task.test[0], 512)])
        parts.append(error_rate(partial(network, task=k), task.test[0], answers, batch_size=512, device=CPU))
    return statistics.fmean(parts)


def run(root: Path | None, draws: int, architectures: Sequence[str] = ("lenet300", "lenet5", "resnet14")) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    lines = []
    for architecture in architectures:
        for names in SETS:
            for draw in range(draws):
                lines += row([f"{architecture}-{name}" for name in names], SHARES, root, draw)
    heading = ["parents", "uniform share", "mean error of the parents, %", "uniform, %", "planned, %", "planned is"]
    print(table([*heading, "answers unlike the parents', %", "predicted, %", "seconds to plan", "shares"], lines))
