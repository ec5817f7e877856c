"""`python -m benchmarks [NAME …] [--data-root DIR] [--draws N]` prints the measurements as Markdown."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    dashboard,
    difference,
    forecast,
    harm,
    kinds,
    landscape,
    linear,
    many,
    memory,
    planner,
    quality,
    rivals,
    steps,
    streams,
    subsets,
    sweep,
    targets,
    trunk,
    wide,
    zipping,
)
from benchmarks.machine import describe


def spent(options: argparse.Namespace) -> None:
    """Memory and time of twins and of many tasks."""
    twins = [name for name in options.networks if name not in (many.EIGHT, many.PLAN)]
    if twins:
        memory.run(twins, options.images or 256, options.side, options.threads, options.compensation)
    many.run(options.networks)


def main() -> None:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="which; default: all (see benchmarks/__main__.py)")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MTZ_DATA"), help="folder with full data sets")
    parser.add_argument("--draws", type=int, default=3, help="calibration draws per row")
    parser.add_argument("--images", type=int, help="memory, rivals: images per task (256, 1000)")
    parser.add_argument(
        "--networks",
        nargs="+",
        default=["resnet50", "vgg16", many.EIGHT, many.PLAN],
        help=f"memory: torchvision classifiers, {many.EIGHT} (tasks), {many.PLAN} (of three tasks)",
    )
    parser.add_argument("--side", type=int, default=224, help="memory: pixels across an image")
    parser.add_argument("--threads", type=int, default=2, help="memory: of each process")
    parser.add_argument("--compensation", nargs="+", default=["off", "on"], choices=["off", "on"], help="memory")
    parser.add_argument(
        "--store", type=Path, help="quality, forecast: file of what is finished, to go on after a break"
    )
    parser.add_argument("--architectures", nargs="+", default=zipping.ARCHITECTURES, choices=zipping.ARCHITECTURES)
    parser.add_argument("--calibration", nargs="+", type=int, default=zipping.IMAGES, help="quality: images per task")
    parser.add_argument("--shares", nargs="+", type=float, default=zipping.SHARES, help="quality: share ratios")
    parser.add_argument("--methods", nargs="+", default=tuple(zipping.METHODS), choices=tuple(zipping.METHODS))
    parser.add_argument("--rivals", nargs="+", default=(), choices=rivals.METHODS, help="rivals: which methods")
    parser.add_argument("--sets", nargs="+", default=tuple(zipping.SETS), choices=tuple(zipping.SETS))
    parser.add_argument("--points", type=int, default=8, help="sweep: points")
    parser.add_argument("--kills", type=int, default=20, help="sweep: kills of workers, commands and schedulers")
    options = parser.parse_args()
    root = None if options.data_root is None else Path(options.data_root)
    known: dict[str, Callable[[], None]] = {
        "difference": difference.run,
        "wide": wide.run,
        "kinds": lambda: kinds.run(options.draws),
        "quality": lambda: zipping.run(
            root,
            options.draws,
            options.store,
            options.architectures,
            options.calibration,
            options.shares,
            options.methods,
            options.sets,
        ),
        "targets": lambda: targets.run(root, options.draws, options.architectures),
        "steps": lambda: steps.run(root, options.draws, options.architectures),
        "same-task": lambda: quality.same_task(root, options.draws),
        "two-tasks": lambda: quality.two_tasks(root, options.draws),
        "rivals": lambda: rivals.run(root, options.draws, options.images or 1000, methods=options.rivals),
        "subsets": lambda: subsets.run(root, options.draws),
        "streams": lambda: streams.run(root, options.draws),
        "forecast": lambda: forecast.run(options.draws, store=options.store),
        "harm": lambda: harm.run(root, options.draws, [each for each in harm.SETS if each[0] in options.architectures]),
        "planner": lambda: planner.run(root, options.draws, options.architectures),
        "landscape": lambda: landscape.run(root, options.draws),
        "trunk": lambda: trunk.run(root, options.draws),
        "linear": linear.run,
        "memory": lambda: spent(options),
        "dashboard": dashboard.run,
        "sweep": lambda: sweep.run(options.points, options.kills),
    }
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(known)}")
    print(f"Machine: {describe()}", flush=True)
    for name in options.names or known:
        known[name]()


if __name__ == "__main__":
    main()
