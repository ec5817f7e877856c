"""Large twins, many tasks, a plan of three: peak memory and time, each in a process of its own.

Both time and memory depend on shapes, not on what was learnt: weights of twins from torchvision and of eight
perceptrons are freshly initialised with seeds, BatchNorm statistics come from one pass over the images, and the images
are smooth random colours. What is planned are bundled networks.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import time
from typing import Literal

from benchmarks.machine import table

BARS = {"resnet50": ("8 GB", "15 min"), "vgg16": ("12 GB", "")}
EIGHT, PLAN = "eight", "plan"
SHARINGS = ("all", "subsets")
PLANNED = ("resnet14-mnist-0", "resnet14-fashion-0", "resnet14-letters-0")


def run(
    names: tuple[str, ...] = ("resnet50", "vgg16", EIGHT, PLAN),
    images: int = 256,
    side: int = 224,
    many: int = 1000,
    width: int = 256,
) -> None:
    """A table of twins, of eight tasks and of a plan, whichever is named.

    Args:
        names: classifiers of torchvision, and `EIGHT` and `PLAN`.
        images, side: images per task of twins, and their length and width.
        many: images per task of the others.
        width: hidden neurons of each of eight perceptrons.
    """
    if twins := [name for name in names if name not in (EIGHT, PLAN)]:
        _twins(twins, images, side)
    if EIGHT in names:
        _eight(many, width)
    if PLAN in names:
        memory, seconds = _in_a_process(PLAN, many)
        print(f"\n## A plan of three tasks ({', '.join(PLANNED)}), {many:,} images per task\n")
        print(table(["peak memory, GB", "seconds"], [[f"{memory:.2f}", f"{seconds:.1f}"]]), flush=True)


def _in_a_process(*arguments: object) -> list[float]:
    """Measure in a process of its own; the numbers that it prints at last."""
    command = [sys.executable, "-m", "benchmarks.memory", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} failed: {done.stderr.strip()[-2000:]}")
    found = [float(word) for word in done.stdout.splitlines()[-1].split()]
    print(" ".join(map(str, arguments)), found, file=sys.stderr, flush=True)
    return found


def _eight(images: int, width: int) -> None:
    """One row for neurons that all share, one for neurons that any subset shares."""
    lines = []
    for sharing in SHARINGS:
        memory, seconds, size, sets = _in_a_process(EIGHT, images, width, sharing)
        lines.append([sharing, f"{sets:.0f}", f"{memory:.2f}", f"{seconds:.1f}", f"{size:.3f}×"])
    print(f"\n## Eight perceptrons 784-{width}-10, {images:,} images per task, share 0.5, no retraining\n")
    print(table(["sharing", "sets of tasks that share", "peak memory, GB", "seconds", "size"], lines), flush=True)


def _twins(names: list[str], images: int, side: int) -> None:
    """Two rows per network: without compensation (the original formula) and with it."""
    lines = []
    for name, compensation in itertools.product(names, ("off", "on")):
        memory, minutes, size = _in_a_process(name, images, side, compensation)
        bars = ", ".join(bar for bar in BARS.get(name, ()) if bar)
        lines.append([name, compensation, f"{memory:.2f}", f"{minutes:.2f}", f"{size:.3f}×", bars])
    print(f"\n## Twins at {side}×{side}, {images} images per task, every hidden layer shared, no retraining\n")
    print("Random weights (two seeds), smooth random images; memory is the peak of the whole process.\n")
    print(table(["network", "compensation", "peak memory, GB", "minutes", "size", "asked for"], lines), flush=True)


def _measure(name: str, count: int, side: int, compensate: bool) -> None:
    import torch
    from torch import nn

    from mtz_core import ZipSpec, zip_networks
    from mtz_core.data.torchvision import import_torchvision

    models = import_torchvision().models
    generator = torch.Generator().manual_seed(0)
    parents, images = [], []
    for seed in (0, 1):
        coarse = torch.randn(count, 3, max(2, side // 16), max(2, side // 16), generator=generator)
        images.append(nn.functional.interpolate(coarse, (side, side), mode="bicubic"))
        torch.manual_seed(seed)
        network = getattr(models, name)(weights=None)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        if norms:
            for norm in norms:
                norm.momentum = 1.0
            with torch.no_grad():
                network.train()(images[-1][:16])
        parents.append(network.eval())
    start = time.perf_counter()
    result = zip_networks(parents, images, ZipSpec(compensate=compensate))
    minutes = (time.perf_counter() - start) / 60
    print(_peak(), minutes, result.counts.versus_smallest)


def _measure_eight(count: int, width: int, sharing: Literal["all", "subsets"]) -> None:
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
    start = time.perf_counter()
    result = zip_networks(parents, images, ZipSpec(share=0.5, sharing=sharing))
    seconds = time.perf_counter() - start
    sets = len({tuple(slot) for slot in (result.layers[0].pairs >= 0).tolist()})
    print(_peak(), seconds, result.counts.versus_smallest, sets)


def _measure_plan(count: int) -> None:
    import torch

    from benchmarks.planner import Planner
    from benchmarks.quality import calibration_images, load_task

    torch.set_num_threads(1)
    tasks = [load_task(name, None) for name in PLANNED]
    found = Planner.measured([task.module for task in tasks], calibration_images(tasks, count, 0), 0)
    print(_peak(), found.seconds)


def _peak() -> float:
    """The most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    kind, number, *rest = sys.argv[1:]
    if kind == EIGHT:
        _measure_eight(int(number), int(rest[0]), "all" if rest[1] == "all" else "subsets")
    elif kind == PLAN:
        _measure_plan(int(number))
    else:
        _measure(kind, int(number), int(rest[0]), rest[1] == "on")
