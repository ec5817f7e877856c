"""Zips to begin with. Kept apart from the inputs, whose imports would delay the first picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mtz_core.zoo.catalog import catalog


@dataclass(frozen=True)
class Preset:
    """A zip to begin with; it opens the Zip page filled in, with `settings` as in its address."""

    title: str
    text: str
    parents: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    bundled: bool = True
    """Whether the networks' images come with the program, and with them what sharing costs."""


HALVES = ("resnet20-cifar10-0to4-0", "resnet20-cifar10-5to9-0")
EXAMPLES = (
    Preset(
        "Same task, two seeds",
        "Two networks learned the same digits from different starts. How much of them is interchangeable?",
        ("lenet300-mnist-0", "lenet300-mnist-1"),
    ),
    Preset(
        "Digits and fashion",
        "Two convolutional networks, two unrelated tasks. Filters are shared where they agree.",
        ("lenet5-mnist-0", "lenet5-fashion-0"),
    ),
    Preset(
        "Unequal shares",
        "The first filters see different pictures and stay apart; the large layer behind them is shared. Which layer "
        "saves, and which one hurts?",
        ("lenet5-mnist-0", "lenet5-fashion-0"),
        {"share-conv1": "0.2", "share-conv2": "0.6", "share-fc1": "1"},
    ),
    Preset(
        "Watch it learn again",
        "Merged by the paper's formula alone, the network forgets; some steps after every layer, without labels, bring "
        "answers back while you watch.",
        ("lenet5-mnist-0", "lenet5-fashion-0"),
        {"compensate": "false", "pairing": "greedy", "retrain": "layerwise", "steps": "300"},
    ),
    Preset(
        "Three tasks at once",
        "Digits, clothes and letters in one network. Every neuron may serve three tasks.",
        ("lenet300-mnist-0", "lenet300-fashion-0", "lenet300-letters-0"),
    ),
    Preset(
        "Words of eight languages",
        "Two LSTMs name the language of a word, one of four Germanic, the other of four Romance ones.",
        ("lstm-words-germanic-0", "lstm-words-romance-0"),
    ),
    Preset(
        "What letter, and what is it like?",
        "One network names letters, the other says of six attributes whether they are there: serif, bold, italic, …",
        ("lenet5-letters-0", "lenet5-letter-attributes-0"),
    ),
    Preset(
        "What letter, and where?",
        "One network names letters, the other says in three numbers how far they are turned and shifted.",
        ("lenet5-letters-0", "lenet5-letter-pose-0"),
    ),
    Preset(
        "Photos, half the classes each",
        "Two ResNet-20 for colour photos: one tells airplanes from deer, the other dogs from trucks. CIFAR-10's images "
        "are yours to bring; the page says how.",
        HALVES,
        bundled=False,
    ),
)
PRESETS = tuple(preset for preset in EXAMPLES if set(preset.parents) <= set(catalog()))
"""Those whose networks are there."""
