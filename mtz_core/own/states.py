"""A weights file as a state dict, and a state dict as a network. Nothing in a file is ever executed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mtz_core.errors import CheckpointError
from mtz_core.own.architectures import build_empty
from mtz_core.own.files import (
    MOST_TENSORS,
    REMEDY,
    check_name,
    checked_archive,
    file_kind,
    first_line,
    safetensors_shapes,
)
from mtz_core.own.recognition import (
    COUNTER,
    architecture,
    class_count,
    closest,
    fitting_architectures,
    misfits,
    unwrapped,
)
from mtz_core.system.memory import WEIGHTS, check_room

SHOWN = 6
NUMBER = 4
"""Bytes that a number takes beside the file's own tensors."""
_UNSAFE = re.compile(r"[Uu]nsupported (?:global: )?(?:GLOBAL|class) (\S+)")
WRAPPING = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module")
"""What training programs call the weights, beside which they keep an optimizer's state, a step and the like."""
AVERAGED = ("ema", "ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "params_ema", "averaged_model")
"""What they call a running average of the weights: other weights, and both are a network."""


def read_state(path: Path, part: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name, as `recognition.unwrapped` writes the names.

    The file is safetensors, or what `torch.save` wrote of a state dict (also under `"state_dict"`, `"model"` and the
    like, also with the `module.` that `DataParallel` puts first). `part` says which of several sets of weights is
    meant. Raises `CheckpointError` if the file is missing, unsafe or damaged, or holds several and none is named.
    """
    return unwrapped(read_tensors(path, part))


def read_tensors(path: Path, part: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a weights file by the names that they have there; see `read_state`."""
    kind = file_kind(path)
    if kind == "safetensors":
        safetensors_shapes(path)
        try:
            loaded: Any = load_file(path)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} is a damaged safetensors file ({first_line(error)}); copy or save it again"
            ) from error
    elif kind == "torch":
        loaded = _read_torch(path)
    elif kind == "pt2":
        raise CheckpointError(f"{path} is an exported program, not weights; choose the architecture 'exported' for it")
    else:
        raise CheckpointError(f"{path} is a NumPy array, not a checkpoint. {REMEDY}")
    return _plain(_state_dict(loaded, path, part), path)


def load_state(state: Mapping[str, Tensor], name: str, path: Path, classes: int | None = None) -> nn.Module:
    """Return an architecture with these weights, in evaluation mode, in float32.

    `classes` is deduced from the head unless it is given. Raises `SpecError` for an unknown architecture,
    `CheckpointError` if the tensors do not fit it or hold NaN; `path` is for the message.
    """
    known = architecture(name)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    count = classes or class_count(shapes, known)
    if problems := misfits(shapes, known, count):
        what = name + (f" with {count} classes" if count else "")
        raise CheckpointError(f"{path} does not fit {what}: it {'; '.join(problems[:SHOWN])}.{_advice(shapes, name)}")
    with torch.no_grad():
        module = build_empty(name, count or 1)
        expected = module.state_dict()
        total = sum(tensor.numel() for tensor in expected.values())
        check_room(NUMBER * total, f"{path}: {name} of {total:,} numbers", "choose a smaller network", WEIGHTS)
        _check_numbers(state, expected, path)
        given = {
            key: (state[key] if key in state else torch.zeros_like(tensor, device="cpu")).to(tensor.dtype, copy=True)
            for key, tensor in expected.items()
            if key in state or key.endswith(COUNTER)
        }
        for auxiliary in {key.partition(".")[0] for key in expected if key not in given}:
            setattr(module, auxiliary, None)  # a head that only training uses
        module.load_state_dict(given, assign=True)
    return module.eval().requires_grad_(True)


def _advice(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    fitting = fitting_architectures(shapes)
    if fitting:
        return f" It fits {', '.join(fitting[:3])}: choose that"
    near = closest(shapes).name
    other = "" if near == name else f" The closest architecture is {near}."
    return f"{other} If the network is one of your own, export it with torch.export.save and bring the .pt2 file"


def _read_torch(path: Path) -> Any:
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped:
        checked_archive(path).close()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what can't be read is an error anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle can make the reader raise anything
        if found := _UNSAFE.search(str(error)):
            raise CheckpointError(
                f"{path} holds more than tensors ({found[1][:80]}): loading it could run a program, so it was not "
                f"loaded. {REMEDY}"
            ) from error
        if "Unsupported operand" in str(error):
            raise CheckpointError(
                f"{path} is no pickle of torch's own kind: it is damaged or holds more than tensors, so it was not "
                f"loaded. {REMEDY}"
            ) from error
        raise CheckpointError(
            f"{path} is damaged ({first_line(error).partition('. In PyTorch')[0]}); it was not loaded. Copy the file "
            f"again. {REMEDY}"
        ) from error


def state_parts(path: Path) -> tuple[str, ...]:
    """Names of the sets of weights in a file of `torch.save`, if it holds several (a network and its average)."""
    found = _sets(_read_torch(path)) if file_kind(path) == "torch" else []
    return tuple(found) if len(found) > 1 else ()


def _sets(loaded: Any) -> list[str]:
    """Under which names of a checkpoint there are weights."""
    names = (*WRAPPING, *AVERAGED)
    return [
        key for key in names if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping) and loaded[key]
    ]


def _state_dict(loaded: Any, path: Path, part: str | None = None) -> dict[str, Tensor]:
    for _ in range(3):
        found = _sets(loaded)
        if part is not None and part in found:
            loaded, part = loaded[part], None
        elif len(found) > 1 and part is None:
            average = f"; {found[-1]} is a running average, which mostly answers better" * (found[-1] in AVERAGED)
            raise CheckpointError(
                f"{path} holds {len(found)} sets of weights: {', '.join(found)}. Say which is meant "
                f"(part: {found[0]}){average}"
            )
        elif found:
            loaded = loaded[found[0]]
    if part is not None:
        raise CheckpointError(f"{path} holds no weights called {part[:40]!r}; leave 'part' out, or look at its keys")
    if not isinstance(loaded, Mapping) or not all(isinstance(k, str) for k in loaded):
        raise CheckpointError(
            f"{path} holds a {type(loaded).__name__}; expected a state dict (tensors by name). {REMEDY}"
        )
    if not loaded:
        raise CheckpointError(f"{path} holds no tensors. {REMEDY}")
    if len(loaded) > MOST_TENSORS:
        raise CheckpointError(f"{path} holds {len(loaded):,} tensors; at most {MOST_TENSORS:,} are read. {REMEDY}")
    for name, value in loaded.items():
        check_name(path, name)
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name!r} is of type {type(value).__name__}; expected a tensor. {REMEDY}")
    return dict(loaded)


def _plain(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Check that every tensor is an ordinary one that holds its numbers: a stride of 0 declares any size for free."""
    for name, value in state.items():
        ordinary = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided and not value.is_quantized
        if not ordinary or value.device.type != "cpu" or value.is_complex():
            raise CheckpointError(
                f"{path}: {name} is no ordinary tensor ({value.layout}, {value.dtype}, {value.device}); save "
                "model.float().state_dict()"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: {name} declares shape {tuple(value.shape)[:8]}, more numbers than the file holds for it; "
                f"{REMEDY.lower()}"
            )
    return {name: value.detach() for name, value in state.items()}


def _check_numbers(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if name not in expected:
            continue
        if expected[name].is_floating_point() and not tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {name} has type {tensor.dtype}; expected floating point numbers. Save the weights before "
                "they are quantised"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(
                f"{path}: {name} holds NaN or infinity; the network can't be used. Take a checkpoint from before its "
                "training diverged"
            )
