"""Of a network with several outputs: which of them the labels of its data belong to."""

from __future__ import annotations

from typing import Any

from mtz_core.data.tasks import TaskData
from mtz_core.errors import SpecError
from mtz_core.spec import NetworkSpec, TypeSpec


def labelled_output(wanted: NetworkSpec, outputs: int, data: TaskData, where: str) -> str | None:
    """Return the output that labels belong to, of several (`outputs` is 0); `None` of one.

    Raises `SpecError` if there are labels and the specification does not say whose.
    """
    if outputs == 0 and wanted.labels_for is None and data.test is not None and data.test.has_labels:
        raise SpecError(
            f"{where} has several outputs, and its data has labels: say whose they are by labels_for, the name of an "
            "output"
        )
    return wanted.labels_for


def of_output(data: Any, labels_for: str | None) -> Any:
    """Inputs, or inputs and labels, with the name of the output that the labels belong to."""
    return (data[0], {labels_for: data[1]}) if isinstance(data, tuple) and labels_for is not None else data


def asked_of(data: TaskData, wanted: TypeSpec | None, outputs: int, labels_for: str | None) -> TypeSpec | None:
    """Return the type of a task, as far as it was `wanted` or only its data can tell it (see `TaskData.asked`).

    What data tell is said of the output that their labels belong to.
    """
    if labels_for is None:
        return data.asked(wanted, outputs)
    if wanted is not None and wanted.heads is None:
        return wanted
    heads = {} if wanted is None or wanted.heads is None else dict(wanted.heads)
    told = data.asked(heads.get(labels_for), outputs)
    heads |= {} if told is None else {labels_for: told}
    return TypeSpec(heads=heads) if heads else None
