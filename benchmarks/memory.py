"""Large twins from torchvision zipped without retraining: peak memory and minutes, each in a process of its own.

Both time and memory depend on shapes, not on what was learnt: weights are freshly initialised with two seeds,
BatchNorm statistics come from one pass over the images, and the images are smooth random colours.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import time

from benchmarks.machine import table

BARS = {"resnet50": ("8 GB", "15 min"), "vgg16": ("12 GB", "")}


def run(names: tuple[str, ...] = ("resnet50", "vgg16"), images: int = 256, side: int = 224) -> None:
    """Two rows per network: without compensation (the original formula) and with it."""
    lines = []
    for name, compensation in itertools.product(names, ("off", "on")):
        command = [sys.executable, "-m", "benchmarks.memory", name, str(images), str(side), compensation]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr.strip()[-2000:]}")
        memory, minutes, size = done.stdout.split()[-3:]
        bars = ", ".join(bar for bar in BARS.get(name, ()) if bar)
        found = [f"{float(memory):.2f}", f"{float(minutes):.2f}", f"{float(size):.3f}×"]
        lines.append([name, compensation, *found, bars])
        print(f"{name}, compensation {compensation}: {found[0]} GB, {found[1]} min", file=sys.stderr, flush=True)
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(peak, minutes, result.counts.versus_smallest)


if __name__ == "__main__":
    _measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "on")
