"""Residual streams paired by what their first layer says, or by all layers that write into them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.machine import table
from benchmarks.quality import calibration_images, load_task, spread, task_errors
from mtz_core import ZipSpec, zip_networks

SETS = (("mnist-0", "mnist-1"), ("mnist-0", "fashion-0"))
SHARES = (1.0, 0.5)


def run(root: Path | None, draws: int, images: int = 1000, architecture: str = "resnet14") -> None:
    """Predicted loss summed over layers, and test errors, for both ways."""
    print("\n## Residual streams: paired by their first layer, or by all\n")
    print(f"No retraining, no compensation, {images:,} calibration images per task, mean ± standard deviation over")
    print(f"{draws} draws.\n")
    lines = []
    for names in SETS:
        tasks = [load_task(f"{architecture}-{name}", root) for name in names]
        for share in SHARES:
            for streams in ("first", "all"):
                losses, errors = [], []
                for seed in range(draws):
                    spec = ZipSpec(compensate=False, share=share, streams=streams, seed=seed)
                    result = zip_networks([t.module for t in tasks], calibration_images(tasks, images, seed), spec)
                    losses.append(sum(layer.predicted for layer in result.layers))
                    errors.append(task_errors(result.network, tasks))
                each = " / ".join(spread([found[t] for found in errors]) for t in range(len(tasks)))
                lines.append([" + ".join(names), f"{share:.1f}", streams, spread(losses), each])
    print(table(["tasks", "share", "paired by", "predicted loss, all layers", "test errors, %"], lines), flush=True)
