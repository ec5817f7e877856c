"""Which layers tasks that see the same images can compute once, and what that saves (no torch here)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mtz_core.errors import SpecError
from mtz_core.structure.joint import JointStructure
from mtz_core.structure.networks import RECURRENT


@dataclass(frozen=True)
class Trunk:
    """Layers in which all tasks share every neuron: computed once for tasks that see one image.

    `layers` are the first network's names, in order of execution from its first layer on; `groups` the channel groups
    that they write, with their width. `multiplications` is what all tasks' answers to one image take then. In the
    layers `common` biases and scales are shared, too: what follows them must be equal. The last layer is not among
    them, unless it is recurrent: its sums are computed once, and each task goes on with a scale and bias of its own.
    """

    layers: tuple[str, ...]
    groups: Mapping[str, int]
    multiplications: int
    common: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its last layer."""
        return self.layers[-1]


def trunks(joint: JointStructure) -> tuple[Trunk, ...]:
    """Return all possible trunks, the shortest first.

    A layer can belong to one if all tasks have it, equally wide, if its channels can be shared, if all before it can
    belong to one, and if the tasks' networks do the same in between, without parameters of their own.
    """
    total = sum(network.multiplications for network in joint.networks)
    found: list[Trunk] = []
    names: list[str] = []
    groups: dict[str, int] = {}
    for k in range(min(len(network.layers) for network in joint.networks)):
        layers = [network.layers[k] for network in joint.networks]
        if any(positions[k] != k for positions in joint.positions) or layers[0].group is None:
            break
        group = next(g for g in joint.groups if 0 in g.members and g.members[0].name == layers[0].group)
        alike = {(layer.recipe, layer.width, layer.columns) for layer in layers}
        everyone = len(group.sharing) == len(joint.networks) and len(set(group.widths)) == 1
        if len(alike) > 1 or not layers[0].recipe or not everyone:
            break
        names.append(layers[0].name)
        groups[group.name] = group.widths[0]
        total -= (len(joint.networks) - 1) * layers[0].multiplications
        common = names if layers[0].kind in RECURRENT else names[:-1]
        found.append(Trunk(tuple(names), dict(groups), total, tuple(common)))
    return tuple(found)


def trunk_of(joint: JointStructure, name: str | None = None, limit: float | None = None) -> Trunk | None:
    """Return the trunk whose last layer is `name`, or the shortest that keeps within a limit; `None`: none is needed.

    Args:
        joint: the networks side by side.
        name: a layer of the first network.
        limit: multiplications that all tasks' answers to one image may take, relative to the least of the networks.

    Raises:
        SpecError: there is no such trunk.
    """
    if name is None and limit is None:
        return None
    possible = trunks(joint)
    least = max(1, min(network.multiplications for network in joint.networks))
    if name is not None:
        for trunk in possible:
            if trunk.name == name:
                return trunk
        listed = ", ".join(trunk.name for trunk in possible)
        raise SpecError(
            f"trunk: the tasks cannot have all layers up to {name!r} in common; "
            + (f"possible: {listed}" if listed else "their networks differ from the first layer on; leave trunk out")
        )
    assert limit is not None
    apart = sum(network.multiplications for network in joint.networks)
    if apart <= limit * least:
        return None
    for trunk in possible:
        if trunk.multiplications <= limit * least:
            return trunk
    best = possible[-1].multiplications if possible else apart
    raise SpecError(
        f"budget: {limit:g} times the multiplications of one network are too few; with all layers in common that can "
        f"be, the answers to one image take {math.ceil(1000 * best / least) / 1000}"
    )
