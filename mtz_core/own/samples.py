"""Some inputs of a network that was brought, with its answers: kept when it is added, read by pages (no torch here)."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mtz_core.errors import SpecError
from mtz_core.outputs.flips import OutputAnswers, missed
from mtz_core.outputs.types import TaskType
from mtz_core.own.registry import beside

ENDING = ".samples.safetensors"
MOST_BYTES = 160 * 2**20
FAR = 0.5
"""Of a value: so many standard deviations off is a wrong answer."""


@dataclass(frozen=True)
class Samples:
    """Answers to N inputs, and the inputs (S, ...) of some of them, whose numbers are `shown` (S,).

    Of every output `parent` and `zipped` are the network's own answers, the same. `judged`: these are test inputs with
    labels; else they are some that calibrate.
    """

    outputs: tuple[OutputAnswers, ...]
    inputs: NDArray[Any]
    shown: NDArray[np.int64]
    judged: bool


def wrong(outputs: tuple[OutputAnswers, ...], count: int) -> NDArray[np.bool_]:
    """Which inputs (N,) are answered wrong in any output, attribute or place; none where no label says so."""
    found = np.zeros(count, bool)
    for output in outputs:
        if output.truth is not None:
            most = FAR if output.type.kind == "regression" else 0.0
            found |= (missed(output, output.parent) > most).any((1, 2))
    return found


def keep(name: str, samples: Samples) -> None:
    """Keep the samples of a network by its name. Raises `SpecError` if they can't be written."""
    arrays: dict[str, NDArray[Any]] = {"inputs": samples.inputs, "shown": samples.shown}
    heads = []
    for k, output in enumerate(samples.outputs):
        heads.append({"name": output.name, "type": output.type.data(), "names": list(output.names)})
        arrays[f"{k}.answers"] = output.parent
        if output.truth is not None:
            arrays[f"{k}.truth"] = output.truth
    about = json.dumps({"outputs": heads, "judged": samples.judged})
    content = save({key: np.ascontiguousarray(array) for key, array in arrays.items()}, metadata={"about": about})
    path = beside(name, ENDING)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise SpecError(f"cannot write {path}: {error.strerror or error}") from error


def kept(name: str) -> Samples | None:
    """Return the samples of a network; `None` where there are none, or they can't be read."""
    path = beside(name, ENDING)
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        return _read(path)
    except (OSError, SafetensorError, SpecError, ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> Samples:
    with safe_open(path, framework="numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        about = json.loads(file.metadata()["about"])
    outputs = []
    for k, head in enumerate(about["outputs"]):
        answers, truth = arrays[f"{k}.answers"], arrays.get(f"{k}.truth")
        known = (str(head["name"]), TaskType.read(head["type"]), tuple(map(str, head["names"])))
        outputs.append(OutputAnswers(*known, answers, answers, truth))
    return Samples(tuple(outputs), arrays["inputs"], arrays["shown"], bool(about["judged"]))
