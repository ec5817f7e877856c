"""What a worker keeps besides events: calibration images, checkpoints and networks (the torch side of the store)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtz_core.exports.forms.weights import weights
from mtz_core.exports.kinds import EXPORTS
from mtz_core.network.saving import packed
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.outputs.flips import OutputAnswers
from mtz_core.runs.answers import TaskAnswers, to_show, write_answers
from mtz_core.runs.inputs import Inputs
from mtz_core.runs.store import RunStore
from mtz_core.zipping.answered import both_sides, drive
from mtz_core.zipping.checkpoint import Checkpoint
from mtz_core.zipping.zipper import Zipper

__all__ = [
    "Checkpoint",
    "Zipper",
    "check_storable",
    "load_checkpoint",
    "save_answers",
    "save_checkpoint",
    "save_images",
    "save_networks",
]

MOST_ANSWERS = 2**23
"""Numbers of a task's answers that are kept, of each side; of more inputs the first ones."""
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


def check_storable(network: Any) -> None:
    """Raise `GraphError`, before anything is computed, if a network cannot be written to a file."""
    if isinstance(network, ZippedNetwork):
        packed(network)


def save_networks(folder: Path, network: Any, inputs: Inputs) -> None:
    """Write `zipped.safetensors` and, for each task t, `extracted-{t}.safetensors` (a plain state dict)."""
    _replace(folder / "zipped.safetensors", network.save)
    for task in range(len(inputs.tasks)):
        about = {"task": inputs.tasks[task], "parent": inputs.names[task], "architecture": inputs.architectures[task]}
        temporary = folder / f".weights-{task}.{os.getpid()}.tmp"
        weights(network, task, temporary, about)
        _replace(folder / f"extracted-{task}.safetensors", temporary.replace)


def save_answers(folder: Path, engine: Any, inputs: Inputs) -> None:
    """Write what the network and its parents answer to the test inputs, or to those that calibrated without labels.

    `engine` is a `Zipper` or a `Rival`, which says itself what both sides of a task are.
    """
    sides = getattr(engine, "sides", None) or partial(both_sides, engine.network)
    for t, (output, tested) in enumerate(zip(engine.job.outputs, engine.job.evaluation, strict=True)):
        x, labels = (engine.sample.images[t], None) if tested is None else tested
        ask = partial(drive, sides(t), output, device=engine.job.device)
        numbers = sum(one.parent.numel() for one in ask(x[:1], None).answers)
        most = max(1, MOST_ANSWERS // numbers)
        found = ask(x[:most], None if labels is None else labels[:most])
        names = (inputs.classes[t] if t < len(inputs.classes) else None) or ()
        parts = tuple(
            OutputAnswers(
                one.name, one.type, names if len(found.answers) == 1 else (), one.parent.numpy(), one.zipped.numpy(),
                None if one.truth is None else one.truth.numpy(),
            )
            for one in found.answers
        )  # fmt: skip
        divergence = found.divergence.float().numpy()
        shown = to_show(parts, divergence, 4 * x[0].numel())
        kept = x[torch.from_numpy(shown)].float().numpy()
        write_answers(folder, t, TaskAnswers(parts, divergence, shown, kept, tested is not None))


def exported(folder: Path, form: str, task: int) -> Path:
    """Write a finished run's network in a form of export, beside what it holds, unless it is there; return the file.

    Raises `SpecError` for an unknown form, `CheckpointError` or `GraphError` where it can't be done.
    """
    chosen = EXPORTS.find(form)
    path = folder / f"{form}{f'-{task}' if chosen.single else ''}{chosen.suffix}"
    if form == "weights":
        path = folder / f"extracted-{task}.safetensors"
    if not path.exists():
        network = ZippedNetwork.load(folder / "zipped.safetensors")
        _replace(path, lambda file: chosen.write(network, task, file, {}))
    return path


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write(temporary)
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, path)
