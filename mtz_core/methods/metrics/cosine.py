"""In which direction the incoming weights of two neurons point, however long they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtz_core.methods.kinds import metric

if TYPE_CHECKING:
    from torch import Tensor


@metric(
    "cosine",
    text="one minus the cosine of the angle between their incoming weights",
    source="Ayinde, Zurada, *Building Efficient ConvNets using Redundant Feature Pruning*, 2018, "
    "[arXiv 1802.07653](https://arxiv.org/abs/1802.07653)",
)
def cosine(weights: Tensor) -> Tensor:
    """Every neuron's weights divided by their length; half the squared distance of these is 1 - cos."""
    length: Tensor = weights.norm(dim=-1, keepdim=True)
    return weights / length.where(length > 0, 1.0)
