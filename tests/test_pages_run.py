"""What a finished run shows beside its curves: answers beside the parents', and the run played again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtz_core.outputs.flips import OutputAnswers
from mtz_core.outputs.types import TaskType
from mtz_core.runs.answers import TaskAnswers, write_answers
from mtz_core.runs.store import RunStore
from pages.ui import run_replay
from tests.pages import Open, shown
from tests.synthetic import synthetic_run

ZIP = "pages/2_Zip.py"


def answered(parent: list[int], zipped: list[int], truth: list[int] | None) -> TaskAnswers:
    """Answers of classes to as many inputs, all of which are kept."""

    def one(rows: Any) -> Any:
        return np.asarray(rows).reshape(-1, 1, 1)

    names = tuple("abcdefghij")
    output = OutputAnswers(
        "", TaskType("multiclass"), names, one(parent), one(zipped), None if truth is None else one(truth)
    )
    count = len(parent)
    inputs = np.random.default_rng(0).random((count, 1, 6, 6)).astype(np.float32)
    return TaskAnswers((output,), np.arange(count, dtype=np.float32), np.arange(count), inputs, truth is not None)


def told(app: Any) -> str:
    """Everything the page says, what it draws itself included."""
    return "\n".join([shown(app), *(str(element.proto.body) for element in app.get("html"))])


def test_a_test_drive_counts_what_flipped_and_shows_it(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store)
    write_answers(run.path, 0, answered([0, 1, 2, 3], [0, 2, 2, 0], [0, 1, 2, 0]))
    app = visit(ZIP, run=run.id, view="answers")
    assert not app.exception
    said = told(app)
    assert "**2 of 4** test images are answered otherwise than by the parent: 1 became wrong, 1 became right" in said
    assert "cannot tell it from no difference" in said
    assert "✗ b → c" in said
    assert "✓ d → a" in said
    assert "= a" not in said  # those that stayed are shown when asked for
    assert "= a" in told(visit(ZIP, run=run.id, view="answers", show="all"))
    without = visit(ZIP, run=run.id, view="answers", of="clothes")
    assert "made by an earlier version" in shown(without)


def test_without_labels_the_inputs_that_calibrated_are_driven(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store)
    write_answers(run.path, 0, answered([0, 1], [0, 3], None))
    said = shown(visit(ZIP, run=run.id, view="answers"))
    assert "**1 of 2** of the images that calibrated are answered otherwise" in said
    assert "95 %" not in said


def test_errors_of_a_finished_run_have_their_interval(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store)
    truth = [0] * 160
    write_answers(run.path, 0, answered(truth, [1, 1, 1, *truth[3:]], truth))
    app = visit(ZIP, run=run.id)
    assert "95 % between −0.55 and +4.25: not clear" in shown(app)  # (3 ± 1.96 √(4 − 9/162)) / 162


def test_a_replay_stops_at_every_moment_and_knows_no_more_than_then(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store)
    events = store.events(run.id)
    stops = run_replay.moments(events)
    assert [events[k].kind for k in (stops[0], stops[-1])] == ["Started", "Finished"]
    first = next(n for n, k in enumerate(stops) if events[k].kind == "LayerZipped")
    app = visit(ZIP, run=run.id, view="replay", at=str(first))
    assert not app.exception
    assert "### fc1" in shown(app)
    assert "fc2" not in shown(app)
    app.button(key="replay-on").click().run()
    assert "### Error after zipping fc1" in shown(app).replace("\\", "")
    app.button(key="replay-back").click().run()
    app.button(key="replay-back").click().run()
    assert "all pairs of neurons compared" in shown(app)


@pytest.mark.parametrize("at", ["99999", "-3", "x", "1e400"])
def test_a_bad_moment_in_the_address_does_no_harm(visit: Open, store: RunStore, at: str) -> None:
    run = synthetic_run(store)
    assert not visit(ZIP, run=run.id, view="replay", at=at).exception
