"""The data sets that have a name, and the images and words of them that come with the program (no torch here)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtz_core.data.kinds import INPUTS
from mtz_core.errors import DataError, SpecError
from mtz_core.outputs.types import Kind
from mtz_core.system.paths import ASSETS

DATA = ASSETS / "data"

ATTRIBUTES = ("serif", "bold", "light", "italic", "upper case", "closed")
GERMANIC = ("English", "German", "Dutch", "Swedish")
ROMANCE = ("French", "Italian", "Spanish", "Portuguese")


CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class BundledSet:
    """What a data set with a name is: the `names` of its classes, attributes or values, its `type`, its inputs."""

    names: tuple[str, ...]
    type: Kind = "multiclass"
    inputs: Literal["images", "words"] = "images"
    bundled: bool = True
    """Whether its inputs come with the program; else they lie on the user's disk (see `mtz_core.data.cifar`)."""


SETS: dict[str, BundledSet] = {
    "mnist": BundledSet(tuple("0123456789")),
    "fashion": BundledSet(
        (
            "T-shirt",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        )
    ),
    "letters": BundledSet(tuple("ABCDEFGHIJ")),
    "letter-attributes": BundledSet(ATTRIBUTES, "multilabel"),
    "letter-pose": BundledSet(("angle", "right", "down"), "regression"),
    "words-germanic": BundledSet(GERMANIC, inputs="words"),
    "words-romance": BundledSet(ROMANCE, inputs="words"),
    "cifar10": BundledSet(CIFAR, bundled=False),
    "cifar10-0to4": BundledSet(CIFAR[:5], bundled=False),
    "cifar10-5to9": BundledSet(CIFAR[5:], bundled=False),
}
TASKS = tuple(SETS)
BUNDLED = tuple(task for task, known in SETS.items() if known.bundled)
"""Tasks whose inputs come with the program."""


def bundled_set(task: str) -> BundledSet:
    """What a data set with a name is; `SpecError` for an unknown name.

    >>> bundled_set("letter-attributes").type
    'multilabel'
    """
    if task not in SETS:
        raise SpecError(f"task {task!r} is unknown; known: {', '.join(TASKS)}")
    return SETS[task]


def class_names(task: str) -> tuple[str, ...]:
    """Names of a task's classes, attributes or values; position = output of a network.

    >>> class_names("letters")[0]
    'A'
    """
    return bundled_set(task).names


def inputs_text(tasks: Sequence[str], kinds: Sequence[str] = ()) -> str:
    """What the inputs of tasks are, in a word; tasks are named as data is in a specification.

    `kinds` (see `mtz_core.data.kinds`) are those of each task's inputs, if they are known: else they are images.

    >>> inputs_text(["words-romance"]), inputs_text(["mnist", "photos/birds"]), inputs_text(["mnist", "words-romance"])
    ('words', 'images', 'inputs')
    >>> inputs_text(["sensors.npz"], ["vectors"])
    'vectors'
    """
    known = kinds if len(kinds) == len(tasks) else ("images",) * len(tasks)
    found = {
        SETS[task].inputs if task in SETS else INPUTS.get(kind, "inputs")
        for task, kind in zip(tasks, known, strict=True)
    }
    return found.pop() if len(found) == 1 else "inputs"


def bundled_inputs(task: str, split: str) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Bundled inputs and labels of a task, both read-only.

    Inputs are images, uint8 (N, 28, 28) with 0 = background, or words, uint8 (N, 16) as `mtz_core.data.words` has
    them. Labels are int64 (N,), for attributes int64 (N, K) of 0 and 1, for values float32 (N, K).
    `split` is "calibration" or "test". Raises SpecError for an unknown name, or one whose inputs are not bundled,
    DataError if the file is missing.
    """
    if not bundled_set(task).bundled:
        raise SpecError(f"inputs of {task} are not bundled; bundled: {', '.join(BUNDLED)}")
    if split not in ("calibration", "test"):
        raise SpecError(f"split {split!r} is not bundled; bundled: calibration, test")
    return _read(DATA / f"{task}-{split}.npz")


@lru_cache(maxsize=8)
def _read(path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    if not path.is_file():
        raise DataError(f"bundled data {path} is missing; restore it with `python -m scripts.build_data`")
    with np.load(path, allow_pickle=False) as archive:
        inputs = archive["words" if "words" in archive else "images"]
        labels = archive["labels"]
    labels = labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)
    inputs.flags.writeable = labels.flags.writeable = False
    return inputs, labels
