"""Words as numbers of letters: one alphabet for all languages, padding in front (this module imports no torch)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

ALPHABET = "abcdefghijklmnopqrstuvwxyzßàáâãäåçèéêëìíîïñòóôõöùúûü"
"""Letters of all languages; number 0 is padding, so the first letter has number 1."""
TOKENS = len(ALPHABET) + 1
LENGTH = 16
"""Letters of the longest word. Shorter words have padding in front, so that all end in the same place."""


def as_tokens(words: Iterable[str]) -> NDArray[np.uint8]:
    """Numbers of letters, uint8 (N, `LENGTH`). Raises `ValueError` for a letter that is not in `ALPHABET`.

    >>> as_tokens(["cab"])[0, -4:].tolist()
    [0, 3, 1, 2]
    """
    rows = [[ALPHABET.index(letter) + 1 for letter in word] for word in words]
    table = np.zeros((len(rows), LENGTH), np.uint8)
    for row, numbers in zip(table, rows, strict=True):
        row[LENGTH - len(numbers) :] = numbers
    return table


def as_word(tokens: Iterable[int]) -> str:
    """The word of a row of numbers.

    >>> as_word([0, 3, 1, 2])
    'cab'
    """
    return "".join(ALPHABET[number - 1] for number in tokens if number)
