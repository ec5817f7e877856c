"""Sample images with each parent's answer, as HTML: right and wrong differ in mark, word and colour."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image


@st.cache_data(show_spinner=False, max_entries=2000)
def _png(pixels: NDArray[np.uint8]) -> str:
    """Return an image as a data URL, dark on light as ink is."""
    buffer = io.BytesIO()
    Image.fromarray(255 - pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def sample_grid(
    images: NDArray[np.uint8], labels: NDArray[np.int64], predicted: NDArray[np.uint8], classes: Sequence[str]
) -> str:
    """Return a grid of images (N, 28, 28), each with its true class and the network's answer."""
    cells = []
    for image, label, answer in zip(images, labels, predicted, strict=True):
        truth, said = html.escape(classes[int(label)]), html.escape(classes[int(answer)])
        right = label == answer
        verdict = f"right: {said}" if right else f"wrong: {said}, it is {truth}"
        shown = f"✓ {said}" if right else f"✗ {said}<small>is {truth}</small>"
        cells.append(
            f"<figure class='sample {'right' if right else 'wrong'}' aria-label='{verdict}'>"
            f"<img src='{_png(image)}' alt='{truth}' width='52' height='52'>"
            f"<figcaption>{shown}</figcaption></figure>"
        )
    return f"<div class='samples'>{''.join(cells)}</div>"


def some_indices(
    labels: NDArray[np.int64], wrong: NDArray[np.bool_], count: int, seed: int, only_wrong: bool
) -> list[int]:
    """Choose images to show: the classes in turn, in an order that the seed draws; or wrong answers only."""
    order = np.random.default_rng(seed).permutation(len(labels))
    if only_wrong:
        return [int(i) for i in order if wrong[i]][:count]
    by_class = [[int(i) for i in order if labels[i] == c] for c in np.unique(labels)]
    turns = [group[k] for k in range(max(map(len, by_class))) for group in by_class if k < len(group)]
    return turns[:count]
