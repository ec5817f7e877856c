"""The numbers of the lesson: what is stored of real networks, and what follows from it (no torch, no plotly).

`assets/example/lesson.json` is written by `scripts/make_lesson.py`, which uses the engine's own functions. A neuron
with weights w_t loses ½(w − w_t)ᵀH_t(w − w_t) when its weights become w: a bowl with its floor at w_t, whose shape is
the Gram H_t = E[x xᵀ] of the neuron's inputs. He, Zhou and Thiele (NeurIPS 2018), §3.3 and §3.4.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.errors import DataError
from mtz_core.pairing.assignment import pair_neurons
from mtz_core.structure.joint import joined
from mtz_core.structure.networks import NetworkStructure
from mtz_core.structure.sizes import plan_counts, shared_count
from mtz_core.system.paths import ASSETS

Floats = NDArray[np.float64]
Cell = tuple[int, int]
Numbers = Mapping[str, Any]

LESSON = ASSETS / "example" / "lesson.json"
PARTS = ("networks", "weights", "nearest", "pairing", "layers", "wrong", "sweeps")
SHARES = tuple(range(0, 101, 10))
LEAVES = 0.25
"""Percentage points of the mean error above the parents' at which a zipped network has left their level."""


def load_lesson(path: Path = LESSON) -> dict[str, Any]:
    """Read the bundled numbers. Raises `DataError` if they are missing or damaged."""
    remedy = "write it with python -m scripts.make_lesson"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no readable lesson ({error}); {remedy}") from error
    missing = [name for name in PARTS if name not in found]
    if missing:
        raise DataError(f"{path}: the lesson lacks {', '.join(missing)}; {remedy}")
    return dict(found)


def bowl(w: Sequence[float], floor: Sequence[float], gram: Sequence[Sequence[float]]) -> float:
    """Return ½(w − floor)ᵀ gram (w − floor).

    >>> bowl([1.0, 0.0], [0.0, 0.0], [[4.0, 0.0], [0.0, 1.0]])
    2.0
    """
    step = np.asarray(w, dtype=float) - np.asarray(floor, dtype=float)
    return float(step @ np.asarray(gram, dtype=float) @ step) / 2.0


def principal_axes(gram: Sequence[Sequence[float]]) -> tuple[Floats, Floats]:
    """Return the eigenvalues of a Gram (ascending) and the eigenvectors as rows: the bowl's flat and steep ways."""
    values, vectors = np.linalg.eigh(np.asarray(gram, dtype=float))
    return values, vectors.T


def weighted_loss(weights: Numbers, w: Sequence[float], alpha: float) -> float:
    """Return α·loss_A + (1 − α)·loss_B at w, from the numbers of two bowls."""
    losses = [bowl(w, floor, gram) for floor, gram in zip(weights["weights"], weights["grams"], strict=True)]
    return alpha * losses[0] + (1.0 - alpha) * losses[1]


def total_cost(cost: Floats, pairs: Sequence[Cell]) -> float:
    """Sum the costs of pairs."""
    return float(sum(cost[cell] for cell in pairs))


def greedy_steps(cost: Floats) -> list[list[Cell]]:
    """Return the pairs after every step of the paper's way: the cheapest cell whose row and column are still free."""
    pairs = [(int(i), int(j)) for i, j in pair_neurons(cost, min(cost.shape), "greedy")]
    return [pairs[:k] for k in range(len(pairs) + 1)]


def optimal_steps(cost: Floats) -> list[list[Cell]]:
    """Return the cheapest pairing of the first k rows, for k from none to all: those who sit may move over.

    With each new row exactly one more column is used, and no choice of columns for these rows is cheaper.
    """
    steps: list[list[Cell]] = [[]]
    for k in range(1, len(cost) + 1):
        steps.append(sorted((int(i), int(j)) for i, j in pair_neurons(cost[:k], k, "optimal")))
    return steps


def size_table(networks: Sequence[NetworkStructure], shares: Sequence[int] = SHARES) -> list[list[dict[str, int]]]:
    """Return the stored numbers of two LeNet-300-100 for every share of fc1 (first index) and fc2, in %.

    `shared` is stored once, `private` per task (a list); `total` is their sum; `parents` what both stored before.
    """
    joint = joined(networks)
    widths = {group.name: group.widths for group in joint.groups if group.sharing}
    table = []
    for first in shares:
        row = []
        for second in shares:
            wanted = dict(zip(widths, (first / 100, second / 100), strict=True))
            shared = {name: shared_count(wanted[name], widths[name]) for name in widths}
            counts = plan_counts(joint, shared)
            row.append({"shared": counts.shared, "private": sum(counts.private), "total": counts.total})
        table.append(row)
    return table


def weight_counts(inputs: int, outputs: int, shared_inputs: int, shared_outputs: int) -> dict[str, int]:
    """Count the numbers of a layer of two networks; the bias counts as one more shared input.

    `shared` is stored once, `own` by each of the two tasks. Raises `ValueError` if more are shared than there are.

    >>> weight_counts(2, 1, 2, 1)
    {'shared': 3, 'own': 0}
    """
    if not (0 <= shared_inputs <= inputs and 0 <= shared_outputs <= outputs):
        raise ValueError(f"cannot share {shared_inputs} of {inputs} inputs and {shared_outputs} of {outputs} outputs")
    shared = shared_outputs * (shared_inputs + 1)
    return {"shared": shared, "own": outputs * (inputs + 1) - shared}


def leaving_size(points: Sequence[Numbers], by: float = LEAVES) -> float | None:
    """Return the size at which the mean error first is more than `by` points above the parents', from large to small.

    Between two measured points the error is taken to grow evenly. `None`: it never is.
    """
    ordered = sorted(points, key=lambda point: -float(point["size"]))
    rises = [math.fsum(p["errors"]) / len(p["errors"]) - math.fsum(p["parents"]) / len(p["parents"]) for p in ordered]
    for k in range(1, len(ordered)):
        if rises[k] > by:
            low, high = rises[k - 1], rises[k]
            part = (by - low) / (high - low)
            return float(ordered[k - 1]["size"] + part * (ordered[k]["size"] - ordered[k - 1]["size"]))
    return None


def mean_of_draws(draws: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean over draws of each task's error."""
    return [float(x) for x in np.mean(np.asarray(draws, dtype=float), axis=0)]
