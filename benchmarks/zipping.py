"""`python -m benchmarks quality`: zipping beside the paper and rival merging methods, at every size, in one table.

One row is one set of parents, one number of calibration images and one share; every method gets the same images and,
where it can, the same size. Finished cells go to a file (`--store`), so that a run that was cut off goes on.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.machine import fingerprint, table
from benchmarks.planner import Planner
from benchmarks.quality import Task, calibration_images, load_task, parents_errors, spread, task_errors
from mtz_core import RetrainSpec, ZipSpec, zip_networks
from mtz_core import events as ev
from mtz_core.baselines import BaselineResult, merge_networks
from mtz_core.data.fullsets import absent
from mtz_core.errors import SpecError
from mtz_core.graph.correspondence import correspond
from mtz_core.graph.propagation import channel_graphs
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.structure.trunks import trunk_of, trunks
from mtz_core.zoo.catalog import catalog

ARCHITECTURES = ("lenet300", "lenet5", "resnet14", "resnet20", "vgg11", "mobilenet")
SETS: Mapping[str, tuple[str, ...]] = {
    "MNIST seeds": ("mnist-0", "mnist-1"),
    "MNIST + Fashion": ("mnist-0", "fashion-0"),
    "MNIST + Fashion + letters": ("mnist-0", "fashion-0", "letters-0"),
    "CIFAR-10 halves": ("cifar10-0to4-0", "cifar10-5to9-0"),
}
"""Tasks of a row; an architecture has the rows of which all networks are bundled."""
SHARES = (1.0, 0.8, 0.5)
IMAGES = (100, 500, 1000, 2000)
WARMING = 50
"""Images of a first zip that is not timed."""
REMEMBERED = 4
"""Draws whose curves are kept for another size."""
WATCHED = 500
"""Test images per task on which each layer's loss is measured."""
PAPER: Mapping[str, Any] = {"compensate": False, "pairing": "greedy", "streams": "first"}
COMPENSATED: Mapping[str, Any] = {
    **PAPER,
    "compensate": True,
    "relu_rounds": 0,
    "scale": "shared",
    "bias": "shared",
    "weighting": "equal",
}
"""Compensation without what else the default adds to it."""
LABELLED = RetrainSpec(steps=500, targets="labels", schedule="layerwise", learning_rate=3e-3, batch_size=64)
DISTILLED = RetrainSpec(steps=100, targets="distill", schedule="final", learning_rate=3e-4, batch_size=64)


@dataclass(frozen=True)
class Cell:
    """One method on one draw: test errors in %, size relative to the smallest parent, seconds.

    `multiplications` are those of all tasks' answers to one input, relative to the smallest parent's. `layers` holds
    (predicted, measured) loss of every layer, relative to its signal.
    """

    errors: tuple[float, ...]
    size: float
    seconds: float
    multiplications: float
    layers: tuple[tuple[float, float], ...] = field(default=())


Method = Callable[[Sequence[Task], list[Tensor], float, int], Cell]


def zipped(watched: bool = False, **fields: Any) -> Method:
    """The engine with some fields of `ZipSpec`; `watched`: on the first draw each layer's loss on test images, too."""

    def run(tasks: Sequence[Task], images: list[Tensor], share: float, seed: int) -> Cell:
        spec = ZipSpec(**{"share": share, **fields, "seed": seed})
        parents, layers = [task.module for task in tasks], []
        if watched and seed == 0:
            some = [(task.test[0][:WATCHED], task.test[1][:WATCHED]) for task in tasks]

            def hear(event: ev.Event) -> None:
                if isinstance(event, ev.LayerZipped | ev.LayerCompensated) and event.scale > 0:
                    layers.append((event.predicted / event.scale, event.measured / event.scale))

            zip_networks(parents, images, spec, evaluation=some, on_event=hear)
        start = time.perf_counter()
        result = zip_networks(parents, images, spec, retraining=[task.train for task in tasks])
        seconds = time.perf_counter() - start
        errors = tuple(task_errors(result.network, list(tasks)))
        return Cell(errors, result.counts.versus_smallest, seconds, multiplications(result.network), tuple(layers))

    return run


def planned() -> Method:
    """The engine with planned shares, at most at the size that one share for all layers gives; its own seconds only."""
    planners: dict[tuple[Any, ...], Planner] = {}

    def run(tasks: Sequence[Task], images: list[Tensor], share: float, seed: int) -> Cell:
        networks = [task.module for task in tasks]
        start = time.perf_counter()
        result = zip_networks(networks, images, ZipSpec(share=share, seed=seed))
        seconds = time.perf_counter() - start
        if share < 1.0:
            key = (*(task.name for task in tasks), len(images[0]), seed)
            if key not in planners:
                for old in list(planners)[: -REMEMBERED + 1]:
                    planners.pop(old)
                planners[key] = Planner.measured(networks, images, seed)
            start = time.perf_counter()
            result = planners[key].within(result.counts.total)[1]
            seconds = planners[key].seconds + time.perf_counter() - start
        errors = tuple(task_errors(result.network, list(tasks)))
        return Cell(errors, result.counts.versus_smallest, seconds, multiplications(result.network))

    return run


def multiplications(network: ZippedNetwork) -> float:
    """Those of all tasks' answers to one input, relative to the least of the parents'."""
    structure = network.joint.structure
    each = [one.multiplications for one in structure.networks]
    return (trunks(structure)[network.trunk - 1].multiplications if network.trunk else sum(each)) / min(each)


def in_one_pass() -> Method:
    """The engine, with so many first layers computed once for all tasks that answers cost no more than a rival's."""

    def run(tasks: Sequence[Task], images: list[Tensor], share: float, seed: int) -> Cell:
        networks = [task.module for task in tasks]
        limit = _times(merge_networks(networks, images, "average", share, reset=False))
        structure = correspond(channel_graphs(networks, [x[:2] for x in images])).structure
        trunk = trunk_of(structure, limit=limit)
        return zipped(trunk=None if trunk is None else trunk.name)(tasks, images, share, seed)

    return run


def _times(result: BaselineResult) -> float:
    """Multiplications of a rival's answers to one input, as of `multiplications`."""
    return result.multiplications.all_tasks / min(result.multiplications.parents)


def rival(**arguments: Any) -> Method:
    """A method of `mtz_core.baselines`."""

    def run(tasks: Sequence[Task], images: list[Tensor], share: float, seed: int) -> Cell:
        result = merge_networks([task.module for task in tasks], images, share=share, **arguments)
        errors = tuple(task_errors(result.network, list(tasks)))
        return Cell(errors, result.counts.versus_smallest, result.seconds, _times(result))

    return run


METHODS: Mapping[str, Method] = {
    "paper": zipped(**PAPER),
    "paper, 500 labelled steps": zipped(**PAPER, retrain=LABELLED),
    "compensation alone": zipped(**COMPENSATED),
    "ours": zipped(watched=True),
    "ours, 100 label-free steps": zipped(retrain=DISTILLED),
    "ours, planned shares": planned(),
    "ours, no more multiplications": in_one_pass(),
    "averaging": rival(method="average", reset=False),
    "random pairs": zipped(**{**PAPER, "pairing": "random"}),
    "permute + reset": rival(method="permute"),
    "zip + reset": rival(method="zip"),
    "weight matching + reset": rival(method="match"),
    "permute + RegMean + reset": rival(method="regmean", align="permute", reduce=0.1),
    "PLeaS + reset": rival(method="pleas"),
}


@dataclass
class Store:
    """Finished cells by name, in a JSON file if a path is given; cells of other code than this are not used."""

    path: Path | None
    code: str
    cells: dict[str, Cell] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | None) -> Store:
        """Read what is there; a file written by other code is left out of account."""
        store = cls(path, fingerprint(Path(__file__)))
        if path is not None and path.is_file():
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.get("code") == store.code:
                for name, cell in data["cells"].items():
                    layers = tuple((float(p), float(m)) for p, m in cell["layers"])
                    store.cells[name] = Cell(**(cell | {"errors": tuple(cell["errors"]), "layers": layers}))
        return store

    def cell(self, name: str, make: Callable[[], Cell]) -> Cell:
        """Return a cell, made now if it is not known."""
        if name not in self.cells:
            self.cells[name] = make()
            if self.path is not None:
                data = {"code": self.code, "cells": {key: asdict(cell) for key, cell in self.cells.items()}}
                self.path.parent.mkdir(parents=True, exist_ok=True)
                partial = self.path.with_suffix(".partial")
                partial.write_text(json.dumps(data), encoding="utf-8")
                partial.replace(self.path)
        return self.cells[name]


def run(
    root: Path | None,
    draws: int,
    store: Path | None = None,
    architectures: Sequence[str] = ARCHITECTURES,
    images: Sequence[int] = IMAGES,
    shares: Sequence[float] = SHARES,
    methods: Sequence[str] = tuple(METHODS),
    sets: Sequence[str] = tuple(SETS),
) -> None:
    """Print the table, a second one of sizes and multiplications, then what it says about predictions and time."""
    known = Store.open(store)
    print(f"\n## Error increase over the parents, in points, mean over tasks; mean ± spread over {draws} draws\n")
    print("No retraining and no labels unless a column says so. Full test sets.\n")
    lines, costs, ours = [], [], []
    ratios: dict[str, list[float]] = {"compensation alone": [], "ours": []}
    for architecture, title, names in _listed(architectures, sets, root):
        tasks = [load_task(name, root) for name in names]
        parents = parents_errors(tasks)
        # What runs first in a process takes longer.
        zip_networks([t.module for t in tasks], [t.train[0][:WARMING] for t in tasks], ZipSpec(**PAPER))
        for count, share in itertools.product(images, shares):
            found = dict(_row(known, architecture, title, tasks, count, share, draws, methods))
            increase = {
                name: [statistics.fmean(cell.errors) - statistics.fmean(parents) for cell in cells]
                for name, cells in found.items()
                if cells
            }
            first = next((cells for name in ("ours", *found) if (cells := found.get(name))), None)
            seconds = {name: statistics.fmean(cell.seconds for cell in cells) for name, cells in found.items() if cells}
            ours += [layer for cell in found.get("ours", ()) for layer in cell.layers]
            for name, known_ratios in ratios.items():
                if {name, "paper"} <= set(seconds):
                    known_ratios.append(seconds[name] / seconds["paper"])
            which = [architecture, title, str(count), f"{share:.1f}"]
            row = [*which, " / ".join(f"{e:.2f}" for e in parents)]
            row += [spread(increase[name]) if name in increase else "–" for name in methods]
            lines.append([*row, f"{first[0].size:.3f}×" if first else "–", f"{seconds.get('ours', 0.0):.0f}"])
            costs.append([*which, *(_cost(found[name]) for name in methods)])
            print(f"  {' · '.join(row)}", flush=True)
    which = ["network", "tasks", "images", "share"]
    print("\n" + table([*which, "parents, error %", *methods, "size", "seconds"], lines) + "\n", flush=True)
    print("Parameters, and multiplications of all tasks' answers to one input, relative to the smallest parent's:\n")
    print(table([*which, *methods], costs) + "\n", flush=True)
    _predictions(ours)
    for name, each in ratios.items():
        if each:
            print(f"Time beside the paper's zip, {name}: median {np.median(each):.2f}×, highest {max(each):.2f}×.")


def _listed(
    architectures: Sequence[str], sets: Sequence[str], root: Path | None
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Architecture, title and parents of every row; what lacks its images is named and left out."""
    for architecture, title in itertools.product(architectures, sets):
        names = tuple(f"{architecture}-{name}" for name in SETS[title])
        if not set(names) <= set(catalog()):
            continue
        lacking = [said for name in names if (said := absent(catalog()[name].task, root)) is not None]
        if lacking:
            print(f"Left out: {architecture}, {title}. {lacking[0]}\n", flush=True)
            continue
        yield architecture, title, names


def _cost(cells: Sequence[Cell]) -> str:
    """Mean parameters and multiplications over the draws."""
    if not cells:
        return "–"
    size = statistics.fmean(cell.size for cell in cells)
    return f"{size:.3f}×, {statistics.fmean(cell.multiplications for cell in cells):.2f}×"


def _row(
    store: Store,
    architecture: str,
    title: str,
    tasks: Sequence[Task],
    count: int,
    share: float,
    draws: int,
    methods: Sequence[str],
) -> Iterator[tuple[str, list[Cell]]]:
    calibration = [calibration_images(list(tasks), count, seed) for seed in range(draws)]
    for name in methods:
        cells = []
        try:
            for seed in range(draws):
                key = f"{architecture} | {title} | {count} | {share} | {name} | {seed}"
                cells.append(store.cell(key, lambda s=seed, n=name: METHODS[n](tasks, calibration[s], share, s)))
        except SpecError as error:
            print(f"  {architecture}, {title}: no {name}: {error}", flush=True)
        yield name, cells


def _predictions(layers: Sequence[tuple[float, float]]) -> None:
    """How well predicted layer losses foretell measured ones."""
    pairs = np.array([pair for pair in layers if min(pair) > 1e-9])
    if len(pairs) < 3:
        return
    ranks = [np.argsort(np.argsort(pairs[:, k])) for k in range(2)]
    correlation = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    factor = np.exp(np.abs(np.log(pairs[:, 0] / pairs[:, 1])))
    print(
        f"Predicted against measured loss of {len(pairs)} layers: rank correlation {correlation:.3f}, within a factor "
        f"1.5 in {100 * float((factor <= 1.5).mean()):.0f} %, median factor {float(np.median(factor)):.2f}."
    )
