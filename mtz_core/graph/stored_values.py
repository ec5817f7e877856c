"""Arguments of calls, settings of modules and fields of records as JSON-able data, and the way back.

Numbers, words, truth values and `None` stand for themselves, lists for lists; everything else is an object with one
key that says what it is. Reading makes plain values of them: no text becomes code, and nothing is looked up but names
of `vocabulary`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from mtz_core.errors import CheckpointError, GraphError
from mtz_core.graph.vocabulary import function_named, name_of_function

LARGEST = 2**63 - 1
LONGEST_TEXT = 10_000
DTYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in vars(torch).values()
    if isinstance(kind, torch.dtype) and "bits" not in str(kind)
}
_LAYOUTS = {str(kind): kind for kind in (torch.strided, torch.sparse_coo)}
_FORMATS = {
    str(kind): kind
    for kind in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d, torch.preserve_format)
}
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|meta)(:\d{1,3})?")
_PATH_PART = re.compile(r"[^.\x00-\x1f]{1,200}")

Arrays = Callable[[Any], Any]
"""What becomes of an array when it is written, or of its number when it is read."""


def write_value(value: Any, arrays: Arrays | None = None) -> Any:
    """Return a value as JSON-able data; `arrays`, if any, gives arrays their numbers. Raises `GraphError`."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, complex):
        return {"complex": [write_value(value.real), write_value(value.imag)]}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, slice):
        return {"slice": [write_value(part, arrays) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, tuple):
        return {"tuple": [write_value(item, arrays) for item in value]}
    if isinstance(value, list):
        return [write_value(item, arrays) for item in value]
    if isinstance(value, Mapping):
        return {"pairs": [[write_value(k), write_value(v, arrays)] for k, v in value.items()]}
    return _write_other(value, arrays)


def _write_other(value: Any, arrays: Arrays | None) -> Any:
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, torch.dtype) and str(value).removeprefix("torch.") in DTYPES:
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, torch.memory_format):
        return {"format": str(value)}
    if isinstance(value, torch.layout) and str(value) in _LAYOUTS:
        return {"layout": str(value)}
    if isinstance(value, np.ndarray) and arrays is not None:
        return {"array": arrays(value)}
    if callable(value) and (name := name_of_function(value)) is not None:
        return {"function": name}
    raise GraphError(f"a {type(value).__name__} cannot be stored in a file")


def read_value(data: Any, nodes: Mapping[str, fx.Node] | None = None, arrays: Arrays | None = None) -> Any:
    """Return the value that `write_value` wrote; `nodes` are those that may be named. Raises `CheckpointError`."""
    if data is None or isinstance(data, bool):
        return data
    if isinstance(data, int):
        return whole(data, -LARGEST)
    if isinstance(data, float):
        return data
    if isinstance(data, str):
        return text(data)
    if isinstance(data, list):
        return [read_value(item, nodes, arrays) for item in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise CheckpointError(f"the file is damaged: {str(data)[:60]!r} is no value")
    ((kind, inner),) = data.items()
    if kind == "node":
        if not isinstance(inner, str) or nodes is None or inner not in nodes:
            raise CheckpointError(f"the file is damaged: the value {str(inner)[:60]!r} is used before it is made")
        return nodes[inner]
    if kind == "array" and arrays is not None:
        return arrays(inner)
    if kind in ("tuple", "slice", "complex", "pairs") and isinstance(inner, list):
        items = [read_value(item, nodes, arrays) for item in inner]
        return _compound(kind, items)
    return _read_other(kind, inner)


def _compound(kind: str, items: list[Any]) -> Any:
    if kind == "tuple":
        return tuple(items)
    if kind == "slice" and len(items) == 3:
        return slice(*items)
    if kind == "complex" and len(items) == 2 and all(isinstance(part, float) for part in items):
        return complex(*items)
    if kind == "pairs" and all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], str | int) for p in items):
        return dict(items)
    raise CheckpointError(f"the file is damaged: a {kind} of {len(items)} parts is no value")


def _read_other(kind: Any, inner: Any) -> Any:
    found: Any = None
    if kind == "float" and inner in ("inf", "-inf", "nan"):
        found = float(inner)
    elif kind == "ellipsis":
        found = Ellipsis
    elif kind == "device" and isinstance(inner, str) and _DEVICE.fullmatch(inner):
        found = torch.device(inner)
    elif kind in ("dtype", "format", "layout") and isinstance(inner, str):
        known: Mapping[str, Mapping[str, Any]] = {"dtype": DTYPES, "format": _FORMATS, "layout": _LAYOUTS}
        found = known[kind].get(inner)
    elif kind == "function" and isinstance(inner, str):
        found = function_named(inner)
        if found is None:
            raise refused_call(inner)
    if found is None:
        raise CheckpointError(f"the file is damaged: a {str(kind)[:30]!r} of {str(inner)[:60]!r} is no value")
    return found


def refused_call(name: Any) -> CheckpointError:
    """The error that says that a file calls what it may not."""
    return CheckpointError(
        f"the file calls {str(name)[:60]!r}, which is not among the operations that a stored network may call "
        "(mtz_core/graph/vocabulary.py); nothing was executed. Where the file is your own, load it with the version "
        "of this program, and of torch, that wrote it"
    )


def whole(data: Any, least: int = 0, most: int = LARGEST) -> int:
    """A whole number of a file, checked."""
    if isinstance(data, bool) or not isinstance(data, int) or not least <= data <= most:
        raise CheckpointError(f"the file is damaged: {str(data)[:40]!r} is no number from {least:,} to {most:,}")
    return data


def text(data: Any) -> str:
    """A text of a file, checked."""
    if not isinstance(data, str) or len(data) > LONGEST_TEXT:
        raise CheckpointError(f"the file is damaged: {str(data)[:40]!r} is no text of at most {LONGEST_TEXT:,} letters")
    return data


def path_parts(data: Any) -> list[str]:
    """The path of a module or tensor, in its parts; no part is a name that Python gives a meaning to."""
    parts = text(data).split(".") if data != "" else []
    if any(not _PATH_PART.fullmatch(part) or part.startswith("__") for part in parts):
        raise CheckpointError(f"the file is damaged: {str(data)[:60]!r} is no path in a network")
    return parts


def sizes(data: Any) -> tuple[int, ...]:
    """A shape of a file, checked."""
    if not isinstance(data, list) or len(data) > 16:
        raise CheckpointError(f"the file is damaged: {str(data)[:40]!r} is no shape")
    return tuple(whole(n) for n in data)
