"""Words of eight languages from Debian's word lists; the same seed and packages give the same words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtz_core.data.words import ALPHABET, LENGTH

FOLDER = Path("/usr/share/dict")
LISTS = {
    "English": ("wamerican", "american-english"),
    "German": ("wngerman", "ngerman"),
    "Dutch": ("wdutch", "dutch"),
    "Swedish": ("wswedish", "swedish"),
    "French": ("wfrench", "french"),
    "Italian": ("witalian", "italian"),
    "Spanish": ("wspanish", "spanish"),
    "Portuguese": ("wportuguese", "portuguese"),
}
"""Debian's package of each language, and the file that it brings."""
SHORTEST = 4


@dataclass(frozen=True)
class Words:
    """Words, and the number of each one's language."""

    words: list[str]
    labels: list[int]


def listed(language: str) -> list[str]:
    """Words of a list of `SHORTEST` to `LENGTH` letters, in small letters, without names (German nouns stay)."""
    package, name = LISTS[language]
    path = FOLDER / name
    if not path.is_file():
        raise SystemExit(f"word list missing: apt-get install {package}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = path.read_text(encoding="latin-1")
    known = set(ALPHABET)
    words = (word for word in text.split("\n") if word.islower() or language == "German")
    small = {word.lower() for word in words}
    return sorted(word for word in small if SHORTEST <= len(word) <= LENGTH and known.issuperset(word))


def draw_words(languages: tuple[str, ...], counts: dict[str, int], seed: int) -> dict[str, Words]:
    """Words for each split, as many of every language, each in one split only; none is in two lists."""
    every = {language: set(listed(language)) for language in LISTS}
    rng = np.random.default_rng(seed)
    drawn = {split: Words([], []) for split in counts}
    for label, language in enumerate(languages):
        others = set().union(*(every[other] for other in LISTS if other != language))
        own = sorted(every[language] - others)
        order, begin = rng.permutation(len(own)), 0
        for split, count in counts.items():
            end = begin + count // len(languages)
            drawn[split].words.extend(own[i] for i in order[begin:end])
            drawn[split].labels.extend([label] * (end - begin))
            begin = end
    shuffled = {}
    for split, found in drawn.items():
        order = rng.permutation(len(found.words))
        shuffled[split] = Words([found.words[i] for i in order], [found.labels[i] for i in order])
    return shuffled
