"""The preflight panel of the Networks page: it runs the command, shows its report, and says what went wrong."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from mtz_core.data.uploads import keep
from mtz_core.own.registry import OwnNetwork, remember
from mtz_core.spec import NetworkSpec, TransformSpec
from mtz_core.zoo.catalog import parent_info
from mtz_core.zoo.structures import structures
from tests.pages import Open

PAIR = ["lenet300-mnist-0", "lenet300-fashion-0"]


@pytest.fixture
def visit(visit: Open) -> Open:
    return partial(visit, "pages/1_Networks.py")


def check(app: AppTest) -> AppTest:
    app.button(key="preflight-check").click().run()
    assert not app.exception, app.exception
    return app


def table(app: AppTest, column: str) -> Any:
    """The first table with this column, as lists."""
    return next(t.value for t in app.dataframe if column in t.value.columns).to_dict("list")


def verdicts(app: AppTest) -> list[str]:
    return [str(e.value) for e in (*app.success, *app.error) if "reen" in str(e.value) or "failed" in str(e.value)]


def test_checking_two_networks_shows_the_commands_report_and_names_them_in_the_url(visit: Open) -> None:
    app = visit(parents=PAIR)
    assert verdicts(app) == []
    check(app)
    (text,) = verdicts(app)
    assert text.startswith("Green: these networks can be zipped, and all 4 self-checks passed.")
    assert table(app, "sharable")["parameters"] == ["266,610", "266,610"]
    assert table(app, "sharable")["input"] == ["1 × 28 × 28"] * 2
    checks = table(app, "deviation")
    assert checks["result"] == ["✓ passed"] * 4
    assert max(map(float, checks["deviation"])) < 1e-3
    rows = table(app, "shared")
    assert rows["layer of 0: digits"] == ["fc1 (linear, 300)", "fc2 (linear, 100)", "fc3 (linear, 10)"]
    assert rows["shared"] == ["✓ shared", "✓ shared", "✗ not shared: task head"]
    assert app.query_params["preflight"] in (",".join(PAIR), [",".join(PAIR)])

    app.multiselect(key="parents").set_value(["lenet300-mnist-0", "lenet300-letters-0"]).run()
    assert verdicts(app) == [], "the report belongs to other networks"


def test_a_network_that_was_brought_is_checked_and_a_link_shows_the_report(visit: Open) -> None:
    weights = keep(parent_info("lenet5-mnist-0").weights.read_bytes())
    spec = NetworkSpec(architecture="lenet5", weights=weights, data="mnist", transform=TransformSpec())
    structure = structures()["lenet5-mnist-0"]
    remember(OwnNetwork("mine-12345678", "Mine", spec, structure, 10, (1, 28, 28), None, 0))
    parents = ["mine-12345678", "lenet300-mnist-0"]
    app = visit(parents=parents, preflight=",".join(parents))
    assert verdicts(app)[0].startswith("Green")
    assert table(app, "sharable")["architecture"] == ["LeNet5", "LeNet300"]
    shared = table(app, "shared")["shared"]
    assert "✗ not shared: no other network has layers that correspond" in shared
    assert any("read nothing in common" in str(e.value) for e in app.info)


def test_networks_that_do_not_correspond_are_red_with_the_reason(visit: Open) -> None:
    app = check(visit(parents=["resnet14-mnist-0", "lenet300-mnist-0"]))
    (text,) = verdicts(app)
    assert "cannot be zipped together" in text
    assert "no hidden layer of network 1 corresponds" in text
    assert table(app, "deviation")["result"] == ["✓ passed"] * 4


def test_one_network_has_no_panel_and_a_link_to_others_checks_nothing(
    visit: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pages.ui.preflight._checked", lambda parents: pytest.fail("nothing was asked for"))
    app = visit(parents=["lenet300-mnist-0"], preflight="lenet300-mnist-0")
    assert "preflight-check" not in [button.key for button in app.button]
    app = visit(parents=PAIR, preflight=",".join(reversed(PAIR)))
    assert verdicts(app) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'the *weights* are gone' >&2; exit 2", r"the \*weights\* are gone"),
        ("echo 'Traceback (most recent call last):' >&2; echo 'MemoryError: much' >&2; exit 1", "MemoryError"),
        ("kill -9 $$", "without a word"),
        ("sleep 60", r"more than 1 seconds"),
    ],
    ids=["message", "traceback", "killed", "too long"],
)
def test_a_check_that_fails_says_why(
    visit: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/bash\n{script.replace('sleep', 'exec sleep')}\n")
    program.chmod(0o755)
    app = visit(parents=PAIR)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("pages.ui.preflight.PATIENCE", 1.0)
    check(app)
    (text,) = verdicts(app)
    assert "The check failed" in text
    assert said in text


def test_what_stays_private_is_listed_with_its_reason(visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def report(parents: Any) -> Any:
        network = {
            "architecture": "Net", "input_shape": [3, 8, 8], "nodes": 3, "layers": 2, "groups": 2, "parameters": 99,
            "head": 9, "sharable": 40, "share": 40 / 90, "private": {"reads *odd* values": 50},
            "frozen": {"conv1": "mixed by an operation"},
        }  # fmt: skip
        failed = {"name": "channels permuted", "network": 0, "passed": False, "deviation": None, "note": ""}
        return json.loads(
            json.dumps(
                {"green": False, "seconds": 1.0, "problems": [], "networks": [network] * 2, "checks": [failed],
                 "correspondence": []}
            )
        )  # fmt: skip

    monkeypatch.setattr("pages.ui.preflight._checked", report)
    app = check(visit(parents=PAIR))
    assert verdicts(app)[0].startswith("Not green: 1 of 1 self-checks failed.")
    text = "\n".join(str(e.value) for e in app.markdown)
    assert r"50 parameters\: reads \*odd\* values" in text
    assert r"group conv1 stays with its task\: mixed by an operation" in text
    assert table(app, "deviation")["deviation"] == ["not a number"]
    assert table(app, "sharable")["sharable"] == ["44.4\u00a0%"] * 2
