"""A merged layer: its weights, what merging cost, what it is predicted to do and what it was measured to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mtz_core.layerwise.problem import FITTED, LayerProblem, Solution, parts_of, private_parts
from mtz_core.network.stored import Factors
from mtz_core.pairing.slots import Table


@dataclass(frozen=True)
class Outcome:
    """A merged layer; see `mtz_core.events.LayerZipped` for the meaning of each number.

    `weights` are every task's (n_t, d_t) matrices after merging, over all columns, scales included.
    """

    pairs: Table
    costs: Tensor
    merged: Tensor
    columns: Table
    predicted: float
    measured: float
    scale: float
    measured_on: Literal["evaluation", "calibration"]
    weights: tuple[Tensor, ...] = field(repr=False)
    scales: tuple[Tensor, ...] | None = field(default=None, repr=False)
    """Factors (n_t,) of the weights that are shared; `None`: one."""
    gains: tuple[Tensor, ...] | None = field(default=None, repr=False)
    """Factors (d_t,) of the inputs that are shared; `None`: one."""

    @property
    def factors(self) -> Factors:
        """Scales and gains."""
        return Factors(self.scales, self.gains)


def merged(problem: LayerProblem, rows: Table, judged: bool = True) -> Outcome:
    """Merge the rows `rows` (k, T), -1 where a task has no part in a slot, and compensate all others.

    Unless it is `judged`, only weights and scales are found, and all losses are 0.
    """
    measured_on: Literal["evaluation", "calibration"] = (
        "evaluation" if "evaluation" in problem.objectives else "calibration"
    )
    matrices = [matrix.clone() for matrix in problem.matrices]
    scales = [matrix.new_ones(len(matrix)) for matrix in matrices]
    gains: list[Tensor] | None = None
    some = problem.base[problem.tasks[0]]
    columns = problem.columns
    costs, weights = some.new_zeros(len(rows)), some.new_zeros(len(rows), len(columns))
    measured = scale = 0.0
    parts = problem.pieces([*parts_of(rows), *private_parts(problem, rows)])
    found: list[Solution] = []
    for part, solution in zip(parts, problem.solutions(parts, "calibration"), strict=True):
        values = solution.values
        found.append(Solution([], solution.scales, solution.gains))
        if solution.gains is not None and gains is None:
            gains = _everywhere(problem, solution.gains)
        if judged:
            measured += float(problem.loss(part, values, measured_on).sum())
            scale += float(problem.loss(part, [torch.zeros_like(w) for w in values], "calibration").sum())
        problem.write(matrices, part, values)
        for t, factor in zip(part.members, solution.scales or (), strict=False):
            scales[t][problem.index(part.rows, t)] = factor.to(scales[t])
        if judged and len(part.slots):
            where = torch.as_tensor(part.slots, device=some.device)
            costs[where] = problem.cost(part, values)
            shared, index = problem.shared(part, values)
            weights[where[:, None], index] = shared
    if gains is None and problem.gained and len(rows):
        gains = _everywhere(problem, {})
    order = torch.argsort(costs, stable=True)
    problem.forget("calibration")
    predicted = problem.predicted(parts, found) if judged else 0.0
    problem.forget(FITTED)
    return Outcome(
        rows[order.cpu().numpy()],
        costs[order],
        weights[order],
        columns,
        predicted,
        measured,
        scale,
        measured_on,
        tuple(matrices),
        tuple(scales) if problem.scaled else None,
        None if gains is None else tuple(gains),
    )


def _everywhere(problem: LayerProblem, gains: Mapping[int, Tensor]) -> list[Tensor]:
    """Factors (d_t,) over all columns of every task's matrix; those that take no part have a factor of one."""
    found = [matrix.new_ones(matrix.shape[1]) for matrix in problem.matrices]
    for t, known in gains.items():
        found[t][torch.as_tensor(problem.own[t], device=known.device)] = known.to(found[t])
    return found
