"""What is known about the bundled parents, without loading them (this module imports no torch)."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.data.bundled import bundled_set, class_names
from mtz_core.data.fullsets import absent
from mtz_core.errors import CheckpointError, SpecError
from mtz_core.outputs.types import Kind
from mtz_core.spec import NetworkSpec
from mtz_core.system.paths import ASSETS

PARENTS = ASSETS / "parents"


@dataclass(frozen=True)
class ParentInfo:
    """One line of the catalogue.

    Errors are percentages of wrongly classified images (or words): `test_error` on `test_set` (`test_images` of them),
    `bundled_error` on the bundled test split (`bundled_images`), which anyone can recompute offline; it is `None` where
    the task's images are not bundled. Of attributes they
    are the mean percentage of wrong answers, of values the mean absolute error in % of the labels' standard deviation;
    `each_error` then tells them apart, on the bundled test split.
    `nonzero_parameters` is far below `parameters` for pruned networks only. `recipe` says how it was trained.
    """

    name: str
    architecture: str
    task: str
    parameters: int
    nonzero_parameters: int
    test_error: float
    test_images: int
    test_set: str
    recipe: str
    seed: int
    bundled_error: float | None = None
    bundled_images: int = 0
    each_error: Mapping[str, float] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, attributes or values; position = output neuron."""
        return class_names(self.task)

    @property
    def type(self) -> Kind:
        """What an answer is: one class of several, attributes, or values."""
        return bundled_set(self.task).type

    @property
    def weights(self) -> Path:
        """File that holds the trained weights."""
        return PARENTS / f"{self.name}.safetensors"


@lru_cache(maxsize=1)
def catalog() -> Mapping[str, ParentInfo]:
    """All bundled parents by name, in the order of assets/parents/index.json.

    Raises CheckpointError if that file is missing or malformed.
    """
    path = PARENTS / "index.json"
    try:
        entries: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        found = {name: ParentInfo(name=name, **entry) for name, entry in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: unreadable ({error}); restore it, or run `python -m scripts.train_parents`"
        ) from error
    return MappingProxyType(found)


def parent_names() -> tuple[str, ...]:
    """Names of all bundled parents."""
    return tuple(catalog())


def parent_info(name: str) -> ParentInfo:
    """The catalogue's line on one parent; SpecError, with the closest known name, if there is none."""
    known = catalog()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise SpecError(f"parent {name!r} is unknown{hint} Known: {', '.join(known)}")
    return known[name]


def trained_on(network: NetworkSpec) -> str:
    """Name of the data that a specification's network is zipped with; empty where only its module knows.

    >>> trained_on(NetworkSpec(parent="lenet5-mnist-0"))
    'mnist'
    """
    parent = catalog().get(network.parent or "")
    return network.data or (parent.task if parent is not None else "")


def absent_images(networks: Sequence[NetworkSpec], root: Path | None = None) -> str | None:
    """Why the images of a named task can't be read (see `absent`), for the first network that lacks them."""
    reasons = (absent(trained_on(network), root) for network in networks)
    return next((reason for reason in reasons if reason is not None), None)


def predictions(name: str) -> NDArray[Any]:
    """What a parent answers for each input of its bundled test split, from a file.

    Classes uint8 (N,), attributes uint8 (N, K) of 0 and 1, or values float16 (N, K). Raises SpecError where no test
    inputs of its task are bundled.
    """
    task = parent_info(name).task
    if not bundled_set(task).bundled:
        raise SpecError(f"there are no stored answers of {name}: the test images of {task} are not bundled")
    path = PARENTS / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            found: NDArray[Any] = archive[name]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: no predictions of {name} ({error}); run `python -m scripts.train_parents`"
        ) from error
    return found
