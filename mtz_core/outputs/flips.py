"""Parents' answers beside the zipped network's: what flipped, which classes, how sure the difference is (no torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.outputs.types import TaskType

NORMAL = 1.959964
"""Of a normal distribution: 95 % lie within so many standard deviations."""
MOST_CLASSES = 40
FAR = 0.5
"""A value that moves by half the spread of all counts as another answer."""

Array = NDArray[np.floating]


@dataclass(frozen=True)
class OutputAnswers:
    """Answers of one output to N inputs, each (N, P, K): classes (K = 1), 0 or 1 of each attribute, or values.

    P places (pixels, tokens) of many are some. `names` are those of classes, attributes or values, where they are
    known; `truth` is what labels say.
    """

    name: str
    type: TaskType
    names: tuple[str, ...]
    parent: NDArray[Any]
    zipped: NDArray[Any]
    truth: NDArray[Any] | None


@dataclass(frozen=True)
class Difference:
    """Zipped less parent, in points of the task's error, with the ends of a 95 % interval; of `inputs` inputs."""

    points: float
    low: float
    high: float
    inputs: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def counted(output: OutputAnswers) -> NDArray[np.bool_]:
    """Which answers (N, P, K) count: those whose label is not to be ignored."""
    assert output.truth is not None
    ignored = output.type.ignore_index
    return np.ones(output.truth.shape, bool) if ignored is None else output.truth != ignored


def missed(output: OutputAnswers, answers: NDArray[np.generic]) -> Array:
    """By how much answers (N, P, K) miss the truth: 0 or 1, of values the distance over the spread of their labels."""
    assert output.truth is not None
    counts = counted(output)
    if output.type.kind != "regression":
        return np.where(counts, answers != output.truth, 0.0).astype(float)
    truth = output.truth.astype(float)
    apart = np.where(counts, np.abs(answers.astype(float) - truth), 0.0)
    return apart / _spread(truth, counts, output.parent.astype(float))


def _spread(truth: Array, counts: NDArray[np.bool_], parent: Array) -> Array:
    """Standard deviation of each value's labels, (K,); of the parent's answers where all labels are the same."""
    values = np.where(counts, truth, np.nan).reshape(-1, truth.shape[-1])
    known = np.nanstd(values, 0) if values.size else np.zeros(truth.shape[-1])
    known = np.where(known > 1e-6 * np.abs(np.nan_to_num(values)).max(0, initial=0.0), known, 0.0)
    other = parent.reshape(-1, parent.shape[-1]).std(0)
    return np.where(known > 0, known, np.where(other > 0, other, 1.0))


def difference(output: OutputAnswers) -> Difference | None:
    """Return how much larger the zipped network's error is than its parent's on the same inputs; `None` without labels.

    Both answer the same inputs, so what counts is by how much each input's miss changes: d_i of c_i answers that
    count, summed over places. The error of attribute (or value) k is Σ_i w_ik / Σ_i c_ik and the task's their mean, so
    a difference D has the variance Σ_i (mean_k (d_ik - D_k c_ik) / Σ_j c_jk)². For 0 and 1 half an input is added to
    each of the four outcomes, as Agresti and Min (2005) do, so that no flips at all do not pass for certainty.
    """
    if output.truth is None or not len(output.truth):
        return None
    counts = counted(output).astype(float).sum(1)
    d = (missed(output, output.zipped) - missed(output, output.parent)).sum(1)
    total = counts.sum(0)
    occurs = total > 0
    if not occurs.any():
        return None
    d, counts, total = d[:, occurs], counts[:, occurs], total[occurs]
    each = d.sum(0) / total
    own = ((d - each * counts) / total).mean(1)
    variance, centre = float((own**2).sum()), float(each.mean())
    n = len(d)
    if output.type.kind != "regression" and not output.type.dense and d.shape[1] == 1:
        centre_moved = float(d.sum()) / (n + 2)
        variance = (float((d**2).sum()) + 1.0 - (n + 2) * centre_moved**2) / (n + 2) ** 2
    else:
        centre_moved = centre
    half = NORMAL * math.sqrt(max(0.0, variance))
    return Difference(100 * centre, 100 * (centre_moved - half), 100 * (centre_moved + half), n)


def flipped(output: OutputAnswers) -> NDArray[np.bool_]:
    """Which inputs (N,) are answered otherwise: another class, any attribute, a value by more than `FAR` spreads."""
    if output.type.kind != "regression":
        return np.asarray((output.parent != output.zipped).any((1, 2)))
    parent = output.parent.astype(float)
    spread = parent.reshape(-1, parent.shape[-1]).std(0)
    return np.asarray((np.abs(output.zipped - parent) > FAR * np.where(spread > 0, spread, 1.0)).any((1, 2)))


def verdicts(output: OutputAnswers) -> list[str]:
    """Of every input: `worse`, `better` (by its miss), `other` (flipped, neither), or `same`."""
    changed = flipped(output)
    if output.truth is None:
        return ["other" if yes else "same" for yes in changed]
    change = (missed(output, output.zipped) - missed(output, output.parent)).sum((1, 2))
    return [
        "same" if not yes else "worse" if by > 1e-9 else "better" if by < -1e-9 else "other"
        for yes, by in zip(changed, change, strict=True)
    ]


def confusion(output: OutputAnswers) -> NDArray[np.int64] | None:
    """Count of answers (classes, classes): row the parent's, column the zipped network's; of classes that occur.

    `None` where answers are no classes, or there are more than `MOST_CLASSES`. Attributes and yes or no have two.
    """
    if output.type.kind == "regression":
        return None
    size = max(int(output.parent.max(initial=0)), int(output.zipped.max(initial=0)), len(classes(output)) - 1) + 1
    if size > MOST_CLASSES:
        return None
    pairs = output.parent.astype(np.int64).ravel() * size + output.zipped.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def classes(output: OutputAnswers) -> tuple[str, ...]:
    """Names of what an answer may be: the classes', or no and yes."""
    return output.names if output.type.kind == "multiclass" else ("no", "yes")


def answer_text(output: OutputAnswers, answers: NDArray[np.generic], index: int) -> str:
    """Say one input's answer (of N, P, K): a class, attributes that are there, values; of many places the commonest.

    Without names, classes are numbered from 0.
    """
    found, names = answers[index], output.names
    if output.type.kind == "multiclass":
        values, counts = np.unique(found, return_counts=True)
        most = [int(v) for v in values[np.argsort(-counts, kind="stable")][:2]]
        said = [names[v] if 0 <= v < len(names) else str(v) for v in most]
        return said[0] if len(values) == 1 else f"{', '.join(said)}{' …' if len(values) > 2 else ''}"
    if len(found) > 1:
        mean = found.astype(float).mean(0)
        return ", ".join(f"{_name(names, k)} {value:.2f}".replace("-", "−") for k, value in enumerate(mean[:4]))
    if output.type.kind == "regression":
        return ", ".join(f"{_name(names, k)} {value:.2f}".strip().replace("-", "−") for k, value in enumerate(found[0]))
    if output.type.kind == "binary":
        return "yes" if found[0, 0] else "no"
    return ", ".join(_name(names, k) for k, yes in enumerate(found[0]) if yes) or "none"


def change_text(output: OutputAnswers, index: int) -> str:
    """Say how one input's answer changed: `3 → 8`; of attributes only those that did: `bold → no, serif → yes`."""
    before, after = output.parent[index], output.zipped[index]
    if output.type.kind == "multilabel" and len(before) == 1:
        changed = np.flatnonzero(before[0] != after[0])
        return ", ".join(f"{_name(output.names, int(k))} → {'yes' if after[0, k] else 'no'}" for k in changed)
    return f"{answer_text(output, output.parent, index)} → {answer_text(output, output.zipped, index)}"


def attribute_changes(output: OutputAnswers) -> list[tuple[str, int, int, int]]:
    """Of every attribute its name, how many answers there are, and how many became yes and no."""
    before, after = (side.reshape(-1, side.shape[-1]).astype(bool) for side in (output.parent, output.zipped))
    gained, lost = (~before & after).sum(0), (before & ~after).sum(0)
    return [(_name(output.names, k), len(before), int(gained[k]), int(lost[k])) for k in range(before.shape[1])]


def _name(names: tuple[str, ...], k: int) -> str:
    return names[k] if k < len(names) else f"{k}:"
