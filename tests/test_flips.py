"""Answers beside the parent's: misses, intervals and flips against hand computations and simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtz_core import ZipSpec, zip_networks
from mtz_core.errors import RunError
from mtz_core.outputs import flips
from mtz_core.outputs.flips import OutputAnswers
from mtz_core.outputs.kinds import output_of
from mtz_core.outputs.types import TaskType
from mtz_core.runs.answers import TaskAnswers, path_of, read_answers, to_show, write_answers
from mtz_core.zipping.answered import both_sides, drive
from mtz_core.zipping.evaluation import answers_of, parent

CPU = torch.device("cpu")


def answers(kind: Any, parent: Any, zipped: Any, truth: Any = None, **more: Any) -> OutputAnswers:
    """Answers of one place from rows (N,) or (N, K)."""

    def shaped(rows: Any) -> Any:
        found = np.asarray(rows)
        return found.reshape(len(found), 1, -1)

    names = tuple(more.pop("names", ()))
    return OutputAnswers(
        "", TaskType(kind, **more), names, shaped(parent), shaped(zipped), None if truth is None else shaped(truth)
    )


def test_the_difference_of_errors_is_that_of_wrong_answers() -> None:
    truth = [0, 1, 2, 2, 1]
    one = answers("multiclass", [0, 1, 2, 0, 1], [0, 2, 2, 2, 0], truth)
    found = flips.difference(one)
    assert found is not None
    assert found.points == pytest.approx(100 * (2 - 1) / 5)
    assert flips.verdicts(one) == ["same", "worse", "same", "better", "worse"]
    assert flips.difference(answers("multiclass", [0], [1])) is None


def test_the_interval_of_pairs_is_that_of_agresti_and_min() -> None:
    # b inputs only the parent has right, c only the zipped network: 12 and 5 of 100
    truth = np.zeros(100, int)
    parent, zipped = truth.copy(), truth.copy()
    zipped[:12], parent[12:17] = 1, 1
    found = flips.difference(answers("multiclass", parent, zipped, truth))
    b, c, n = 12.5, 5.5, 102.0
    centre, half = (b - c) / n, 1.959964 * np.sqrt((b + c) - (b - c) ** 2 / n) / n
    assert found is not None
    assert (found.low, found.high) == pytest.approx((100 * (centre - half), 100 * (centre + half)))
    assert not found.clear


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_intervals_hold_the_true_difference_as_often_as_they_say(kind: str) -> None:
    rng, held, runs = np.random.default_rng(0), 0, 300
    for _ in range(runs):
        n, k = 160, 1 if kind == "multiclass" else 3
        if kind == "regression":
            truth = rng.normal(size=(n, k))
            parent, zipped = truth + 0.2 * rng.normal(size=(n, k)), truth + 0.3 * rng.normal(size=(n, k))
            true = 100 * (0.3 - 0.2) * np.sqrt(2 / np.pi)
        else:
            truth = np.zeros((n, k), int)
            both = rng.random((n, k)) < 0.03
            parent, zipped = (rng.random((n, k)) < 0.02) | both, (rng.random((n, k)) < 0.05) | both
            parent, zipped = parent.astype(int), zipped.astype(int)
            true = 100 * 0.97 * (0.05 - 0.02)
        found = flips.difference(answers(kind, parent, zipped, truth))
        assert found is not None
        held += found.low <= true <= found.high
    assert 0.92 <= held / runs <= 0.99


def test_labels_that_are_ignored_count_for_nothing() -> None:
    truth = [[0, 9], [1, 0], [9, 1]]
    one = answers("multilabel", [[0, 1], [1, 0], [1, 1]], [[1, 0], [1, 1], [0, 1]], truth, ignore_index=9)
    found = flips.difference(one)
    assert found is not None
    assert found.points == pytest.approx(100 * np.mean([1 / 2, 1 / 2]))
    assert flips.verdicts(one) == ["worse", "worse", "other"]


def test_a_table_of_answers_counts_every_pair() -> None:
    one = answers("multiclass", [0, 0, 1, 2, 2], [0, 1, 1, 2, 0], names=("a", "b", "c"))
    table = flips.confusion(one)
    assert table is not None
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert [flips.answer_text(one, one.zipped, k) for k in range(3)] == ["a", "b", "b"]
    attributes = answers("multilabel", [[1, 0]], [[0, 0]], names=("serif", "bold"))
    assert flips.confusion(attributes).tolist() == [[1, 0], [1, 0]]  # type: ignore[union-attr]
    said = [flips.answer_text(attributes, side, 0) for side in (attributes.parent, attributes.zipped)]
    assert said == ["serif", "none"]
    assert flips.change_text(attributes, 0) == "serif → no"
    assert flips.attribute_changes(attributes) == [("serif", 1, 0, 1), ("bold", 1, 0, 0)]
    assert flips.change_text(one, 1) == "a → b"


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "binary", "regression"])
def test_a_drive_says_what_the_networks_answer(kind: Any) -> None:
    torch.manual_seed(0)
    wide = 1 if kind == "binary" else 3
    nets = [
        torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.ReLU(), torch.nn.Linear(9, wide)).double().eval()
        for _ in range(2)
    ]
    x = torch.randn(64, 6, dtype=torch.float64)
    with torch.no_grad():
        plain = nets[1](x)
    labels = {"multiclass": plain.argmax(1), "regression": plain + 0.1}.get(kind, (plain > 0).long())
    network = zip_networks(nets, [x, x], ZipSpec.model_validate({"types": [kind, kind]})).network
    output = output_of(TaskType(kind), plain)
    found = drive(both_sides(network, 1), output, x, labels, CPU)
    (own,) = found.answers
    assert own.truth is not None
    with torch.no_grad():
        theirs, mine = parent(network, 1)(x), answers_of(network, 1)(x)
    said = {"multiclass": lambda z: z.argmax(1, keepdim=True).int(), "regression": lambda z: z.float()}.get(
        kind, lambda z: (z > 0).int()
    )
    assert torch.equal(own.parent[:, 0], said(theirs))
    assert torch.equal(own.zipped[:, 0], said(mine))
    beside = OutputAnswers("", own.type, (), own.parent.numpy(), own.zipped.numpy(), own.truth.numpy())
    errors = [output.scores([(z, labels)]).error for z in (mine, theirs)]
    gap = flips.difference(beside)
    assert gap is not None
    assert gap.points == pytest.approx(errors[0] - errors[1], abs=1e-4)


def test_what_is_kept_to_look_at_begins_with_what_became_wrong(tmp_path: Path) -> None:
    n = 500
    parent = np.zeros(n, int)
    zipped, truth = parent.copy(), parent.copy()
    zipped[[7, 30, 41]], truth[30] = 1, 1  # 7 and 41 became wrong, 30 right
    output = answers("multiclass", parent, zipped, truth)
    divergence = np.zeros(n)
    divergence[[41, 30, 7]] = (3.0, 9.0, 1.0)
    shown = to_show([output], divergence, 8)
    assert shown[:3].tolist() == [41, 7, 30]
    assert len(shown) == len(set(shown.tolist())) == 60
    assert len(to_show([output], divergence, 2**24)) == 2
    kept = TaskAnswers((output,), divergence, shown, np.zeros((60, 1, 2, 2), np.float32), True)
    write_answers(tmp_path, 1, kept)
    again = read_answers(tmp_path, 1)
    assert again is not None
    assert again.judged
    assert again.outputs[0].type == output.type
    for one, other in ((again.outputs[0].zipped, output.zipped), (again.shown, shown), (again.divergence, divergence)):
        assert np.array_equal(one, other)
    assert read_answers(tmp_path, 0) is None
    path_of(tmp_path, 1).write_bytes(path_of(tmp_path, 1).read_bytes()[:-9])
    with pytest.raises(RunError, match="cannot be read"):
        read_answers(tmp_path, 1)
