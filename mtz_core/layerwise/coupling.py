"""All merged rows of a layer together, where errors of its outputs do not count alike.

With weights of errors that are no multiple of the identity, the rows of a layer are no problems of their own: an error
of one output can be made up for by another. See `algebra.coupled`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mtz_core.algebra.coupled import Member, Tie, merge_coupled
from mtz_core.algebra.gains import Gained, merge_at_gains, merge_gained
from mtz_core.algebra.gram import Gram, index_of, to_dense
from mtz_core.layerwise.problem import Part, Solution

if TYPE_CHECKING:
    from mtz_core.layerwise.dense import DenseProblem


def coupled_solutions(
    problem: DenseProblem,
    parts: Sequence[Part],
    alone: Sequence[Solution],
    wanted: Mapping[int, Tensor],
    grams: Mapping[int, Gram],
    gains: Mapping[int, Tensor] | None = None,
) -> list[Solution]:
    """Improve the solutions `alone` of every part on its own: what outputs weigh ties all rows together.

    So do gains (see `algebra.gains`), where tasks have some of their own.

    Args:
        problem: the layer's.
        parts: its rows.
        alone: their solutions, whose scales are kept.
        wanted: weights (n_t, d_t) that every task would have alone.
        grams: task-weighted Grams (d_t, d_t).
        gains: every task's factors (d_t,) of its inputs, where they are known already.
    """
    values = {t: w.clone() for t, w in wanted.items()}
    ties: list[Tie] = []
    for part, solution in zip(parts, alone, strict=True):
        ties += _ties(problem, part, solution)
        for t, w in zip(part.members, solution.values, strict=True):
            values[t][problem.index(part.rows, t)] = w
    outputs = problem.outputs
    weights = {t: outputs[t] if t in outputs else torch.eye(len(w)).to(w) for t, w in wanted.items()}
    matrices = {t: to_dense(gram).full() for t, gram in grams.items()}
    if not problem.gained:
        found = Gained(merge_coupled(values, wanted, matrices, weights, ties), {})
    elif gains is None:
        found = merge_gained(values, wanted, matrices, weights, ties, problem.indices)
    else:
        found = merge_at_gains(values, wanted, matrices, weights, ties, gains)
    return [
        Solution(
            [found.values[t][problem.index(part.rows, t)] for t in part.members], solution.scales, found.gains or None
        )
        for part, solution in zip(parts, alone, strict=True)
    ]


def _ties(problem: DenseProblem, part: Part, solution: Solution) -> list[Tie]:
    """The unknowns in the rows of a part: what its members share, and what each has on its own."""
    used = (problem.inputs[:, part.members] >= 0).sum(axis=1) > (1 if len(part.members) > 1 else 0)
    size = int(used.sum())
    shared, ties = {}, []
    for m, t in enumerate(part.members):
        rows, index = problem.index(part.rows, t), problem.indices[t]
        compact = torch.as_tensor(np.cumsum(used) - 1, device=index.device)
        held = torch.as_tensor(used, device=index.device)[index]
        mine, rest = torch.nonzero(held)[:, 0], torch.nonzero(~held)[:, 0]
        ones = problem.base[t].new_ones(len(rows))
        scales = ones if solution.scales is None else solution.scales[m]
        whole = len(mine) == size == len(index)
        at = index_of(compact[index[mine]])
        shared[t] = Member(rows, None, None, scales) if whole else Member(rows, index_of(mine), at, scales)
        if len(rest):
            ties.append(Tie({t: Member(rows, index_of(rest), slice(0, len(rest)), ones)}, len(rest)))
    return [Tie(shared, size), *ties] if size else ties
