"""One task as a program of `torch.export`, which runs without this package and compiles for devices."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING

from mtz_core.errors import GraphError
from mtz_core.exports.kinds import export

if TYPE_CHECKING:
    from mtz_core.network.zipped import ZippedNetwork


@export(
    "program", text="one task as a program for torch.export.load, ExecuTorch or AOTInductor", source="torch.export",
    suffix=".pt2",
)  # fmt: skip
def program(network: ZippedNetwork, task: int, path: Path, about: Mapping[str, str]) -> None:
    """Export `network.extract(task)` for any number of inputs. Raises `GraphError` if torch can't."""
    import torch

    traced = network.graphs[task].network
    example = traced.example.clone()
    if traced.precision is not None and example.is_floating_point():
        example = example.to(traced.precision)
    try:
        module, sizes = network.extract(task), {0: torch.export.Dim("batch")}
        listed = any(p.kind is Parameter.VAR_POSITIONAL for p in signature(module.forward).parameters.values())
        made = torch.export.export(module, (example,), dynamic_shapes=((sizes,),) if listed else (sizes,))
    except Exception as error:  # torch.export raises what it likes
        raise GraphError(
            f"torch.export cannot export task {task} ({str(error).splitlines()[0][:200]}); take its weights instead"
        ) from error
    torch.export.save(made, path)
