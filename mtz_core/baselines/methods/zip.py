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
def zipped(covariance: Tensor, widths: Sequence[int], k: int, within: float = 1.0, linkage: Linkage = "least") -> Slots:
    """Merge the two most correlated features of all networks, again and again, until (T-1)·k merges are done.

    The zip operation of ZipIt! (Stoica et al., ICLR 2024; arXiv 2305.03053, §4 and its appendix): features of one
    network may merge with each other, too, in at most `within`·k merges of each network (β of the appendix). A merged
    feature correlates with a third as much as its least correlated member (α = 1 of the appendix), or as the average of
    its members.
    With widths n and k = n, n features are left of T·n. Raises `SpecError` for settings that are out of range.
    """
    _check(within, linkage)
    total = int(sum(widths))
    owner = np.repeat(np.arange(len(widths)), widths)
    related = correlation(covariance).cpu().numpy().copy()
    moments = covariance.cpu().numpy().copy()
    members = np.ones(total)
    np.fill_diagonal(related, -np.inf)
    budget = [int(within * k)] * len(widths)
    feature = np.arange(total)  # channel → the feature that it belongs to, named after its first channel
    owners = [{int(t)} for t in owner]
    closed: set[int] = set()
    best, partner = related.max(axis=1), related.argmax(axis=1)

    def refresh(rows: NDArray[np.int64]) -> None:
        best[rows], partner[rows] = related[rows].max(axis=1), related[rows].argmax(axis=1)

    for t, left in enumerate(budget):
        if left == 0:
            _close(related, owner == t)
            closed.add(t)
    refresh(np.arange(total))
    for _ in range((len(widths) - 1) * k):
        first = int(best.argmax())
        i, j = sorted((first, int(partner[first])))
        if not np.isfinite(related[i, j]):
            break
        allowed = np.isfinite(related[i]) & np.isfinite(related[j])
        joined = np.full(total, -np.inf)
        if linkage == "average":
            joined[allowed] = _average(moments, members, i, j)[allowed]
        else:
            joined[allowed] = np.minimum(related[i], related[j])[allowed]
        own = owners[i] if owners[i] == owners[j] and len(owners[i]) == 1 else set()
        owners[i] |= owners[j]
        feature[feature == j] = i
        related[i], related[:, i] = joined, joined
        related[j], related[:, j] = -np.inf, -np.inf
        stale = np.isin(partner, (i, j))
        for t in own:
            budget[t] -= 1
            if budget[t] == 0 and t not in closed:
                alone = np.array([owners[f] == {t} for f in range(total)])
                _close(related, alone)
                closed.add(t)
                stale |= alone
        stale[[i, j]] = True
        refresh(np.flatnonzero(stale))
    _, numbers = np.unique(feature, return_inverse=True)
    return [numbers[owner == t].astype(np.int64) for t in range(len(widths))]


def _check(within: float, linkage: str) -> None:
    if linkage not in get_args(Linkage):
        raise SpecError(f"linkage is {linkage!r}; choose from {', '.join(map(repr, get_args(Linkage)))}")
    if not 0.0 <= within <= 1.0:
        raise SpecError(f"within is {within}; give a ratio in [0, 1]")


def _average(moments: NDArray[np.float64], members: NDArray[np.float64], i: int, j: int) -> NDArray[np.float64]:
    """Put the average of features i and j instead of i; return what it correlates with every feature, (n,)."""
    a, b = members[[i, j]] / (members[i] + members[j])
    moments[i] = a * moments[i] + b * moments[j]
    moments[:, i] = a * moments[:, i] + b * moments[:, j]
    members[i] += members[j]
    spread = np.sqrt(np.clip(moments.diagonal(), 0, None) * max(moments[i, i], 0.0))
    related: NDArray[np.float64] = np.divide(moments[i], spread, out=np.zeros_like(spread), where=spread > 0)
    return related


def _close(related: NDArray[np.float64], alone: NDArray[np.bool_]) -> None:
    """Forbid merges among the features marked."""
    members = np.flatnonzero(alone)
    related[np.ix_(members, members)] = -np.inf
