"""Where differences of a run come from: what was found out is kept with the run, and read without torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mtz_core.errors import RunError
from mtz_core.runs.files import Array, write_atomically
from mtz_core.zipping.findings import Directions, Likeness, PairFindings, Parts, Responses, Stability

FOLDER, LAYERS = "origins", "layers.safetensors"
MOST = 64
"""So many pairs of a run are kept, the latest."""
PARTS, DIRECTIONS = ("values", "columns", "channel", "channels"), ("values", "squares", "parts")
RESPONSES = ("points", "before", "before_values", "after", "after_values")
Couple = tuple[int, int]
Value = TypeVar("Value")


def pair_path(run: Path, layer: str, tasks: Couple, neurons: Couple) -> Path:
    """The file of a pair in a run's folder; names of layers may be anything, so a digest stands for them."""
    key = json.dumps([layer, [int(t) for t in tasks], [int(n) for n in neurons]])
    return run / FOLDER / f"pair-{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"


def layers_path(run: Path) -> Path:
    """The file of all layers."""
    return run / FOLDER / LAYERS


def keep_pair(run: Path, found: PairFindings) -> None:
    """Keep what was found of a pair; of many pairs the oldest is forgotten. Raises `RunError` if the disk is full."""
    arrays: dict[str, Array] = {f"parts.{name}": getattr(found.parts, name) for name in PARTS}
    arrays |= {f"directions.{name}": getattr(found.directions, name) for name in DIRECTIONS}
    for side, each in enumerate(found.responses):
        arrays |= {f"responses.{side}.{name}": getattr(each, name) for name in RESPONSES}
    arrays |= {f"likeness.{side}": each.spectrum for side, each in enumerate(found.likeness)}
    about = {
        "layer": found.layer,
        "tasks": found.tasks,
        "neurons": found.neurons,
        "difference": found.difference,
        "groups": found.parts.groups,
        "rest": found.directions.rest,
        "responses": [{"likeness": r.likeness, "images": r.images, "why": r.why} for r in found.responses],
        "likeness": [_facts(each) for each in found.likeness],
        "stability": asdict(found.stability),
    }
    path = pair_path(run, found.layer, found.tasks, found.neurons)
    _write(path, arrays, about)
    kept = sorted(path.parent.glob("pair-*.safetensors"), key=lambda file: file.stat().st_mtime)
    for old in kept[:-MOST]:
        old.unlink(missing_ok=True)


def read_pair(run: Path, layer: str, tasks: Couple, neurons: Couple) -> PairFindings | None:
    """Return what is kept of a pair, `None` if nothing is. Raises `RunError` if it is damaged."""
    path = pair_path(run, layer, tasks, neurons)
    found = _read(path)
    if found is None:
        return None
    arrays, about = found
    try:
        sides = [
            Responses(
                **{name: arrays[f"responses.{side}.{name}"] for name in RESPONSES},
                likeness=_two(map(_number, said["likeness"])), images=int(said["images"]), why=str(said["why"]),
            )
            for side, said in enumerate(about["responses"])
        ]  # fmt: skip
        likes = [_likeness(said, arrays[f"likeness.{side}"]) for side, said in enumerate(about["likeness"])]
        told = dict(about["stability"])
        pairs = {name: tuple(told[name]) for name in ("halves", "again", "found")}
        return PairFindings(
            layer=str(about["layer"]),
            tasks=_two(map(int, about["tasks"])),
            neurons=_two(map(int, about["neurons"])),
            difference=float(about["difference"]),
            parts=Parts(**{n: arrays[f"parts.{n}"] for n in PARTS}, groups=tuple(map(str, about["groups"]))),
            directions=Directions(**{n: arrays[f"directions.{n}"] for n in DIRECTIONS}, rest=float(about["rest"])),
            responses=_two(sides),
            likeness=_two(likes),
            stability=Stability(**{**told, **pairs}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def keep_layers(run: Path, found: Sequence[Likeness]) -> None:
    """Keep what was found of all layers. Raises `RunError` if the disk is full."""
    arrays = {f"{k}": each.spectrum for k, each in enumerate(found)}
    _write(layers_path(run), arrays, {"layers": [_facts(each) for each in found]})


def read_layers(run: Path) -> list[Likeness] | None:
    """Return what is kept of all layers, `None` if nothing is. Raises `RunError` if it is damaged."""
    found = _read(layers_path(run))
    if found is None:
        return None
    try:
        return [_likeness(said, found[0][f"{k}"]) for k, said in enumerate(found[1]["layers"])]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(layers_path(run), error) from error


def _facts(found: Likeness) -> dict[str, Any]:
    return {name: value for name, value in vars(found).items() if name != "spectrum"}


def _likeness(said: Mapping[str, Any], spectrum: Array) -> Likeness:
    return Likeness(
        layer=str(said["layer"]), task=int(said["task"]), cka=_number(said["cka"]), images=int(said["images"]),
        spectrum=spectrum, rows=int(said["rows"]), size=int(said["size"]), effective=float(said["effective"]),
        participation=float(said["participation"]),
    )  # fmt: skip


def _number(value: float | None) -> float:
    """A number that may be unknown, which JSON calls null."""
    return math.nan if value is None else float(value)


def _two(values: Iterable[Value]) -> tuple[Value, Value]:
    """Values that are two. Raises `ValueError` for any other number."""
    first, second = values
    return first, second


def _known(value: Any) -> Any:
    """The same with null for what is not a number."""
    if isinstance(value, dict):
        return {name: _known(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    content = save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        metadata={"about": json.dumps(_known(dict(about)), default=int)},
    )
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    write_atomically(path, content)


def _read(path: Path) -> tuple[dict[str, Any], Any] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            about = json.loads(file.metadata()["about"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    with suppress(OSError):
        path.touch()  # looked at, so not the oldest
    return arrays, about


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} cannot be read: {error}; remove the file and ask again")
