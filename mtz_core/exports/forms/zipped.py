"""All tasks in one file, every shared number once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mtz_core.exports.kinds import export

if TYPE_CHECKING:
    from mtz_core.network.zipped import ZippedNetwork


@export(
    "zipped", text="all tasks in one file; ZippedNetwork.load(path) needs nothing else", source="safetensors",
    suffix=".safetensors", single=False,
)  # fmt: skip
def zipped(network: ZippedNetwork, task: int, path: Path, about: Mapping[str, str]) -> None:
    """See `ZippedNetwork.save`."""
    network.save(path)
