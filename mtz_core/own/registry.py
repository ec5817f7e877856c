"""Networks that were brought: what is known of each, in one small file beside the uploads (no torch here)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtz_core.errors import SpecError
from mtz_core.spec import NetworkSpec
from mtz_core.structure.networks import NetworkStructure, structure_from_json, structure_to_json
from mtz_core.system.paths import uploads_folder

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,60}")
MOST_BYTES = 8 * 2**20


@dataclass(frozen=True)
class OwnNetwork:
    """A network that was brought and checked; `name` stands in addresses, `error` is in percent if it is known."""

    name: str
    title: str
    spec: NetworkSpec
    structure: NetworkStructure
    classes: int
    input_shape: tuple[int, ...]
    error: float | None
    images: int
    note: str = ""
    """What looked odd when it was checked."""
    calibration: int | None = None
    """How many inputs its data has to calibrate on; `None` where that was not written down."""
    inputs: str = "images"
    """What its inputs are (see `mtz_core.data.kinds`)."""


def network_name(title: str, spec: NetworkSpec) -> str:
    """Return a name that is legible, and the same for the same network: `my-digits-1a2b3c4d`."""
    digest = hashlib.sha256((title + spec.model_dump_json()).encode()).hexdigest()[:8]
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
    return f"{plain or 'network'}-{digest}"


def remember(network: OwnNetwork) -> None:
    """Keep what is known of a network. Raises `SpecError` if it can't be written."""
    about = {
        "title": network.title, "spec": network.spec.model_dump(mode="json"),
        "structure": structure_to_json(network.structure), "classes": network.classes,
        "input_shape": list(network.input_shape), "error": network.error, "images": network.images,
        "note": network.note, "calibration": network.calibration, "inputs": network.inputs,
    }  # fmt: skip
    path = _folder() / f"{_checked(network.name)}.json"
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(about), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise SpecError(f"cannot write {path}: {error.strerror or error}") from error


def own_networks() -> dict[str, OwnNetwork]:
    """Return the networks that were brought, by name, oldest first. Files that can't be read are left out."""
    found = []
    for path in _folder().glob("*.json"):
        if NAME.fullmatch(path.stem) and (network := _read(path)) is not None:
            found.append((path.stat().st_mtime, network.name, network))
    return {network.name: network for _, _, network in sorted(found, key=lambda item: item[:2])}


def forget(name: str) -> None:
    """Remove a network from the list, with what is kept beside it; its upload stays, because runs may need it."""
    for path in (_folder() / f"{_checked(name)}.json", *_folder().glob(f"{name}.samples.*")):
        path.unlink(missing_ok=True)


def beside(name: str, ending: str) -> Path:
    """Return the path of what is kept beside a network. Raises `SpecError` if that is no name of one."""
    return _folder() / f"{_checked(name)}{ending}"


def _read(path: Path) -> OwnNetwork | None:
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return OwnNetwork(
            path.stem, data["title"], NetworkSpec(**data["spec"]), structure_from_json(data["structure"]),
            data["classes"], tuple(data["input_shape"]), data["error"], data["images"],
            str(data.get("note", "")), data.get("calibration"), str(data.get("inputs", "images")),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _folder() -> Path:
    return uploads_folder() / "networks"


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise SpecError(f"{name[:60]!r} is no name of a network that was brought")
    return name
