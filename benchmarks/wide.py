"""fc6 of VGG-16 (4,096 neurons, 25,089 inputs) from 256 calibration rows, in a process of its own to measure memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from benchmarks.machine import table

N, D, ROWS, RIDGE = 4096, 25089, 256, 1e-2


def run() -> None:
    """Difference, pairing (optimal and greedy) and merge, with the extra memory at its peak."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.wide"], capture_output=True, text=True, check=True)
    print(f"\n## Wide layer: {N:,} neurons, {D:,} inputs, {ROWS} calibration rows per task, float32\n")
    print(done.stdout.strip())


def _peak() -> float:
    """Largest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _measure() -> None:
    import torch

    from mtz_core import functional_difference, merge_weights, pair_neurons
    from mtz_core.algebra.gram import RowGram

    generator = torch.Generator().manual_seed(0)
    weights = [torch.empty(N, D).normal_(std=0.01, generator=generator) for _ in range(2)]
    rows = [torch.empty(ROWS, D).normal_(generator=generator).relu_() for _ in range(2)]
    before = _peak()
    grams = [RowGram(x, 1 / ROWS) for x in rows]
    stages: list[tuple[str, float]] = []

    def timed(name: str, start: float) -> None:
        stages.append((name, time.perf_counter() - start))

    start = time.perf_counter()
    difference = functional_difference(*weights, *grams, ridge=RIDGE)
    timed("difference", start)
    start = time.perf_counter()
    pair_neurons(difference, N, "greedy")
    timed("pairing, greedy (not in the sum)", start)
    start = time.perf_counter()
    pairs = pair_neurons(difference, N, "optimal")
    timed("pairing, optimal", start)
    start = time.perf_counter()
    merged = merge_weights([w[torch.as_tensor(p)] for w, p in zip(weights, pairs.T, strict=True)], grams, ridge=RIDGE)
    timed("merge", start)
    assert merged.shape == (N, D)
    total = sum(seconds for name, seconds in stages if "greedy" not in name)
    lines = [[name, f"{seconds:.1f}"] for name, seconds in stages] + [["sum", f"{total:.1f}"]]
    print(table(["stage", "seconds"], lines))
    print(f"\nExtra memory at the peak: {_peak() - before:.2f} GiB (inputs: {before:.2f} GiB resident).")
    print(f"One d×d matrix alone would take {D * D * 4 / 2**30:.1f} GiB.")


if __name__ == "__main__":
    _measure()
