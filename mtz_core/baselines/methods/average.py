"""Channels of equal index become one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mtz_core.baselines.features import by_index
from mtz_core.baselines.kinds import Slots, baseline


@baseline(
    "average",
    text="channels of equal index become one",
    source="*Model soups*, Wortsman et al., ICML 2022, [arXiv 2203.05482](https://arxiv.org/abs/2203.05482)",
    side=None,
)
def average(covariance: Tensor, widths: Sequence[int], k: int) -> Slots:
    """The first k channels of every network; meant for networks with a common beginning."""
    return by_index(widths, k)
