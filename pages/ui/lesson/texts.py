"""All texts of the lesson: one file that a teacher can read, correct and translate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mtz_core.errors import DataError
from mtz_core.system.paths import ASSETS

TEXTS = ASSETS / "lesson.en.yaml"
STEPS = ("1", "2", "3", "4", "5", "6", "7", "8", "9")
END = "end"
ORDER = (*STEPS, END)


def load_texts(path: Path = TEXTS) -> Mapping[str, Any]:
    """Read the texts: `common`, and `steps` by name. Raises `DataError` if the file is missing or lacks a step."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        texts: Mapping[str, Any] = {"common": found["common"], "steps": {step: found["steps"][step] for step in ORDER}}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        wanted = f"it needs common and steps {', '.join(ORDER)}"
        raise DataError(f"{path}: no readable texts of the lesson ({error!r}); {wanted}") from error
    return texts
