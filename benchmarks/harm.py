"""Does Inspect name the pair that does the most harm? Ten pairs of every layer, each undone alone and measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.machine import table
from benchmarks.quality import Task, load_task
from mtz_core import Zipper, ZipSpec
from mtz_core import events as ev
from mtz_core.data.sampling import stratified_sample
from mtz_core.pairing.slots import shared_rows
from mtz_core.zipping.harm import HarmMeter
from mtz_core.zipping.pair_harm import PairMeter

PAIRS = 10
UNSEEN = 2000
"""Unlabelled images of each task that did not calibrate, and judge pairs."""
SETS = (
    ("lenet300", "mnist-0", "fashion-0"),
    ("lenet5", "mnist-0", "fashion-0"),
    ("lenet300", "mnist-0", "letters-0"),
    ("resnet14", "mnist-0", "fashion-0"),
)
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Won:
    """What undoing each pair wins back on either half of the test images: (2, pairs)."""

    halves: Numbers

    @property
    def whole(self) -> Numbers:
        """On all of them."""
        return self.halves.mean(0)

    def agreements(self, estimates: Sequence[Numbers]) -> list[str]:
        """How well one half foretells the other, and each of the estimates the whole."""
        found = agreement(*self.halves)
        for estimate in estimates:
            found += agreement(estimate, self.whole)
        return found


def run(
    root: Path | None, draws: int, sets: Sequence[tuple[str, ...]] = SETS, images: int = 500, first: int = 0
) -> None:
    """Per layer: harm in points, and how well the cost of pairs and their estimated harm agree with what is measured.

    `first` is the seed of the first draw.
    """
    print("\n## The harm of layers and of pairs\n")
    print(
        f"{images} unlabelled images per task, no retraining. {PAIRS} random pairs of every layer are undone, one by "
        "one.\nMeasured: what that wins back on test images, as divergence from the parents and as softened "
        "divergence.\nCost: what merging adds to the layer's loss. Estimate: softened divergence on unlabelled images "
        f"that did\nnot calibrate, at most {UNSEEN:,} per task. Halves: what one half of the test images says of the "
        "other.\n"
    )
    lines = []
    for architecture, *names in sets:
        tasks = [load_task(f"{architecture}-{name}", root) for name in names]
        for seed in range(first, first + draws):
            drawn, unseen = images_of(tasks, images, seed)
            spec = ZipSpec(seed=seed)
            zipper = Zipper([t.module for t in tasks], drawn, spec, evaluation=[t.test for t in tasks])
            zipped = {e.layer: e for e in zipper.run() if isinstance(e, ev.LayerZipped)}
            meter = zipper.meter()
            for group in meter.groups:
                row = _row(meter, group, zipped, seed, unseen, [t.test[0] for t in tasks])
                lines.append([f"{architecture}: {', '.join(names)}", str(seed), *row])
                print(f"  {' · '.join(lines[-1])}", flush=True)
    kinds = ("halves", "worst", "cost", "worst", "estimate", "worst")
    heading = ["networks", "draw", "layer", "harm, points", "pairs", "s per pair", *kinds]
    print("\nRank correlations, and whether the pair named as the worst of ten is; of the divergence, then softened:\n")
    print(table([*heading, *kinds], lines), flush=True)
    for what, at in (("divergence", 6), ("softened divergence", 12)):
        _sum_up(what, [line[at : at + 6] for line in lines])


def _sum_up(what: str, lines: Sequence[Sequence[str]]) -> None:
    named = [sum(line[at] == "yes" for line in lines) for at in (1, 3, 5)]
    mean = [statistics.fmean(float(line[at]) for line in lines) for at in (0, 2, 4)]
    both = zip(("halves", "cost", "estimate"), named, mean, strict=True)
    found = "; ".join(f"{name} {count} of {len(lines)}, {average:.2f}" for name, count, average in both)
    print(f"\nBy {what}, the same worst of {PAIRS}, and rank correlation on average: {found}.", flush=True)


def images_of(tasks: Sequence[Task], images: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Per task a stratified draw of images that calibrate, and one of others that judge; neither has labels."""
    drawn, unseen = [], []
    for t, task in enumerate(tasks):
        inputs, labels = task.train
        chosen = stratified_sample(labels.numpy(), images, seed * 100 + t)
        rest = np.setdiff1d(np.arange(len(inputs)), chosen)
        others = np.random.default_rng(seed * 100 + t).permutation(rest)[:UNSEEN]
        drawn.append(inputs[torch.as_tensor(chosen)])
        unseen.append(inputs[torch.as_tensor(others)])
    return drawn, unseen


def _row(
    meter: HarmMeter,
    group: int,
    zipped: dict[str, ev.LayerZipped],
    seed: int,
    unseen: Sequence[Tensor],
    tested: Sequence[Tensor],
) -> list[str]:
    slots = shared_rows(meter.network.tables[group])
    chosen = np.random.default_rng(seed).choice(len(slots), min(PAIRS, len(slots)), replace=False)
    cost = costs_of(meter, group, zipped)[chosen]
    pairs = PairMeter(meter, group, unseen)
    halves = [[x[k::2] for x in tested] for k in range(2)]
    judges = {tau: [PairMeter(meter, group, half, tau) for half in halves] for tau in (1.0, pairs.temperature)}
    estimate, took = [], 0.0
    won: dict[float, list[list[float]]] = {tau: [] for tau in judges}
    for slot in chosen:
        began = time.perf_counter()
        weights = pairs.undone(int(slot))
        estimate.append(pairs.judged(weights).total)
        took += time.perf_counter() - began
        for tau, both in judges.items():
            won[tau].append([judge.judged(weights).total for judge in both])
    whole = meter.undo(group, None)
    row = [
        meter.job.joint.layers[meter.first(group)].name,
        " / ".join(f"{a - b:+.2f}" for a, b in zip(whole.before.errors, whole.after.errors, strict=True)),
        str(len(slots)),
        f"{took / len(chosen):.2f}",
    ]
    for found in won.values():
        measured = Won(np.array(found).T)
        row += measured.agreements([cost, np.array(estimate)])
    return row


def agreement(a: Numbers, b: Numbers) -> list[str]:
    """Rank correlation, and whether both name the same pair as the worst."""
    return [f"{spearmanr(a, b).statistic:.2f}", "yes" if int(np.argmax(a)) == int(np.argmax(b)) else "no"]


def costs_of(meter: HarmMeter, group: int, zipped: dict[str, ev.LayerZipped]) -> Numbers:
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
