"""Answers that plans predict to change beside those that do, on test inputs that took no part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from benchmarks.machine import table
from mtz_core import TypeSpec, Zipper, ZipSpec, load_data, load_parent, zip_networks
from mtz_core.budget.choice import Choice
from mtz_core.budget.search import resolve
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


def rows(name: str, seed: int, images: int) -> Iterator[tuple[list[str], float]]:
    """Cells of a line of the table for every choice that changes enough, and predicted by measured changes."""
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
        if number >= LEAST:
            cells = [name, f"{seed}", share, f"{number:.0f}", f"{percent:.2f}", f"{added:.2f}", f"{predicted:.2f}"]
            cells += [f"{added / percent:.2f}", f"{predicted / percent:.2f}", f"{seconds:.1f}"]
            yield cells, predicted / percent


def changed(output: Output, parent: Answers, network: Answers, inputs: torch.Tensor) -> float:
    """Part of the answers to inputs that differ from the parent's."""
    parts = []
    with torch.no_grad():
        for x in torch.split(inputs, 512):
            parts.append(output.changed(output.predictions(parent(x)), output.predictions(network(x))))
    return float(torch.cat(parts).mean())


def run(draws: int, names: Sequence[str] = tuple(SETS), images: int = 1000) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("\n## Predicted and measured changes\n")
    print(f"{images:,} unlabelled calibration inputs per task; choices by which at least {LEAST} test inputs change.\n")
    lines, ratios = [], []
    for name in names:
        for seed in range(draws):
            for cells, ratio in rows(name, seed, images):
                lines.append(cells)
                ratios.append(ratio)
                print(f"  {' · '.join(cells)}", flush=True)
    heading = ["networks", "draw", "share", "inputs changed", "measured, %", "added up, %", "predicted, %"]
    print("\n" + table([*heading, "added up ÷ measured", "predicted ÷ measured", "seconds to plan"], lines))
    inside = sum(1 / WITHIN <= ratio <= WITHIN for ratio in ratios)
    print(f"\n{inside} of {len(ratios)} predictions within a factor of {WITHIN}.", flush=True)
