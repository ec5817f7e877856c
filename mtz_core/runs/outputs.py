"""What a worker keeps besides events: calibration images, checkpoints and networks (the torch side of the store)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mtz_core.runs.inputs import Inputs
from mtz_core.runs.store import RunStore
from mtz_core.zipping.checkpoint import Checkpoint
from mtz_core.zipping.zipper import Zipper

__all__ = ["Checkpoint", "Zipper", "load_checkpoint", "save_checkpoint", "save_images", "save_networks"]

MOST_IMAGE_BYTES = 256 * 2**20
"""More calibration images than this aren't kept for display."""


def save_images(store: RunStore, run_id: str, task: int, images: Tensor) -> None:
    """Keep a task's calibration images, unless they take more than `MOST_IMAGE_BYTES`."""
    if images.numel() * 4 <= MOST_IMAGE_BYTES:
        store.save_images(run_id, task, images.detach().cpu().float().numpy())


def save_checkpoint(store: RunStore, run_id: str, checkpoint: Checkpoint) -> None:
    """Keep an engine's checkpoint (`tensors`, `meta`)."""
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in checkpoint.tensors.items()}
    store.save_checkpoint(run_id, tensors, checkpoint.meta)


def load_checkpoint(store: RunStore, run_id: str) -> Checkpoint | None:
    """Return the checkpoint to resume from, `None` if there is none. Raises `RunError` if it is damaged."""
    stored = store.load_checkpoint(run_id)
    if stored is None:
        return None
    tensors = {name: torch.from_numpy(array.copy()) for name, array in stored.tensors.items()}
    return Checkpoint(tensors, stored.meta)


def save_networks(folder: Path, network: Any, inputs: Inputs) -> None:
    """Write `zipped.safetensors` and, for each task t, `extracted-{t}.safetensors` (a plain state dict)."""
    _replace(folder / "zipped.safetensors", network.save)
    for task, name in enumerate(inputs.tasks):
        state = network.extract(task).state_dict()
        plain = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}
        about = {"task": name, "parent": inputs.names[task], "architecture": inputs.architectures[task]}
        write = partial(save_file, plain, metadata={"mtz": json.dumps(about)})
        _replace(folder / f"extracted-{task}.safetensors", write)


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write(temporary)
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, path)
