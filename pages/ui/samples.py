"""Samples with each parent's answer, as HTML: right and wrong differ in mark, word and colour."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image

from mtz_core.data.bundled import BundledSet
from mtz_core.data.words import as_word
from mtz_core.outputs.types import Kind

FAR = 0.5


@st.cache_data(show_spinner=False, max_entries=2000)
def _png(pixels: NDArray[np.uint8]) -> str:
    """Return an image as a data URL, dark on light as ink is."""
    buffer = io.BytesIO()
    Image.fromarray(255 - pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def wrong_answers(kind: Kind, labels: NDArray[Any], answers: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which inputs are answered wrong (N,): another class, any attribute, or a value off by `FAR` deviations."""
    if kind == "multiclass":
        return labels != answers
    if kind == "multilabel":
        return (labels != answers).any(1)
    return (np.abs(labels - answers) > FAR * labels.std(0)).any(1)


def answer_text(kind: Kind, answer: Any, names: Sequence[str]) -> str:
    """Return an answer in words: a class, the attributes that are there, or the values.

    >>> answer_text("multilabel", [1, 0], ("serif", "bold"))
    'serif'
    """
    if kind == "multiclass":
        return names[int(answer)]
    if kind == "multilabel":
        return ", ".join(name for name, yes in zip(names, answer, strict=True) if yes) or "none"
    return ", ".join(f"{name} {value:.2f}".replace("-", "−") for name, value in zip(names, answer, strict=True))


def sample_grid(
    inputs: NDArray[np.uint8], labels: NDArray[Any], answers: NDArray[Any], wrong: NDArray[np.bool_], known: BundledSet
) -> str:
    """Return a grid of images (N, 28, 28) or words (N, L), each with what is true and the network's answer."""
    cells = []
    for each, label, answer, missed in zip(inputs, labels, answers, wrong, strict=True):
        truth, said = (html.escape(answer_text(known.type, a, known.names)) for a in (label, answer))
        verdict = f"wrong: {said}, it is {truth}" if missed else f"right: {said}"
        shown = f"✗ {said}<small>is {truth}</small>" if missed else f"✓ {said}"
        picture = f"<img src='{_png(each)}' alt='{truth}' width='52' height='52'>" if known.inputs == "images" else ""
        word = f"<span class='word'>{html.escape(as_word(each))}</span>" if known.inputs == "words" else ""
        cells.append(
            f"<figure class='sample {'wrong' if missed else 'right'}' aria-label='{verdict}'>{picture}{word}"
            f"<figcaption>{shown}</figcaption></figure>"
        )
    wide = "" if known.inputs == "images" and known.type == "multiclass" else " wide"
    return f"<div class='samples{wide}'>{''.join(cells)}</div>"


def some_indices(labels: NDArray[Any], wrong: NDArray[np.bool_], count: int, seed: int, only_wrong: bool) -> list[int]:
    """Choose inputs to show: the classes in turn, in an order that the seed draws; or wrong answers only."""
    order = np.random.default_rng(seed).permutation(len(labels))
    if only_wrong:
        return [int(i) for i in order if wrong[i]][:count]
    if labels.ndim > 1:
        return [int(i) for i in order][:count]
    by_class = [[int(i) for i in order if labels[i] == c] for c in np.unique(labels)]
    turns = [group[k] for k in range(max(map(len, by_class))) for group in by_class if k < len(group)]
    return turns[:count]
