"""Of a network with several outputs: which of them the labels of its data belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mtz_core.data.tasks import TaskData
from mtz_core.errors import DataError, SpecError
from mtz_core.spec import NetworkSpec, TypeSpec

Whose = Mapping[str, str | None]
"""Output → the name that its labels have in the data; `None`: data has labels without names."""


def labelled_outputs(wanted: NetworkSpec, outputs: int, data: TaskData, where: str) -> Whose:
    """Return the outputs that labels belong to, of several (`outputs` is 0); none if the network has one output.

    Raises:
        SpecError: there are labels and neither they nor the specification say whose.
        DataError: data has no labels for an output that the specification names.
    """
    if data.named:
        if outputs:
            raise SpecError(
                f"{where} has one output, and its data has labels by names ({_listed(data.named)}): call those that "
                "are meant 'labels'"
            )
        given = wanted.labels_for
        asked = {given: given} if isinstance(given, str) else wanted.label_names or {name: name for name in data.named}
        for output, name in asked.items():
            if name not in data.named:
                raise DataError(
                    f"{where}: labels_for asks for the labels {name!r} of the output {output!r}, and its data has "
                    f"labels {_listed(data.named)}"
                )
        return dict(asked)
    names = [wanted.labels_for] if isinstance(wanted.labels_for, str) else list(wanted.label_names)
    labels = data.test is not None and data.test.has_labels
    if len(names) > 1 and (labels or data.calibration.has_labels):
        raise SpecError(
            f"{where}: labels_for names the outputs {_listed(names)}, and its data has labels without names; give each "
            "its own (arrays labels.NAME in an .npz file, columns NAME or NAME.* in a table), or name one output"
        )
    if outputs == 0 and not names and labels:
        raise SpecError(
            f"{where} has several outputs, and its data has labels: say whose they are by labels_for, the name of an "
            "output or a list of names"
        )
    return dict.fromkeys(names[:1])


def of_outputs(data: Any, whose: Whose) -> Any:
    """Inputs, or inputs and labels, with the names of the outputs that the labels belong to."""
    if not isinstance(data, tuple) or not whose:
        return data
    labels = data[1]
    if isinstance(labels, Tensor):
        return data[0], dict.fromkeys(whose, labels)
    return data[0], {output: labels[name] for output, name in whose.items()}


def asked_of(data: TaskData, wanted: TypeSpec | None, outputs: int, whose: Whose) -> TypeSpec | None:
    """Return the type of a task, as far as it was `wanted` or only its data can tell it (see `TaskData.asked`).

    What data tell is said of the output that their labels belong to.
    """
    if not whose:
        return data.asked(wanted, outputs)
    if wanted is not None and wanted.heads is None:
        return wanted
    heads = {} if wanted is None or wanted.heads is None else dict(wanted.heads)
    for output, name in whose.items():
        told = data.asked(heads.get(output), outputs, name)
        heads |= {} if told is None else {output: told}
    return TypeSpec(heads=heads) if heads else None


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))
