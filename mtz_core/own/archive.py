"""The archive of `torch.export.save`: its JSON and the raw bytes of its weights, read without executing anything."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtz_core.errors import CheckpointError
from mtz_core.own.files import parse_json
from mtz_core.system.memory import WEIGHTS, check_room

MOST_JSON = 64 * 2**20
JSON = 24
"""Bytes of memory that a byte of JSON may take: nested lists of a few characters."""
NUMBER = 8
"""Bytes that a number of a tensor takes while it is read: as it is stored, and as float32."""
WHOLE = 2**63 - 1
"""The largest number that a file may name; the end of a slice that has none."""
EXPORT = (
    'export it with torch.export.export(model.eval(), (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},)) '
    "and torch.export.save"
)

DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip


class Archive:
    """One file that holds one program."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        found = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/models/[^/]+\.json", name)]
        if len(found) != 1:
            raise self.refused(f"it holds {len(found)} programs; one is expected")
        self.root, self.model = found[0].split("/")[0], found[0].split("/")[2].removesuffix(".json")

    def refused(self, why: str) -> CheckpointError:
        """The error that says why the file can't be used."""
        return CheckpointError(f"{self.path}: {why}; {EXPORT}")

    def program(self) -> Mapping[str, Any]:
        """The description of the program."""
        described: Mapping[str, Any] = self._json(f"models/{self.model}.json")["graph_module"]
        return described

    def _json(self, name: str) -> Any:
        try:
            entry = self.archive.getinfo(f"{self.root}/{name}")
        except KeyError as error:
            raise self.refused(f"it lacks {name}") from error
        if entry.file_size > MOST_JSON:
            raise self.refused(f"its description has {entry.file_size:,} bytes, more than {MOST_JSON:,}")
        check_room(JSON * entry.file_size, f"{self.path}: its description", "export a smaller network", WEIGHTS)
        return parse_json(self.archive.read(entry), self.path)

    def tensors(self, names: Mapping[str, str], trained: set[str]) -> dict[str, tuple[Tensor, bool]]:
        """Read every tensor that the program names, from raw bytes."""
        known: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for folder in ("weights", "constants"):
            config = self._json(f"data/{folder}/{self.model}_{folder}_config.json")["config"]
            known |= {path: (folder, entry) for path, entry in config.items()}
        found = {}
        if lacking := next((path for path in names.values() if path not in known), None):
            raise self.refused(f"it lacks the numbers of {lacking}")
        total = sum(_count(known[path][1]) for path in names.values())
        what = f"{self.path}: its {len(names):,} tensors declare {total:,} numbers"
        check_room(total * NUMBER, what, "bring a smaller network", WEIGHTS)
        for path in names.values():
            found[path] = (self._tensor(path, *known[path]), path in trained)
        return found

    def _tensor(self, path: str, folder: str, entry: Mapping[str, Any]) -> Tensor:
        about = entry["tensor_meta"]
        if entry["use_pickle"] is not False or about is None:
            raise self.refused(f"{path} is stored as a pickle, which could run a program; move the model to the CPU")
        dtype = DTYPES.get(about["dtype"])
        shape, strides = ([whole(n["as_int"]) for n in about[key]] for key in ("sizes", "strides"))
        start = whole(about["storage_offset"]["as_int"])
        if dtype is None or len(shape) != len(strides) or len(shape) > 8:
            raise self.refused(f"{path} has a type or shape that is not known; convert the model with model.float()")
        data = self.archive.read(f"{self.root}/data/{folder}/{name_of(entry['path_name'])}")
        count = math.prod(shape)
        last = start + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
        if max(last, count) * dtype.itemsize > len(data) and count:
            raise self.refused(f"{path} declares shape {tuple(shape)}, more numbers than the file holds for it")
        flat = torch.frombuffer(bytearray(data or b"\0" * 8), dtype=dtype, count=len(data) // dtype.itemsize)
        tensor = flat.as_strided(shape, strides, start).clone(memory_format=torch.contiguous_format)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(
                f"{self.path}: {path} holds NaN or infinity; the network can't be used. Export it from before its "
                "training diverged"
            )
        return tensor.float() if tensor.is_floating_point() else tensor


def _count(entry: Mapping[str, Any]) -> int:
    """How many numbers a tensor declares."""
    about = entry["tensor_meta"]
    return 0 if about is None else math.prod(whole(n["as_int"]) for n in about["sizes"])


def whole(value: Any, negative: bool = False) -> int:
    """A number of a file, checked. Raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int) or not (-(2**31) if negative else 0) <= value <= WHOLE:
        raise ValueError(f"{str(value)[:40]!r} is no size")
    return value


def name_of(value: Any) -> str:
    """A name in a file, checked. Raises `ValueError`."""
    if not isinstance(value, str) or len(value) > 300:
        raise ValueError(f"{str(value)[:40]!r} is no name")
    return value
