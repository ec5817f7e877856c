"""A zipped network as a file: every shared number once, and beside them, as JSON, what is shared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mtz_core.errors import CheckpointError
from mtz_core.graph.correspondence import correspond
from mtz_core.graph.propagation import channel_graphs
from mtz_core.network.zipped import ZippedNetwork


def write(path: Path | str, network: ZippedNetwork) -> None:
    """Write one safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, str(path), metadata={"mtz": json.dumps(network.description())})


def read(path: Path | str, networks: Sequence[nn.Module]) -> ZippedNetwork:
    """Read a file that `write` wrote, given modules of the architectures that were zipped.

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
    network = ZippedNetwork(networks, joint, sparse)
    network.restore(given, tensors)
    return network
