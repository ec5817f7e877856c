"""What a weights file is: its kind, which architectures it fits, how many classes it tells apart, what it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtz_core.errors import CheckpointError
from mtz_core.own.files import REMEDY, Shapes, file_kind, plain_shapes, safetensors_shapes
from mtz_core.own.recognition import (
    SHOWN,
    architecture,
    class_count,
    closest,
    fitting_architectures,
    misfits,
    unwrapped,
)
from mtz_core.spec import EXPORTED, TransformSpec

KINDS = {"safetensors": "safetensors", "torch": "state dict of torch.save", "pt2": "program of torch.export"}


@dataclass(frozen=True)
class Inspection:
    """`architectures` fit, best first. Where none does, `closest` is the most alike, and `misfits` says why not."""

    kind: str
    tensors: int
    numbers: int
    architectures: tuple[str, ...]
    classes: int | None
    input_shape: tuple[int, ...]
    closest: str
    misfits: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    """Sets of weights in the file, if there are several; what else stands here is said of one of them."""
    left: int = 0
    """Tensors beside the network (a loss, another head), which are left out."""
    outputs: tuple[str, ...] = ()
    """Names of the outputs of a program that has several."""
    dtype: str = "float32"
    """Type of the input that a program reads."""
    transform: Mapping[str, Any] | None = None
    """How a program that reads pictures is given them."""

    @property
    def described(self) -> str:
        """The kind in words."""
        return KINDS[self.kind]


def inspect_file(path: Path, part: str | None = None) -> Inspection:
    """Return what a file of weights is. A safetensors file's header is enough; torch is imported for others only.

    Of several sets of weights `part` is looked at, the first if it is left out.

    Raises `CheckpointError` if it is none, unsafe or damaged.
    """
    kind, parts = file_kind(path), tuple[str, ...]()
    if kind == "pt2":
        from mtz_core.own.exported import read_exported
        from mtz_core.own.inputs import declared

        program = read_exported(path)
        reads = declared(program.input_shape, program.dtype)
        shapes = plain_shapes(program.module.state_dict())
        return Inspection(
            kind,
            len(shapes),
            _numbers(shapes),
            (EXPORTED,),
            program.classes,
            program.input_shape,
            EXPORTED,
            outputs=program.outputs,
            dtype=program.dtype,
            transform=reads.model_dump(mode="json") if isinstance(reads, TransformSpec) else None,
        )
    if kind == "safetensors":
        named = safetensors_shapes(path)
    elif kind == "torch":
        from mtz_core.own.states import read_tensors, state_parts

        parts = state_parts(path)
        named = plain_shapes(read_tensors(path, part or next(iter(parts), None)))
    else:
        raise CheckpointError(f"{path} is a NumPy file: inputs, not a checkpoint. {REMEDY}")
    shapes = plain_shapes(unwrapped(named))
    fitting = tuple(fitting_architectures(shapes))
    best = architecture(fitting[0]) if fitting else closest(shapes)
    classes = class_count(shapes, best)
    return Inspection(
        kind, len(shapes), _numbers(shapes), fitting, classes, best.input_shape, best.name,
        () if fitting else tuple(misfits(shapes, best, classes)[:SHOWN]), parts, len(named) - len(shapes),
    )  # fmt: skip


def _numbers(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
