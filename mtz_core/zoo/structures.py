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
from mtz_core.places import ASSETS
from mtz_core.structure import GroupSummary, LayerSummary, NetworkStructure, effective_shares, joined

FILE = ASSETS / "parents" / "structures.json"


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

    Some hidden layers must correspond and read something in common; depths, widths and classes may differ.
    """
    if len(networks) < 2:
        return "Choose at least two networks."
    joint = joined(networks)
    for t in joint.apart:
        return (
            f"No hidden layer of {names[t]} corresponds to one of {' or '.join(names[:t])}: layers correspond if they "
            "are of one kind, with the same kernel, stride, padding and bias, at the same scale of the image. Choose "
            "networks of one family."
        )
    full = {group.name: min(group.widths) for group in joint.groups if group.sharing}
    if not full:
        reasons = dict.fromkeys(group.frozen for group in networks[0].groups if group.frozen)
        return "None of their layers can be shared: " + "; ".join(map(str, reasons))
    if not any((full | effective_shares(networks, full)).values()):
        return "None of their layers can be shared: those that correspond read nothing in common."
    return None
