"""Does Inspect name the pair that does the most harm? Ten pairs of every layer, each undone alone and measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.machine import table
from benchmarks.quality import calibration_images, load_task
from mtz_core import Zipper, ZipSpec
from mtz_core import events as ev
from mtz_core.pairing.slots import shared_rows
from mtz_core.zipping.harm import HarmMeter

PAIRS = 10
SETS = (("lenet300", "mnist-0", "fashion-0"), ("lenet5", "mnist-0", "fashion-0"), ("lenet300", "mnist-0", "letters-0"))


def run(root: Path | None, draws: int, sets: Sequence[tuple[str, ...]] = SETS, images: int = 500) -> None:
    """Per layer: harm in points, rank correlation of estimated and measured harm of pairs, and how often both agree."""
    print("\n## The harm of layers and of pairs\n")
    print(
        f"{images} unlabelled images per task, no retraining. {PAIRS} random pairs of every layer are undone, one at a"
    )
    print("time, and what is won back (divergence from the parents, on test images) is compared with the estimate.\n")
    lines = []
    for architecture, *names in sets:
        tasks = [load_task(f"{architecture}-{name}", root) for name in names]
        for seed in range(draws):
            calibration = calibration_images(tasks, images, seed)
            zipper = Zipper(
                [t.module for t in tasks], calibration, ZipSpec(seed=seed), evaluation=[t.test for t in tasks]
            )
            zipped = {e.layer: e for e in zipper.run() if isinstance(e, ev.LayerZipped)}
            meter = zipper.meter()
            for group in meter.groups:
                lines.append([f"{architecture}: {', '.join(names)}", str(seed), *_row(meter, group, zipped, seed)])
                print(f"  {' · '.join(lines[-1])}", flush=True)
    heading = ["networks", "draw", "layer", "harm, points", "pairs", "rank correlation", "same worst pair", "answers"]
    print("\n" + table(heading, lines), flush=True)
    agreed = [line[6] == "yes" for line in lines]
    print(f"\nThe worst of ten was named in {sum(agreed)} of {len(agreed)} layers; rank correlation on average "
          f"{statistics.fmean(float(line[5]) for line in lines):.2f}.", flush=True)  # fmt: skip


def _row(meter: HarmMeter, group: int, zipped: dict[str, ev.LayerZipped], seed: int) -> list[str]:
    joint = meter.job.joint
    slots = shared_rows(meter.network.tables[group])
    estimate = estimated(meter, group, zipped)
    chosen = np.random.default_rng(seed).choice(len(slots), min(PAIRS, len(slots)), replace=False)
    streams = meter.replay.streams(meter.reference[0])
    whole = meter.undo(group, None, streams)
    trials = [meter.undo(group, [int(s)], streams) for s in chosen]
    won = [sum(x.before.divergences) - sum(x.after.divergences) for x in trials]
    points = [sum(x.before.errors) - sum(x.after.errors) for x in trials]
    return [
        joint.layers[meter.first(group)].name,
        " / ".join(f"{a - b:+.2f}" for a, b in zip(whole.before.errors, whole.after.errors, strict=True)),
        str(len(slots)),
        f"{spearmanr(estimate[chosen], won).statistic:.2f}",
        "yes" if int(np.argmax(estimate[chosen])) == int(np.argmax(won)) else "no",
        f"{spearmanr(estimate[chosen], points).statistic:.2f}",
    ]


def estimated(meter: HarmMeter, group: int, zipped: dict[str, ev.LayerZipped]) -> NDArray[np.float64]:
    """What merging costs every shared slot of a group, summed over the layers that write it."""
    joint = meter.job.joint
    slots = [tuple(slot) for slot in shared_rows(meter.network.tables[group]).tolist()]
    costs = dict.fromkeys(slots, 0.0)
    for index in joint.producers(group):
        layer = joint.layers[index]
        if layer.name in zipped:
            event = zipped[layer.name]
            for pair, cost in zip(event.pairs, event.costs, strict=True):
                channels = (int(m.rows[n]) if n >= 0 else -1 for m, n in zip(layer.members, pair, strict=True))
                costs[tuple(channels)] += float(cost)
    return np.array([costs[slot] for slot in slots])
