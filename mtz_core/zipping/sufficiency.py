"""How many calibration images are enough: as many as it takes until twice as many would change little.

Nothing is merged yet. Ever more images, twice as many each time, are sent through the parents, and in every layer
neurons are paired and merged for trial. Two things are watched: the part by which the loss to expect on unseen images
(`LayerProblem.predicted`) has fallen, mean over layers, since it falls as long as weights are fitted to the noise of a
small sample; and what the pairs found with half as many images cost, summed over layers, by the differences found now,
beside those found now. Every layer's fall counts alike: one layer with many inputs and a large loss that no images
lower would hide a later one's, whose errors reach the answers.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.calibration.stream import twins
from mtz_core.graph.channels import first_rows
from mtz_core.layerwise.comparison import Calibrator, Comparison
from mtz_core.layerwise.ledger import Fresh, Ledger, with_slots
from mtz_core.layerwise.problem import parts_of
from mtz_core.layerwise.walk import LayerWalk
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.pairing.slots import Table
from mtz_core.pairing.subsets import Costs
from mtz_core.spec import ZipSpec

FEWEST = 125
"""Images that the first trial takes."""
FALL = 0.1
"""It is enough once twice as many images change the layers' losses by less than this part ..."""
REGRET = 0.1
"""... and better the pairs by less than this one."""


Pairs = dict[tuple[int, int, int], Table]
"""Layer and two tasks → pairs (k, 2) of indices among their fresh channels."""


@dataclass(frozen=True)
class Trial:
    """What `images` images per task say: layer `done` of `total` has been looked at.

    At the end `loss` is the expected loss, summed over layers in units of each layer's output; `fall` the part by which
    a layer's fell (geometric mean), and `regret` the part by which pairs got better, with twice as many images
    (infinite: the first trial).
    """

    images: int
    done: int
    total: int
    loss: float = math.nan
    fall: float = math.inf
    regret: float = math.inf

    @property
    def enough(self) -> bool:
        """Whether more images would change little."""
        return self.done == self.total and abs(self.fall) < FALL and self.regret < REGRET


def trial_sizes(images: Sequence[int]) -> list[int]:
    """Numbers of images that are tried, given how many each task has; the last takes all.

    >>> trial_sizes([1000, 700]), trial_sizes([60, 60])
    ([125, 250, 500, 1000], [60])
    """
    most = max(images)
    sizes: list[int] = []
    while (size := FEWEST * 2 ** len(sizes)) < most:
        sizes.append(size)
    return [*sizes, most]


def trials(
    network: ZippedNetwork,
    spec: ZipSpec,
    alphas: tuple[float, ...],
    images: Sequence[Tensor],
    device: torch.device,
) -> Generator[Trial, None, int]:
    """Yield progress and trials; return how many images per task are enough (all, if no number is).

    Args:
        network: the parents, nothing shared.
        spec: how they are to be zipped.
        alphas: task weights.
        images: calibration images per task in random order; trials take the first ones.
        device: where the networks run.
    """
    before: Trial | None = None
    losses: dict[int, float] = {}
    known: Pairs = {}
    for count in trial_sizes([len(x) for x in images]):
        some = [x[:count] for x in images]
        calibrator = Calibrator(network, spec, alphas, [torch.arange(len(x)) % 2 for x in some])
        walk = LayerWalk(network, spec, Ledger(network.joint, network.joint.full_shares()), calibrator)
        streams = twins(network, some, spec.compensate, spec.batch_size, spec.activation_budget // 2, device)
        tables, hidden = list(network.tables), walk.ledger.hidden()
        stale = best = 0.0
        earlier, losses = losses, {}
        for number, index in enumerate(hidden):
            yield Trial(count, number, len(hidden))
            fresh = walk.ledger.fresh(index)
            if not all(len(channels) for channels in fresh.values()):
                continue
            seen = walk.compare(index, streams, tables, peaks=False, keep=False)
            costs = walk.costs(seen, fresh)
            slots = walk.slots(seen, costs, fresh, tables)
            losses[index] = _expected(walk, seen, slots)
            now, then = _regretted(index, costs, fresh, slots, known)
            best, stale = best + now, stale + then
            tables = with_slots(network.joint, tables, index, slots)
            walk.ledger.mark(index, fresh)
        fall = regret = math.inf
        if before is not None:
            doublings = math.log2(count / before.images)
            fall = _fall(losses, earlier, doublings)
            regret = (stale / best - 1.0) / doublings if best > 0 else 0.0
        before = Trial(count, len(hidden), len(hidden), sum(losses.values()), fall, regret)
        yield before
        if before.enough:
            break
    assert before is not None
    return before.images


def _fall(losses: Mapping[int, float], earlier: Mapping[int, float], doublings: float) -> float:
    """Part by which the layers' losses fell with twice as many images, geometric mean."""
    both = [(losses[k], earlier[k]) for k in losses if losses[k] > 0 and earlier[k] > 0]
    return 1.0 - math.exp(sum(math.log(a / b) for a, b in both) / max(1, len(both)) / doublings)


def _regretted(index: int, costs: Costs, fresh: Fresh, slots: Table, known: Pairs) -> tuple[float, float]:
    """Total cost of the pairs found now and of those found before, which are replaced in `known`."""
    best = stale = 0.0
    for (t, u), cost in costs.items():
        index_of = {x: {int(c): k for k, c in enumerate(fresh[x])} for x in (t, u)}
        pairs = [slot for slot in slots if slot[t] >= 0 and slot[u] >= 0]
        listed = [[index_of[t][int(s[t])], index_of[u][int(s[u])]] for s in pairs]
        found = np.array(listed, dtype=np.int64).reshape(-1, 2)
        best += _total(cost, found)
        stale += _total(cost, known.get((index, t, u), found))
        known[index, t, u] = found
    return best, stale


def _expected(walk: LayerWalk, seen: Comparison, slots: Table) -> float:
    """Expected loss of merging the rows that write the channels `slots`, if the ridge is settled before pairing."""
    if seen.problem.paired_first or not len(slots):
        return 0.0
    rows: NDArray[np.int64] = np.full_like(slots, -1)
    members = walk.network.joint.layers[seen.index].members
    for t in range(slots.shape[1]):
        held = slots[:, t] >= 0
        rows[held, t] = first_rows(members[t], slots[held, t])
    return seen.problem.predicted(parts_of(rows)) * seen.problem.unit


def _total(cost: NDArray[np.floating], pairs: NDArray[np.int64]) -> float:
    found = cost[pairs[:, 0], pairs[:, 1]]
    return float(found[np.isfinite(found)].sum())
