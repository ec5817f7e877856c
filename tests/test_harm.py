"""Undoing merges: what comes out is what a zip without them gives, and errors are those of the tasks' own kinds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtz_core import RetrainSpec, Zipper, ZipSpec, zip_networks
from mtz_core import events as ev
from mtz_core.graph.execution import execute
from mtz_core.zipping.undoing import Weights, looked_up, without
from tests.networks import FAMILIES, images, randomised


def _parents(family: str) -> list[torch.nn.Module]:
    return [randomised(FAMILIES[family](), seed) for seed in (1, 2)]


def _zipper(family: str, spec: ZipSpec, labels: bool = True) -> Zipper:
    parents, given = _parents(family), [images(80, seed) for seed in (3, 4)]
    tested = [(images(50, 5), torch.arange(50) % 4), None] if labels else None
    return Zipper(parents, given, spec, evaluation=tested, harm=True)


def _measured(zipper: Zipper) -> list[ev.HarmMeasured]:
    return [event for event in zipper.run() if isinstance(event, ev.HarmMeasured)]


def _answers(zipper: Zipper, weights: Weights, x: Tensor) -> list[Tensor]:
    parents = zipper.job.network()
    return [execute(parents.program(t), x, looked_up(parents, t, weights)) for t in range(2)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("compensate", [True, False])
def test_merging_again_without_undoing_gives_the_same_network(family: str, compensate: bool) -> None:
    zipper = _zipper(family, ZipSpec(compensate=compensate, share=0.8, ridge=1e-3))
    _measured(zipper)
    replay = zipper.meter().replay
    again = replay.weights(zipper.network.tables, zipper.stations[0], {}, replay.streams({}))
    for t, answer in enumerate(_answers(zipper, again, images(20, 9))):
        torch.testing.assert_close(answer, zipper.network.outputs(images(20, 9), t).detach(), rtol=1e-6, atol=1e-8)


def test_undoing_the_last_hidden_layer_is_zipping_without_sharing_it_and_errors_say_so() -> None:
    spec = ZipSpec(ridge=1e-3)
    zipper = _zipper("perceptron", spec)
    first, last = _measured(zipper)
    zipped = zip_networks(
        _parents("perceptron"), [images(80, seed) for seed in (3, 4)], spec.model_copy(update={"share": {"fc1": 1.0}})
    ).network.requires_grad_(False)
    x, labels = images(50, 5), torch.arange(50) % 4
    wrong = 100.0 * float((zipped.outputs(x, 0).argmax(1) != labels).double().mean())
    parent, given = _parents("perceptron")[1].requires_grad_(False), images(80, 4)
    changed = 100.0 * float((zipped.outputs(given, 1).argmax(1) != parent(given).argmax(1)).double().mean())
    assert last.layers == ("fc2",)
    assert last.errors_after == pytest.approx((wrong, changed))
    assert last.labelled == (True, False)
    assert last.images == (50, 80)
    log_p, log_q = (f.log_softmax(1) for f in (parent(given), zipped.outputs(given, 1)))
    divergence = float((log_p.exp() * (log_p - log_q)).sum(1).mean())
    assert last.divergences_after[1] == pytest.approx(divergence, rel=1e-5)
    assert first.errors_before == last.errors_before == pytest.approx(zipper.meter().reference[1].errors)


def test_undoing_the_only_merge_gives_the_parents_back() -> None:
    zipper = _zipper("perceptron", ZipSpec(share={"fc1": 0.5}), labels=False)
    (event,) = _measured(zipper)
    assert event.errors_after == (0.0, 0.0)
    assert event.divergences_after == pytest.approx((0.0, 0.0), abs=1e-6)
    assert max(event.errors_before) > 0.0


def test_layers_of_one_stream_are_undone_together_and_stay_alike() -> None:
    zipper = _zipper("residual", ZipSpec())
    found = _measured(zipper)
    layers = [layer for event in found for layer in event.layers]
    assert sorted(layers) == sorted(zipper.job.joint.layers[k].name for k in zipper.hidden)
    assert any(len(event.layers) > 1 for event in found)


def test_one_slot_alone_is_undone_where_it_is_asked_for() -> None:
    zipper = _zipper("perceptron", ZipSpec(ridge=1e-3))
    _measured(zipper)
    meter, tables = zipper.meter(), zipper.network.tables
    group = zipper.job.joint.layers[0].group
    changed = without(tables, group, [3])
    kept = {tuple(row) for row in tables[group].tolist()} - {tuple(tables[group][3].tolist())}
    assert kept < {tuple(row) for row in changed[group].tolist()}
    assert len(changed[group]) == len(tables[group]) + 1
    assert meter.undo(group, [3]).after != meter.undo(group, [4]).after
    assert meter.undo(group, []).after.errors == meter.reference[1].errors


def test_after_retraining_merges_are_compared_as_they_were_before_the_steps() -> None:
    retrain = RetrainSpec(steps=3, targets="distill", learning_rate=1e-2)
    plain, stepped = (_measured(_zipper("perceptron", ZipSpec(ridge=1e-3, retrain=r))) for r in (None, retrain))
    for a, b in zip(plain, stepped, strict=True):
        assert a.divergences_before == pytest.approx(b.divergences_before, rel=1e-4)
        assert a.divergences_after == pytest.approx(b.divergences_after, rel=1e-4)
