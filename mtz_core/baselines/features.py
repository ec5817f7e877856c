"""Which channels become one feature, from how they correlate: index order, permutation, or zip.

Inputs are the covariance of the channels of all T networks together, (Σ n_t, Σ n_t), network by network; the result
says for every channel of every network which feature it becomes: `slots[t]` is (n_t,), numbers from 0 without gaps.
Channels that share a number are averaged. In ZipIt's words the slots are the unmerge matrix U, and its transpose
with rows divided by their sums is the merge matrix M.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.pairing.assignment import pair_neurons

Slots = list[NDArray[np.int64]]
Linkage = Literal["least", "average"]
"""How a merged feature correlates with a third: as its least correlated member does, or as the members' average."""


def correlation(covariance: Tensor) -> Tensor:
    """Covariances divided by both standard deviations; a channel that never changes correlates with nothing."""
    spread = covariance.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(spread > 0, 1 / spread.clamp(min=torch.finfo(spread.dtype).tiny), 0.0)
    return covariance * inverse[:, None] * inverse


def by_index(widths: Sequence[int], k: int) -> Slots:
    """The first k channels of every network become features in the order that they have.

    >>> [part.tolist() for part in by_index([2, 3], 2)]
    [[0, 1], [0, 1, 2]]
    """
    return _with_private([np.arange(k) for _ in widths], widths)


def permute(covariance: Tensor, widths: Sequence[int], k: int) -> Slots:
    """Align every network to those before it by the assignment of largest total correlation, and keep k features.

    This is activation matching of Git Re-Basin (Ainsworth, Hayase, Srinivasa; ICLR 2023; arXiv 2209.04836, §3.1) with
    correlations for inner products, as REPAIR (Jordan et al., ICLR 2023; arXiv 2211.08403) does. Network t ≥ 2 is
    matched to the average of the features so far, as in the paper's merging of many models, in one round.
    For k below the width the k pairs of largest total correlation are kept.
    """
    starts = np.cumsum([0, *widths])
    chosen = [np.arange(widths[0])]
    average = torch.eye(len(covariance), dtype=covariance.dtype)[: widths[0]]
    for t in range(1, len(widths)):
        mine = torch.eye(len(covariance), dtype=covariance.dtype)[starts[t] : starts[t + 1]]
        both = torch.cat([average, mine])
        related = correlation(both @ covariance @ both.mT)[: len(average), len(average) :]
        pairs = pair_neurons(1 - related, k, "optimal")
        pairs = pairs[np.argsort(pairs[:, 0])]
        chosen = [*(part[pairs[:, 0]] for part in chosen), pairs[:, 1]]
        average = (average[pairs[:, 0]] * t + mine[pairs[:, 1]]) / (t + 1)
    return _with_private(chosen, widths)


def zipped(covariance: Tensor, widths: Sequence[int], k: int, within: float = 1.0, linkage: Linkage = "least") -> Slots:
    """Merge the two most correlated features of all networks, again and again, until (T-1)·k merges are done.

    The zip operation of ZipIt! (Stoica et al., ICLR 2024; arXiv 2305.03053, §4 and its appendix): features of one
    network may merge with each other, too, in at most `within`·k merges of each network (β of the appendix). A merged
    feature correlates with a third as much as its least correlated member (α = 1 of the appendix), or as the average of
    its members.
    With widths n and k = n, n features are left of T·n.
    """
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


def _average(moments: NDArray[np.float64], members: NDArray[np.float64], i: int, j: int) -> NDArray[np.float64]:
    """Put the average of features i and j in the place of i; return what it correlates with every feature, (n,)."""
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


def _with_private(chosen: Sequence[NDArray[np.int64]], widths: Sequence[int]) -> Slots:
    """Channel `chosen[t][s]` becomes feature s; all others stay alone, with numbers after those."""
    following = len(chosen[0])
    slots = []
    for mine, width in zip(chosen, widths, strict=True):
        numbers = np.full(width, -1, dtype=np.int64)
        numbers[mine] = np.arange(len(mine))
        alone = np.flatnonzero(numbers < 0)
        numbers[alone] = following + np.arange(len(alone))
        following += len(alone)
        slots.append(numbers)
    return slots
