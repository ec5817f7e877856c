"""One task as plain weights, by the names that its parent has for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mtz_core.exports.kinds import export

if TYPE_CHECKING:
    from mtz_core.network.zipped import ZippedNetwork


@export("weights", text="one task's weights, for the parent's own class", source="safetensors", suffix=".safetensors")
def weights(network: ZippedNetwork, task: int, path: Path, about: Mapping[str, str]) -> None:
    """Write the state dict of `network.extract(task)`, with what is known of the task as JSON in the metadata."""
    from safetensors.torch import save_file

    state = network.extract(task).state_dict()
    plain = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}
    save_file(plain, path, metadata={"mtz": json.dumps(dict(about))})
