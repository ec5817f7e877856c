"""Which architectures a file's tensors fit, by their names and shapes (no torch here).

The shapes of every architecture stand in a file that `scripts/build_architectures.py` writes; a size that is the
number of classes is 0 there, and is deduced from the file that is matched.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mtz_core.errors import CheckpointError, SpecError
from mtz_core.own.files import Shapes, plain_shapes
from mtz_core.system.places import ASSETS

FILE = ASSETS / "architectures.json.gz"
SHOWN = 4
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What DataParallel, torch.compile and training frameworks put before every name."""

COUNTER = "num_batches_tracked"
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


@dataclass(frozen=True)
class Architecture:
    """An architecture's tensors, with 0 for the number of classes, and how its images are prepared by default."""

    name: str
    tensors: Mapping[str, tuple[int, ...]]
    transform: Mapping[str, Any]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (channels, height, width) of an image."""
        size = int(self.transform.get("size", 28))
        return (int(self.transform.get("channels", 1)), size, size)


@lru_cache(maxsize=1)
def architectures() -> Mapping[str, Architecture]:
    """All architectures by name. Raises `CheckpointError` if their file is missing or damaged."""
    try:
        data = json.loads(gzip.decompress(FILE.read_bytes()))
        return {
            name: Architecture(name, {key: tuple(s) for key, s in item["tensors"].items()}, item["transform"])
            for name, item in data.items()
        }
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise CheckpointError(f"{FILE}: unreadable ({error}); run `python -m scripts.build_architectures`") from error


def architecture(name: str) -> Architecture:
    """Return one architecture. Raises `SpecError`, with the names that are known, if there is none."""
    known = architectures()
    if name not in known:
        listed = ", ".join(n for n in known if ":" not in n)
        raise SpecError(
            f"architecture {name[:60]!r} is unknown; known: {listed}, and torchvision:NAME for its "
            f"{sum(':' in n for n in known)} classifiers, e.g. torchvision:resnet18"
        )
    return known[name]


def matching_architectures(state: Mapping[str, Any]) -> list[str]:
    """Return the architectures that a state dict (tensors, or shapes, by name) fits, in the order of the list.

    >>> from mtz_core.own.recognition import matching_architectures
    >>> matching_architectures({"fc1.weight": (300, 784), "fc1.bias": (300,), "fc2.weight": (100, 300),
    ...                         "fc2.bias": (100,), "fc3.weight": (7, 100), "fc3.bias": (7,)})
    ['lenet300']
    """
    shapes = plain_shapes(unwrapped(state))
    return [name for name, known in architectures().items() if not misfits(shapes, known, class_count(shapes, known))]


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict without a prefix that all its names have, and with torchvision's present names."""
    names = dict(state)
    while names and (prefix := next((w for w in WRAPPERS if all(n.startswith(w) for n in names)), None)):
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    return {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in names.items()}


def class_count(shapes: Mapping[str, tuple[int, ...]], known: Architecture) -> int | None:
    """Return how many classes a file's head tells apart, `None` if it has no such head."""
    for name, shape in known.tensors.items():
        if 0 in shape and not name.startswith(_AUXILIARY):
            found = shapes.get(name)
            return found[shape.index(0)] if found is not None and len(found) == len(shape) else None
    return None


def _optional(name: str, *, with_auxiliary: bool) -> bool:
    """Whether a tensor may be missing: training's counters, and heads that only training uses (all or none)."""
    return name.endswith(COUNTER) or (name.startswith(_AUXILIARY) and not with_auxiliary)


def expected_shapes(known: Architecture, classes: int | None) -> Shapes:
    """Return an architecture's shapes for a number of classes."""
    return {key: tuple(classes or 1 if n == 0 else n for n in shape) for key, shape in known.tensors.items()}


def misfits(shapes: Mapping[str, tuple[int, ...]], known: Architecture, classes: int | None) -> list[str]:
    """Return what is wrong with a file's tensors for an architecture, in words; empty if they fit."""
    expected = expected_shapes(known, classes)
    training = any(name.startswith(_AUXILIARY) for name in shapes)
    problems = []
    missing = [name for name in expected if name not in shapes and not _optional(name, with_auxiliary=training)]
    if missing:
        problems.append(f"lacks {some(missing)}")
    if extra := [name for name in shapes if name not in expected and not name.endswith(COUNTER)]:
        what = known.name + (f" with {classes} classes" if classes else "")
        problems.append(f"has {some(extra)}, which {what} has not")
    for name, shape in expected.items():
        if name in shapes and shapes[name] != shape:
            problems.append(f"{name} has shape {shapes[name]} instead of {shape}")
    return problems


def closest(shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """Return the architecture that has most tensors of the same name and shape."""

    def score(known: Architecture) -> float:
        common = sum(shapes.get(name) == shape for name, shape in expected_shapes(known, None).items())
        return common / max(1, len(known.tensors) + len(shapes) - common)

    return max(architectures().values(), key=score)


def some(names: Sequence[str]) -> str:
    """Return the first few names and how many more there are."""
    shown = ", ".join(name[:60] for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
