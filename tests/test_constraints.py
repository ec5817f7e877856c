"""Pairs that are decided beforehand: they come out as asked, and leave earlier layers as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtz_core import Zipper, ZipSpec, zip_networks
from mtz_core import events as ev
from mtz_core.errors import SpecError
from mtz_core.methods.kinds import PAIRING
from tests.networks import FAMILIES, images, randomised

METHODS = [name for name in PAIRING.names if not PAIRING.find(name).random]


def _layers(family: str, tasks: int = 2, **fields: Any) -> dict[str, ev.LayerZipped]:
    parents: list[nn.Module] = [randomised(FAMILIES[family](), seed + 1) for seed in range(tasks)]
    given = [images(80, 5 + t) for t in range(tasks)]
    found: dict[str, ev.LayerZipped] = {}

    def hear(event: ev.Event) -> None:
        if isinstance(event, ev.LayerZipped):
            found[event.layer] = event

    zip_networks(parents, given, ZipSpec(**{"share": 0.6, **fields}), on_event=hear)
    return found


def _pairs(event: ev.LayerZipped) -> set[tuple[int, ...]]:
    return {tuple(pair) for pair in event.pairs.tolist()}


@pytest.mark.parametrize("pairing", METHODS)
@pytest.mark.parametrize("tasks", [2, 3])
def test_rules_hold_with_every_pairing_method_and_leave_earlier_layers_as_they_were(pairing: str, tasks: int) -> None:
    rest = [None] * (tasks - 2)
    before = _layers("perceptron", tasks, pairing=pairing)
    together = next(pair for pair in _pairs(before["fc2"]) if min(pair[:2]) >= 0)
    pin = (together[0], (together[1] + 1) % 10)
    rules = {"pin": [[*pin, *rest]], "forbid": [], "apart": []}
    after = _layers("perceptron", tasks, pairing=pairing, constraints={"fc2": rules})
    assert pin in {pair[:2] for pair in _pairs(after["fc2"])}
    np.testing.assert_array_equal(before["fc1"].pairs, after["fc1"].pairs)
    np.testing.assert_array_equal(before["fc1"].merged, after["fc1"].merged)
    forbidden = _layers("perceptron", tasks, pairing=pairing, constraints={"fc2": {"forbid": [[*together[:2], *rest]]}})
    assert together[:2] not in {pair[:2] for pair in _pairs(forbidden["fc2"])}
    apart = _layers("perceptron", tasks, pairing=pairing, constraints={"fc2": {"apart": [[*together[:2], *rest]]}})
    kept = _pairs(apart["fc2"])
    assert not any(pair[0] == together[0] or pair[1] == together[1] for pair in kept)


def test_unmerging_a_pair_leaves_all_other_optimal_pairs_where_every_neuron_was_shared() -> None:
    before = _pairs(_layers("perceptron", share=1.0)["fc2"])
    pair = sorted(before)[4]
    after = _pairs(_layers("perceptron", share=1.0, constraints={"fc2": {"apart": [list(pair)]}})["fc2"])
    assert after == before - {pair}


def test_unmerging_a_pair_gives_the_error_that_undoing_it_foretells() -> None:
    parents = [randomised(FAMILIES["perceptron"](), seed) for seed in (1, 2)]
    given, tested = [images(80, 5), images(80, 6)], [(images(60, 7), torch.arange(60) % 4)] * 2
    zipper = Zipper(parents, given, ZipSpec(ridge=1e-3), evaluation=tested)
    for _ in zipper.run():
        pass
    group = zipper.job.joint.layers[1].group
    pair = zipper.network.tables[group][2].tolist()
    foretold = zipper.meter().undo(group, [2]).after.errors
    rules = {"fc2": {"apart": [pair]}}
    found = zip_networks(parents, given, ZipSpec(ridge=1e-3, constraints=rules), evaluation=tested).errors
    assert found == pytest.approx(foretold)


def test_a_rule_for_one_layer_of_a_stream_holds_for_all_that_write_it() -> None:
    after = _layers("residual", share=1.0, constraints={"b": {"pin": [[2, 5]]}})
    for name, pair in {"stem": [0, 3], "a": [0, 3], "b": [2, 5]}.items():  # b writes two channels more on either side
        assert any((after[name].pairs == pair).all(axis=1)), name
    with pytest.raises(SpecError, match="pin channels of one role"):
        _layers("residual", share=1.0, constraints={"b": {"pin": [[0, 3]]}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"constraints": {"fc9": {"pin": [[0, 0]]}}}, "no layer 'fc9' can be shared; those that can: fc1, fc2"),
        ({"constraints": {"fc2": {"pin": [[0, 0, 0]]}}}, "names 3 neurons for 2 networks"),
        ({"constraints": {"fc2": {"pin": [[0, 10]]}}}, "network 1 has neurons 0 to 9"),
        ({"constraints": {"fc2": {"pin": [[0, None]]}}}, "pin needs 2 neurons or more"),
        ({"constraints": {"fc2": {"pin": [[0, 1], [0, 2]]}}}, "pinned or kept apart twice"),
        ({"constraints": {"fc2": {"pin": [[0, 1]], "forbid": [[0, 1]]}}}, "pinned and forbidden"),
        ({"constraints": {"fc2": {"pin": [[0, 1]]}}, "share": 0.0}, "cannot be paired"),
        ({"constraints": {"fc2": {"pin": [[0, 1]]}}, "pairing": "random"}, "choose another pairing"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused_with_the_reason(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        _layers("perceptron", **fields)
