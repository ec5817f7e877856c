"""All that is needed to go on after a finished layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mtz_core.errors import CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """Tensors, and JSON-able data beside them."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """How far a run has come, as JSON-able data: `data` writes it, `read` reads it back.

    `finished` are the layers that are done, `decided` the channels that are paired or left private (see
    `Ledger.data`), `steps` the optimiser steps that were taken and `spared` those that early ends saved; `plan` the
    planned shares and `images` the number of images per task, where a run finds these out itself; `network` what is
    shared (see `ZippedNetwork.description`).
    """

    finished: list[int]
    decided: Mapping[str, list[list[int]]]
    steps: int
    spared: int
    plan: Mapping[str, int] | None
    images: int | None
    network: Mapping[str, Any]

    def data(self) -> dict[str, Any]:
        """As JSON-able data."""
        return dict(vars(self))

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Standing:
        """Read what `data` wrote. Raises `CheckpointError` if it is damaged."""
        try:
            plan, images = data["plan"], data["images"]
            return cls(
                [int(index) for index in data["finished"]],
                {str(g): [[int(c) for c in channels] for channels in tasks] for g, tasks in data["decided"].items()},
                int(data["steps"]),
                int(data["spared"]),
                None if plan is None else {str(name): int(count) for name, count in plan.items()},
                None if images is None else int(images),
                dict(data["network"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint is damaged ({error}); start the run again") from error
