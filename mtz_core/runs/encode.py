"""Events as JSON data plus named arrays, and back where a reader needs it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtz_core.events import DifferenceComputed, Event, LayerZipped
from mtz_core.runs.files import Array
from mtz_core.structure.sizes import ParameterCounts

WEIGHT_LIMIT = 64 * 2**20
"""Bytes of weights kept per layer; larger ones are in the saved network anyway."""


def encode(event: Event) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return an event's fields as JSON-able data and its arrays by name.

    Floating arrays are stored in float32, except `costs`. Parents' and merged weights over `WEIGHT_LIMIT` bytes in one
    layer are left out and named under `"omitted"`.
    """
    fields = {item.name: getattr(event, item.name) for item in dataclasses.fields(event)}
    arrays: dict[str, Array] = {}
    if isinstance(event, DifferenceComputed):
        differences = fields.pop("differences")
        arrays = {f"difference_{t}_{u}": _single(values) for (t, u), values in differences.items()}
    elif isinstance(event, LayerZipped):
        arrays = {"pairs": np.asarray(fields.pop("pairs")), "costs": np.asarray(fields.pop("costs"))}
        for name in ("columns", "top_images", "top_values", "matters", "scales", "gains"):
            arrays |= {f"{name}_{t}": _single(values) for t, values in enumerate(fields.pop(name))}
        weights = {"merged": _single(fields.pop("merged"))}
        weights |= {f"weights_{t}": _single(values) for t, values in enumerate(fields.pop("weights"))}
        kept, fields["omitted"] = _within_limit(weights)
        arrays |= kept
    return {name: plain(value) for name, value in fields.items()}, arrays


def plain(value: Any) -> Any:
    """Return a value as JSON-able Python: dataclasses as dicts, NaN and infinity as `None`, paths as text.

    Raises `TypeError` for anything else.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, ParameterCounts):
        return counts_data(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    raise TypeError(f"cannot store a {type(value).__name__} in a run: {value!r:.80}")


def counts_data(counts: ParameterCounts) -> dict[str, Any]:
    """Return parameter counts as data, with the totals and ratios that follow from them."""
    return {
        "shared": int(counts.shared),
        "private": [int(size) for size in counts.private],
        "parents": [int(size) for size in counts.parents],
        "total": int(counts.total),
        "versus_all": counts.versus_all,
        "versus_smallest": counts.versus_smallest,
    }


def _single(values: Any) -> Array:
    array = np.asarray(values)
    return array.astype(np.float32, copy=False) if np.issubdtype(array.dtype, np.floating) else array


def _within_limit(weights: Mapping[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """Keep whole arrays, smallest first, as long as they fit under the limit together."""
    kept: dict[str, Array] = {}
    size = 0
    for name, array in sorted(weights.items(), key=lambda item: item[1].nbytes):
        size += array.nbytes
        if size <= WEIGHT_LIMIT:
            kept[name] = array
    return kept, [name for name in weights if name not in kept]
