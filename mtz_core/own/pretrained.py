"""Weights that torchvision publishes, by name: found in the folder where torch keeps downloads, else downloaded."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mtz_core.errors import CheckpointError, SpecError
from mtz_core.own.architectures import TORCHVISION, torchvision_models
from mtz_core.own.files import MOST_BYTES

Say = Callable[[str], None]

PATIENCE = 30.0
"""Seconds without an answer after which a download is given up."""
CHUNK = 2**20


def published_weights(architecture: str, name: str, say: Say | None = None) -> Path:
    """Return the file of published weights (`IMAGENET1K_V1`, `DEFAULT` …), downloading it if it is not there.

    `say` hears how far the download is. Raises `SpecError` for unknown weights; `CheckpointError`, with the address
    and the folder to put the file in, if it can't be downloaded or has another content than its name says.
    """
    url = _address(architecture, name)
    file = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    found = re.search(r"-([0-9a-f]{8,64})\.", file)
    if not path.is_file():
        _download(url, path, found[1] if found else "", say)
    elif found and not _digest(path).startswith(found[1]):
        raise CheckpointError(f"{path} has another content than its name promises; delete it, and download {url} again")
    return path


def _address(architecture: str, name: str) -> str:
    models = torchvision_models()
    try:
        enum: Any = models.get_model_weights(architecture.removeprefix(TORCHVISION))
    except ValueError as error:
        raise SpecError(f"architecture {architecture[:60]!r} is unknown to torchvision") from error
    if name not in enum.__members__:
        known = ", ".join(enum.__members__) or "none"
        raise SpecError(f"weights {name[:60]!r} of {architecture} are unknown; published: {known}")
    return str(enum[name].url)


def _download(url: str, path: Path, digest: str, say: Say | None) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    seen, size = hashlib.sha256(), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer, temporary.open("wb") as stream:
            whole = int(answer.headers.get("Content-Length") or 0)
            while piece := answer.read(CHUNK):
                size += len(piece)
                if size > MOST_BYTES:
                    raise CheckpointError(f"{url} does not end after {MOST_BYTES / 2**30:.0f} GiB; it was given up")
                seen.update(piece)
                stream.write(piece)
                if say is not None:
                    part = f"{size / whole:.0%} of {whole / 1e6:.0f} MB" if whole else f"{size / 1e6:.0f} MB"
                    say(f"downloading {path.name}: {part}")
        if not seen.hexdigest().startswith(digest):
            raise CheckpointError(f"{url} came damaged (its content is not what its name promises); try again")
        os.replace(temporary, path)
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{path.name} could not be downloaded ({reason}). Download {url} where there is a network and put the "
            f"file into {path.parent}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
