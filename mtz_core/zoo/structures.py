"""Structures of the bundled parents, read from a file: drawing and counting them needs no torch.

`scripts/build_structures.py` writes the file from the networks themselves.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from mtz_core.errors import DataError
from mtz_core.structure.networks import NetworkStructure, structure_from_json
from mtz_core.system.paths import ASSETS

FILE = ASSETS / "parents" / "structures.json"


@lru_cache(maxsize=1)
def structures(path: Path = FILE) -> dict[str, NetworkStructure]:
    """Return the structure of every bundled parent by name. Raises `DataError` if the file is missing or damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {name: structure_from_json(item) for name, item in data.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path} ({error}); write it anew with scripts/build_structures.py") from error
