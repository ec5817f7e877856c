"""How far the incoming weights of two neurons are apart, whatever the layer reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtz_core.methods.kinds import metric

if TYPE_CHECKING:
    from torch import Tensor


@metric(
    "euclidean",
    text="the squared distance of their incoming weights",
    source="a baseline; weight matching in Ainsworth, Hayase, Srinivasa, *Git Re-Basin*, ICLR 2023, §3.2",
)
def euclidean(weights: Tensor) -> Tensor:
    """The weights as they are, (n, d)."""
    return weights
