"""Programs of `torch.export.save` (.pt2) as plain modules, read without executing anything in the file.

torch's own loader unpickles the sample inputs and evaluates the text of symbolic sizes, so a file can run a program
in it. This reader takes the archive's JSON and the raw bytes of the weights, and nothing else: every operation must
be known by its exported name (see `mtz_core.graph.operations`), every number is checked, and no text of the file
becomes code.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mtz_core.data.reading import FLOAT, MOST, WHOLE, Reading
from mtz_core.errors import CheckpointError
from mtz_core.graph.answers import heads_of
from mtz_core.graph.heads import joined, leaves, mapped
from mtz_core.own.archive import DTYPES, EXPORT, Archive, name_of, whole
from mtz_core.own.files import check_name, checked_archive, first_line, parse_json
from mtz_core.own.inputs import NAMES, random_inputs, rows_read
from mtz_core.own.steps import ExportedNetwork
from mtz_core.own.translation import Translation

MOST_STEPS = 10_000
MOST_NUMBERS = 2**29
MOST_OUTPUTS = 1_000
TYPES = {FLOAT: torch.float32, **WHOLE}


class _Bounded(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Within, an operation whose result is too large is an error; on meta tensors nothing is computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else [made]:
            if isinstance(tensor, Tensor):
                self.total += tensor.numel()
        if self.total > MOST_NUMBERS:
            raise ValueError(f"its activations for three inputs are more than {MOST_NUMBERS:,} numbers")
        return made


@dataclass(frozen=True)
class ExportedProgram:
    """What a file holds: the network, shape and type of one of its inputs, and how many numbers its output has.

    If it has several outputs, `classes` is 0, and these are their names. `rows` is how many rows the table has in which
    whole numbers are looked up, if that is known.
    """

    module: ExportedNetwork
    input_shape: tuple[int, ...]
    classes: int
    outputs: tuple[str, ...] = ()
    dtype: str = FLOAT
    rows: int | None = None


def read_exported(path: Path) -> ExportedProgram:
    """Read a file of `torch.export.save`.

    Raises `CheckpointError` if it is damaged, is not written plainly, holds an operation that is not known, or cannot
    be run with another number of inputs than it was exported with.
    """
    archive = checked_archive(path)
    try:
        with archive:
            return _read(Archive(path, archive))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is not written as torch.export.save does ({type(error).__name__}: {first_line(error)}); {EXPORT}"
        ) from error
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:  # the last: unknown compression
        raise CheckpointError(f"{path} is damaged ({first_line(error)}); copy or export it again") from error


def _read(archive: Archive) -> ExportedProgram:
    program = archive.program()
    graph, signature = program["graph"], program["signature"]
    if not isinstance(graph["nodes"], list) or len(graph["nodes"]) > MOST_STEPS:
        raise archive.refused(f"more than {MOST_STEPS:,} operations")
    sizes = {name: [_size(size) for size in about["sizes"]] for name, about in graph["tensor_values"].items()}
    source, names, trained = _inputs(archive, signature["input_specs"])
    shape = sizes[source][1:]
    if not shape or len(shape) > 4 or not all(isinstance(n, int) and 0 < n <= MOST for n in shape):
        raise archive.refused("its input is no batch of inputs of one size")
    if math.prod(shape) > MOST:
        raise archive.refused(f"its input has {math.prod(shape):,} numbers, more than {MOST:,}")
    dtype = _input_type(archive, graph["tensor_values"][source])
    result = _result(archive, program)
    weights = archive.tensors(names, trained)
    made = Translation(archive, sizes, source, names, graph["nodes"])
    named = [leaf for _, leaf in leaves(result) if isinstance(leaf, str)]
    if not all(name in made.current for name in named) or not any(name in made.batched for name in named):
        raise archive.refused("its output does not follow from its input")
    answer = mapped(result, lambda leaf: made.current[leaf] if isinstance(leaf, str) else leaf)
    module, shapes_only = (
        ExportedNetwork(tensors, made.steps, names, source, answer).eval()
        for tensors in (weights, {path: (tensor.to("meta"), trained) for path, (tensor, trained) in weights.items()})
    )
    module.reads_tokens = dtype != FLOAT
    classes, outputs, rows = _checked(archive, module, shapes_only, tuple(shape), dtype)
    return ExportedProgram(module, tuple(shape), classes, outputs, dtype, rows)


def _input_type(archive: Archive, about: Mapping[str, Any]) -> str:
    """The type of the input: floating-point numbers of any precision are read as float32."""
    dtype = DTYPES.get(about["dtype"])
    if dtype is None or not (dtype.is_floating_point or dtype in NAMES):
        raise archive.refused(f"its input is {dtype or 'of a type that is not known'}; it takes numbers or tokens")
    return NAMES.get(dtype, FLOAT)


def _inputs(archive: Archive, specs: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, str], set[str]]:
    """Return the name of the input, name → path of every tensor, and which of these are parameters."""
    images, names, trained = [], {}, set()
    for spec in specs:
        ((kind, about),) = spec.items()
        if kind == "user_input" and "as_tensor" in about["arg"]:
            images.append(name_of(about["arg"]["as_tensor"]["name"]))
        elif kind in ("parameter", "buffer", "tensor_constant"):
            key = {"parameter": "parameter_name", "buffer": "buffer_name"}.get(kind, "tensor_constant_name")
            names[name_of(about["arg"]["name"])] = about[key]
            check_name(archive.path, about[key])
            if kind == "parameter":
                trained.add(about[key])
        else:
            raise archive.refused(f"it takes an input of kind {str(kind)[:30]!r}; one tensor of inputs is expected")
    if len(images) != 1:
        raise archive.refused(f"it takes {len(images)} tensors; one tensor of inputs is expected")
    return images[0], names, trained


def _result(archive: Archive, program: Mapping[str, Any]) -> Any:
    """What the program returns: the name of a value, or tuples, lists and dictionaries of names and constants."""
    specs = program["signature"]["output_specs"]
    kinds = [next(iter(spec)) for spec in specs]
    if "buffer_mutation" in kinds:
        raise archive.refused("it was exported in training mode (BatchNorm's statistics change); call model.eval()")
    if not kinds or set(kinds) != {"user_output"}:
        raise archive.refused("it returns something other than tensors of its own")
    given = [_returned(archive, spec["user_output"]["arg"]) for spec in specs]
    described = (program["module_call_graph"][0]["signature"] or {}).get("out_spec")
    if described is None:
        if len(given) > 1:
            raise archive.refused("it does not say how its outputs are arranged")
        return given[0]
    version, tree = parse_json(described.encode(), archive.path)
    remaining = iter(given)
    found = _arranged(archive, tree, remaining)
    if version != 1 or next(remaining, None) is not None:
        raise archive.refused("its outputs are not arranged as it says")
    return found


def _returned(archive: Archive, given: Mapping[str, Any]) -> Any:
    ((kind, value),) = given.items()
    if kind == "as_tensor":
        return name_of(value["name"])
    if kind == "as_none":
        return None
    if kind in ("as_int", "as_bool") and isinstance(value, int):
        return value
    raise archive.refused(f"it returns a value of kind {str(kind)[:30]!r}")


def _arranged(archive: Archive, tree: Mapping[str, Any], given: Iterator[Any]) -> Any:
    """Outputs as a tree of torch's pytree arranges them: data classes and the like are dictionaries, or lists."""
    children = tree["children_spec"]
    if not isinstance(children, list) or len(children) > MOST_OUTPUTS:
        raise archive.refused(f"more than {MOST_OUTPUTS:,} outputs")
    if tree["type"] is None:
        if children:
            raise archive.refused("its outputs are not arranged as it says")
        return next(given)
    parts = [_arranged(archive, child, given) for child in children]
    kind = str(tree["type"])
    if kind in ("builtins.dict", "collections.OrderedDict"):
        names = parse_json(str(tree["context"]).encode(), archive.path)
        if not isinstance(names, list) or len(names) != len(parts) or not all(isinstance(n, str | int) for n in names):
            raise archive.refused("the names of its outputs are not written as torch does")
        return {name if isinstance(name, int) else name_of(name): part for name, part in zip(names, parts, strict=True)}
    return parts if kind == "builtins.list" else tuple(parts)


def _checked(
    archive: Archive, module: nn.Module, shapes_only: nn.Module, shape: tuple[int, ...], dtype: str
) -> tuple[int, tuple[str, ...], int | None]:
    """Run the network on three inputs and on one; return what `ExportedProgram` says of its outputs, and its rows.

    `shapes_only` is the same network on the meta device, which shows how large its activations are.
    """
    try:
        declared = torch.empty(3, *shape, dtype=TYPES[dtype], device="meta")
        with torch.no_grad(), _Bounded():
            shapes_only(declared)
        rows = None if dtype == FLOAT else rows_read(module, shape, dtype)
        inputs = random_inputs(Reading(shape, dtype, rows), 3)
        with torch.no_grad():
            together, alone = module(inputs), module(inputs[:1])
        heads = heads_of(together, 3)
    except Exception as error:  # whatever a wrong program makes torch raise
        raise archive.refused(f"it cannot be run on three inputs ({first_line(error)})") from error
    outputs, first = joined(together, heads), joined(alone, heads)
    if not bool(torch.isfinite(outputs).all()) or not torch.allclose(outputs[:1], first, rtol=1e-3, atol=1e-3):
        raise archive.refused("what it answers to an input depends on the other inputs, or is not finite")
    names = tuple(head.name for head in heads)
    return (0, names, rows) if len(heads) > 1 else (outputs.shape[1], (), rows)


def _size(size: Mapping[str, Any]) -> Any:
    """A size as a number; one that is not fixed as the text that describes it, which is compared and never read."""
    if "as_int" in size:
        return whole(size["as_int"])
    return name_of(size["as_expr"]["expr_str"])
