"""Which architectures a file's tensors fit, by their names and shapes (no torch here).

The shapes of every architecture stand in a file that `scripts/build_architectures.py` writes; a size that is the
number of classes is 0 there, and is deduced from the file.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mtz_core.errors import CheckpointError, SpecError
from mtz_core.own.files import Shapes, plain_shapes
from mtz_core.system.paths import ASSETS

FILE = ASSETS / "architectures.json.gz"
SHOWN = 4
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What DataParallel, torch.compile and training frameworks put before every name."""

MOST_PREFIXES = 50
"""Prefixes of two parts that are tried."""
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


def fitting_architectures(state: Mapping[str, Any]) -> list[str]:
    """Return the architectures that a state dict (tensors, or shapes, by name) fits, in the order of the list.

    >>> from mtz_core.own.recognition import fitting_architectures
    >>> fitting_architectures({"fc1.weight": (300, 784), "fc1.bias": (300,), "fc2.weight": (100, 300),
    ...                         "fc2.bias": (100,), "fc3.weight": (7, 100), "fc3.bias": (7,)})
    ['lenet300']
    """
    shapes = plain_shapes(unwrapped(state))
    return [name for name, known in architectures().items() if not misfits(shapes, known, class_count(shapes, known))]


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict as an architecture names its tensors.

    A prefix that all names have goes, and so does one that only some have (`backbone.`, `encoder.`), with or without
    what stands beside it (a loss, a second head), if the rest is then all that some architecture has, and no more.
    torchvision's old names become its present ones, and a counter of one element becomes a number.
    """
    names = dict(state)
    while names and (prefix := next((w for w in WRAPPERS if all(n.startswith(w) for n in names)), None)):
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    names = {_OLD_DENSENET.sub(r"\1\2", name): _counter(name, value) for name, value in names.items()}
    return next((part for part in _parts(names) if _fits_one(part)), names)


def _counter(name: str, value: Any) -> Any:
    """A counter that some program wrote as a list of one number, as a number."""
    if not name.endswith(COUNTER) or tuple(getattr(value, "shape", value)) != (1,):
        return value
    return value.reshape(()) if hasattr(value, "reshape") else ()


def _parts(names: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A state dict itself, and what it may be once a prefix of some of its names is gone."""
    yield dict(names)
    firsts = {name.partition(".")[0] + "." for name in names if "." in name}
    seconds = {".".join(name.split(".")[:2]) + "." for name in names if name.count(".") > 1}
    for prefix in sorted(firsts) + sorted(seconds)[:MOST_PREFIXES]:
        inside = {name.removeprefix(prefix): value for name, value in names.items() if name.startswith(prefix)}
        beside = {name: value for name, value in names.items() if not name.startswith(prefix)}
        if not inside.keys() & beside.keys():
            yield inside | beside
        yield inside


def _fits_one(names: Mapping[str, Any]) -> bool:
    """Whether the tensors are all that some architecture has, by names first, which is quick."""
    needed = frozenset(name for name in names if not name.endswith(COUNTER))
    shapes = plain_shapes(names)
    return any(
        not misfits(shapes, known, class_count(shapes, known))
        for key, known in architectures().items()
        if needed >= _named()[key]
    )


@lru_cache(maxsize=1)
def _named() -> Mapping[str, frozenset[str]]:
    """Names of the tensors that every architecture needs."""
    return {
        key: frozenset(n for n in known.tensors if not _optional(n, with_auxiliary=False))
        for key, known in architectures().items()
    }


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
