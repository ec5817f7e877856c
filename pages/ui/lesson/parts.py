"""What every step draws: numbers of the bundled lesson, with what follows from them, and its texts' facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mtz_core.figures import lesson_facts as facts
from mtz_core.figures import lessons
from mtz_core.zoo.structures import structures

Step = tuple[Mapping[str, Any], Mapping[str, str]]
SIZED = ("lenet300-mnist-0", "lenet300-fashion-0")


def _networks(lesson: Mapping[str, Any], texts: Mapping[str, Any]) -> Step:
    return lesson["networks"], facts.networks(lesson["networks"])


def _one_bowl(lesson: Mapping[str, Any], texts: Mapping[str, Any]) -> Step:
    part = lesson["weights"]
    return part | {"axes": lessons.principal_axes(part["grams"][0])[1].tolist()}, facts.one_bowl(part)


def _two_bowls(lesson: Mapping[str, Any], texts: Mapping[str, Any]) -> Step:
    return lesson["weights"], facts.two_bowls(lesson["weights"])


def _nearest(lesson: Mapping[str, Any], texts: Mapping[str, Any]) -> Step:
    return lesson["nearest"], facts.nearest(lesson["nearest"])


def _pairing(lesson: Mapping[str, Any], texts: Mapping[str, Any]) -> Step:
    part = lesson["pairing"]
    cost = np.asarray(part["costs"])
    steps = {"greedy": lessons.greedy_steps(cost), "optimal": lessons.optimal_steps(cost)}
    return part | steps, facts.pairing(part)


def _sizes(lesson: Mapping[str, Any], texts: Mapping[str, Any]) -> Step:
    networks = [structures()[name] for name in SIZED]
    before = sum(network.parameters for network in networks)
    return {"table": lessons.size_table(networks), "before": before}, facts.sizes(networks)


def _layers(lesson: Mapping[str, Any], texts: Mapping[str, Any]) -> Step:
    return lesson["layers"], facts.layers(lesson["layers"])


def _wrong(lesson: Mapping[str, Any], texts: Mapping[str, Any]) -> Step:
    return lesson["wrong"], facts.wrong(lesson["wrong"])


def _guess(lesson: Mapping[str, Any], texts: Mapping[str, Any]) -> Step:
    measured = lesson["sweeps"]
    sweeps = {name: sweep | {"leaves": lessons.leaving_size(sweep["points"])} for name, sweep in measured.items()}
    return {"sweeps": sweeps, "by": lessons.LEAVES}, facts.sweeps(measured, texts["steps"]["9"])


def _end(lesson: Mapping[str, Any], texts: Mapping[str, Any]) -> Step:
    return {"learnt": [step["learnt"] for step in texts["steps"].values() if "learnt" in step]}, {}


PARTS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Step]] = {
    "1": _networks,
    "2": _one_bowl,
    "3": _two_bowls,
    "4": _nearest,
    "5": _pairing,
    "6": _sizes,
    "7": _layers,
    "8": _wrong,
    "9": _guess,
    "end": _end,
}
"""Step → what it draws and what its texts say, from the bundled lesson and all texts."""
