"""The harm of single pairs: what is found quickly and without labels is what undoing each by hand gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core import Zipper, ZipSpec
from mtz_core.graph.execution import execute
from mtz_core.pairing.slots import shared_rows
from mtz_core.zipping import pair_harm
from mtz_core.zipping.harm import HarmMeter
from mtz_core.zipping.pair_harm import PairMeter
from mtz_core.zipping.undoing import Weights, looked_up, without
from tests.networks import FAMILIES, images, randomised

TAU = 4.0


class Attentive(nn.Module):
    """Two patches that look at each other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Linear(32, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1).reshape(-1, 2, 32)).relu()
        return self.head(self.attend(x, x, x, need_weights=False)[0].mean(1))


def _meter(family: type[nn.Module], tasks: int = 2, **options: object) -> HarmMeter:
    parents = [randomised(family(), seed) for seed in range(1, tasks + 1)]
    spec = ZipSpec(ridge=1e-3, **options)
    zipper = Zipper(parents, [images(80, seed) for seed in range(tasks)], spec)
    for _ in zipper.run():
        pass
    return zipper.meter()


def _softened(logits: Tensor) -> NDArray[np.float64]:
    z = logits.detach().double().numpy() / TAU
    z = z - z.max(1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(1, keepdims=True)))


def _divergences(meter: HarmMeter, weights: Weights, given: Sequence[Tensor]) -> list[NDArray[np.float64]]:
    """τ² KL(parent ‖ network) of every image, by numpy, from whole passes through both."""
    parents, found = meter.job.network(), []
    for t, x in enumerate(given):
        with torch.no_grad():
            both = [execute(parents.program(t), x, looked_up(parents, t, each)) for each in ({}, weights)]
        p, q = map(_softened, both)
        found.append(TAU**2 * (np.exp(p) * (p - q)).sum(1))
    return found


@pytest.mark.parametrize("family", [*FAMILIES.values(), Attentive])
def test_every_pair_is_undone_alone_and_judged_by_softened_divergence(family: type[nn.Module]) -> None:
    meter = _meter(family, batch_size=7)
    given = [images(30, 8), images(23, 9)]
    for group in meter.groups:
        before = _divergences(meter, meter.start, given)
        slots = list(range(min(3, len(shared_rows(meter.network.tables[group])))))
        for slot, found in zip(slots, PairMeter(meter, group, given).measure(slots), strict=True):
            first = meter.walk.stations()[0]
            tables = without(meter.network.tables, group, [slot])
            again = meter.replay.weights(tables, first, {}, meter.replay.streams({}))
            won = [a - b for a, b in zip(before, _divergences(meter, again, given), strict=True)]
            assert found.images == (30, 23)
            assert found.won == pytest.approx([w.mean() for w in won], rel=1e-4, abs=1e-7)
            assert found.errors == pytest.approx([w.std(ddof=1) / len(w) ** 0.5 for w in won], rel=1e-3, abs=1e-7)
            assert found.error == pytest.approx(sum(e**2 for e in found.errors) ** 0.5)


def test_of_three_tasks_only_those_in_a_slot_are_freed() -> None:
    meter = _meter(FAMILIES["perceptron"], tasks=3)
    given = [images(20, seed) for seed in (8, 9, 10)]
    group = meter.groups[-1]
    before = _divergences(meter, meter.start, given)
    pairs = PairMeter(meter, group, given)
    for slot in range(2):
        after = _divergences(meter, pairs.undone(slot), given)
        won = [float((a - b).mean()) for a, b in zip(before, after, strict=True)]
        assert pairs.judged(pairs.undone(slot)).won == pytest.approx(won, rel=1e-4, abs=1e-7)


def test_one_pair_alone_is_the_harm_of_its_layer() -> None:
    meter = _meter(FAMILIES["perceptron"], share={"fc1": 1, "fc2": 0})
    (group,) = meter.groups
    given = [images(25, 8), images(25, 9)]
    (found,) = PairMeter(meter, group, given).measure([0])
    undone = [d.mean() for d in _divergences(meter, meter.start, given)]  # without its only merge nothing is changed
    assert found.won == pytest.approx(undone, rel=1e-4, abs=1e-7)
    assert found.total == pytest.approx(sum(undone), rel=1e-4)


def test_of_large_answers_fewer_inputs_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = _meter(FAMILIES["perceptron"])
    answer = meter.job.networks[0](images(1, 0)).element_size() * 4
    monkeypatch.setattr(pair_harm, "KEPT", 6 * answer)
    (found,) = PairMeter(meter, meter.groups[0], [images(25, 8), images(5, 9)]).measure([1])
    assert found.images == (6, 5)
