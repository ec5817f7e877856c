"""What a page costs the server, which draws those of a whole class with one interpreter."""

from __future__ import annotations

import gc
import json
import time
import tomllib
from collections.abc import Callable, Sequence

import pytest

from mtz_core.budget import shipped
from mtz_core.figures.size import size_bars
from mtz_core.figures.theme import template
from mtz_core.runs import queue
from mtz_core.runs.labels import label
from mtz_core.runs.store import RunStore
from mtz_core.runs.turns import Ticket
from mtz_core.structure.sizes import ParameterCounts
from tests.pages import ROOT, Open, shown, totals
from tests.synthetic import synthetic_run, synthetic_spec

ZIP = "pages/2_Zip.py"
BUDGET = 10.0
"""How many yardsticks a slider may cost: it costs 5, and 15 where all garbage is collected after it."""
FIGURES = ("mtz_core.figures.size.size_bars", "mtz_core.figures.drawing.planned_drawing")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what the Zip page draws below its inputs, as often as it does."""
    seen: list[str] = []
    for path in (*FIGURES, "pages.ui.plan.area", "pages.ui.measuring.follow"):
        module, _, name = path.rpartition(".")
        monkeypatch.setattr(path, counted(seen, name, getattr(__import__(module, fromlist=[name]), name)))
    monkeypatch.setattr("pages.ui.jobs.move", lambda now=True: None)  # no worker
    return seen


def counted(seen: list[str], name: str, function: Callable[..., object]) -> Callable[..., object]:
    def counting(*arguments: object, **named: object) -> object:
        seen.append(name)
        return function(*arguments, **named)

    return counting


def test_start_acts_before_the_page_is_drawn_on_what_the_inputs_say_now(
    visit: Open, store: RunStore, drawn: list[str]
) -> None:
    app = visit(ZIP)
    assert sorted(drawn) == ["area", "follow", "planned_drawing", "size_bars"]
    drawn.clear()
    app.number_input(key="seed").set_value(7)  # both come to the page at once
    app.button(key="start").click().run()
    (record,) = store.list()
    assert drawn == []
    assert app.query_params["run"] in (record.id, [record.id])
    assert record.spec.zip.seed == 7


def test_a_start_that_is_refused_says_so_on_the_whole_page(
    visit: Open, store: RunStore, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = visit(ZIP)
    monkeypatch.setenv("MTZ_MOST_IMAGES", "100")
    drawn.clear()
    app.button(key="start").click().run()
    assert "MTZ_MOST_IMAGES" in shown(app).replace("\\", "")
    assert store.list() == []
    assert sorted(drawn) == ["area", "follow", "planned_drawing", "size_bars"]
    assert totals(app)["size"]


def test_no_rerun_collects_all_garbage_of_the_server(visit: Open) -> None:
    collected: list[int] = []

    def note(phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            collected.append(about["generation"])

    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert config["runner"]["postScriptGC"] is False
    app = visit("Home.py")
    gc.collect()
    gc.callbacks.append(note)
    try:
        for _ in range(3):
            app.run()
    finally:
        gc.callbacks.remove(note)
    assert collected.count(2) < 3


def test_a_specification_is_read_once_and_again_when_it_changes(store: RunStore) -> None:
    run = synthetic_run(store, title="one")
    first = store.get(run.id).spec
    assert store.get(run.id).spec is first
    assert store.list()[0].spec is first
    label(store, run.id, title="two")
    assert (store.get(run.id).title, store.get(run.id).spec.zip) == ("two", first.zip)


def test_what_curves_depend_on_is_everything_but_shares_budget_and_title() -> None:
    def text(**fields: object) -> str:
        return shipped.curves_text(synthetic_spec().model_copy(update=fields))

    spec = synthetic_spec()
    plain = text()
    assert text() == plain == text(title="another")
    assert text(zip=spec.zip.model_copy(update={"share": {"fc1": 0.25}})) == plain
    assert text(zip=spec.zip.model_copy(update={"seed": spec.zip.seed + 1})) != plain
    assert text(networks=spec.networks[::-1]) != plain


def test_figures_take_a_copy_of_the_one_template() -> None:
    counts = ParameterCounts(5, (1, 2), (6, 7))
    before = template("light").to_plotly_json()
    figure = size_bars(counts, tasks=["a", "b"])
    figure.layout.template.layout.font.size = 99
    figure.update_layout(template_layout_paper_bgcolor="red")
    assert template("light") is template("light")
    assert (
        template("light").to_plotly_json()
        == before
        == size_bars(counts, tasks=["a", "b"]).layout.template.to_plotly_json()
    )
    assert template("dark").to_plotly_json() != before


def test_runs_wait_in_the_order_in_which_they_exist(store: RunStore) -> None:
    asked = [
        store.create(synthetic_spec(), ticket=Ticket("", "run", who, asked)) for who, asked in (("a", 9e9), ("b", 0.0))
    ]
    assert [ticket.id for ticket in queue.waiting(store)] == [record.id for record in asked]
    assert [ticket.asked for ticket in queue.waiting(store)] == [record.created for record in asked]


def least(action: Callable[[], object], times: int) -> float:
    """The least CPU seconds of this process that an action took."""
    found = []
    for _ in range(times):
        began = time.process_time()
        action()
        found.append(time.process_time() - began)
    return min(found)


def yardstick() -> Sequence[object]:
    """Work that takes some 5 ms on the machine of docs/class.md, and twice as long on one of half its speed."""
    return [json.loads(json.dumps({"number": k, "list": list(range(40))})) for k in range(700)]


def test_a_slider_costs_the_server_no_more_than_it_did(visit: Open) -> None:
    app = visit(ZIP)
    shares = iter(range(30, 100))

    def slide() -> None:
        app.query_params["share-fc1"] = f"0.{next(shares)}"
        app.run()

    assert least(slide, 8) < BUDGET * least(yardstick, 20)
