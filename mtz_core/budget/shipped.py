"""What curves depend on, and those that come with the program: a first answer without measuring. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from mtz_core.spec import BudgetSpec, CalibrationSpec, NetworkSpec, RunSpec, ZipSpec
from mtz_core.system.paths import ASSETS

CURVES = ASSETS / "curves.json"
VERSION = 1
"""Of the way in which curves are measured: a higher one makes the file's curves void (`python -m scripts.build_curves`
measures them anew).
"""
IMAGES = 500
"""Inputs per task on which the file's curves were measured, the number that pages begin with."""
DIGITS = 6


def curves_text(spec: RunSpec) -> str:
    """Return what the curves of a specification depend on: all but shares, budget, retraining, title and names.

    A rival, which is not zipped, has none.
    """
    return _curves_text(_Written(repr(spec), spec))


@dataclass(frozen=True)
class _Written:
    """A specification that is known again by what is written of it: a page asks several times, whenever it is drawn."""

    text: str
    spec: RunSpec = field(compare=False)


@lru_cache(maxsize=256)
def _curves_text(written: _Written) -> str:
    spec = written.spec
    zipping = spec.zip.model_copy(update={"share": 1.0, "budget": None, "retrain": None})
    found = spec.model_copy(update={"zip": zipping, "title": ""}).model_dump(mode="json", exclude={"rival"})
    for network in found["networks"]:
        del network["name"]
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True)


def curves_key(spec: RunSpec) -> str:
    """Return a short name for it, as it stands in the file."""
    return hashlib.sha256(f"{VERSION}\n{curves_text(spec)}".encode()).hexdigest()[:16]


def plain_spec(parents: Sequence[str]) -> RunSpec:
    """Return how bundled networks are measured for the file: with everything as it is by default."""
    return RunSpec(
        networks=tuple(NetworkSpec(parent=name) for name in parents),
        calibration=CalibrationSpec(images=IMAGES),
        zip=ZipSpec(share="auto", budget=BudgetSpec(error=100.0)),
    )


def shipped(spec: RunSpec) -> dict[str, Any] | None:
    """Return what `mtz_core.budget.plan.choice_data` wrote of a specification, if it is in the file."""
    found = shipped_curves().get(curves_key(spec))
    return None if found is None else {"inputs": IMAGES * len(found["parents"]), **found}


@lru_cache(maxsize=1)
def shipped_curves(path: Path = CURVES) -> Mapping[str, dict[str, Any]]:
    """Return all of the file, by key; nothing where it is missing or of another version."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = found["curves"] if found["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    return MappingProxyType(known)


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """Return JSON-able data with every fraction rounded to so many digits.

    >>> rounded({"rate": 12.34567891, "counts": [0, 20]})
    {'rate': 12.3457, 'counts': [0, 20]}
    """
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {name: rounded(each, digits) for name, each in value.items()}
    return [rounded(each, digits) for each in value] if isinstance(value, list | tuple) else value
