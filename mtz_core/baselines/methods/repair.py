"""Permuted networks whose features are rescaled everywhere, not only where a BatchNorm was."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mtz_core.baselines.kinds import Slots, baseline
from mtz_core.baselines.methods.permute import permute


@baseline(
    "repair",
    text="as `permute`; then the features of every hidden layer get the average mean and deviation of their channels, "
    "with BatchNorm or without",
    source="*REPAIR*, Jordan et al., ICLR 2023, [arXiv 2211.08403](https://arxiv.org/abs/2211.08403)",
    rescale=True,
)
def repair(covariance: Tensor, widths: Sequence[int], k: int) -> Slots:
    """The channels that `permute` pairs; `baselines.reset` does the rest."""
    return permute(covariance, widths, k)
