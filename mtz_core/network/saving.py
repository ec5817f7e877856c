"""A zipped network as a file: every shared number once, and beside them, as JSON, what is shared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mtz_core.errors import CheckpointError
from mtz_core.graph.correspondence import JointGraph, correspond
from mtz_core.graph.propagation import channel_graphs
from mtz_core.pairing.slots import Table, shared_rows

if TYPE_CHECKING:
    from mtz_core.network.zipped import ZippedNetwork

FORMAT = "mtz-zipped-1"


@dataclass(frozen=True)
class SavedState:
    """What a description says, once it is known to fit the networks; `shared[g]` (k, T) are the slots of group g."""

    merged: list[bool]
    own_bias: bool
    trunk: int
    shared: list[Table]
    scaled: list[bool]
    parents: tuple[int, ...]


def description(network: ZippedNetwork) -> dict[str, Any]:
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
        if given["format"] != FORMAT or given["tasks"] != network.tasks:
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
            tuple(int(size) for size in given["parents"]),
        )


def write(path: Path | str, network: ZippedNetwork) -> None:
    """Write one safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, str(path), metadata={"mtz": json.dumps(description(network))})


def read(
    path: Path | str, networks: Sequence[nn.Module]
) -> tuple[dict[str, Any], dict[str, Tensor], JointGraph, list[bool]]:
    """Read a file: what is shared, the tensors, the graphs of the networks that it is for, which layers are sparse.

    Raises:
        CheckpointError: not such a file, damaged, or made from other architectures.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        given = json.loads(metadata["mtz"])
        shapes = [[int(n) for n in shape] for shape in given["examples"]]
        sparse = [bool(flag) for flag in given["sparse"]]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a zipped network ({type(error).__name__}: {error})") from error
    for shape in shapes:
        if not 2 <= len(shape) <= 6 or not all(0 < n <= 4096 for n in shape):
            raise CheckpointError(f"{path} declares an input of shape {shape}, which no supported network has")
    if len(shapes) != len(networks):
        raise CheckpointError(
            f"{path} holds {len(shapes)} networks, {len(networks)} were given; pass as many networks as were zipped"
        )
    dtype = next(networks[0].parameters()).dtype
    joint = correspond(channel_graphs(networks, [torch.zeros(shape, dtype=dtype) for shape in shapes]))
    if len(sparse) != len(joint.layers):
        raise CheckpointError(
            f"{path} holds {len(sparse)} weight layers, these networks have {len(joint.layers)}; it was made from "
            "other architectures"
        )
    return given, tensors, joint, sparse
