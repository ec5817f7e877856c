"""The zip operation of ZipIt!"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.baselines.features import correlation
from mtz_core.baselines.kinds import Slots, baseline
from mtz_core.errors import SpecError

Linkage = Literal["least", "average"]
"""How a merged feature correlates with a third: as its least correlated member does, or as the members' average."""


@baseline(
    "zip",
    text="the most correlated features merge, whether they come from one network or from two, until as many are left "
    "as one network has",
    source="*ZipIt!*, Stoica et al., ICLR 2024, [arXiv 2305.03053](https://arxiv.org/abs/2305.03053)",
    side="read",
)
def zipped(
    covariance: Tensor,
    widths: Sequence[int],
    k: int,
    within: float = 1.0,
    discount: float = 1.0,
    linkage: Linkage = "least",
) -> Slots:
    """Merge the two most correlated features of all networks, again and again, until (T-1)·k merges are done.

    The zip operation of ZipIt! (Stoica et al., ICLR 2024; arXiv 2305.03053, §4.3): features of one network may merge
    with each other, too, in at most `within`·k merges of each network. After a merge, the merged feature correlates
    with a third `discount` times as much as its least correlated member (α there), or as the average of its members.
    Their β is a part of a network's equal share of all merges: `within` = β·(T-1)/T. With widths n and k = n, n
    features are left of T·n. Raises `SpecError` for settings that are out of range.
    """
    _check(within, discount, linkage)
    features = _Features(covariance, widths, int(within * k), discount, linkage)
    for _ in range((len(widths) - 1) * k):
        if not features.merge():
            break
    return features.slots()


class _Features:
    """What is left of all networks' channels, and how much each two of them correlate.

    A merged feature is named after its first member and counts as one of that network, as in the authors' code.

    Args:
        covariance: of the channels of all networks (Σ n_t, Σ n_t), network by network.
        widths: n_t.
        budget: how many merges of two features of one network each network may see.
        discount: see `zipped`, as `linkage`.
    """

    def __init__(
        self, covariance: Tensor, widths: Sequence[int], budget: int, discount: float, linkage: Linkage
    ) -> None:
        self.total = int(sum(widths))
        self.owner = np.repeat(np.arange(len(widths)), widths)
        self.feature = np.arange(self.total)  # channel → the feature that it belongs to, named after its first channel
        self.related = correlation(covariance).cpu().numpy().copy()
        self.moments = covariance.cpu().numpy().copy()
        self.members = np.ones(self.total)
        self.discount, self.linkage = discount, linkage
        self.budget = [budget] * len(widths)
        np.fill_diagonal(self.related, -np.inf)
        for t in range(len(widths)) if budget == 0 else ():
            self._close(t)
        self.best, self.partner = self.related.max(axis=1), self.related.argmax(axis=1)

    def merge(self) -> bool:
        """Merge the two features that correlate most; `False` if no two may merge."""
        first = int(self.best.argmax())
        i, j = sorted((first, int(self.partner[first])))
        if not np.isfinite(self.related[i, j]):
            return False
        self.related[i] = self.related[:, i] = self._joined(i, j)
        self.related[j] = self.related[:, j] = -np.inf
        self.feature[self.feature == j] = i
        stale = np.isin(self.partner, (i, j))
        stale[[i, j]] = True
        t = int(self.owner[i])
        if t == self.owner[j]:
            self.budget[t] -= 1
            if self.budget[t] == 0:
                stale |= self._close(t)
        rows = np.flatnonzero(stale)
        self.best[rows], self.partner[rows] = self.related[rows].max(axis=1), self.related[rows].argmax(axis=1)
        return True

    def slots(self) -> Slots:
        """Which feature every channel became, numbered without gaps."""
        _, numbers = np.unique(self.feature, return_inverse=True)
        return [numbers[self.owner == t].astype(np.int64) for t in range(len(self.budget))]

    def _joined(self, i: int, j: int) -> NDArray[np.float64]:
        """How much features i and j as one correlate with all others, (n,); minus infinity where they may not merge."""
        allowed = np.isfinite(self.related[i]) & np.isfinite(self.related[j])
        joined = np.full(self.total, -np.inf)
        found = self._average(i, j) if self.linkage == "average" else self._least(i, j)
        joined[allowed] = found[allowed]
        return joined

    def _least(self, i: int, j: int) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.discount * np.minimum(self.related[i], self.related[j])
        return found

    def _average(self, i: int, j: int) -> NDArray[np.float64]:
        """Put the average of features i and j instead of i; return what it correlates with every feature, (n,)."""
        a, b = self.members[[i, j]] / (self.members[i] + self.members[j])
        self.moments[i] = a * self.moments[i] + b * self.moments[j]
        self.moments[:, i] = a * self.moments[:, i] + b * self.moments[:, j]
        self.members[i] += self.members[j]
        spread = np.sqrt(np.clip(self.moments.diagonal(), 0, None) * max(self.moments[i, i], 0.0))
        related: NDArray[np.float64] = np.divide(self.moments[i], spread, out=np.zeros_like(spread), where=spread > 0)
        return related

    def _close(self, t: int) -> NDArray[np.bool_]:
        """Forbid merges among the features of one network, (n,) true for those."""
        alone: NDArray[np.bool_] = self.owner == t
        members = np.flatnonzero(alone)
        self.related[np.ix_(members, members)] = -np.inf
        return alone


def _check(within: float, discount: float, linkage: str) -> None:
    if linkage not in get_args(Linkage):
        raise SpecError(f"linkage is {linkage!r}; choose from {', '.join(map(repr, get_args(Linkage)))}")
    if not 0.0 <= within <= 1.0:
        raise SpecError(f"within is {within}; give a ratio in [0, 1]")
    if not 0.0 < discount <= 1.0:
        raise SpecError(f"discount is {discount}; give a ratio in (0, 1], and within=0 for one-to-one pairs")
    if linkage == "average" and discount != 1.0:
        raise SpecError(f"discount is {discount}, but with linkage 'average' nothing is discounted; leave one out")
