"""Tasks of different types in one network: attributes and pose beside letters, languages of words."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.machine import table
from benchmarks.quality import spread
from mtz_core import ZipSpec, load_data, load_parent, zip_networks
from mtz_core.data.imageset import shuffled

PAIRS = (
    ("lenet5-letter-attributes-0", "lenet5-letters-0"),
    ("lenet5-letter-pose-0", "lenet5-letters-0"),
    ("lstm-words-germanic-0", "lstm-words-romance-0"),
)
SHARES = (0.5, 1.0)


def run(
    draws: int, pairs: Sequence[Sequence[str]] = PAIRS, shares: Sequence[float] = SHARES, images: int = 1000
) -> None:
    """Per pair and share: size, every parent's error, and what zipping adds to it."""
    print("\n## Tasks of different types\n")
    print(f"{images:,} unlabelled inputs per task from the bundled calibration splits, no retraining, {draws} draws;")
    print("errors in %: wrong classes, wrong attributes, absolute error of values in their standard deviation.\n")
    lines = []
    for names in pairs:
        parents = [load_parent(name) for name in names]
        tests = [load_data(parent.task, "test") for parent in parents]
        inputs = [load_data(parent.task, "calibration")[0] for parent in parents]
        for share in shares:
            added: list[list[float]] = [[] for _ in parents]
            began = time.perf_counter()
            for seed in range(draws):
                some = [x[shuffled(len(x), 100 * seed + t)[:images]] for t, x in enumerate(inputs)]
                found = zip_networks(
                    [parent.module for parent in parents],
                    some,
                    ZipSpec(share=share, seed=seed),
                    evaluation=tests,
                    types=[parent.type for parent in parents],
                )
                assert found.errors is not None
                assert found.parent_errors is not None
                for each, after, before in zip(added, found.errors, found.parent_errors, strict=True):
                    each.append(after - before)
            size = f"{found.counts.versus_all:.1%}"
            alone = " / ".join(f"{error:.2f}" for error in found.parent_errors)
            cost = " / ".join(spread(each) for each in added)
            took = (time.perf_counter() - began) / draws
            lines.append([" + ".join(names), f"{share:g}", size, alone, cost, f"{took:.0f}"])
            print(f"  {' · '.join(lines[-1])}", flush=True)
    heading = ["networks", "share", "size", "errors of the parents", "points added", "s"]
    print("\n" + table(heading, lines), flush=True)
