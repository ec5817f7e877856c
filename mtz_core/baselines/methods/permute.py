"""Activation matching of Git Re-Basin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mtz_core.baselines.features import correlation, with_private
from mtz_core.baselines.kinds import Slots, baseline
from mtz_core.pairing.assignment import pair_neurons


@baseline(
    "permute",
    text="one-to-one assignment of largest total correlation; a third network is paired with the average of the first "
    "two, and so on",
    source="*Git Re-Basin*, Ainsworth et al., ICLR 2023, [arXiv 2209.04836](https://arxiv.org/abs/2209.04836)",
)
def permute(covariance: Tensor, widths: Sequence[int], k: int) -> Slots:
    """Align every network to those before it by the assignment of largest total correlation, and keep k features.

    This is activation matching of Git Re-Basin (Ainsworth, Hayase, Srinivasa; ICLR 2023; arXiv 2209.04836, §3.1) with
    correlations for inner products, as REPAIR (Jordan et al., ICLR 2023; arXiv 2211.08403) does. Network t ≥ 2 is
    paired with the average of the features so far, as in the paper's merging of many models, in one round.
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
    return with_private(chosen, widths)
