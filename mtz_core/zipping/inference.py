"""Which type a task has: what the user says, what the network ends in, what its labels look like; else it is asked for.

Nothing is guessed but what is the convention everywhere: outputs (N, K) without labels are K classes, and so are maps
(N, K, H, W); both are stated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mtz_core.errors import SpecError
from mtz_core.outputs.labels import IGNORED, check_labels
from mtz_core.outputs.types import Kind, TaskType
from mtz_core.spec import TypeSpec

EXAMPLE = (
    "types=[…] (zip.types in a file), one of 'multiclass', 'binary', 'multilabel', 'regression' for each network, or "
    "{'kind': 'multiclass', 'axis': 2}; for several outputs a mapping from their names"
)


@dataclass(frozen=True)
class Ending:
    """The last operation of a network, if it makes probabilities, and the axis over which it does (0: each alone)."""

    operation: Literal["softmax", "log-softmax", "sigmoid"]
    axis: int = 0

    @property
    def probabilities(self) -> bool:
        """Whether the outputs are probabilities, not their logarithms."""
        return self.operation != "log-softmax"


@dataclass(frozen=True)
class Seen:
    """What is known of a task: `where` it stands in messages, one image's outputs' `shape`, what the network ends in.

    `labels` are pairs of a name for messages and labels (N, ...).
    """

    where: str
    shape: tuple[int, ...]
    ending: Ending | None = None
    labels: tuple[tuple[str, Tensor], ...] = ()

    def single(self) -> bool:
        """Whether every place has one output."""
        return self.shape[0] == 1 or (len(self.shape) == 2 and self.shape[1] == 1)

    def class_axes(self) -> list[int]:
        """Axes that the labels lack and the outputs have."""
        if not self.labels:
            return []
        wanted = tuple(self.labels[0][1].shape[1:])
        axes = range(1, len(self.shape) + 1)
        return [k for k in axes if self.shape[: k - 1] + self.shape[k:] == wanted]

    def text(self) -> str:
        """All this in words."""
        ends = "" if self.ending is None else f" behind a {self.ending.operation}"
        labels = "no labels" if not self.labels else f"labels {tuple(self.labels[0][1].shape)}"
        return f"{self.where} answers with (N, {', '.join(map(str, self.shape))}){ends} and has {labels}"

    def doubt(self, why: str) -> SpecError:
        """The question for what is not known."""
        return SpecError(f"{self.text()}: {why}. Say what its answers are: {EXAMPLE}")


def inferred(seen: Seen, asked: TypeSpec | None) -> tuple[TaskType, str | None]:
    """Return a task's type, and a note where it was taken by convention alone; all labels fit it.

    Raises:
        SpecError: it is in doubt, or what was asked for does not fit the outputs; the message names the network.
        DataError: labels do not fit.
    """
    note = None
    if asked is not None and asked.kind is not None:
        kind = asked.kind
    else:
        kind, note = _kind(seen)
    axis = _axis(seen, kind, None if asked is None else asked.axis)
    _check_count(seen, kind, axis)
    ends = seen.ending
    soft = kind != "regression" and ends is not None and ends.probabilities
    if asked is not None and asked.probabilities is not None:
        soft = asked.probabilities
    dense = axis == 0 or any(size > 1 for k, size in enumerate(seen.shape, start=1) if k != axis)
    found = TaskType(kind, axis, soft, None if asked is None else asked.ignore_index, dense)
    for where, labels in seen.labels:
        check_labels(labels, found, seen.shape, where)
    return found, note


def _kind(seen: Seen) -> tuple[Kind, str | None]:
    ends = seen.ending
    if not seen.labels:
        if ends is not None:
            return ("multiclass" if ends.operation != "sigmoid" else "binary" if seen.single() else "multilabel"), None
        if len(seen.shape) not in (1, 3) or seen.shape[0] < 2:
            raise seen.doubt(
                "one output may be yes or no ('binary'), or a value ('regression')"
                if seen.single()
                else "it is not clear which axis is what"
            )
        return "multiclass", (
            f"{seen.where} answers with {seen.shape[0]} numbers{' at every place' if len(seen.shape) > 1 else ''}, and "
            f"nothing says what they are; they are taken as scores of {seen.shape[0]} classes (pass types, if they "
            "are attributes or values)"
        )
    kind = _kind_of_labels(seen)
    if ends is not None and (kind == "multiclass") != (ends.operation != "sigmoid"):
        raise seen.doubt(f"labels look like {kind!r}, and the last operation does not")
    return kind, None


def _kind_of_labels(seen: Seen) -> Kind:
    where, labels = seen.labels[0]
    values = labels[(labels != IGNORED[0]) & (labels != IGNORED[1])]
    yes_or_no = bool(((values == 0) | (values == 1)).all())
    axes, same = seen.class_axes(), tuple(labels.shape[1:]) == seen.shape
    if any(seen.shape[k - 1] > 1 for k in axes):
        return "multiclass"
    if not axes and not same:
        _refuse_shape(seen)
    if yes_or_no and (axes or seen.single()):
        return "binary"
    if yes_or_no:
        if len(seen.shape) == 1 and len(labels) > 1 and bool((labels.sum(1) == 1).all()):
            raise seen.doubt(
                f"every row of {where} has one 1; if labels are one-hot, pass labels.argmax(1), if they are "
                "attributes, the type 'multilabel'"
            )
        return "multilabel"
    if labels.is_floating_point():
        return "regression"
    raise seen.doubt("whole numbers, one for each output, may be values ('regression'), or something else")


def _refuse_shape(seen: Seen) -> None:
    """Labels fit neither as classes nor one by one."""
    where, labels = seen.labels[0]
    if len(seen.shape) in (1, 3) and seen.shape[0] > 1:
        check_labels(labels, TaskType("multiclass"), seen.shape, where)
    raise seen.doubt(f"the shape of {where}'s labels fits no type")


def _axis(seen: Seen, kind: Kind, asked: int | None) -> int:
    """The axis that counts classes, attributes or values."""
    axes, dimensions = seen.class_axes(), len(seen.shape) + 1
    if asked is not None:
        axis = asked + dimensions if asked < 0 else asked
        if not (0 < axis < dimensions or (asked == 0 and kind in ("binary", "regression"))):
            raise SpecError(
                f"{seen.text()}: there is no axis {asked} that counts "
                f"{'classes' if kind == 'multiclass' else 'outputs'}; axes go from 1 to {dimensions - 1}"
            )
        return axis
    if dimensions == 2:
        return 1
    if seen.ending is not None and seen.ending.axis and kind == "multiclass":
        return seen.ending.axis
    if kind == "multiclass" and seen.labels and (len(axes) == 1 or (1 in axes and dimensions > 3)):
        return 1 if 1 in axes else axes[0]
    if kind == "binary" or (kind == "regression" and seen.single()):
        ones = [k for k in range(1, dimensions) if seen.shape[k - 1] == 1]
        return ones[0] if ones else int(dimensions > 3)
    if dimensions == 4 and not (kind == "multiclass" and seen.labels):
        return 1
    if kind == "multiclass" and seen.labels and not axes:
        (where, labels), usual = seen.labels[0], 1 if dimensions == 4 else dimensions - 1
        check_labels(labels, TaskType(kind, usual), seen.shape, where)
    raise seen.doubt(
        f"it is not clear which axis counts the outputs of each place; say {{'kind': '{kind}', 'axis': …}}"
    )


def _check_count(seen: Seen, kind: Kind, axis: int) -> None:
    count = 1 if axis == 0 else seen.shape[axis - 1]
    if kind == "multiclass" and count < 2:
        raise SpecError(f"{seen.text()}: one class cannot be told apart; one output is 'binary' or 'regression'")
    if kind == "binary" and count != 1:
        raise SpecError(
            f"{seen.text()}: yes or no takes one output, and there are {count} on axis {axis}; say 'multilabel' for "
            f"{count} attributes, 'multiclass' for {count} classes"
        )


def labels_of(pairs: Sequence[tuple[str, Tensor | None]]) -> tuple[tuple[str, Tensor], ...]:
    """Labels that are there, with their names."""
    return tuple((where, labels) for where, labels in pairs if labels is not None)
