"""What a zipped network shares, as JSON-able data, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mtz_core.errors import CheckpointError
from mtz_core.pairing.slots import Table, shared_rows

if TYPE_CHECKING:
    from mtz_core.network.zipped import ZippedNetwork

FORMAT = "mtz-zipped-2"
OLDER = "mtz-zipped-1"
"""Said the same; files of it held no programs."""


@dataclass(frozen=True)
class SavedState:
    """What a description says, once it is known to fit the networks; `shared[g]` (k, T) are the slots of group g."""

    merged: list[bool]
    own_bias: bool
    trunk: int
    shared: list[Table]
    scaled: list[bool]
    gained: list[bool]
    parents: tuple[int, ...]


def described(network: ZippedNetwork) -> dict[str, Any]:
    """What is shared, as JSON-able data."""
    return {
        "format": FORMAT,
        "tasks": network.tasks,
        "examples": [list(graph.network.example.shape) for graph in network.graphs],
        "groups": [shared_rows(table).tolist() for table in network.tables],
        "merged": list(network.merged),
        "own_bias": network.own_bias,
        "trunk": network.trunk,
        "scaled": [layer.scaled for layer in network.stored()],
        "gained": [layer.gained for layer in network.stored()],
        "sparse": [layer.masked for layer in network.stored()],
        "parents": list(network.parent_sizes),
    }


@contextmanager
def explained() -> Iterator[None]:
    """Within, whatever shows that a description or tensors do not fit is a `CheckpointError` with the remedy."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"the saved network does not fit these parents ({str(error).strip()[:300]}); load it with networks of the "
            "architectures that were zipped, in the same order"
        ) from error


def checked(given: Mapping[str, Any], network: ZippedNetwork) -> SavedState:
    """Hold a description against the networks that it is to be restored to.

    Raises:
        CheckpointError: it belongs to other networks, or is damaged.
    """
    layers, groups = network.joint.layers, network.joint.groups
    with explained():
        if given["format"] not in (FORMAT, OLDER) or given["tasks"] != network.tasks:
            raise CheckpointError(
                f"the file holds {given['format']} for {given['tasks']} tasks; expected {FORMAT} for {network.tasks}. "
                "Pass as many networks as were zipped"
            )
        if len(given["merged"]) != len(layers) or len(given["groups"]) != len(groups):
            raise CheckpointError(
                f"the saved network has {len(given['merged'])} weight layers and belongs to other networks; these have "
                f"{len(layers)}"
            )
        trunk = int(given["trunk"])
        if not 0 <= trunk <= len(layers):
            raise CheckpointError(f"the file names a trunk of {trunk} layers; these networks have {len(layers)}")
        shared = []
        for group, slots in zip(groups, given["groups"], strict=True):
            table = np.asarray(slots, dtype=np.int64).reshape(-1, network.tasks)
            if len(table) and (table.min() < -1 or (table.max(axis=0) >= group.widths).any()):
                raise CheckpointError("the file names channels that these networks do not have")
            shared.append(table)
        return SavedState(
            [bool(m) for m in given["merged"]],
            bool(given["own_bias"]),
            trunk,
            shared,
            [bool(given["scaled"][layer.index]) for layer in layers],
            [bool(given["gained"][layer.index]) if "gained" in given else False for layer in layers],
            tuple(int(size) for size in given["parents"]),
        )
