"""A network's layers as plain data: enough to draw it and to count a zipped network's parameters without torch.

A layer reads *input columns*: `inputs` names, for every channel group that it reads, how many of its columns each
channel of that group owns (kernel positions times flattened positions). Columns owned by no group (the raw input,
the bias) are common to all tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

HEAD = "task head"
RECURRENT = ("lstm", "gru")
"""Kinds of layers whose outputs are not sums of products."""
INPUT = "(input)"
"""What a layer reads that reads the network's own input."""


@dataclass(frozen=True)
class LayerSummary:
    """One weight layer: `width` neurons (channels) with `columns` incoming weights each, bias included."""

    name: str
    kind: str
    width: int
    columns: int
    group: str | None
    """Channel group that the neurons belong to; `None` for a task head."""
    inputs: Mapping[str, float] = field(default_factory=dict)
    """Group name → columns per channel of that group; a fraction where the layer reads a part of its channels."""
    kernel: tuple[int, ...] = ()
    nonzero: int | None = None
    """Stored numbers of a pruned layer; `None` for a dense one."""
    bias: bool = True
    """Whether the last column is a bias."""
    groups: int = 1
    """Groups of a convolution."""
    unexplained: int = 0
    """Columns that read values which no rule explains: they are never shared."""
    alone: bool = False
    """Whether no other of the networks has a layer that corresponds: its weights are never shared."""
    role: str = ""
    """Equal for layers of two networks that may correspond (see `alignment`)."""
    positions: int = 1
    """Output positions per image at which the neurons' weights are multiplied with inputs."""
    recipe: str = ""
    """How the layer's input follows from the network's: equal for layers of two networks whose earlier layers are equal
    if all between has no parameters of its own and is equal, too. Empty: that is not so, or it is not known."""
    reads: tuple[str, ...] = ()
    """Layers and joins whose values it reads, or `INPUT`. Empty: not known."""

    @property
    def multiplications(self) -> int:
        """Products of a weight and an input that one image takes."""
        return self.width * (self.columns - int(self.bias)) * self.positions


@dataclass(frozen=True)
class GroupSummary:
    """Channels that must be paired together: `width` channels written by `producers`."""

    name: str
    width: int
    producers: tuple[str, ...]
    frozen: str | None = None
    """Why the group cannot be shared; `None` if it can."""


@dataclass(frozen=True)
class JoinSummary:
    """Where values of several layers meet: by `add`, by `concat`, or in another way, `meet`; `reads` as a layer's."""

    name: str
    kind: str
    reads: tuple[str, ...]


@dataclass(frozen=True)
class NetworkStructure:
    """Layers in order of execution, their channel groups, and parameters outside weight layers."""

    layers: tuple[LayerSummary, ...]
    groups: tuple[GroupSummary, ...]
    other_parameters: int = 0
    joins: tuple[JoinSummary, ...] = ()
    """In order of execution."""
    outputs: tuple[str, ...] = ()
    """Layers and joins whose values are the network's outputs."""

    @property
    def parameters(self) -> int:
        """Number of stored numbers (normalisation folded into the weight layers)."""
        return sum(layer.width * layer.columns for layer in self.layers) + self.other_parameters

    @property
    def multiplications(self) -> int:
        """Products of a weight and an input that one image takes."""
        return sum(layer.multiplications for layer in self.layers)

    def group(self, name: str) -> GroupSummary:
        """Return the group called `name`."""
        return next(group for group in self.groups if group.name == name)


def structure_to_json(structure: NetworkStructure) -> dict[str, Any]:
    """Return a structure as JSON-able data; `structure_from_json` reads it back."""
    return asdict(structure)


def structure_from_json(data: Mapping[str, Any]) -> NetworkStructure:
    """Return the structure that `structure_to_json` (or an event in a run store) wrote."""
    return NetworkStructure(
        layers=tuple(LayerSummary(**_tuples(layer, "kernel", "reads")) for layer in data["layers"]),
        groups=tuple(GroupSummary(**_tuples(group, "producers")) for group in data["groups"]),
        other_parameters=data["other_parameters"],
        joins=tuple(JoinSummary(**_tuples(join, "reads")) for join in data.get("joins", ())),
        outputs=tuple(data.get("outputs", ())),
    )


def _tuples(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {**data, **{name: tuple(data[name]) for name in names if name in data}}
