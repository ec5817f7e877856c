"""What pairing a layer's channels costs in the layers behind that write the same ones.

The calibration images are sent ahead, through the layers that are still to come, as if the group were paired by its
first layer alone. Costs of layers that are added up have one unit; layers that meet otherwise (a gate, a depthwise
convolution) count relative to the strength of their outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtz_core.layerwise.ledger import Fresh, with_slots
from mtz_core.pairing.subsets import Costs

if TYPE_CHECKING:
    from mtz_core.calibration.stream import Twin
    from mtz_core.layerwise.comparison import Comparison
    from mtz_core.layerwise.walk import LayerWalk


@dataclass
class _Sums:
    """Costs of layers that are added up (one number each, `WeightLayer.addend`), and the strength of their outputs."""

    own: Costs
    costs: dict[int, dict[tuple[int, int], NDArray[np.float64]]] = field(default_factory=dict)
    power: dict[int, float] = field(default_factory=dict)

    def add(self, addend: int, fresh: Fresh, both: Fresh, costs: Costs, power: float) -> None:
        """Add the costs of the channels `both`, which are some of the `fresh` ones."""
        total = self.costs.setdefault(addend, {pair: np.zeros_like(cost) for pair, cost in self.own.items()})
        for (t, u), cost in costs.items():
            at = np.ix_(np.searchsorted(fresh[t], both[t]), np.searchsorted(fresh[u], both[u]))
            total[t, u][at] += cost
        self.power[addend] = self.power.get(addend, 0.0) + power

    def together(self, addend: int) -> Costs:
        """All costs in the unit of the layers with this number."""
        unit = self.power[addend]
        total = {pair: np.zeros_like(cost) for pair, cost in self.own.items()}
        for number, costs in self.costs.items():
            for pair, cost in costs.items():
                total[pair] += cost * (unit / self.power[number] if self.power[number] > 0 else 0.0)
        return total


def pair_layer(walk: LayerWalk, index: int, seen: Comparison, streams: Sequence[Twin]) -> Iterator[str]:
    """Give the channels that a zipped layer writes their slots, choose its ridge; yield layers looked at.

    Args:
        walk: where the zip stands.
        index: number of the layer.
        seen: that layer, compared.
        streams: calibration images of every task, which stay where they are.
    """
    fresh = walk.ledger.fresh(index)
    new = any(len(channels) for channels in fresh.values())
    if all(len(channels) for channels in fresh.values()):
        costs: Costs = walk.costs(seen, fresh)
        if walk.ledger.wanted(index, fresh) and walk.ahead(index):
            for producer, together in look_ahead(walk, index, seen, fresh, streams):
                costs = together or costs
                if producer:
                    yield producer
        walk.decide(index, fresh, walk.slots(seen, costs, fresh, walk.network.tables))
    if seen.problem.paired_first or not new:
        seen.problem.choose_ridge(walk.rows(index))  # the pairing came from elsewhere: judge the ridge by it


def look_ahead(
    walk: LayerWalk, index: int, seen: Comparison, fresh: Fresh, streams: Sequence[Twin]
) -> Iterator[tuple[str, Costs]]:
    """Yield, for every later layer on the way, its name; at last, with an empty name, the costs of all together.

    Args:
        walk: where the zip stands.
        index: number of the layer whose fresh channels are to be paired.
        seen: that layer, compared.
        fresh: its channels.
        streams: calibration images of every task, which stay where they are.
    """
    joint = walk.network.joint
    layers = joint.layers
    sums = _Sums(walk.costs(seen, fresh))
    addend = layers[index].members[0].addend
    sums.add(addend, fresh, fresh, sums.own, seen.power)
    tables = with_slots(joint, walk.network.tables, index, walk.slots(seen, sums.own, fresh, walk.network.tables))
    branches = [stream.fork(len(halves)) for stream, halves in zip(streams, walk.calibrator.halves, strict=True)]
    for k in walk.ahead(index):
        layer, inner = layers[k], walk.ledger.fresh(k)
        mine = layer.group == layers[index].group
        if not mine and not any(len(channels) for channels in inner.values()):
            continue
        if not mine and any((tables[layer.group] >= 0).sum(1) > 1):
            continue
        there = walk.compare(k, branches, tables, peaks=False, keep=False)
        if mine:
            both = {t: np.intersect1d(fresh[t], layer.members[t].rows) for t in fresh if t in joint.sharing(k)}
            if len(both) > 1 and all(len(channels) for channels in both.values()):
                sums.add(layer.members[0].addend, fresh, both, walk.costs(there, both), there.power)
        else:
            slots = walk.slots(there, walk.costs(there, inner), inner, tables)
            tables = with_slots(joint, tables, k, slots)
        yield layer.name, {}
    yield "", sums.together(addend)
