"""Inspect and Compare on made-up runs: what they show, what the URL does, and what a bad one does."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from mtz_core.figures import compare, pooling
from mtz_core.runs.estimated import Estimated, keep
from mtz_core.runs.store import RunStore
from pages.ui.inspect_glance import SIDE
from pages.ui.what_if import varied
from tests.pages import ROOT, Open, shown
from tests.synthetic import LENET5, Layer, synthetic_run, synthetic_spec

INSPECT, COMPARE = "pages/3_Inspect.py", "pages/4_Compare.py"


def metric(app: AppTest, label: str) -> str:
    return next(str(m.value) for m in app.metric if m.label == label)


@pytest.mark.parametrize("page", [INSPECT, COMPARE])
def test_without_runs_the_page_says_what_to_do(visit: Open, page: str) -> None:
    assert "Zip two networks first" in shown(visit(page))


def test_inspect_shows_the_layer_and_the_pair_first_that_cost_most(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store)
    arrays = store.layer_arrays(run.id, "fc1")
    i, j = arrays["pairs"][-1]
    text = shown(visit(INSPECT, run=run.id))
    assert f"digits {i} and clothes {j}" in text
    assert "Merged: pair 1 of 240, from the dearest" in text
    assert "Bias:" in text
    assert "Which layer does the harm" in shown(visit(INSPECT, run=run.id, view="harm"))
    assert "240 pairs of fc1" in shown(visit(INSPECT, run=run.id, view="pairs"))
    assert f"digits {i} and clothes {j}" in shown(visit(INSPECT, run=run.id, view="nothing of the kind"))


def test_a_pair_is_varied_by_a_run_that_knows_its_origin_and_takes_over_planned_shares() -> None:
    before = {"fc2": {"pin": [[3, 4], [5, 6]]}}
    spec = synthetic_spec(share="auto", budget={"size": 1.5}, constraints=before)
    found = varied(spec, "20260131-235959-3fa2b1", {"shared": {"fc1": 7, "fc2": 9}}, "fc2", {"apart": [[3, 4]]})
    assert found.origin == "20260131-235959-3fa2b1"
    assert found.zip.constraints["fc2"].model_dump() == {"pin": ((5, 6),), "forbid": (), "apart": ((3, 4),)}
    assert found.zip.share == {"fc1": 7, "fc2": 9}
    assert found.zip.budget is None


def test_a_run_and_its_variation_show_each_other(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store, title="the first")
    child = synthetic_run(store, title="the other", origin=run.id)
    alone = synthetic_run(store, title="alone")
    for opened, told in ((run, True), (child, True), (alone, False)):
        assert ("Error: digits" in shown(visit(INSPECT, run=opened.id))) == told


def test_runs_of_before_that_measured_no_harm_open_and_offer_to(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store)
    with sqlite3.connect(store.root / "runs.sqlite3") as db:
        db.execute("DELETE FROM events WHERE kind = 'HarmMeasured'")
    app = visit(INSPECT, run=run.id, view="harm")
    assert "did not measure what undoing each merge would win back" in shown(app)
    assert app.button(key="measure-harm").label == "Measure it"


def _estimated(pair: list[int], won: float, error: float) -> Estimated:
    halves = {"won": (won / 2, won / 2), "errors": (error, 0.0)}
    return Estimated(neurons={"fc1": (tuple(pair),)}, images=(2000, 1900), unseen=(True, True), **halves)


def test_the_pair_that_is_estimated_to_do_most_harm_is_named_and_comes_first(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store)
    pairs = store.layer_arrays(run.id, "fc1")["pairs"].tolist()
    assert "Estimated harm" not in shown(visit(INSPECT, run=run.id, view="pairs"))
    keep(store.get(run.id), [_estimated(pairs[5], 0.003, 0.001), _estimated(pairs[9], 0.0041, 0.001)])
    app = visit(INSPECT, run=run.id, view="pairs")
    text, table = shown(app), app.dataframe[0].value
    name = "digits {} and clothes {}".format(*pairs[9])
    assert f"Of 2 of 240 pairs, **{name}** is estimated to do most harm: **4.10 ± 1.00** thousandths of a nat." in text
    assert "It does not stand out: the next has 3.00 ± 1.00" in text
    assert "2,000 / 1,900 images without labels that did not calibrate" in text
    assert app.button(key="estimate-pairs").label == "Estimate the harm of the 238 others"
    assert table.iloc[:3][["digits neuron", "clothes neuron"]].values.tolist() == [pairs[9], pairs[5], pairs[-1]]
    assert table["estimated harm"].iloc[:2].tolist() == pytest.approx([4.1, 3.0])
    keep(store.get(run.id), [_estimated(pairs[7], 0.2, 0.001)])
    assert "It stands out." in shown(visit(INSPECT, run=run.id, view="pairs"))
    i, j = pairs[5]
    told = (
        "Estimated harm: **3.00 ± 1.00** thousandths of a nat of softened divergence, rank 3 of 3 that were estimated."
    )
    assert told in shown(visit(INSPECT, run=run.id, layer="fc1", i=str(i), j=str(j)))


def test_a_damaged_file_of_estimates_is_named(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store)
    for content in ("[{}]", "{", '[{"neurons": 3}]', "[3]"):
        (store.get(run.id).path / "pair-harm.json").write_text(content)
        assert "remove the file and estimate again" in shown(visit(INSPECT, run=run.id, view="pairs"))


def test_inspect_opens_the_cell_of_the_url_and_ranks_it(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store)
    difference = store.layer_arrays(run.id, "fc2")["difference_0_1"]
    app = visit(INSPECT, run=run.id, layer="fc2", i="7", j="11")
    rank = 1 + sum(other < difference[7, 11] for other in difference[7])
    assert metric(app, "Functional difference") == f"{difference[7, 11]:.4g}"
    assert metric(app, "Rank for digits 7") == f"{rank} of 100"
    assert ("Not merged with each other" in shown(app)) == (
        [7, 11] not in store.layer_arrays(run.id, "fc2")["pairs"].tolist()
    )


def test_choosing_another_neuron_moves_the_url(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store)
    app = visit(INSPECT, run=run.id, layer="fc2", i="7", j="11")
    app.number_input(key="url-i").set_value(8).run()
    assert not app.exception
    assert app.query_params["i"] in ("8", ["8"])
    assert "digits 8 and clothes 11" in shown(app)


def test_inspect_shows_convolutions_as_kernels(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store, layers=LENET5)
    assert "one shared input channel" in shown(visit(INSPECT, run=run.id, layer="conv2"))


def test_a_layer_without_bias_shows_all_its_weights(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store, layers=(Layer("conv1", 6, kernel=(5, 5)), Layer("fc1", 12, 16)), bias=False)
    text = shown(visit(INSPECT, run=run.id, layer="conv1"))
    assert "No bias." in text
    assert "one shared input channel" in text


def test_marks_are_hidden_on_request_and_the_map_is_pooled_once(
    visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = synthetic_run(store)
    drawn: list[bool] = []
    monkeypatch.setattr("pages.ui.heatmap._heatmap", lambda **arguments: drawn.append(arguments["data"]["marked"]))
    pooled: list[tuple[int, ...]] = []
    pool = pooling.pool_minimum

    def counted(matrix: np.ndarray, limit: int = 512) -> pooling.Pooled:
        if limit > SIDE:  # the small maps of all layers are another matter
            pooled.append(matrix.shape)
        return pool(matrix, limit)

    monkeypatch.setattr("mtz_core.figures.pooling.pool_minimum", counted)
    app = visit(INSPECT, run=run.id)
    app.toggle(key="url-marks").set_value(False).run()
    assert app.query_params["marks"] in ("off", ["off"])
    assert drawn == [True, False]
    assert pooled == [(300, 300)]


def test_of_three_tasks_two_are_chosen(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store, tasks=3)
    difference = store.layer_arrays(run.id, "fc1")["difference_1_2"]
    app = visit(INSPECT, run=run.id, tasks="clothes × letters", i="3", j="4")
    assert "clothes 3 and letters 4" in shown(app)
    assert metric(app, "Functional difference") == f"{difference[3, 4]:.4g}"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layer": "fc9"}, "fc9"),
        ({"i": "300", "j": "0"}, "from 0 to 299"),
        ({"i": "-1", "j": "x"}, "from 0 to 299"),
        ({"scale": "nonsense", "order": "?", "region": "7"}, "nonsense"),
        ({"run": "../../etc/passwd"}, "not one of the runs here"),
        ({"i": "²", "j": "1"}, "from 0 to 299"),
    ],
)
def test_a_bad_address_is_said_in_words(visit: Open, store: RunStore, parameters: dict[str, str], message: str) -> None:
    run = synthetic_run(store)
    app = visit(INSPECT, **{"run": run.id, **parameters})
    assert any(message in str(warning.value) for warning in app.warning)
    assert "Functional difference" in shown(app)


@pytest.mark.parametrize("status", ["queued", "running", "failed", "cancelled", "lost"])
def test_inspect_opens_runs_in_every_state(visit: Open, store: RunStore, status: str) -> None:
    run = synthetic_run(store, status=status)
    text = shown(visit(INSPECT, run=run.id))
    assert ("first layer" in text) if status == "queued" else ("Functional difference" in text)


def test_a_layer_that_was_compared_but_not_zipped_yet_can_be_looked_at(visit: Open, store: RunStore) -> None:
    from mtz_core.events import LayerZipped
    from tests.synthetic import synthetic_events, synthetic_spec

    run = store.create(synthetic_spec())
    store.claim(run.id)
    for event in synthetic_events():
        if isinstance(event, LayerZipped):
            break
        store.append(run.id, event)
    text = shown(visit(INSPECT, run=run.id))
    assert "Not paired yet" in text
    assert "when the layer has been zipped" in text


def test_nothing_shared_is_no_error(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store, share=0.0)
    assert "No neuron of this layer is shared" in shown(visit(INSPECT, run=run.id, view="pairs"))


def test_compare_lists_every_finished_run_of_the_same_networks(visit: Open, store: RunStore) -> None:
    for share in (0.4, 0.8):
        synthetic_run(store, share=share, title=f"share {share}")
    synthetic_run(store, status="failed")
    app = visit(COMPARE)
    table = app.dataframe[0].value
    assert sorted(table["title"]) == ["share 0.4", "share 0.8"]
    assert table["mean increase, points"].notna().all()


def test_compare_separates_networks(visit: Open, store: RunStore) -> None:
    synthetic_run(store, title="two")
    synthetic_run(store, tasks=3, title="three")
    app = visit(COMPARE)
    assert list(app.dataframe[0].value["title"]) == ["three"]
    other = app.selectbox(key="url-networks")
    other.set_value(next(option for option in ("lenet300-fashion-0 + lenet300-mnist-0",))).run()
    assert list(app.dataframe[0].value["title"]) == ["two"]


def test_compare_opens_the_run_of_the_url(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store, title="this one")
    app = visit(COMPARE, run=run.id, task="clothes", show="increase over the parents", size="parameters")
    assert "this one" in [element.value for element in app.subheader]
    assert metric(app, "Error, digits").startswith(f"{run.summary['errors'][0]:.2f}")


def test_compare_takes_a_mean_of_ratios_where_errors_count_different_things(
    visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic_run(store)
    app = visit(COMPARE, show="relative to the parents")
    assert "Relative error: " in shown(app)
    assert "different things" not in shown(app)
    plain = compare.run_point
    units = ("wrong answers", "mean absolute error")
    monkeypatch.setattr(
        compare, "run_point", lambda record: None if (p := plain(record)) is None else replace(p, units=units)
    )
    app = visit(COMPARE, show="test error")
    table = app.dataframe[0].value
    assert "Errors count different things (digits: wrong answers; clothes: mean absolute error)" in shown(app)
    assert [name for name in table.columns if "mean" in name] == ["mean error relative to the parents"]
    ratios = [table[f"{task} error relative to the parent"][0] for task in ("digits", "clothes")]
    errors = [(table[f"{t} error, %"][0], table[f"{t} increase, points"][0]) for t in ("digits", "clothes")]
    assert ratios == pytest.approx([error / (error - increase) for error, increase in errors], abs=0.006)
    assert table["mean error relative to the parents"][0] == pytest.approx(sum(ratios) / 2, abs=0.011)
    assert not [choice for choice in app.selectbox if choice.key == "url-show"]
    app = visit(COMPARE, task="clothes")
    choice = app.selectbox(key="url-show")
    assert choice.value == "relative to the parents"


def test_compare_begins_with_the_networks_of_the_run_that_is_asked_for(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store, title="two")
    synthetic_run(store, tasks=3, title="three")
    app = visit(COMPARE, run=run.id)
    assert list(app.dataframe[0].value["title"]) == ["two"]
    assert "two" in [element.value for element in app.subheader]


def test_compare_narrows_runs_down_by_what_they_differ_in(visit: Open, store: RunStore) -> None:
    synthetic_run(store, title="ours")
    synthetic_run(store, title="theirs", pairing="greedy", compensate=False)
    app = visit(COMPARE)
    assert [choice.label for choice in app.multiselect] == ["Method"]
    app.multiselect(key="url-method").set_value(["greedy pairs (the paper)"]).run()
    assert list(app.dataframe[0].value["title"]) == ["theirs"]
    app = visit(COMPARE, method="greedy pairs (the paper)")
    assert list(app.dataframe[0].value["title"]) == ["theirs"]
    assert "“bogus”, which is not one of greedy pairs" in visit(COMPARE, method="bogus").warning[0].value


def test_two_pinned_runs_stand_beside_one_another(visit: Open, store: RunStore) -> None:
    one = synthetic_run(store, title="one", share=0.8)
    two = synthetic_run(store, title="two", share=0.4, ridge=0.5)
    app = visit(COMPARE, run=one.id)
    app.button(key=f"pin-{one.id}").click().run()
    assert "one is pinned" in app.info[0].value
    app.selectbox(key="url-run").set_value(two.id).run()
    app.button(key=f"pin-{two.id}").click().run()
    sizes, told = (table.value for table in app.table)
    assert list(sizes.columns) == ["", "A one", "B two", "B less A"]
    assert told.to_dict("records") == [
        {"setting": "zip.share", "A": "0.8", "B": "0.4"}, {"setting": "zip.ridge", "A": "auto", "B": "0.5"},
    ]  # fmt: skip
    app.button(key="unpin-A").click().run()
    assert "two is pinned" in app.info[0].value


@pytest.mark.parametrize("parameters", [{"task": "bogus"}, {"size": "huge"}, {"networks": "a"}, {"run": "x"}])
def test_compare_survives_a_bad_address(visit: Open, store: RunStore, parameters: dict[str, str]) -> None:
    synthetic_run(store)
    assert visit(COMPARE, **parameters).dataframe[0].value.shape[0] == 1


def test_pages_and_their_figures_import_no_torch() -> None:
    code = (
        "import sys, mtz_core.figures.compare, mtz_core.figures.inspect, mtz_core.figures.lesson_facts, "
        "mtz_core.figures.pooling, pages.ui.heatmap, pages.ui.address, pages.ui.lesson.parts; "
        "sys.exit(any(name.split('.')[0] in ('torch', 'torchvision') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_inputs_that_are_no_pictures_are_drawn_as_what_they_are(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store)
    store.update_summary(run.id, tasks=["words-germanic", "sound"])
    store.save_images(run.id, 0, np.tile(np.array([0.0, 0.0, 3.0, 1.0, 2.0], np.float32), (200, 1)))
    store.save_images(run.id, 1, np.random.default_rng(0).normal(size=(200, 1, 900)).astype(np.float32))
    app = visit("pages/3_Inspect.py", run=run.id)
    assert not app.exception
    drawn = " ".join(element.body for element in app.get("html"))
    assert "<span class='word'>cab</span>" in drawn
    assert drawn.count("data:image/svg+xml;base64,") >= 5


def test_the_menu_takes_the_run_the_layer_and_the_neurons_along(visit: Open, store: RunStore) -> None:
    run, other = synthetic_run(store, title="first"), synthetic_run(store)

    def links(app: AppTest) -> dict[str, str]:
        return {link.proto.label: link.proto.query_string for link in app.sidebar.get("page_link")}

    app = visit(INSPECT, run=run.id, layer="fc2", i="3", j="4", view="pairs")
    assert links(app)["Inspect"] == f"run={run.id}&layer=fc2&i=3&j=4"
    assert links(app)["Compare"] == links(app)["first"] == f"run={run.id}"
    assert links(app)["Zip"] == ""
    app = app.switch_page(COMPARE)
    app.query_params.clear()  # as a link of the menu does
    app.query_params["run"] = run.id
    assert links(app.run())["Inspect"] == f"run={run.id}&layer=fc2&i=3&j=4"
    app.query_params["run"] = other.id
    assert links(app.run())["Inspect"] == f"run={other.id}"
