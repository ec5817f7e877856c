"""What rival methods share: how channels correlate, and numbers for features from the channels that become one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.baselines.kinds import Slots


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
    return with_private([np.arange(k) for _ in widths], widths)


def with_private(chosen: Sequence[NDArray[np.int64]], widths: Sequence[int]) -> Slots:
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


def owned(slots: Sequence[Tensor], features: int) -> list[tuple[tuple[int, ...], Tensor]]:
    """Features sorted by which networks have channels of them: (networks, numbers of their features).

    >>> [(who, which.tolist()) for who, which in owned([torch.tensor([0, 1]), torch.tensor([1, 2])], 3)]
    [((0,), [0]), ((0, 1), [1]), ((1,), [2])]
    """
    has = torch.stack([torch.bincount(own, minlength=features) > 0 for own in slots])
    kinds: dict[tuple[int, ...], list[int]] = {}
    for feature, who in enumerate(has.mT.tolist()):
        kinds.setdefault(tuple(t for t, mine in enumerate(who) if mine), []).append(feature)
    return [(who, torch.tensor(which)) for who, which in kinds.items()]
