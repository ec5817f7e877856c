"""Do labels fit a type of task? Every way in which they do not is told apart, with the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtz_core.errors import DataError
from mtz_core.outputs.types import TaskType

IGNORED = (255, -100)
"""Values that mean "does not count" nearly everywhere."""


def check_labels(labels: Tensor, kind: TaskType, shape: Sequence[int], where: str) -> None:
    """Hold labels (N, ...) against a type and the shape of one image's outputs.

    Raises:
        DataError: a wrong shape, no whole numbers, numbers that are no class or neither 0 nor 1, or not finite.
    """
    _check_shape(labels, kind, shape, where)
    if labels.is_floating_point() and not bool(torch.isfinite(labels).all()):
        raise DataError(f"{where} has labels that are NaN or infinite; leave these images out, or set ignore_index")
    if kind.kind == "regression":
        return
    whole = not labels.is_floating_point() or bool((labels == labels.round()).all())
    if kind.kind == "multiclass":
        if labels.is_floating_point():
            remedy = "labels.long() makes them whole" if whole else "values need the type 'regression'"
            raise DataError(
                f"{where} has {labels.dtype} labels of shape {tuple(labels.shape)}, but its type is multiclass; give "
                f"one class index per image (or place): {remedy}"
            )
        _check_classes(_counting(labels, kind), shape[kind.axis - 1], where)
    else:
        _check_yes_or_no(_counting(labels, kind), kind, where)


def label_shapes(kind: TaskType, shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes of one image's labels that fit its outputs, the first one first choice."""
    whole = tuple(shape)
    without = whole if kind.axis == 0 else whole[: kind.axis - 1] + whole[kind.axis :]
    if kind.kind == "multiclass":
        return [without]
    return [whole] if kind.axis == 0 or shape[kind.axis - 1] > 1 else [without, whole]


def _check_shape(labels: Tensor, kind: TaskType, shape: Sequence[int], where: str) -> None:
    fitting = label_shapes(kind, shape)
    if tuple(labels.shape[1:]) in fitting:
        return
    wanted = " or ".join(_shape_text(each) for each in fitting)
    hint = ""
    if kind.kind == "multiclass" and tuple(labels.shape[1:]) == tuple(shape):
        hint = f"; if they are one-hot, pass labels.argmax({kind.axis}); if they are attributes, the type 'multilabel'"
    elif kind.kind == "multiclass" and tuple(labels.shape[1:]) == (*fitting[0], 1):
        hint = "; labels.squeeze(-1) has that shape"
    raise DataError(
        f"{where} has labels of shape {_shape_text(labels.shape[1:])} for outputs {_shape_text(shape)} of type "
        f"{kind.kind} on axis {kind.axis}; give labels of shape {wanted}{hint}, or another type or axis"
    )


def _shape_text(shape: Sequence[int]) -> str:
    """A shape with N images in front."""
    return f"(N, {', '.join(map(str, shape))})" if len(shape) else "(N,)"


def _counting(labels: Tensor, kind: TaskType) -> Tensor:
    """Labels that are not ignored."""
    return labels.flatten() if kind.ignore_index is None else labels[labels != kind.ignore_index]


def _values(labels: Tensor) -> list[float]:
    """Different ones, by size."""
    return [float(value) for value in torch.unique(labels)]


def _check_classes(found: Tensor, classes: int, where: str) -> None:
    beyond = _values(found[(found < 0) | (found >= classes)])
    if not beyond:
        return
    _check_ignored(beyond, where)
    low, high = int(found.min()), int(found.max())
    if low >= 1 and high == classes:
        raise DataError(
            f"{where} has labels from {low} to {high} for {classes} classes, which count from 0; pass labels - 1"
        )
    raise DataError(
        f"{where} has labels from {low} to {high}, but the network tells {classes} classes apart: labels go from 0 to "
        f"{classes - 1}. Number them as in training, or set ignore_index for one that does not count"
    )


def _check_yes_or_no(found: Tensor, kind: TaskType, where: str) -> None:
    beyond = _values(found[(found != 0) & (found != 1)])
    if not beyond:
        return
    _check_ignored(beyond, where)
    values = set(_values(found)) if len(beyond) < 3 else set()
    remedy = "give 0 (no) or 1 (yes)"
    if values == {1, 2}:
        remedy = "labels count from 0: pass labels - 1"
    elif values == {-1, 1}:
        remedy = "pass (labels > 0).long()"
    elif found.is_floating_point():
        remedy = "round them to 0 and 1, or use the type 'regression' for values"
    shown = ", ".join(f"{value:g}" for value in beyond[:3])
    raise DataError(f"{where} has labels of type {kind.kind} that are neither 0 nor 1, e.g. {shown}; {remedy}")


def _check_ignored(beyond: Sequence[float], where: str) -> None:
    if len(beyond) == 1 and beyond[0] in IGNORED:
        value = int(beyond[0])
        raise DataError(
            f"{where} has labels of {value} and no ignore_index; if these do not count, say so in the task's type: "
            f"types=[{{'kind': …, 'ignore_index': {value}}}, …]"
        )
