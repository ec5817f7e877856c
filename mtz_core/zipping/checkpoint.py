"""All that is needed to go on after a finished layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """All that is needed to go on after a finished layer: tensors, and JSON-able data beside them."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
