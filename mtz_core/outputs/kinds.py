"""From a type to what answers for it."""

from __future__ import annotations

from torch import Tensor

from mtz_core.errors import SpecError
from mtz_core.outputs.attributes import Attributes
from mtz_core.outputs.kind import Output
from mtz_core.outputs.multiclass import Multiclass
from mtz_core.outputs.types import TaskType
from mtz_core.outputs.values import Values, spread_of

CLASSES = Multiclass(TaskType("multiclass"))
"""Logits (N, K) of K classes."""


def output_of(kind: TaskType, answers: Tensor | None = None) -> Output:
    """Return what answers for a type; `answers` (N, ...) of the parent say how much values spread.

    Raises `SpecError` if probabilities are asked for and the answers are none, or values and there are no answers.

    >>> import torch
    >>> output_of(TaskType("binary")).logits(torch.zeros(4, 1)).shape
    torch.Size([4, 1, 1])
    """
    if kind.kind == "multiclass":
        found: Output = Multiclass(kind)
    elif kind.kind == "regression":
        if answers is None:
            raise SpecError("values need answers of the parent, whose spread they are measured by")
        return Values(kind, spread_of(Values(kind).places(answers)))
    else:
        found = Attributes(kind)
    if kind.probabilities and answers is not None and not bool(((answers >= 0) & (answers <= 1)).all()):
        low, high = float(answers.min()), float(answers.max())
        raise SpecError(
            f"types: probabilities were said to come out, but answers go from {low:.3g} to {high:.3g}; leave "
            "probabilities out for logits"
        )
    return found
