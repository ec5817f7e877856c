"""What a finished run answers beside its parents: kept by the worker, read by whoever shows it (no torch here)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mtz_core.errors import RunError, SpecError
from mtz_core.outputs.flips import OutputAnswers, flipped, verdicts
from mtz_core.outputs.types import TaskType
from mtz_core.runs.files import Array, write_atomically

SHOWN, MOST_BYTES = 60, 32 * 2**20
"""So many inputs of a task are kept to look at, of so many bytes."""


@dataclass(frozen=True)
class TaskAnswers:
    """Answers of one task: of every output, how far the zipped network's are from the parent's, and inputs to look at.

    `divergence` is (N,), in nats; `inputs` (S, ...) are those of the numbers `shown` (S,). `judged`: these are inputs
    with labels that took no part; else they calibrated.
    """

    outputs: tuple[OutputAnswers, ...]
    divergence: Array
    shown: Array
    inputs: Array
    judged: bool


def path_of(folder: Path, task: int) -> Path:
    """The file in a run's folder."""
    return folder / f"answers-{int(task)}.safetensors"


def write_answers(folder: Path, task: int, answers: TaskAnswers) -> None:
    """Keep the answers of a task. Raises `RunError` if the disk is full."""
    arrays: dict[str, Array] = {"divergence": answers.divergence, "shown": answers.shown, "inputs": answers.inputs}
    heads = []
    for k, output in enumerate(answers.outputs):
        heads.append({"name": output.name, "type": output.type.data(), "names": list(output.names)})
        found = {"parent": output.parent, "zipped": output.zipped, "truth": output.truth}
        arrays |= {f"{k}.{key}": array for key, array in found.items() if array is not None}
    about = {"outputs": json.dumps(heads), "judged": json.dumps(answers.judged)}
    content = save({key: np.ascontiguousarray(array) for key, array in arrays.items()}, metadata=about)
    write_atomically(path_of(folder, task), content)


def read_answers(folder: Path, task: int) -> TaskAnswers | None:
    """Return a task's answers; `None` where an earlier version kept none. Raises `RunError` if they are damaged."""
    path = path_of(folder, task)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            arrays: Mapping[str, Any] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            about = file.metadata()
        heads = json.loads(about["outputs"])
        outputs = tuple(
            OutputAnswers(
                head["name"], TaskType.read(head["type"]), tuple(head["names"]), arrays[f"{k}.parent"],
                arrays[f"{k}.zipped"], arrays.get(f"{k}.truth"),
            )
            for k, head in enumerate(heads)
        )  # fmt: skip
        return TaskAnswers(
            outputs, arrays["divergence"], arrays["shown"], arrays["inputs"], bool(json.loads(about["judged"]))
        )
    except (OSError, SafetensorError, SpecError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}; start the run anew") from error


def to_show(outputs: Sequence[OutputAnswers], divergence: Array, bytes_each: int) -> Array:
    """Choose the numbers of inputs to keep: those that became wrong first, then others that flipped, then some more.

    Args:
        outputs: all answers of the task.
        divergence: (N,), by which those alike are ordered.
        bytes_each: of one input.
    """
    most = min(SHOWN, MOST_BYTES // max(1, bytes_each), len(divergence))
    found = [verdicts(output) for output in outputs]
    worse = np.array([any(said == "worse" for said in each) for each in zip(*found, strict=True)], bool)
    changed = np.array([flipped(output) for output in outputs]).any(0)
    order = np.lexsort((-divergence, ~changed, ~worse))
    first = int(min(changed.sum(), most * 2 // 3))
    rest = order[first:]
    some = np.unique(np.linspace(0, max(0, len(rest) - 1), most - first).round().astype(np.int64))[: len(rest)]
    return np.concatenate([order[:first], rest[some]])[:most].astype(np.int64)
