"""Structures of the bundled parents, read from a file: drawing and counting them needs no torch.

`scripts/build_structures.py` writes the file from the networks themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from mtz_core.errors import DataError
from mtz_core.structure import GroupSummary, LayerSummary, NetworkStructure

FILE = Path(__file__).resolve().parents[2] / "assets" / "parents" / "structures.json"


def structure_to_json(structure: NetworkStructure) -> dict[str, Any]:
    """Return a structure as JSON-able data; `structure_from_json` reads it back."""
    return asdict(structure)


def structure_from_json(data: Mapping[str, Any]) -> NetworkStructure:
    """Return the structure that `structure_to_json` (or an event in a run store) wrote."""
    return NetworkStructure(
        layers=tuple(LayerSummary(**{**layer, "kernel": tuple(layer["kernel"])}) for layer in data["layers"]),
        groups=tuple(GroupSummary(**{**group, "producers": tuple(group["producers"])}) for group in data["groups"]),
        other_parameters=data["other_parameters"],
    )


@lru_cache(maxsize=1)
def structures(path: Path = FILE) -> dict[str, NetworkStructure]:
    """Return the structure of every bundled parent by name. Raises `DataError` if the file is missing or damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {name: structure_from_json(item) for name, item in data.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path} ({error}); write it anew with scripts/build_structures.py") from error


def why_not_zippable(networks: Sequence[NetworkStructure], names: Sequence[str]) -> str | None:
    """Return why networks cannot be zipped together, in words, or `None` if nothing speaks against it.

    Corresponding layers must be of one kind, with the same kernel and the same raw inputs; widths and the number
    of classes may differ.
    """
    if len(networks) < 2:
        return "Choose at least two networks."
    first, first_name = networks[0], names[0]
    for other, name in zip(networks[1:], names[1:], strict=True):
        if len(first.layers) != len(other.layers):
            return (
                f"{first_name} has {len(first.layers)} weight layers and {name} has {len(other.layers)}. "
                "Layers are merged one by one, so choose networks of one architecture."
            )
        for a, b in zip(first.layers, other.layers, strict=True):
            if (a.kind, a.kernel) != (b.kind, b.kernel):
                return (
                    f"Layer {a.name} of {first_name} is {_described(a)}, layer {b.name} of {name} is {_described(b)}. "
                    "Corresponding layers must be of one kind."
                )
            if tuple(a.inputs.values()) != tuple(b.inputs.values()) or _raw(first, a) != _raw(other, b):
                return f"Layer {a.name} reads different inputs in {first_name} and {name}."
    if all(group.frozen for group in first.groups):
        return "None of their layers can be shared: " + "; ".join(str(g.frozen) for g in first.groups)
    return None


def _described(layer: LayerSummary) -> str:
    return f"{layer.kind} {'×'.join(map(str, layer.kernel))}".strip()


def _raw(network: NetworkStructure, layer: LayerSummary) -> int:
    """Input columns that no group owns: the raw input and the bias."""
    return layer.columns - round(sum(network.group(name).width * per for name, per in layer.inputs.items()))
