"""What the figures were measured on."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from pathlib import Path

import torch


def describe() -> str:
    """One line: processor, cores, memory, versions."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB; Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )


def product_speed(size: int = 2048, repeats: int = 8) -> float:
    """Floating-point operations per second of a float32 matrix product, the best of several."""
    a = torch.randn(size, size)
    a @ a
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def fingerprint(*files: Path) -> str:
    """A hash of everything that decides the figures: the engine's code and these files."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    skipped = {"figures", "runs", "own"}
    for path in sorted([*(root / "mtz_core").rglob("*.py"), *files]):
        if not skipped & set(path.parts):
            digest.update(path.read_bytes())
    return digest.hexdigest()
