"""Any number of tasks: fold them one after the other into slots, then improve the slots task by task.

Nested minimisation is exact: once neurons of two tasks are merged, the slot costs a third task what a single parent
with the summed Gram and the merged weights would. So T tasks need nothing but the two-task difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mtz_core.algebra.difference import pairwise_difference
from mtz_core.algebra.gram import Gram, add
from mtz_core.algebra.merging import merge, merge_loss
from mtz_core.methods.kinds import PAIRING, Pairs
from mtz_core.pairing.assignment import pair_neurons

Pairing = Callable[[Tensor, int], Pairs]
MAX_SWEEPS = 20


def pair_tasks(
    weights: Sequence[Tensor], grams: Sequence[Gram], k: int, method: str = "optimal", seed: int = 0
) -> tuple[Pairs, Tensor]:
    """Choose k slots of one neuron of every task, cheapest first.

    Args:
        weights: one (n_t, d) matrix per task over the same inputs.
        grams: one Gram per task, carrying task weight and ridge.
        k: number of slots, at most the narrowest n_t.
        method: see `pair_neurons`. If it improves, each task is paired anew, optimally, with the merge of the
            others until the total cost stops falling: for three or more tasks good slots, not always the best.
        seed: of methods that draw.

    Returns:
        Neuron indices (k, T) and the cost of every slot (k,): the least Σ_t ½ (w - w_t)ᵀ P_t (w - w_t).
    """
    if len(weights) == 2:
        pairs = pair_neurons(pairwise_difference(weights[0], weights[1], grams[0], grams[1]), k, method, seed)
        return pairs, _slot_costs(pairs, [0, 1], weights, grams)
    kind = PAIRING.find(method)
    order = sorted(range(len(weights)), key=lambda t: len(weights[t]))
    slots = np.full((len(weights[order[0]]), len(weights)), -1, dtype=np.int64)
    slots[:, order[0]] = np.arange(len(slots))
    for position, t in enumerate(order[1:], start=1):
        _pair_task(slots, order[:position], t, weights, grams, lambda d, n: pair_neurons(d, n, method, seed))
    tasks = list(range(len(weights)))
    costs = _slot_costs(slots, tasks, weights, grams)
    if kind.random:
        slots, costs = slots[:k], costs[:k]
    if kind.improves:
        slots, costs = _pair_anew(slots, costs, weights, grams)
    slots, costs = _cheapest(slots, costs, k)
    if kind.improves and 0 < k < min(len(w) for w in weights):
        # Fewer slots than neurons: those left out may serve a slot better than those in it.
        slots, costs = _cheapest(*_pair_anew(slots, costs, weights, grams), k)
    return slots, costs


def _cheapest(slots: Pairs, costs: Tensor, k: int) -> tuple[Pairs, Tensor]:
    order = torch.argsort(costs, stable=True)[:k]
    return slots[order.cpu().numpy()], costs[order]


def _merged(slots: Pairs, tasks: Sequence[int], weights: Sequence[Tensor], grams: Sequence[Gram]) -> Tensor:
    members = [weights[t][torch.as_tensor(slots[:, t], device=weights[t].device)] for t in tasks]
    return members[0] if len(tasks) == 1 else merge(members, [grams[t] for t in tasks])


def _slot_costs(slots: Pairs, tasks: Sequence[int], weights: Sequence[Tensor], grams: Sequence[Gram]) -> Tensor:
    members = [weights[t][torch.as_tensor(slots[:, t], device=weights[t].device)] for t in tasks]
    chosen = [grams[t] for t in tasks]
    return merge_loss(merge(members, chosen), members, chosen)


def _pair_task(
    slots: Pairs, tasks: Sequence[int], t: int, weights: Sequence[Tensor], grams: Sequence[Gram], pair: Pairing
) -> None:
    """Give every slot, which merges `tasks`, a neuron of task t (in place)."""
    merged = _merged(slots, tasks, weights, grams)
    difference = pairwise_difference(merged, weights[t], add([grams[u] for u in tasks]), grams[t])
    pairs = pair(difference, len(slots))
    slots[pairs[:, 0], t] = pairs[:, 1]


def _pair_anew(slots: Pairs, costs: Tensor, weights: Sequence[Tensor], grams: Sequence[Gram]) -> tuple[Pairs, Tensor]:
    tasks = list(range(len(weights)))
    for _ in range(MAX_SWEEPS):
        before = float(costs.sum())
        for t in tasks:
            trial = slots.copy()
            _pair_task(trial, [u for u in tasks if u != t], t, weights, grams, lambda d, n: pair_neurons(d, n))
            trial_costs = _slot_costs(trial, tasks, weights, grams)
            if float(trial_costs.sum()) < float(costs.sum()):
                slots, costs = trial, trial_costs
        if float(costs.sum()) > before * (1.0 - 1e-6):
            break
    return slots, costs
