"""Error of a classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def error_rate(
    answer: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, batch_size: int, device: torch.device
) -> float:
    """Return the share of images whose largest output is not their label, in %."""
    wrong = 0
    with torch.no_grad():
        for first in range(0, len(images), batch_size):
            batch = images[first : first + batch_size].to(device)
            predicted = answer(batch).argmax(1).cpu()
            wrong += int((predicted != labels[first : first + batch_size]).sum())
    return 100.0 * wrong / max(1, len(images))
