"""What a link to the lesson may say: the page's own parameters, and those that its pictures read themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pages.ui.address import Check, among, between, index, matching
from pages.ui.lesson.texts import END, ORDER, STEPS

PARTS = ("steps", "nav", "formula", "try", "question", "controls", "numbers", "play", "zip")
"""What `?hide=` may name, beside a control by its own parameter."""
REACHES = {"2": 0.75, "3": 0.5}
"""How far from the middle a ball may be, on either side, in `bowl.js` and `bowls.js`."""
ROUNDED = 0.01


def checks(lesson: Mapping[str, Any], step: str) -> dict[str, Check]:
    """Return a check for every parameter, for `address.vet`, with the bounds of a step's picture."""
    flag, switch = among(("0", "1")), among(("on", "off"))
    images = sum(len(task["images"]) for task in lesson["networks"]["tasks"])
    controls = _balls(lesson["weights"]["weights"], step) | {
        "alpha": between(0.05, 0.95), "view": between(0, 1),
        "pairing": among(("greedy", "optimal", "own")), "taken": between(0, 6),
        "in": between(0, 100), "out": between(0, 100),
        "compensation": switch, "layers": between(0, len(lesson["layers"]["plain"]["errors"]) - 1),
        "images": among(("many", "few")), "classes": among(("all", "one")), "ridge": switch,
        "pair": among(("clothes", "seeds", "words")), "guess": between(51, 99),
    }  # fmt: skip
    return controls | {
        "step": among(ORDER, f"a step from {STEPS[0]} to {STEPS[-1]}, or {END}"),
        "present": flag, "handout": flag, "hide": _hidden([*PARTS, *controls]),
        "image": index(images), "lowest": flag, "look": flag,
        "own": matching(r"|\d-\d(,\d-\d)*", "pairs of numbers, as 0-3,1-2"),
    }  # fmt: skip


def _balls(weights: Sequence[Sequence[float]], step: str) -> dict[str, Check]:
    """Where the ball may be: around one network's weights, or between those of both."""
    if step not in REACHES:
        return {"w1": between(-1, 1), "w2": between(-1, 1)}
    around = weights[:1] if step == "2" else weights
    reach = REACHES[step] + ROUNDED
    middles = [sum(w) / len(around) for w in zip(*around, strict=True)]
    return {f"w{k}": between(round(w - reach, 2), round(w + reach, 2)) for k, w in enumerate(middles, start=1)}


def _hidden(names: Sequence[str]) -> Check:
    """A check for names with commas between them."""

    def read(text: str) -> str:
        if unknown := set(filter(None, text.split(","))) - set(names):
            raise ValueError(unknown)
        return text

    return Check(read, f"names of what is hidden, with commas, out of {', '.join(names)}")
