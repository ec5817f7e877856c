"""Loading a bundled parent: a trained network, ready to be merged with others."""

from __future__ import annotations

from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mtz_core.errors import CheckpointError
from mtz_core.outputs.types import Kind
from mtz_core.zoo.architectures import ARCHITECTURES
from mtz_core.zoo.catalog import parent_info, parent_names

__all__ = ["Parent", "load_parent", "parent_names"]


@dataclass(frozen=True)
class Parent:
    """A trained network of one task; `test_error` is in percent, on the test set that the catalogue names.

    `classes` are the names of its outputs: classes, attributes or values, as `type` says.
    """

    name: str
    module: nn.Module
    task: str
    classes: tuple[str, ...]
    architecture: str
    test_error: float
    type: Kind


def load_parent(name: str) -> Parent:
    """A fresh copy of a bundled parent: float32, in evaluation mode, parameters still requiring gradients.

    Weights are stored as float16; every reported error was measured after that rounding.
    Raises SpecError for an unknown name, CheckpointError if its file is missing or does not fit.
    """
    info = parent_info(name)
    module = ARCHITECTURES[info.architecture](classes=len(info.classes))
    try:
        state = load_file(info.weights)
        module.load_state_dict(state)  # copies into float32
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{info.weights}: unreadable, or no {info.architecture} ({error})") from error
    return Parent(name, module.eval(), info.task, info.classes, info.architecture, info.test_error, info.type)
