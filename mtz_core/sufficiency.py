"""How many calibration images are enough: as many as it takes until twice as many would change little.

Nothing is merged yet. Ever more images, twice as many each time, are sent through the parents, and in every layer
neurons are paired and merged for trial. Two things are watched: the part by which the loss to expect on unseen images
(`Work.predicted`) has fallen, mean over layers, since it falls as long as weights are fitted to the noise of a small
sample; and what the pairs found with half as many images cost, summed over layers, by the differences found now, beside
those found now. Every layer's fall counts alike: one layer with many inputs and a large loss that no images lower would
hide a later one's, whose errors reach the answers.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.layerloop import LayerLoop, Measured, first_rows
from mtz_core.layerwork import LayerWork
from mtz_core.shares import full_shares
from mtz_core.slots import Table
from mtz_core.spec import ZipSpec
from mtz_core.stream import twins
from mtz_core.work import parts_of
from mtz_core.zipped import ZippedNetwork

FEWEST = 125
"""Images that the first trial takes."""
FALL = 0.1
"""It is enough once twice as many images change the layers' losses by less than this part ..."""
REGRET = 0.1
"""... and better the pairs by less than this one."""


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
    known: dict[tuple[int, int, int], Table] = {}
    for count in trial_sizes([len(x) for x in images]):
        some = [x[:count] for x in images]
        halves = [torch.arange(len(x)) % 2 for x in some]
        loop = LayerLoop(network, spec, alphas, full_shares(network.graphs), halves, {})
        streams = twins(network, some, spec.compensate, spec.batch_size, spec.activation_budget // 2, device)
        tables, hidden = list(network.tables), loop.hidden()
        stale = best = 0.0
        earlier, losses = losses, {}
        for number, index in enumerate(hidden):
            yield Trial(count, number, len(hidden))
            fresh = loop.fresh(index)
            if not all(len(channels) for channels in fresh.values()):
                continue
            seen = loop.measure(index, streams, tables, peaks=False, keep=False)
            costs = loop.costs(index, seen, fresh)
            slots = loop.slots(index, costs, fresh, seen, tables)
            losses[index] = _expected(loop, index, seen, slots)
            for (t, u), cost in costs.items():
                places = {x: {int(c): k for k, c in enumerate(fresh[x])} for x in (t, u)}
                pairs = [slot for slot in slots if slot[t] >= 0 and slot[u] >= 0]
                listed = [[places[t][int(s[t])], places[u][int(s[u])]] for s in pairs]
                found = np.array(listed, dtype=np.int64).reshape(-1, 2)
                best += _total(cost, found)
                stale += _total(cost, known.get((index, t, u), found))
                known[index, t, u] = found
            loop.provide(tables, index, slots)
            loop.mark(index, fresh)
        fall = regret = math.inf
        if before is not None:
            doublings = math.log2(count / before.images)
            both = [(losses[k], earlier[k]) for k in losses if losses[k] > 0 and earlier[k] > 0]
            fall = 1.0 - math.exp(sum(math.log(a / b) for a, b in both) / max(1, len(both)) / doublings)
            regret = (stale / best - 1.0) / doublings if best > 0 else 0.0
        before = Trial(count, len(hidden), len(hidden), sum(losses.values()), fall, regret)
        yield before
        if before.enough:
            break
    assert before is not None
    return before.images


def _expected(loop: LayerLoop, index: int, seen: Measured, slots: Table) -> float:
    """Expected loss of merging the rows that write the channels `slots`, if the layer's rows have one Gram."""
    if not isinstance(seen.work, LayerWork) or not len(slots):
        return 0.0
    rows: NDArray[np.int64] = np.full_like(slots, -1)
    for t in range(slots.shape[1]):
        held = slots[:, t] >= 0
        rows[held, t] = first_rows(loop.network.graphs[t].layers[index], slots[held, t])
    return seen.work.predicted(parts_of(rows)) * seen.work.unit


def _total(cost: NDArray[np.floating], pairs: NDArray[np.int64]) -> float:
    found = cost[pairs[:, 0], pairs[:, 1]]
    return float(found[np.isfinite(found)].sum())
