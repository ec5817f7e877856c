"""The pages run on made-up runs: what they show, what they keep in the URL, and that they import no torch."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mtz_core.figures.text import percent_text
from mtz_core.runs.progress import ProgressLine
from mtz_core.runs.records import RunStatus, StoredEvent
from mtz_core.runs.store import RunStore
from mtz_core.runs.worker import execute
from mtz_core.spec import parse_run_spec
from mtz_core.structure.joint import joined
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import plan_counts, shared_count, why_not_zippable
from mtz_core.zoo.structures import structures
from pages.ui import running, setup
from pages.ui.presets import PRESETS, Preset
from pages.ui.query import CARRIED, query_of
from pages.ui.story import seconds_left, tell, thinned
from tests.pages import ROOT, Open, component, shares, shown, totals
from tests.synthetic import LENET5, synthetic_run

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "pages").glob("*.py"))


@pytest.mark.parametrize("page", ["Home.py", *PAGES])
def test_every_page_opens_on_an_empty_store(visit: Open, page: str) -> None:
    visit(page)


def test_landing_lists_runs_with_status_size_and_error(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store, title="my digits")
    text = shown(visit("Home.py"))
    assert percent_text(run.summary["counts"]["versus_all"]) in text
    assert f"{run.summary['errors'][0]:.2f}" in text


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_a_preset_fills_the_zip_page(visit: Open, preset: Preset) -> None:
    settings = {name.replace("-", "__"): value for name, value in preset.settings.items()}
    app = visit("pages/2_Zip.py", parents=list(preset.parents), **settings)
    assert app.multiselect(key="parents").value == list(preset.parents)
    assert not app.exception
    assert not [warning for warning in app.warning if "link" in warning.value]
    assert app.button(key="start").disabled == (not preset.bundled and not os.environ.get("MTZ_DATA"))


def test_size_follows_the_share_in_the_address(visit: Open) -> None:
    app = visit("pages/2_Zip.py")
    networks = [structures()[name] for name in setup.DEFAULT_PARENTS]
    for share, count in (("1", 300), ("0.5", 150), ("0", 0)):
        app.query_params["share-fc1"] = share
        app.run()
        expected = plan_counts(joined(networks), {"fc1": count, "fc2": 100}, Keeping.all())
        assert totals(app)["size"] == percent_text(expected.versus_all)


def test_shares_of_layers_that_others_had_leave_the_address(visit: Open) -> None:
    app = visit("pages/2_Zip.py", parents=list(PRESETS[1].parents), share__conv1="0.5", share__fc1="0.25")
    app.multiselect(key="parents").set_value(["lenet300-mnist-0", "lenet300-mnist-1"]).run()
    assert not app.warning
    assert shares(app) == {"fc1": 0.25, "fc2": 1.0}
    assert "share-conv1" not in app.query_params


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset.bundled], ids=lambda preset: preset.title)
def test_the_error_of_an_example_is_expected_at_once(visit: Open, preset: Preset) -> None:
    app = visit("pages/2_Zip.py", parents=list(preset.parents))
    assert totals(app)["error"].endswith("%")
    assert component(app, "mtz_shares")["choice"]["curves"]


def test_the_url_fills_every_input(visit: Open) -> None:
    app = visit("pages/2_Zip.py", share__fc1="0.5", images="200", pairing="greedy", ridge="1e-3", retrain="final")
    assert shares(app)["fc1"] == 0.5
    assert app.select_slider(key="images").value == 200
    assert app.select_slider(key="ridge").value == "1e-3"


def test_nonsense_in_the_url_falls_back_to_defaults(visit: Open) -> None:
    app = visit("pages/2_Zip.py", share__fc1="7", images="-3", pairing="magic", parents="nobody")
    assert shares(app)["fc1"] == 1.0
    assert app.select_slider(key="images").value == 500


def test_networks_that_do_not_fit_are_refused_with_the_reason(visit: Open) -> None:
    app = visit("pages/2_Zip.py", parents=["lenet300-mnist-0", "lenet5-mnist-0"])
    assert "read nothing in common" in app.warning[0].value
    assert "start" not in [button.key for button in app.button]


def test_start_stores_what_was_chosen(visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(
        "mtz_core.runs.launch.start_worker", lambda store, run_id, resume=False: _Worker(started, run_id)
    )
    app = visit("pages/2_Zip.py", share__fc1="0.5", images="200", title="mine")
    app.button(key="start").click().run()
    assert not app.exception
    (record,) = store.list()
    assert started == [record.id]
    assert app.query_params["run"] in (record.id, [record.id])
    assert record.spec.zip.share == {"fc1": 0.5, "fc2": 1.0}
    assert (record.spec.calibration.images, record.spec.title, record.spec.zip.retrain) == (200, "mine", None)


@pytest.mark.parametrize("status", ["queued", "running", "finished", "failed", "cancelled", "lost"])
def test_a_run_in_any_state_is_shown(visit: Open, store: RunStore, status: str) -> None:
    run = synthetic_run(store, status=status, title="the title", layers=LENET5 if status == "failed" else None)
    app = visit("pages/2_Zip.py", run=run.id)
    keys = [button.key for button in app.button]
    assert app.title[0].value == "the title"
    assert ("stop" in keys) == (status in ("queued", "running"))
    assert ("resume" in keys) == (status in ("failed", "cancelled", "lost"))
    if status == "failed":
        assert "Gram" in app.error[0].value
    if status == "lost":
        assert "gone" in app.warning[0].value


def test_finished_metrics_are_the_stores_numbers(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store, tasks=3)
    values = [metric.value for metric in visit("pages/2_Zip.py", run=run.id).metric]
    assert values[0] == percent_text(run.summary["counts"]["versus_all"])
    assert [value.split("\u00a0")[0] for value in values[1:]] == [f"{e:.2f}" for e in run.summary["errors"]]


def test_stop_asks_the_worker(visit: Open, store: RunStore) -> None:
    run = synthetic_run(store, status="running")
    app = visit("pages/2_Zip.py", run=run.id)
    app.button(key="stop").click().run()
    assert store.cancel_requested(run.id)
    assert app.button(key="stop").label == "Stopping…"


def test_resume_starts_a_worker(visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(
        "mtz_core.runs.launch.start_worker", lambda store, run_id, resume=False: _Worker(started, run_id)
    )
    run = synthetic_run(store, status="lost")
    app = visit("pages/2_Zip.py", run=run.id)
    app.button(key="resume").click().run()
    assert started == [run.id]


@pytest.mark.parametrize("run_id", ["nonsense", "20260101-000000-abcdef", "../../etc/passwd"])
def test_an_unknown_run_is_an_answer_not_a_crash(visit: Open, run_id: str) -> None:
    app = visit("pages/2_Zip.py", run=run_id)
    assert len(app.error) == 1


def test_networks_page_shows_the_catalogues_errors(visit: Open) -> None:
    app = visit("pages/1_Networks.py", parents=["lenet300-mnist-0", "lenet300-fashion-0"])
    assert "can be zipped together" in app.success[0].value
    text = shown(app)
    for name in ("lenet300-mnist-0", "lenet300-fashion-0"):
        assert f"{setup.catalog()[name].test_error:.2f}" in text


@pytest.mark.parametrize(
    ("parents", "told"),
    [
        (
            ["lenet5-letter-attributes-0", "lenet5-letters-0"],
            ["have an attribute that is answered wrong", "upper case"],
        ),
        (["lenet5-letter-pose-0", "lenet5-letters-0"], ["off by half its standard deviation", "angle "]),
        (["lstm-words-germanic-0", "lstm-words-romance-0"], ["bundled test words are answered wrong", "Portuguese"]),
    ],
)
def test_networks_page_shows_answers_of_every_type(visit: Open, parents: list[str], told: list[str]) -> None:
    app = visit("pages/1_Networks.py", parents=parents)
    assert "can be zipped together" in app.success[0].value
    text = shown(app) + "".join(element.proto.body for element in app.get("html"))
    for words in told:
        assert words in text


@pytest.mark.parametrize("page", ["Home.py", *PAGES])
def test_pages_import_no_torch(page: str, store: RunStore) -> None:
    synthetic_run(store)
    code = (
        "import sys; from streamlit.testing.v1 import AppTest\n"
        f"app = AppTest.from_file({str(ROOT / 'Home.py')!r}, default_timeout=60)\n"
        f"{'' if page == 'Home.py' else f'app.switch_page({page!r})'}\n"
        "app.run(); assert not app.exception, app.exception\n"
        "found = [name for name in ('torch', 'torchvision') if name in sys.modules]\n"
        "assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_presets_can_be_zipped(preset: Preset) -> None:
    assert why_not_zippable([structures()[name] for name in preset.parents], preset.parents) is None


PLAIN_ZIP: dict[str, object] = {}
OWN_ZIP: dict[str, object] = {
    "share": {"fc1": 0.37, "fc2": 1 / 3},
    "alpha": [0.05, 7.25],
    "pairing": "greedy",
    "metric": "euclidean",
    "ridge": 0.0023,
    "positions": None,
    "sparse": "no",
    "seed": 11,
    "batch_size": 32,
    "retrain": {
        "schedule": "final",
        "steps": 123,
        "targets": "distill",
        "learning_rate": 7e-4,
        "optimizer": "sgd",
        "batch_size": 16,
        "temperature": 3.25,
        "weight_decay": 1e-4,
        "evaluate_every": 7,
    },
}


@pytest.mark.parametrize(
    "fields",
    [
        {"zip": PLAIN_ZIP},
        {"zip": {"share": 0.6, "retrain": {"schedule": "layerwise", "targets": "labels"}}},
        {
            "title": "mine",
            "calibration": {"images": 321},
            "evaluation": {"images": 200, "live_images": 77},
            "zip": OWN_ZIP,
        },
    ],
    ids=["plain", "one share", "everything"],
)
def test_a_specification_survives_the_url_and_the_page(
    visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch, fields: dict[str, object]
) -> None:
    monkeypatch.setattr("mtz_core.runs.launch.start_worker", lambda store, run_id, resume=False: _Worker([], run_id))
    spec = parse_run_spec({"networks": [{"parent": "lenet300-mnist-0"}, {"parent": "lenet300-fashion-0"}], **fields})
    query = query_of(spec)
    assert query is not None
    assert set(query).isdisjoint(CARRIED) == ("evaluation" not in fields)
    app = visit("pages/2_Zip.py", **{k: as_text(v) for k, v in query.items() if v is not None})
    assert not app.warning
    app.button(key="start").click().run()
    (record,) = store.list()
    assert record.spec == spec


TYPES = [None, {"kind": "multiclass", "axis": 1, "probabilities": False, "ignore_index": 255}]


@pytest.mark.parametrize("types", [["multiclass", "multiclass"], TYPES, TYPES[::-1]])
def test_types_of_tasks_survive_the_url_and_follow_their_parents(
    visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch, types: list[object]
) -> None:
    monkeypatch.setattr("mtz_core.runs.launch.start_worker", lambda store, run_id, resume=False: _Worker([], run_id))
    names = ["lenet300-mnist-0", "lenet300-fashion-0"]
    spec = parse_run_spec({"networks": [{"parent": name} for name in names], "zip": {"types": types}})
    query = query_of(spec)
    assert query is not None
    app = visit("pages/2_Zip.py", **{k: as_text(v) for k, v in query.items() if v is not None})
    assert not app.warning
    assert "Types of tasks: " in shown(app)
    app.button(key="start").click().run()
    assert store.list()[0].spec == spec
    query |= {"parents": [names[1], "lenet300-letters-0"]}
    app = visit("pages/2_Zip.py", **{k: as_text(v) for k, v in query.items() if v is not None})
    app.button(key="start").click().run()
    kept = None if spec.zip.types is None or spec.zip.types[1] is None else (spec.zip.types[1], None)
    assert store.list()[0].spec.zip.types == kept


@pytest.mark.parametrize(
    "text", ["classes", "{", '{"kind": 3}', "[1]", '{"kind": "regression", "probabilities": true}']
)
def test_a_type_of_task_that_is_none_is_named(visit: Open, text: str) -> None:
    app = visit("pages/2_Zip.py", **{"type-lenet300-mnist-0": text})
    (warning,) = app.warning
    assert f"the type “{text[:40]}” of digits-0" in warning.value.replace("\\", "")
    assert not app.exception


def test_counts_of_neurons_survive_the_url(visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtz_core.runs.launch.start_worker", lambda store, run_id, resume=False: _Worker([], run_id))
    networks = [{"parent": "lenet5-mnist-0"}, {"parent": "lenet5-fashion-0"}]
    spec = parse_run_spec({"networks": networks, "zip": {"share": {"conv1": 7, "conv2": 33, "fc1": 499}}})
    query = query_of(spec)
    assert query is not None
    assert [name for name in query if name.startswith("share-")] == ["share-conv1", "share-conv2", "share-fc1"]
    app = visit("pages/2_Zip.py", **{k: as_text(v) for k, v in query.items() if v is not None})
    app.button(key="start").click().run()
    share = store.list()[0].spec.zip.share
    assert isinstance(share, dict)
    widths = {"conv1": 20, "conv2": 50, "fc1": 500}
    assert {name: shared_count(ratio, [widths[name]]) for name, ratio in share.items()} == spec.zip.share


def test_another_runs_numbers_are_offered_too(visit: Open) -> None:
    app = visit("pages/2_Zip.py", ridge="0.0023", images="321")
    app.query_params["ridge"], app.query_params["images"] = "0.0042", "77"
    app.run()
    for name, values in (("ridge", ("0.0023", "0.0042")), ("images", ("321", "77"))):
        assert set(values) <= set(app.select_slider(key=name).options)


def test_an_invalid_field_without_widget_is_named(visit: Open) -> None:
    app = visit("pages/2_Zip.py", sparse="perhaps", device="../x", tested="-1", chunk="64")
    assert [w.value.replace("\\", "").split("“")[2].split("”")[0] for w in app.warning] == ["perhaps", "../x", "-1"]
    assert "zip.batch_size = 64" in shown(app).replace("\\", "")


@pytest.mark.parametrize(
    "network",
    [
        {"weights": "mine.safetensors", "architecture": "lenet300", "data": "mnist"},
        {"parent": "lenet300-mnist-1", "data": "letters"},
    ],
)
def test_what_the_page_cannot_show_is_not_zipped_again(network: dict[str, str]) -> None:
    assert query_of(parse_run_spec({"networks": [{"parent": "lenet300-mnist-0"}, network]})) is None


@pytest.mark.parametrize("trunk", [False, True])
def test_the_lines_that_load_a_zipped_network_run(store: RunStore, tmp_path: Path, trunk: bool) -> None:
    networks = [{"parent": "lenet300-mnist-0"}, {"parent": "lenet300-mnist-1"}]
    record = store.create(parse_run_spec({"networks": networks, "zip": {"trunk": "fc1"} if trunk else {}}))
    made = (
        "import torch\n"
        "from mtz_core import load_parent, zip_networks, ZipSpec\n"
        "parents = [load_parent(name).module for name in ('lenet300-mnist-0', 'lenet300-mnist-1')]\n"
        "images = torch.rand(8, 1, 28, 28)\n"
        "zipped = zip_networks(parents, [images, images], ZipSpec(share=0.0)).network\n"
        "expected = parents[0](images)\n"
        f"zipped.save('{record.id}-zipped.safetensors')\n"
        "answer = answers = None\n"
    )
    held = (
        "torch.testing.assert_close(single(images), expected)\n"
        "torch.testing.assert_close(network.extract(1)(images), zipped.extract(1)(images))\n"
        "torch.testing.assert_close(answers[0] if answers else answer, expected)\n"
        f"assert (answers is not None) == {trunk}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{made}{running._snippet(record)}\n{held}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def as_text(value: object) -> str | list[str]:
    return [str(x) for x in value] if isinstance(value, list) else str(value)


def event(kind: str, time: float = 0.0, **data: object) -> StoredEvent:
    return StoredEvent(1, time, kind, data)


def test_time_left_is_exact_for_steady_work() -> None:
    story = tell([event("LayerFinished", 100.0, fraction=0.25, seconds=10.0)], ["a"])
    assert seconds_left(story, now=100.0) == pytest.approx(30.0)
    assert seconds_left(story, now=105.0) == pytest.approx(25.0)
    assert seconds_left(story, now=105.0, before=30.0, waited=5.0) == pytest.approx(25.0)


def test_time_left_is_unknown_at_first() -> None:
    assert seconds_left(tell([], ["a"]), now=0.0) is None


def test_finished_errors_are_compared_on_the_same_images() -> None:
    counts = {"shared": 1, "private": [1, 1], "parents": [2, 2]}
    base = {"step": 0, "layer": None, "counts": counts, "fraction": 1.0, "seconds": 1.0}
    story = tell(
        [
            event("Evaluated", stage="parents", errors=[2.0, 3.0], images=[100, 100], **base),
            event("Evaluated", stage="final", errors=[2.5, None], images=[900, 900], **base),
            event("Finished", counts=counts, errors=[2.5, None], parent_errors=[1.5, None], fraction=1.0, seconds=1.0),
        ],
        ["a", "b"],
    )
    assert story.parent_errors is not None
    assert story.parent_errors[0] == 1.5
    assert math.isnan(story.parent_errors[1])
    assert "100" in story.counts_in_words()
    assert "900" in story.counts_in_words()


def test_what_retraining_came_to_is_told() -> None:
    text = "Retraining after fc1 stopped at step 40"
    story = tell([event("RetrainEnded", layer="fc1", text=text, fraction=0.5, seconds=3.0)], ["a", "b"])
    assert story.retrained == [text]
    assert story.log == [(3.0, text)]


def test_thinning_keeps_the_mean() -> None:
    steps, losses = thinned(list(range(1, 1001)), [(float(i),) for i in range(1000)], most=100)
    assert len(steps) == 100
    assert steps[-1] == 1000
    assert sum(row[0] for row in losses) / 100 == pytest.approx(499.5)


class _Worker:
    """Stands in for a process that has just been started."""

    def __init__(self, started: list[str], run_id: str) -> None:
        started.append(run_id)

    def poll(self) -> int | None:
        return None


def said(app: AppTest) -> list[str]:
    """All texts of a page, with labels and help of its inputs."""
    kinds = (app.slider, app.select_slider, app.toggle, app.number_input, app.selectbox, app.multiselect)
    groups = [*app.get("button_group"), *app.get("expander"), *app.button]
    inputs = [element for kind in kinds for element in kind] + groups
    texts = [shown(app), *(str(getattr(each, name, "")) for each in inputs for name in ("label", "help"))]
    return [text for text in texts if text]


def test_words_are_called_words(visit: Open, store: RunStore) -> None:
    names = ["lstm-words-germanic-0", "lstm-words-romance-0"]
    zipping = {"share": 0.5, "relu_rounds": 0, "retrain": {"steps": 2}}
    networks = [{"parent": name} for name in names]
    record = store.create(
        parse_run_spec(
            {"networks": networks, "calibration": {"images": 30}, "evaluation": {"images": 40}, "zip": zipping}
        )
    )
    stream = StringIO()
    assert execute(store, record.id, listen=ProgressLine(stream, lambda: "words")) is RunStatus.FINISHED
    assert "30 words per task" in stream.getvalue()
    pages = [visit("pages/1_Networks.py", parents=names), visit("pages/2_Zip.py", parents=names)]
    pages += [visit(page, run=record.id) for page in ("pages/2_Zip.py", "pages/3_Inspect.py", "pages/4_Compare.py")]
    for text in [stream.getvalue(), *(text for page in pages for text in said(page))]:
        assert "image" not in text.lower(), text
    assert "Calibration words per task" in said(pages[1])
    assert "Measured on 40 test words per task" in shown(pages[2])
    assert "Calibration images per task" in said(visit("pages/2_Zip.py"))
    mixed = visit("pages/2_Zip.py", parents=[names[0], "lenet300-mnist-0"])
    assert mixed.multiselect(key="parents").value == [names[0], "lenet300-mnist-0"]
