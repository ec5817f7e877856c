"""What merging two neurons costs: He, Zhou, Thiele 2018, §3.3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtz_core.methods.kinds import metric

if TYPE_CHECKING:
    from torch import Tensor


@metric(
    "functional",
    text="how much their outputs would change on the calibration inputs if they became one",
    source="He, Zhou, Thiele, *Multi-Task Zipping via Layer-wise Neuron Sharing*, NeurIPS 2018, §3.3",
    of_outputs=True,
)
def functional(weights: Tensor) -> Tensor:
    """The weights as they are, (n, d)."""
    return weights
