"""What corresponds between several networks as JSON-able data, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtz_core.structure.alignment import Alignment
from mtz_core.structure.joint import JointStructure, side_by_side
from mtz_core.structure.networks import structure_from_json, structure_to_json


def joint_to_json(joint: JointStructure) -> dict[str, Any]:
    """Return networks and what corresponds as JSON-able data; `joint_from_json` reads it back."""
    found = joint.alignment
    return {
        "networks": [structure_to_json(network) for network in joint.networks],
        "layers": [sorted(members.items()) for members in found.layers],
        "groups": [sorted(members.items()) for members in found.groups],
        "apart": list(found.apart),
    }


def joint_from_json(data: Mapping[str, Any]) -> JointStructure:
    """Return what `joint_to_json` wrote."""
    layers, groups = (tuple({int(t): int(k) for t, k in each} for each in data[key]) for key in ("layers", "groups"))
    networks = [structure_from_json(network) for network in data["networks"]]
    return side_by_side(networks, Alignment(layers, groups, tuple(int(t) for t in data["apart"])))
