"""What inputs are, in a word, by shape and type (this module imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

INPUTS: Mapping[str, str] = {
    "images": "images",
    "words": "words",
    "tokens": "sequences",
    "vectors": "vectors",
    "waveforms": "waveforms",
    "sequences": "sequences",
    "volumes": "volumes",
    "inputs": "inputs",
}
"""Kinds of inputs, and what several are called in a sentence."""


def input_kind(shape: Sequence[int], whole: bool = False) -> str:
    """Return the kind of inputs of a shape, without the batch axis; `whole`: of whole numbers that are looked up.

    >>> input_kind((1, 28, 28)), input_kind((16,), whole=True), input_kind((2, 16000)), input_kind((20, 6))
    ('images', 'tokens', 'waveforms', 'sequences')
    """
    if whole:
        return "tokens" if len(shape) == 1 else "inputs"
    if len(shape) == 2:
        return "waveforms" if shape[0] <= 3 < shape[1] else "sequences"
    return {1: "vectors", 3: "images", 4: "volumes"}.get(len(shape), "inputs")
