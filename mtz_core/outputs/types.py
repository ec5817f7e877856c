"""The type of a task: what kind of answer the outputs are, where they stand, and the words for it (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mtz_core.errors import SpecError

Kind = Literal["multiclass", "binary", "multilabel", "regression"]
"""What an answer is: one class of several, yes or no, attributes (each yes or no), values."""
KINDS: tuple[Kind, ...] = get_args(Kind)
SEVERAL: Literal["several"] = "several"
"""The kind of a network with several outputs, each of which has a type of its own."""


@dataclass(frozen=True)
class Words:
    """How a kind of task is spoken of: what it is, what an error of 1 % is one of, and what changes."""

    title: str
    error: str
    changed: str


WORDS: Mapping[str, Words] = {
    "multiclass": Words("one class of several", "wrong answers", "answers"),
    "binary": Words("yes or no", "wrong answers", "answers"),
    "multilabel": Words("attributes, each yes or no", "wrong attributes", "attributes"),
    "regression": Words("values", "mean absolute error, in % of the labels' spread", "values"),
    SEVERAL: Words("several outputs", "mean error of the outputs that have labels", "answers"),
}


@dataclass(frozen=True)
class TaskType:
    """What one network's outputs say.

    `axis` of the outputs (N, ...) counts classes, attributes or values, and all others count places (pixels, tokens);
    0: every number of an image is at a place of its own. `probabilities`: the outputs are behind a softmax or a
    sigmoid. Labels equal to `ignore_index` do not count. `dense`: there are several places. A network with several
    outputs has the kind `SEVERAL`, and in `heads` a name and a type for each.
    """

    kind: Kind | Literal["several"]
    axis: int = 1
    probabilities: bool = False
    ignore_index: int | None = None
    dense: bool = False
    heads: tuple[tuple[str, TaskType], ...] = ()

    @property
    def title(self) -> str:
        """What an answer is.

        >>> TaskType("multiclass", dense=True).title
        'one class of several at every place'
        """
        if self.heads:
            return "; ".join(f"{name}: {each.title}" for name, each in self.heads)
        return WORDS[self.kind].title + (" at every place" if self.dense else "")

    @property
    def error(self) -> str:
        """What the task's error counts, in % of all (for values, of the labels' spread).

        >>> TaskType("multilabel").error, TaskType("multiclass", dense=True).error
        ('wrong attributes', 'wrong places')
        """
        if self.heads:
            return f"{WORDS[self.kind].error} ({'; '.join(f'{name}: {each.error}' for name, each in self.heads)})"
        return "wrong places" if self.dense and self.kind in ("multiclass", "binary") else WORDS[self.kind].error

    @property
    def changed(self) -> str:
        """What may change, in % of all (see `mtz_core.outputs.values.TOLERANCE` for values).

        >>> TaskType("regression").changed
        'values'
        """
        return "places" if self.dense and self.kind in ("multiclass", "binary") else WORDS[self.kind].changed

    def data(self) -> dict[str, Any]:
        """As plain data; `read` returns it."""
        found = asdict(self)
        heads = [[name, each.data()] for name, each in self.heads]
        return {**found, "heads": heads} if heads else {k: v for k, v in found.items() if k != "heads"}

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> TaskType:
        """Return the type that was written with `data`. Raises `SpecError` for anything else.

        >>> TaskType.read(TaskType("binary").data()) == TaskType("binary")
        True
        """
        known = (*KINDS, SEVERAL) if data.get("heads") else KINDS
        if not set(data) <= set(cls.__dataclass_fields__) or data.get("kind") not in known:
            raise SpecError(f"{dict(data)!r:.200} is no type of task; a kind is one of {', '.join(KINDS)}")
        heads = tuple((str(name), cls.read(each)) for name, each in data.get("heads", ()))
        return cls(**{**data, "heads": heads})


def changed_things(types: Sequence[TaskType]) -> str:
    """What may change in all of these tasks together.

    >>> changed_things((TaskType("multilabel"),)), changed_things((TaskType("multilabel"), TaskType("binary")))
    ('attributes', 'answers')
    """
    found = {each.changed for each in types}
    return found.pop() if len(found) == 1 else "answers"


def errors_text(types: Sequence[TaskType], tasks: Sequence[str]) -> str:
    """What every task's errors count, in a sentence; empty where all are images whose class is wrong.

    >>> errors_text((TaskType("multiclass"), TaskType("multilabel")), ("digits", "faces"))
    'Errors in % are, for digits: wrong answers; for faces: wrong attributes.'
    """
    if all(kind.error == WORDS["multiclass"].error for kind in types):
        return ""
    listed = (f"for {task}: {kind.error}" for task, kind in zip(tasks, types, strict=False))
    return f"Errors in % are, {'; '.join(listed)}."
