"""Functional difference of a VGG conv5 layer: all pairs at once against the loop over pairs."""

from __future__ import annotations

import time

import torch

from benchmarks.machine import product_speed, table
from mtz_core import functional_difference

N, D, PAIRS, RIDGE = 512, 4609, 200, 1e-3


def run() -> None:
    """n_a = n_b = 512 neurons with d = 4,609 inputs, float32; the loop is extrapolated from 200 pairs."""
    generator = torch.Generator().manual_seed(0)
    w_a, w_b = (torch.randn(N, D, generator=generator) * 0.02 for _ in range(2))
    grams = []
    for _ in range(2):
        x = torch.randn(2 * D, D, generator=generator).relu()
        grams.append(x.mT @ x / len(x))
    speed = product_speed()
    functional_difference(w_a, w_b, *grams, ridge=RIDGE)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        fast = functional_difference(w_a, w_b, *grams, ridge=RIDGE)
        times.append(time.perf_counter() - start)
    best, middle = min(times), sorted(times)[2]

    start = time.perf_counter()
    forms = [0.5 * (g + RIDGE * g.diagonal().mean() * torch.eye(D)) for g in grams]
    m = forms[0] - forms[0] @ torch.linalg.solve(forms[0] + forms[1], forms[0])
    prepared = time.perf_counter() - start
    order = torch.randperm(N * N, generator=generator)[:PAIRS].tolist()
    start = time.perf_counter()
    slow = {}
    for k in order:
        delta = w_a[k // N] - w_b[k % N]
        slow[k] = float(0.5 * delta @ m @ delta)
    loop = prepared + (time.perf_counter() - start) * N * N / PAIRS

    exact = functional_difference(w_a.double(), w_b.double(), *(g.double() for g in grams), ridge=RIDGE)
    operations = 2 * D * D * 2 * N + D**3 / 3 + D * D * 2 * N + 2 * 2 * N * N * D
    error = float((fast - exact).abs().max() / exact.max())
    agree = max(abs(float(exact[k // N, k % N]) - value) for k, value in slow.items()) / float(exact.max())
    arithmetic = f"its {operations / 1e9:.0f} GFLOP at the speed of a matrix product ({speed / 1e9:.0f} GFLOP/s)"
    print(f"\n## Functional difference, {N} × {N} neurons, {D:,} inputs, float32\n")
    print(
        table(
            ["", "seconds", "ratio"],
            [
                ["all pairs at once, median of 5", f"{middle:.2f}", "1"],
                [f"loop over pairs, extrapolated from {PAIRS}", f"{loop:.0f}", f"{loop / middle:.0f}× slower"],
                [
                    arithmetic,
                    f"{operations / speed:.2f}",
                    f"{middle * speed / operations:.2f}× (best {best * speed / operations:.2f}×)",
                ],
            ],
        )
    )
    print(f"\nLargest error against float64, relative to the largest difference: {error:.1e} (the loop: {agree:.1e}).")
