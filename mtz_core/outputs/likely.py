"""How many answers are likely to change: counted among many inputs, by what was seen to move on few.

Few answers change, so their count on a few hundred inputs varies much from one draw of these to the next. What varies
most is how many inputs happen to lie close to another answer, and that is known of all inputs whose answers by the
parents are known, not only of those that were answered again. So every one of these is moved as its neighbours were.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 100
"""Answers of the closest margins lend their movements, at most; and at most a fifth of all."""
ENOUGH = 10_000
"""So many answers are counted as they are."""
CHUNK = 4096


def likely_changed(margins: Tensor, moved: Tensor, many: Tensor) -> float:
    """Part of the answers with margins `many` that change, if each moves like those of the closest margins.

    Args:
        margins: how far answers are from being another one (N,), at least 0.
        moved: how far each of them moved towards that (N,): it changed if that is above its margin.
        many: margins of the answers that count (M,).

    >>> likely_changed(torch.tensor([0.1, 2.0]), torch.tensor([0.3, 0.3]), torch.tensor([0.05, 0.2, 1.8, 2.5]))
    0.5
    """
    if len(margins) >= ENOUGH:
        return float((moved > margins).double().mean())
    margins, order = margins.sort()
    moved, near = moved[order], max(1, min(NEAR, len(margins) // 5))
    windows = moved.unfold(0, near, 1)
    total = 0.0
    for some in torch.split(many, CHUNK):
        first = (torch.searchsorted(margins, some.contiguous()) - near // 2).clamp(0, len(margins) - near)
        total += float((windows[first] > some[:, None]).double().mean(1).sum())
    return total / len(many)
