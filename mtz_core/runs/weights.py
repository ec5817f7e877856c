"""A user's weights file as a network of a bundled architecture. Nothing in a file is ever executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mtz_core.errors import CheckpointError, SpecError
from mtz_core.zoo.architectures import ARCHITECTURES

MOST_BYTES = 2 * 2**30
SHOWN = 4


def load_network(architecture: str, path: Path, classes: int) -> nn.Module:
    """Return the architecture with the weights of a file, in evaluation mode, in float32.

    The file is safetensors, or what `torch.save` wrote of a state dict (also under `"state_dict"` or `"model"`, also
    with the `module.` that `DataParallel` puts first). Raises `SpecError` for an unknown architecture,
    `CheckpointError` if the file is missing, unsafe, damaged, has other tensors, or numbers that are not finite.
    """
    if architecture not in ARCHITECTURES:
        raise SpecError(f"architecture {architecture!r} is unknown; known: {', '.join(ARCHITECTURES)}")
    module = ARCHITECTURES[architecture](classes=classes)
    state = _state_dict(_read(path), path)
    _check_fit(state, module.state_dict(), path, f"{architecture} with {classes} classes")
    module.load_state_dict(state)
    return module.eval()


def _read(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise CheckpointError(
                f"{path} has {size / 2**30:.1f} GiB; weights of a bundled architecture are far smaller"
            )
        with path.open("rb") as stream:
            start = stream.read(2)
    except OSError as error:
        raise CheckpointError(f"cannot read the weights {path}: {error.strerror or error}") from error
    if start == b"PK" or start[:1] == b"\x80":
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a hostile pickle can make the reader raise anything
            raise CheckpointError(
                f"{path} holds more than tensors, or is damaged ({_first_line(error)}); it was not loaded. "
                "Save the state dict alone, best with safetensors.torch.save_file(model.state_dict(), path)"
            ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is neither a safetensors file nor one of torch.save ({_first_line(error)})"
        ) from error


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(k, str) for k in loaded):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}; expected a state dict (tensors by name)")
    for name, value in loaded.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name!r} is of type {type(value).__name__}; expected a tensor")
    if loaded and all(name.startswith("module.") for name in loaded):
        return {name.removeprefix("module."): value for name, value in loaded.items()}
    return dict(loaded)


def _check_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, what: str) -> None:
    problems = [f"lacks {_some(missing)}"] if (missing := [name for name in expected if name not in state]) else []
    if extra := [name for name in state if name not in expected]:
        problems.append(f"has {_some(extra)}, which {what} has not")
    for name in expected:
        if name in state and state[name].shape != expected[name].shape:
            problems.append(f"{name} has shape {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}")
    if problems:
        raise CheckpointError(f"{path} does not fit {what}: it {'; '.join(problems[: SHOWN + 2])}")
    for name, tensor in state.items():
        if expected[name].is_floating_point() and not tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name} has type {tensor.dtype}; expected floating point numbers")
        if not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; the network can't be used")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
