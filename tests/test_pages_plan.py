"""Planning on the Zip page: a process measures, the sliders follow, another budget needs no process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from mtz_core.figures.text import percent_text
from mtz_core.spec import BudgetSpec, NetworkSpec, RunSpec, ZipSpec
from mtz_core.structure.joint import joined
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import plan_counts
from mtz_core.zoo.structures import structures
from pages.ui import measuring
from pages.ui.query import query_of
from tests.pages import component, shares, totals

ROOT = Path(__file__).resolve().parents[1]
PAIR = ["lenet300-mnist-0", "lenet300-fashion-0"]
Open = Callable[..., AppTest]


@pytest.fixture
def visit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setenv("MTZ_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MTZ_UPLOADS", str(tmp_path / "uploads"))
    measuring.measured().clear()
    measuring.all_jobs().clear()
    measuring.failed().clear()

    def opened(**parameters: Any) -> AppTest:
        app = AppTest.from_file(str(ROOT / "Home.py"), default_timeout=120)
        app.switch_page("pages/2_Zip.py")
        for name, value in parameters.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception, app.exception
        return app

    return opened


def counted(app: AppTest) -> float:
    """Size that the sliders ask for, as a multiple of the smallest parent."""
    said = shares(app)
    shared = {n: round(said[n] * w) for n, w in (("fc1", 300), ("fc2", 100))}
    return plan_counts(joined([structures()[name] for name in PAIR]), shared, Keeping(bias=True)).versus_smallest


def finished(app: AppTest) -> AppTest:
    """The page once its process has ended."""
    until = time.monotonic() + 120
    while app.session_state["plan-job"] is not None and time.monotonic() < until:
        time.sleep(0.3)
        app.run()
        assert not app.exception, app.exception
    return app


def test_a_plan_sets_the_sliders_within_the_budget_and_draws_curves(visit: Open) -> None:
    app = visit(parents=PAIR, images="100", size="1.4")
    charts = len(app.get("plotly_chart"))
    app.button(key="plan").click().run()
    finished(app)
    assert not app.exception
    assert not app.error
    assert 1.35 < counted(app) <= 1.4
    assert len(app.get("plotly_chart")) == charts + 1  # the frontier
    assert [len(each["counts"]) > 5 for each in component(app, "mtz_shares")["choice"]["curves"]] == [True, True]

    app.number_input(key="size").set_value(1.2).run()
    app.button(key="plan").click().run()
    app.run()
    assert app.session_state["plan-job"] is None
    assert 1.15 < counted(app) <= 1.2

    app.number_input(key="size").set_value(0.5).run()
    app.button(key="plan").click().run()
    assert "too few" in app.error[0].value


def test_a_budget_of_computation_chooses_the_layers_that_are_computed_once(visit: Open) -> None:
    app = visit(parents=PAIR, images="100", budget="computation", macs="1.3")
    assert app.number_input(key="macs").value == 1.3
    app.button(key="plan").click().run()
    finished(app)
    assert not app.error
    assert app.selectbox(key="trunk").value == "fc1"
    assert shares(app) == {"fc2": 0.0}
    said = " ".join(caption.value for caption in app.caption)
    assert "take 1.12 times the multiplications of one network instead of 2.00" in said
    networks = [structures()[name] for name in PAIR]
    expected = plan_counts(joined(networks), {"fc1": 300, "fc2": 0}, Keeping.all())
    assert percent_text(expected.versus_all) in totals(app).values()

    app.number_input(key="macs").set_value(1.0).run()
    assert "too few" in app.error[0].value
    assert app.button(key="plan").disabled


def test_the_trunk_lives_in_the_address_and_goes_into_the_run(visit: Open) -> None:
    app = visit(parents=PAIR, trunk="fc2", images="100")
    assert app.selectbox(key="trunk").value == "fc2"
    parents = [NetworkSpec(parent=name) for name in PAIR]
    for zipping in (
        ZipSpec(trunk="fc2"),
        ZipSpec(share="auto", budget=BudgetSpec(macs=1.05)),
        ZipSpec(share="auto", budget=BudgetSpec(macs=1.05, size=1.5)),
    ):
        query = query_of(RunSpec(networks=parents, zip=zipping))
        assert query is not None
        assert query["trunk"] == "fc2"
    assert visit(parents=PAIR, trunk="conv9").selectbox(key="trunk").value == "nothing"
    assert not visit(parents=["lenet300-mnist-0", "lenet300-sparse-mnist-0"], trunk="fc1").exception


def test_stop_ends_the_process(visit: Open) -> None:
    app = visit(parents=PAIR, images="1000")
    app.button(key="plan").click().run()
    process: subprocess.Popen[bytes] = measuring.all_jobs()[app.session_state["plan-job"]].process
    assert process.poll() is None
    app.button(key="plan-stop").click().run()
    assert not app.exception
    assert process.poll() is not None
    assert app.session_state["plan-job"] is None
    assert not app.button(key="plan").disabled


def test_a_reloaded_page_finds_its_process_again(visit: Open) -> None:
    asked = {"parents": PAIR, "images": "100", "size": "1.4"}
    app = visit(**asked)
    app.button(key="plan").click().run()
    process = measuring.all_jobs()[app.session_state["plan-job"]].process
    again = visit(**asked)
    assert measuring.all_jobs()[again.session_state["plan-job"]].process is process
    assert again.button(key="plan-stop")
    assert visit(parents=PAIR, images="200").session_state["plan-job"] is None
    finished(again)
    assert 1.35 < counted(again) <= 1.4
    app.run()
    assert not app.exception
    assert app.session_state["plan-job"] is None
    assert not measuring.all_jobs()


def test_a_process_that_fails_says_why(visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring.sys, "executable", "/bin/false")
    app = visit(parents=PAIR, images="100")
    app.button(key="plan").click().run()
    finished(app)
    assert "without a word" in app.error[0].value
