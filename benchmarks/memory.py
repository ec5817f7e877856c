"""Large twins from torchvision zipped without retraining: peak memory, minutes, and how often the parents could have
answered the same images in that time; each in a process of its own.

All three depend on shapes, not on what was learnt: weights are freshly initialised with two seeds,
BatchNorm statistics come from one pass over the images, and the images are smooth random colours.
"""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.machine import table
from mtz_core.system.threads import COUNTS, PASSIVE

if TYPE_CHECKING:
    from torch import Tensor, nn

BARS = {"resnet50": ("8 GB", "5 min"), "vgg16": ("12 GB", ""), "resnet18": ("8×",)}
BATCH = 32
"""Images that the parents answer at once where their speed is measured."""


def run(
    names: Sequence[str] = ("resnet50", "vgg16"),
    images: int = 256,
    side: int = 224,
    threads: int = 2,
    compensations: Sequence[str] = ("off", "on"),
) -> None:
    """Two rows per network: without compensation (the original formula) and with it."""
    lines = []
    for name, compensation in itertools.product(names, compensations):
        command = [sys.executable, "-m", "benchmarks.memory", name, str(images), str(side), compensation]
        environment = {**os.environ, **PASSIVE, **dict.fromkeys(COUNTS, str(threads))}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr.strip()[-2000:]}")
        memory, minutes, forwards, size = map(float, done.stdout.split()[-4:])
        bars = ", ".join(bar for bar in BARS.get(name, ()) if bar)
        found = [f"{memory:.2f}", f"{minutes:.2f}", f"{60 * forwards:.3g}", f"{minutes / forwards:.1f}×"]
        lines.append([name, compensation, *found, f"{size:.3f}×", bars])
        said = f"{found[0]} GB, {found[1]} min, {found[3]} the parents' {found[2]} s"
        print(f"{name}, compensation {compensation}: {said}", file=sys.stderr, flush=True)
    print(f"\n## Twins at {side}×{side}, {images} images per task, every hidden layer shared, no retraining\n")
    print(
        "Random weights (two seeds), smooth random images; memory is the peak of the whole process. Seconds of both "
        f"parents' forward passes are the mean of before and after the zip. Threads: {threads}.\n"
    )
    columns = ["peak memory, GB", "minutes", "parents' forward passes, s", "minutes ÷ these", "size", "asked for"]
    print(table(["network", "compensation", *columns], lines), flush=True)


def _measure(name: str, count: int, side: int, compensate: bool) -> None:
    """Print peak memory in GB, minutes of the zip and of both parents' forward passes, and the size."""
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
    before = _forward_minutes(parents, images)
    start = time.perf_counter()
    result = zip_networks(parents, images, ZipSpec(compensate=compensate))
    minutes = (time.perf_counter() - start) / 60
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(peak, minutes, (before + _forward_minutes(parents, images)) / 2, result.counts.versus_smallest)


def _forward_minutes(parents: Sequence[nn.Module], images: Sequence[Tensor]) -> float:
    """How long all parents take to answer their images."""
    import torch

    start = time.perf_counter()
    with torch.no_grad():
        for network, some in zip(parents, images, strict=True):
            for batch in some.split(BATCH):
                network(batch)
    return (time.perf_counter() - start) / 60


if __name__ == "__main__":
    _measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "on")
