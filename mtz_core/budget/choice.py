"""What a planner can choose: a curve of predicted divergence for every channel group, and what a choice would give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtz_core.budget.spread import likely_range
from mtz_core.structure.joint import JointStructure
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import plan_counts
from mtz_core.structure.trunks import Trunk

Shares = Mapping[str, int]


Count = Callable[[Shares], int]


@dataclass(frozen=True)
class Curve:
    """Predicted divergence of one channel group alone: `divergences[k]` if it shares `counts[k]` of its channels.

    `counts` increase from 0 to the width of the narrowest network; `divergences` start at 0 and never decrease. A group
    that is shared fully in any case has one count, its width, and the divergence 0.
    `measured` are the counts at which the outputs were looked at; in between the cost of pairing gives the shape.
    A group whose layer reads another group, the `gate`, is compared over what is shared there only, and the rest
    adapts: if a part u of the gate is shared, divergences are u ** `power` times as large.
    """

    group: str
    counts: tuple[int, ...]
    divergences: tuple[float, ...]
    measured: tuple[int, ...] = ()
    gate: str | None = None
    power: float = 0.0

    @property
    def width(self) -> int:
        """Channels that can be shared."""
        return self.counts[-1]

    @property
    def least(self) -> int:
        """Channels that are shared in any case."""
        return self.counts[0]

    def divergence(self, count: int) -> float:
        """Predicted divergence if `count` channels are shared; linear between the points of the curve."""
        return float(np.interp(count, self.counts, self.divergences))


@dataclass(frozen=True)
class Point:
    """One choice of all shares: parameters of the zipped network, predicted divergence, and predicted error in %.

    `even`: all groups got the same share, since no other choice is clearly better.
    """

    parameters: int
    divergence: float
    error: float
    shares: Mapping[str, int]
    even: bool = False


@dataclass(frozen=True)
class Choice:
    """What can be chosen: networks side by side, and a curve per channel group."""

    joint: JointStructure
    curves: tuple[Curve, ...]
    own_bias: bool = False
    own_scale: bool = False
    own_inputs: bool = False
    rate: float = 1.0
    """Answers that change, in %, per square root of the divergence."""
    trunk: Trunk | None = None
    """Layers that all tasks compute alike."""
    base: float = 0.0
    """Divergence of the trunk alone."""
    together: tuple[tuple[float, float], ...] = ()
    """Sums of groups' divergences, and what zips of all these groups together showed; both rising."""
    inputs: int = 0
    """Inputs of all tasks by which all this was measured; 0 where nobody knows."""

    @property
    def tasks(self) -> int:
        """Number of networks."""
        return len(self.joint.networks)

    @property
    def smallest(self) -> int:
        """Parameters of the smallest network."""
        return min(network.parameters for network in self.joint.networks)

    @property
    def keeping(self) -> Keeping:
        """What every task keeps of its own."""
        return Keeping(self.own_bias, self.own_scale, self.own_inputs).beside(self.trunk)

    def parameters(self, shares: Shares) -> int:
        """Size for given shares, counted as if all tasks shared every neuron that is shared (see `plan_counts`)."""
        return plan_counts(self.joint, shares, self.keeping).total

    def divergence(self, shares: Shares) -> float:
        """Divergences of all groups for given shares, added up; what they make together is `expected`."""
        widths = {curve.group: curve.width for curve in self.curves}
        total = self.base
        for curve in self.curves:
            part = 1.0 if curve.gate is None else shares.get(curve.gate, 0) / max(1, widths[curve.gate])
            total += curve.divergence(shares.get(curve.group, 0)) * part**curve.power
        return total

    def expected(self, divergence: float) -> float:
        """Divergence of a zip whose groups' divergences add up to this: a power law between those that were seen.

        Beyond them in proportion. It rises, so the least sum is the least expected.
        """
        return _through(self.together, divergence)

    def error(self, divergence: float) -> float:
        """Answers that are predicted to change, in %, where groups' divergences add up to this."""
        return min(100.0, self.rate * math.sqrt(self.expected(divergence)))

    def likely(self, error: float) -> tuple[float, float]:
        """Between what nine of ten counts on as many inputs lie, in %, where `error` % are predicted to change."""
        return likely_range(error, self.inputs)

    def allowed(self, error: float) -> float:
        """What divergences of groups may add up to where so many answers may change, in %."""
        if self.rate <= 0.0:
            return math.inf
        return _through(tuple((y, x) for x, y in self.together), (error / self.rate) ** 2)

    def point(self, shares: Shares) -> Point:
        """Size and predictions for given shares."""
        divergence = self.divergence(shares)
        return Point(self.parameters(shares), divergence, self.error(divergence), dict(shares))

    def uniform(self, share: float) -> dict[str, int]:
        """The same share for every group, but for those that are shared in any case."""
        return {curve.group: max(curve.least, round(share * curve.width)) for curve in self.curves}


def _through(points: Sequence[tuple[float, float]], x: float) -> float:
    """A power law between points of positive, rising coordinates, in proportion beyond them; x itself without any."""
    if not points or x <= 0.0:
        return x
    logs = np.log(points)
    return x * math.exp(float(np.interp(math.log(x), logs[:, 0], logs[:, 1] - logs[:, 0])))
