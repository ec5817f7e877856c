"""The Learn page without a browser: every step opens, the address leads, and a guess becomes a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mtz_core.runs.store import RunStore
from pages.ui.lesson import stage
from pages.ui.lesson.texts import ORDER, STEPS, load_texts
from tests.pages import Open, shown

LEARN = "pages/5_Learn.py"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was handed to the browser, step by step."""
    found: list[dict[str, Any]] = []
    fakes = {step: lambda **given: found.append(given) for step in ORDER}
    monkeypatch.setattr(stage, "_components", fakes)
    return found


@pytest.mark.parametrize("step", ORDER)
def test_every_step_opens_with_its_numbers_and_texts(visit: Open, drawn: list[dict[str, Any]], step: str) -> None:
    visit(LEARN, step=step)
    (given,) = drawn
    assert (given["data"]["step"], given["data"]["mode"]) == (step, "read")
    assert given["data"]["texts"] == load_texts()["steps"][step]
    assert given["data"]["part"]


def test_an_unknown_step_is_named_and_the_first_one_shown(visit: Open, drawn: list[dict[str, Any]]) -> None:
    assert "“step” = “12”, which is not a step from 1 to 9" in shown(visit(LEARN, step="12"))
    assert drawn[0]["data"]["step"] == "1"


def test_a_link_can_hide_controls_and_ask_for_the_speakers_mode(visit: Open, drawn: list[dict[str, Any]]) -> None:
    visit(LEARN, step="3", present="1", hide="question,alpha,")
    assert drawn[0]["data"]["mode"] == "present"
    assert drawn[0]["data"]["hide"] == ["question", "alpha"]


def test_the_handout_holds_all_nine_steps(visit: Open, drawn: list[dict[str, Any]]) -> None:
    visit(LEARN, handout="1")
    assert [given["data"]["step"] for given in drawn] == list(STEPS)
    assert {given["data"]["mode"] for given in drawn} == {"handout"}


class Worker:
    """A process that goes on."""

    def poll(self) -> None:
        """Say that it is alive."""


def test_a_guess_starts_a_run_and_leads_to_it(visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtz_core.runs.launch.start_worker", lambda store, run_id, resume=False: Worker())
    answers = [SimpleNamespace(zip={"pair": "clothes", "size": 60})]
    fakes = {step: lambda **given: answers.pop() if answers else None for step in ORDER}
    monkeypatch.setattr(stage, "_components", fakes)
    app = visit(LEARN, step="9")
    (record,) = store.list()
    assert record.spec.zip.share == 0.8
    assert [network.parent for network in record.spec.networks] == ["lenet300-mnist-0", "lenet300-fashion-0"]
    assert record.id in shown(app)


def test_asking_for_a_step_turns_to_it(visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, seen = [SimpleNamespace(go="4")], []

    def fake(**given: Any) -> Any:
        seen.append(given["data"]["step"])
        return answers.pop() if answers else None

    monkeypatch.setattr(stage, "_components", dict.fromkeys(ORDER, fake))
    app = visit(LEARN, step="3", hide="try", alpha="0.7")
    assert seen == ["3", "4"]
    assert {name: app.query_params[name] for name in app.query_params} in (
        {"step": "4", "hide": "try"},
        {"step": ["4"], "hide": ["try"]},
    )
