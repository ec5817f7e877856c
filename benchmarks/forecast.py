"""Answers that plans predict to change beside those that do, on test inputs that took no part."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.machine import fingerprint, table
from mtz_core import TypeSpec, Zipper, ZipSpec, load_data, load_parent, zip_networks
from mtz_core.budget.choice import Choice
from mtz_core.budget.search import resolve
from mtz_core.budget.spread import likely_range
from mtz_core.data.imageset import shuffled
from mtz_core.outputs.kind import Output
from mtz_core.spec import BudgetSpec
from mtz_core.zipping.forecast import Forecast, Measuring

SETS = {
    "lenet300-seeds": ("lenet300-mnist-0", "lenet300-mnist-1"),
    "lenet300-two": ("lenet300-mnist-0", "lenet300-fashion-0"),
    "lenet5-two": ("lenet5-mnist-0", "lenet5-fashion-0"),
    "attributes": ("lenet5-letter-attributes-0", "lenet5-letters-0"),
    "pose": ("lenet5-letter-pose-0", "lenet5-letters-0"),
    "lstm": ("lstm-words-germanic-0", "lstm-words-romance-0"),
    "resnet14-two": ("resnet14-mnist-0", "resnet14-fashion-0"),
    "lenet5-three": ("lenet5-mnist-0", "lenet5-fashion-0", "lenet5-letters-0"),
}
SHARES = (1.0, 0.8, 0.5)
Answers = Callable[[torch.Tensor], torch.Tensor]
LEAST = 20
"""So many test inputs have to change for a prediction to be judged."""
WITHIN = 1.5


def wanted(forecast: Forecast, choice: Choice) -> Iterator[tuple[str, Mapping[str, int]]]:
    """One share for all layers, and the plans of the same sizes."""
    for share in SHARES:
        even = choice.uniform(share)
        yield f"{share:g}", even
        found = resolve(choice, BudgetSpec(parameters=forecast.parameters(even)), forecast.parameters)
        if dict(found.shares) != even:
            yield f"plan of the size of {share:g}", found.shares


@dataclass(frozen=True)
class Row:
    """One choice: answers that change in %, counted on test inputs (`number` of them) and as they are predicted."""

    share: str
    number: int
    measured: float
    added: float
    predicted: float
    low: float
    high: float
    seconds: float

    @property
    def ratio(self) -> float:
        """Predicted by measured."""
        return self.predicted / self.measured

    @property
    def cells(self) -> list[str]:
        """As the table has it."""
        numbers = (self.measured, self.added, self.predicted)
        between = f"{self.low:.2f} to {self.high:.2f}"
        ratios = (f"{self.added / self.measured:.2f}", f"{self.ratio:.2f}")
        return [self.share, f"{self.number}", *(f"{x:.2f}" for x in numbers), between, *ratios, f"{self.seconds:.1f}"]


def rows(name: str, seed: int, images: int) -> Iterator[Row]:
    """A line of the table for every choice by which any test input changes."""
    parents = [load_parent(each) for each in SETS[name]]
    modules, tests = [parent.module for parent in parents], [load_data(parent.task, "test")[0] for parent in parents]
    given = [load_data(parent.task, "calibration")[0] for parent in parents]
    some = [x[shuffled(len(x), 100 * seed + t)[:images]] for t, x in enumerate(given)]
    types = tuple(TypeSpec(kind=parent.type) for parent in parents)
    spec = ZipSpec(seed=seed, share="auto", budget=BudgetSpec(size=1.5), types=types)
    job = Zipper(modules, some, spec).job
    forecast, start = Forecast.of(job, job.sample), time.perf_counter()
    choice = next(item for item in forecast.choice() if not isinstance(item, Measuring))
    seconds = time.perf_counter() - start
    for share, counts in wanted(forecast, choice):
        network = zip_networks(modules, some, ZipSpec(seed=seed, share=counts, types=types)).network
        percent = number = 0.0
        for t, (alpha, output, x) in enumerate(zip(job.alphas, job.outputs, tests, strict=True)):
            part = changed(output, modules[t], partial(network, task=t), x)
            percent, number = percent + 100.0 * alpha * part, number + part * len(x)
        total = choice.divergence(counts)
        predicted, added = choice.error(total), replace(choice, together=()).error(total)
        if number:
            between = likely_range(predicted, sum(map(len, tests)))
            yield Row(share, round(number), percent, added, predicted, *between, seconds)


def changed(output: Output, parent: Answers, network: Answers, inputs: torch.Tensor) -> float:
    """Part of the answers to inputs that differ from the parent's."""
    parts = []
    with torch.no_grad():
        for x in torch.split(inputs, 512):
            parts.append(output.changed(output.predictions(parent(x)), output.predictions(network(x))))
    return float(torch.cat(parts).mean())


def run(draws: int, names: Sequence[str] = tuple(SETS), images: int = 1000, store: Path | None = None) -> None:
    """Print the table; what is finished goes to the file `store`, and is taken from there if the code is the same."""
    torch.set_num_threads(1)
    print("\n## Predicted and measured changes\n")
    print(f"{images:,} unlabelled calibration inputs per task; choices by which at least {LEAST} test inputs change.\n")
    code = fingerprint(Path(__file__))
    lines, found = [], []
    known = json.loads(store.read_text(encoding="utf-8")) if store is not None and store.is_file() else {}
    for name in names:
        for seed in range(draws):
            key = f"{code} {name} {seed} {images}"
            made = [Row(**row) for row in known[key]] if key in known else list(rows(name, seed, images))
            known[key] = [asdict(row) for row in made]
            if store is not None:
                store.write_text(json.dumps(known), encoding="utf-8")
            for row in made:
                found.append(row)
                print(f"  {' · '.join([name, f'{seed}', *row.cells])}", flush=True)
                if row.number >= LEAST:
                    lines.append([name, f"{seed}", *row.cells])
    heading = ["networks", "draw", "share", "inputs changed", "measured, %", "added up, %", "predicted, %"]
    heading += ["nine of ten between, %", "added up ÷ measured", "predicted ÷ measured", "seconds to plan"]
    print("\n" + table(heading, lines))
    for judged, which in (
        ([row for row in found if row.number >= LEAST], f"by which at least {LEAST} inputs change"),
        ([row for row in found if row.number < LEAST], "by which fewer change"),
    ):
        near = sum(1 / WITHIN <= row.ratio <= WITHIN for row in judged)
        between = sum(row.low <= row.measured <= row.high for row in judged)
        print(f"\nOf {len(judged)} choices {which}, {near} are predicted within a factor of {WITHIN}", end="")
        print(f" and {between} lie between the two numbers.", flush=True)
