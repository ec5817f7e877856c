"""Pages and rivals: one click adds them in turn, and a rival's run is shown on every page as what it is."""

from __future__ import annotations

from typing import Any

import pytest

from mtz_core.runs import contest
from mtz_core.runs.database import writing
from mtz_core.runs.records import RunRecord, RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.runs.worker import execute
from mtz_core.spec import RivalSpec, RunSpec, parse_run_spec
from tests.pages import Open, shown
from tests.synthetic import synthetic_events, synthetic_run

ZIP, INSPECT, COMPARE = "pages/2_Zip.py", "pages/3_Inspect.py", "pages/4_Compare.py"
PAGES = ("Home.py", "pages/1_Networks.py", ZIP, INSPECT, COMPARE, "pages/5_Learn.py")
PARENTS = ("lenet300-mnist-0", "lenet300-fashion-0")
WHY = "fc1 of network 0 is woven; these methods know none"
OFFERS = [
    {"method": name, "text": "", "source": "", "settings": {}, "refusal": WHY if name == "weave" else None}
    for name in ("average", "permute", "weave")
]


def rival(**fields: Any) -> RunSpec:
    given = {"calibration": {"images": 20}, "evaluation": {"images": 30}, "rival": {"method": "permute"}}
    return parse_run_spec({"networks": [{"parent": name} for name in PARENTS], **given, **fields})


def done(store: RunStore, spec: RunSpec, total: int) -> RunRecord:
    """A finished run of that many numbers; nothing was computed."""
    record = store.create(spec)
    store.claim(record.id)
    event = list(synthetic_events())[-1]
    store.append(record.id, event)
    counts = store.get(record.id).summary["counts"]
    store.update_summary(record.id, counts={**counts, "shared": total - sum(counts["private"]), "total": total})
    store.set_status(record.id, RunStatus.FINISHED)
    return store.get(record.id)


def store_errors(store: RunStore, record: RunRecord, errors: list[float]) -> None:
    with writing(store.database) as db:
        db.execute(
            "UPDATE runs SET summary = json_set(summary, '$.errors', json(?)) WHERE id = ?", (str(errors), record.id)
        )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """What the rivals were asked about, which answer at once; nothing that waits is started."""
    found: list[RunSpec] = []
    monkeypatch.setattr("pages.ui.rivals._asked", lambda spec: found.append(spec) or OFFERS)
    monkeypatch.setattr("pages.ui.jobs.move", lambda now=True: None)
    known: dict[str, Any] = {}
    monkeypatch.setattr("pages.ui.rivals._offers", lambda: known)
    return found


def rivals_of(store: RunStore) -> list[tuple[str, Any]]:
    return [(r.spec.rival.method, r.spec.zip.share) for r in reversed(store.list()) if r.spec.rival is not None]


def test_one_click_adds_every_rival_once_and_says_which_cannot(
    visit: Open, store: RunStore, asked: list[RunSpec]
) -> None:
    base = synthetic_run(store, share=0.8, seed=1)
    app = visit(COMPARE)
    app.button(key="add-rivals").click().run()
    assert not app.exception
    assert [spec.networks for spec in asked] == [base.spec.networks]
    assert rivals_of(store) == [("average", 1.0), ("permute", 1.0), ("average", 0.8), ("permute", 0.8)]
    assert all(r.spec.calibration == base.spec.calibration for r in store.list())
    said = shown(app).replace("\\", "")
    assert f"weave cannot merge these networks: {WHY}." in said
    assert "Rivals: 0 of 4 done" in said
    assert app.button(key="add-rivals").disabled
    app.button(key="stop-rivals").click().run()
    assert {str(r.status) for r in store.list() if r.spec.rival} == {"cancelled"}
    for method, share in (("average", 1.0), ("permute", 1.0), ("average", 0.8)):
        done(store, contest.rival_spec(base.spec, method, share), 100_000)
    app.run()
    assert "and added again by a click: permute at share 80 %." in shown(app).replace("\\", "").replace("\xa0", " ")
    app.button(key="add-rivals").click().run()
    live = [r for r in store.list() if r.status is RunStatus.QUEUED]
    assert [(r.spec.rival, r.spec.zip.share) for r in live] == [(RivalSpec(method="permute"), 0.8)]
    assert len(asked) == 1
    assert "Rivals: 3 of 4 done" in shown(app).replace("\\", "")


def test_where_few_jobs_are_allowed_rivals_wait_in_turn(
    visit: Open, store: RunStore, asked: list[RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTZ_MOST_JOBS", "2")
    synthetic_run(store, share=1.0)
    monkeypatch.setattr("pages.ui.rivals._asked", lambda spec: [*OFFERS, {**OFFERS[0], "method": "third"}])
    app = visit(COMPARE)
    app.button(key="add-rivals").click().run()
    assert rivals_of(store) == [("average", 1.0), ("permute", 1.0)]
    assert "1 wait until one of yours ends" in shown(app).replace("\\", "")
    assert not app.error
    store.request_cancel(store.list()[0].id)
    app.run()
    assert rivals_of(store) == [("average", 1.0), ("permute", 1.0), ("third", 1.0)]
    monkeypatch.setenv("MTZ_MOST_IMAGES", "10")
    app.button(key="stop-rivals").click().run()
    app.button(key="add-rivals").click().run()
    assert "this server allows at most 10" in app.error[0].value
    assert len(rivals_of(store)) == 3


def test_a_rival_below_ours_is_said_in_words(visit: Open, store: RunStore, asked: list[RunSpec]) -> None:
    base = synthetic_run(store, share=1.0)
    total = base.summary["counts"]["total"]
    worse = done(store, contest.rival_spec(base.spec, "average", 1.0), total)
    store_errors(store, worse, [50.0, 60.0])
    assert "No rival lies below ours at about the same size" in shown(visit(COMPARE))
    better = done(store, contest.rival_spec(base.spec, "permute", 1.0), total)
    store_errors(store, better, [0.5, 0.25])
    said = shown(visit(COMPARE)).replace("\\", "").replace("\xa0", " ")
    assert "1 of 2 runs of rivals lies below ours" in said
    assert "permute: 0.38 %" in said


def test_every_page_shows_a_rivals_run(visit: Open, store: RunStore) -> None:
    record = store.create(rival())
    assert execute(store, record.id) is RunStatus.FINISHED
    app = {page: visit(page, run=record.id) for page in PAGES}
    said = {page: shown(each).replace("\\", "").replace("\xa0", " ") for page, each in app.items()}
    assert "Rival: permute. Share 100 %, at most 20 inputs of each task. Not a zip" in said[ZIP]
    assert "its network is not, and there is no file of it" in said[ZIP]
    assert [b.label for b in app[ZIP].get("download_button")] == ["Specification (YAML)"]
    assert 'merge_networks(parents, calibration, "permute", share=1.0)' in app[ZIP].code[0].value
    assert "rival: permute · share 100 %" in said[COMPARE]
    assert "there is no map, no pair to look at" in said[INSPECT]
    drive = visit(ZIP, run=record.id, view="answers")
    chosen = visit(INSPECT, run=record.id, of="clothes")
    assert not chosen.warning
    for each in (drive, chosen):
        assert "answered otherwise than by the parent" in shown(each)
        assert "across: the merged network's" in shown(each)
    assert "not one of how and answers" in visit(ZIP, run=record.id, view="replay").warning[0].value


def test_rivals_that_have_not_finished_are_shown(visit: Open, store: RunStore) -> None:
    synthetic_run(store)
    runs = {}
    for status in ("queued", "running", "failed", "cancelled"):
        record = runs[status] = store.create(rival(zip={"seed": len(runs)}))
        if status != "queued":
            store.claim(record.id)
            store.append(record.id, next(synthetic_events()))
        if status in ("failed", "cancelled"):
            store.set_status(record.id, RunStatus(status), "it is a grouped convolution")
        assert not visit(ZIP, run=record.id).exception
    assert "What it comes to appears here" in shown(visit(INSPECT, run=runs["running"].id))
    assert "did not finish" in shown(visit(INSPECT, run=runs["failed"].id))
    listed = shown(visit(COMPARE)).replace("\\", "").replace("\xa0", " ")
    assert "permute at share 100 % failed: it is a grouped convolution" in listed
    assert "and added again by a click: permute at share 100 %." in listed
