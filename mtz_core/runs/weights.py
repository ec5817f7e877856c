"""A user's weights file as a network, whatever it is: a state dict for an architecture, or an exported program."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from mtz_core.own.states import load_state, read_state


def load_network(architecture: str, path: Path, classes: int | None = None) -> nn.Module:
    """Return the architecture with the weights of a file, in evaluation mode, in float32.

    `classes` is deduced from the file if it is `None`. Raises `SpecError` for an unknown architecture,
    `CheckpointError` if the file is missing, unsafe, damaged, has other tensors, or numbers that are not finite.
    """
    return load_state(read_state(path), architecture, path, classes)
