"""What the lesson's texts say in numbers: every `{name}` of a text, computed from the bundled measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtz_core.figures import lessons
from mtz_core.figures.text import percent_text
from mtz_core.structure.networks import NetworkStructure

Facts = dict[str, str]


def loss_text(value: float) -> str:
    """Return a loss or cost with three significant digits."""
    return "0" if value == 0 else f"{value:.3g}"


def times(factor: float) -> str:
    """Return a factor with two significant digits.

    >>> times(6.4509), times(143.2)
    ('6.5', '143')
    """
    return f"{factor:.0f}" if factor >= 9.95 else f"{factor:.1f}"


def error(percent: float) -> str:
    """Return an error in % with one digit."""
    return percent_text(percent / 100, 1)


def networks(part: Mapping[str, Any]) -> Facts:
    """Step 1: the cheapest and the dearest of nine pairs."""
    d = np.asarray(part["differences"])
    i, j = divmod(int(d.argmin()), d.shape[1])
    facts = {"cheap": loss_text(d.min()), "dear": loss_text(d.max()), "ratio": times(d.max() / d.min())}
    return facts | {"cheap_a": f"neuron {i + 1}", "cheap_b": f"neuron {j + 1}"}


def one_bowl(part: Mapping[str, Any]) -> Facts:
    """Step 2: how much steeper the bowl of the digits' neuron is one way than the other."""
    values, _ = lessons.principal_axes(part["grams"][0])
    return {"steep": times(values[1] / values[0]), "images": f"{part['images'][0]:,}"}


def two_bowls(part: Mapping[str, Any]) -> Facts:
    """Step 3, at α = ½: the mean of the weights, the best on the line, the lowest place, and all weights."""
    a, b = (np.asarray(w) for w in part["weights"])
    line = [lessons.weighted_loss(part, a + t * (b - a), 0.5) for t in np.linspace(0, 1, 1001)]
    middle = lessons.weighted_loss(part, (a + b) / 2, 0.5)
    height = next(c["height"] for c in part["compromises"] if math.isclose(c["alpha"], 0.5))
    facts = {"middle": loss_text(middle), "line": loss_text(min(line)), "height": loss_text(height)}
    return facts | {"saved": percent_text(1 - height / middle), "whole": loss_text(part["whole"])}


def nearest(part: Mapping[str, Any]) -> Facts:
    """Step 4: the ruler's choice against the data's."""
    near, best = part["differences"]
    lost = {
        metric: math.fsum(zipped["errors"]) - math.fsum(zipped["parents"]) for metric, zipped in part["zips"].items()
    }
    facts = {"of": str(part["of"]), "cheaper": str(part["cheaper"]), "ratio": times(near / best)}
    return facts | {"lost_ruler": f"{lost['euclidean']:.1f}", "lost_data": f"{lost['functional']:.1f}"}


def pairing(part: Mapping[str, Any]) -> Facts:
    """Step 5: greedy and optimal, on six by six and on the whole layer."""
    cost = np.asarray(part["costs"])
    greedy, best = (
        lessons.total_cost(cost, steps(cost)[-1]) for steps in (lessons.greedy_steps, lessons.optimal_steps)
    )
    whole = part["whole"]
    facts = {"greedy": loss_text(greedy), "best": loss_text(best), "saved": percent_text(1 - best / greedy)}
    facts |= {"whole_greedy": loss_text(whole[0]), "whole_best": loss_text(whole[1])}
    return facts | {"whole_saved": percent_text(1 - whole[1] / whole[0]), "whole_n": "300"}


def sizes(structures: Sequence[NetworkStructure]) -> Facts:
    """Step 6: the size of two networks with half of all neurons shared, and with all."""
    before = sum(network.parameters for network in structures)
    table = lessons.size_table(structures, (50, 100))
    half, full = table[0][0]["total"] / before, table[1][1]["total"] / before
    return {"half": percent_text(half), "full": percent_text(full), "part": percent_text((1 - half) / (1 - full))}


def layers(part: Mapping[str, Any]) -> Facts:
    """Step 7: test errors when all layers are merged."""
    plain, compensated, own = part["plain"]["errors"][-1], part["compensated"]["errors"][-1], part["plain"]["errors"][0]
    named = {"plain": plain, "comp": compensated, "own": own}
    return {f"{name}_{'ab'[t]}": error(values[t]) for name, values in named.items() for t in range(2)}


def wrong(part: Mapping[str, Any]) -> Facts:
    """Step 8: mean test errors of three draws, with images of one class, also without a ridge, and with mixed ones."""
    means = {name: lessons.mean_of_draws(draws) for name, draws in part["errors"].items()}
    named = {"one": means["010"], "bare": means["011"], "good": means["000"]}
    return {f"{name}_{'ab'[t]}": error(values[t]) for name, values in named.items() for t in range(2)}


def sweeps(part: Mapping[str, Any], words: Mapping[str, str]) -> Facts:
    """Step 9: where each pair's error leaves the parents', in the words of the text."""
    verdicts = []
    for name, sweep in part.items():
        size = lessons.leaving_size(sweep["points"])
        smallest = min(point["size"] for point in sweep["points"])
        text = words["verdict_never"] if size is None else words["verdict"]
        pair = words[name][:1].upper() + words[name][1:]
        verdicts.append(text.format(pair=pair, size=percent_text(smallest if size is None else size)))
    return {"verdicts": " ".join(verdicts), "leaves": f"{lessons.LEAVES:g}"}
