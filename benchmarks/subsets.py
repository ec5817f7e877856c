"""Three tasks of which two are alike: channels shared by any subset of tasks against all-or-nothing, at equal size."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from benchmarks.machine import table
from benchmarks.planner import changed_answers
from benchmarks.quality import Task, calibration_images, load_task, task_errors
from mtz_core import ZipSpec, zip_networks
from mtz_core.api import ZipResult

NAMES = ("mnist-0", "mnist-1", "letters-0")
SHARES = (0.25, 0.5, 0.75, 1.0)


def least_share(total: Callable[[float], int], limit: int, first: float, halvings: int = 8) -> float | None:
    """The share `first` if its total size does not exceed `limit`; else the least larger one that does not.

    That one to within 2^-halvings; `None` if 1.0 exceeds it.

    >>> least_share(lambda share: round(1000 * (1 - share / 2)), 750, first=0.25)
    0.5
    """
    if total(first) <= limit:
        return first
    if total(1.0) > limit:
        return None
    low, high = first, 1.0
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if total(middle) <= limit else (middle, high)
    return high


def run(root: Path | None, draws: int, images: int = 1000, architecture: str = "lenet5", halvings: int = 8) -> None:
    """Per share of the all-or-nothing zip: its error, and that of the subset zip of at most the same size."""
    print(f"\n## Three tasks ({', '.join(f'{architecture}-{n}' for n in NAMES)}): subsets against all-or-nothing\n")
    tasks = [load_task(f"{architecture}-{name}", root) for name in NAMES]
    print(f"No retraining, {images:,} calibration images per task, mean ± standard deviation over {draws} draws.\n")
    lines = []
    for share in SHARES:
        both: tuple[list[float], list[float]] = ([], [])
        changed: tuple[list[float], list[float]] = ([], [])
        sizes: tuple[list[float], list[float]] = ([], [])
        found: list[float | None] = []
        for seed in range(draws):
            known = _Zips(tasks, images, seed)
            whole = known.zip(share, "all")
            least = least_share(
                lambda s, known=known: known.zip(s, "subsets").counts.total, whole.counts.total, share, halvings
            )
            part = known.zip(1.0 if least is None else least, "subsets")
            found.append(least)
            for k, result in enumerate((whole, part)):
                both[k].append(statistics.fmean(task_errors(result.network, tasks)))
                changed[k].append(changed_answers(result.network, tasks))
                sizes[k].append(result.counts.versus_smallest)
        reached = [s for s in found if s is not None]
        chosen = f"{statistics.fmean(reached):.2f}" if len(reached) == draws else "1.00, size not reached"
        for label, used, k in (("all or nothing", f"{share:.2f}", 0), ("subsets", chosen, 1)):
            size = f"{statistics.fmean(sizes[k]):.3f}×"
            lines.append([label, used, size, precise(both[k]), precise(changed[k])])
            print(f"  {' · '.join(lines[-1])}", flush=True)
    heading = ["sharing", "share", "size", "mean test error, %", "answers unlike the parents', %"]
    print("\n" + table(heading, lines), flush=True)


def precise(errors: list[float]) -> str:
    """Mean ± standard deviation, with three digits: the errors differ by little."""
    return f"{statistics.fmean(errors):.3f} ± {statistics.pstdev(errors):.3f}"


class _Zips:
    """Zips of one calibration draw, each made once."""

    def __init__(self, tasks: list[Task], images: int, seed: int) -> None:
        self.networks = [task.module for task in tasks]
        self.calibration, self.seed = calibration_images(tasks, images, seed), seed
        self.known: dict[tuple[float, str], ZipResult] = {}

    def zip(self, share: float, sharing: Literal["subsets", "all"]) -> ZipResult:
        if (share, sharing) not in self.known:
            spec = ZipSpec(share=share, sharing=sharing, seed=self.seed)
            self.known[share, sharing] = zip_networks(self.networks, self.calibration, spec)
        return self.known[share, sharing]
