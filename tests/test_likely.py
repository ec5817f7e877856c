"""Answers that are likely to change: by margins of many inputs and movements of few."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtz_core import TaskType
from mtz_core.outputs.attributes import Attributes
from mtz_core.outputs.kind import Output
from mtz_core.outputs.likely import ENOUGH, likely_changed
from mtz_core.outputs.multiclass import Multiclass
from mtz_core.outputs.several import Several
from mtz_core.outputs.values import Values

KINDS: dict[str, Output] = {
    "classes": Multiclass(TaskType("multiclass")),
    "attributes": Attributes(TaskType("multilabel")),
    "values": Values(TaskType("regression"), torch.ones(4, dtype=torch.float64)),
}


def _outputs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A parent's outputs (N, 4) and those of a network that is a little off."""
    generator = torch.Generator().manual_seed(seed)
    z, noise = (torch.randn(count, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return 3.0 * z, 3.0 * z + 0.2 * noise


def test_every_answer_moves_as_those_of_the_closest_margins_did() -> None:
    rng = np.random.default_rng(0)
    margins, moved, many = rng.random(300), rng.normal(size=300) / 2, 1.2 * rng.random(40)
    order, near = np.argsort(margins), 60  # a fifth
    told = 0.0
    for margin in many:
        first = int((margins < margin).sum()) - near // 2
        window = order[max(0, min(first, 300 - near)) :][:near]
        told += np.mean(moved[window] > margin) / len(many)
    found = likely_changed(*(torch.from_numpy(x) for x in (margins, moved, many)))
    assert found == pytest.approx(told, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_where_each_moves_as_itself_answers_are_counted(kind: str) -> None:
    output = KINDS[kind]
    seen = 0.0
    for seed in range(60):  # of fewer than ten inputs a fifth is one
        parent, other = (output.predictions(z) for z in _outputs(9, seed))
        changed = float(output.changed(parent, other).mean())
        assert output.likely(parent, other, parent) == pytest.approx(changed, abs=1e-12)
        seen += changed
    assert seen > 0.5


@pytest.mark.parametrize("kind", ["classes", "attributes"])
def test_margins_are_those_of_the_many(kind: str) -> None:
    output = KINDS[kind]
    parent, other = (output.predictions(z) for z in _outputs(500, 5))
    near, far = (output.likely(parent, other, output.predictions(scale * _outputs(500, 6)[0])) for scale in (0.5, 9.0))
    assert near > 2 * output.likely(parent, other, parent) > 4 * far


@pytest.mark.parametrize("kind", ["classes", "attributes"])
def test_what_is_likely_is_nearer_to_what_changes_in_the_long_run_than_a_count(kind: str) -> None:
    output = KINDS[kind]
    parent, other = (output.predictions(z) for z in _outputs(200_000, 1))
    truth = float(output.changed(parent, other).mean())
    counted, likely = [], []
    for k in range(150):
        judge, every = slice(1000 * k, 1000 * k + 500), slice(1000 * k, 1000 * k + 1000)
        counted.append(float(output.changed(parent[judge], other[judge]).mean()))
        likely.append(output.likely(parent[judge], other[judge], parent[every]))
    assert np.mean(likely) == pytest.approx(truth, rel=0.1)
    assert np.std(likely) < 0.8 * np.std(counted)


def test_many_answers_are_counted_and_several_outputs_are_a_mean() -> None:
    margins = torch.linspace(0.0, 1.0, ENOUGH)
    moved = torch.where(margins < 0.25, 2.0, 0.0)
    assert likely_changed(margins, moved, torch.ones(3)) == pytest.approx(0.25, abs=1e-3)
    parts = (KINDS["classes"], KINDS["attributes"])
    both = Several.of(("a", "b"), parts, ((4,), (4,)))
    pairs = [_outputs(400, seed) for seed in (3, 4)]
    parent, other = (both.predictions(torch.cat([pair[k] for pair in pairs], 1)) for k in (0, 1))
    own = [[part.predictions(z) for z in pair] for part, pair in zip(parts, pairs, strict=True)]
    told = [part.likely(x, y, x) for part, (x, y) in zip(parts, own, strict=True)]
    assert told[0] != told[1]
    assert both.likely(parent, other, parent) == pytest.approx(sum(told) / 2, rel=1e-12)
