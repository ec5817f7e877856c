"""A run belongs to the browser that started it: forged cookies are refused, strangers change nothing, limits hold."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

import pytest

from mtz_core.cli import main
from mtz_core.errors import AccessError, LimitError, RunError, SpecError
from mtz_core.figures.names import run_name
from mtz_core.runs import labels, people, queue
from mtz_core.runs.access import DAY, Access, delete_old
from mtz_core.runs.database import writing
from mtz_core.runs.limits import check_upload
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.spec import parse_run_spec
from mtz_core.system.machine import all_memory
from mtz_core.system.server import ServerSettings, server_settings
from tests.pages import Open, shown
from tests.synthetic import Layer, synthetic_run, synthetic_spec

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = [{"parent": "lenet5-mnist-0"}, {"parent": "lenet5-fashion-0"}]
ANN, BOB = "a" * 32, "b" * 32
COMPARE = "pages/4_Compare.py"
SMALL = (Layer("fc1", 6),)


def visitor(store: RunStore, browser: str | None, administrator: bool = False, **settings: Any) -> Access:
    return Access(store, ServerSettings(**settings), browser, administrator)


def owned(store: RunStore, run: str, owner: str | None) -> str:
    with writing(store.database) as db:
        db.execute("UPDATE runs SET owner = ? WHERE id = ?", (owner, run))
    return run


def test_only_what_was_signed_here_is_a_cookie(tmp_path: Path) -> None:
    secret = people.secret_of(tmp_path)
    cookie = people.new_cookie(secret)
    name, _, signature = cookie.partition(".")
    assert people.browser_of(secret, cookie) == name
    assert people.secret_of(tmp_path) == secret
    assert (tmp_path / people.SECRET).stat().st_mode & 0o777 == 0o600
    others = [f"{name[:-1]}{'0' if name[-1] != '0' else '1'}.{signature}", f"{name}.{secrets.token_hex(32)}", name]
    others += [f"{cookie} ", cookie.upper(), f"{ANN}.{signature}", "", ".", None, b"x", f"{name}.", cookie + "\n"]
    others.append(people.new_cookie(secrets.token_bytes(32)))
    for forged in others:
        assert people.browser_of(secret, forged) is None or forged == cookie
    (tmp_path / people.SECRET).chmod(0o644)
    with pytest.raises(RunError, match="mode 600"):
        people.secret_of(tmp_path)


def test_the_administrators_token_is_asked_for_once_and_ends_with_another(store: RunStore) -> None:
    assert not people.make_administrator(store, ANN, "", None)
    assert not people.make_administrator(store, ANN, "wrong", "the token")
    assert not people.is_administrator(store, ANN, "the token")
    assert people.make_administrator(store, ANN, "the token", "the token")
    assert people.is_administrator(store, ANN, "the token")
    assert not people.is_administrator(store, BOB, "the token")
    assert not people.is_administrator(store, ANN, "another")
    assert not people.is_administrator(store, ANN, None)


CHANGES = {
    "stop": lambda access, run: access.stop(run),
    "resume": lambda access, run: access.resume(run),
    "label": lambda access, run: access.label(run, "new", ["new"]),
    "delete": lambda access, run: access.delete(run),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("owner", [ANN, None])
def test_strangers_look_and_change_nothing(store: RunStore, change: str, owner: str | None) -> None:
    def fresh() -> str:
        status = "running" if change == "stop" else "cancelled"
        return owned(store, synthetic_run(store, status=status, layers=SMALL).id, owner)

    run = fresh()
    before = store.get(run)
    with pytest.raises(AccessError, match="another browser" if owner else "command line"):
        CHANGES[change](visitor(store, BOB), run)
    assert store.get(run) == before
    assert not store.cancel_requested(run)
    allowed = [visitor(store, BOB, administrator=True), visitor(store, None)]
    for access in [*allowed, *([visitor(store, ANN)] if owner else [])]:
        CHANGES[change](access, run)
        run = fresh()


def test_pages_change_runs_through_access_only() -> None:
    forbidden = ("store().request_cancel", "store().delete", "store().create", "labels.label(")
    for path in [ROOT / "Home.py", *(ROOT / "pages").rglob("*.py")]:
        assert not any(text in path.read_text(encoding="utf-8") for text in forbidden), path


def test_what_is_more_than_the_server_allows_is_refused_by_name_before_anything_is_made(store: RunStore) -> None:
    spec = parse_run_spec({"networks": NETWORKS, "zip": {"retrain": {"steps": 50}}, "calibration": {"images": 200}})
    limits: list[tuple[dict[str, Any], str]] = [
        ({"most_steps": 49}, r"zip.retrain.steps: 50 .* at most 49 \(MTZ_MOST_STEPS"),
        ({"most_images": 199}, r"calibration.images: 200 .* at most 199 \(MTZ_MOST_IMAGES"),
        ({"job_memory": all_memory() // 2**20 + 1}, "MTZ_JOB_MEMORY"),
    ]
    for settings, said in limits:
        with pytest.raises(LimitError, match=said):
            visitor(store, ANN, **settings).start(spec)
    assert store.list() == []
    assert visitor(store, ANN, most_steps=50, most_images=200).start(spec).owner == ANN
    assert visitor(store, ANN, administrator=True, most_steps=1).start(spec).waiting

    with pytest.raises(LimitError, match=r"at most 1 \(MTZ_MOST_JOBS"):
        visitor(store, ANN, most_jobs=1).start(spec)
    with pytest.raises(LimitError, match="MTZ_MOST_JOBS"):
        visitor(store, ANN, most_jobs=2).check_job()
    visitor(store, BOB, most_jobs=1).start(spec)
    (store.root / "large").write_bytes(bytes(3 * 2**20))
    with pytest.raises(LimitError, match=r"at most 2 \(MTZ_MOST_DISK"):
        visitor(store, BOB, most_disk=2).start(spec)
    check_upload(ServerSettings(most_upload=1), 2**20)
    with pytest.raises(LimitError, match="MTZ_MOST_UPLOAD"):
        check_upload(ServerSettings(most_upload=1), 2**20 + 1)


def test_old_runs_of_browsers_are_deleted_and_no_others(store: RunStore) -> None:
    old = owned(store, synthetic_run(store, layers=SMALL).id, ANN)
    kept = [
        owned(store, synthetic_run(store, layers=SMALL).id, None),
        owned(store, synthetic_run(store, status="running", layers=SMALL).id, ANN),
        visitor(store, ANN).start(synthetic_spec()).id,
    ]
    young = owned(store, synthetic_run(store, layers=SMALL).id, ANN)
    with writing(store.database) as db:
        past = time.time() - 3 * DAY
        db.execute("UPDATE runs SET finished = ?, updated = ?, created = ? WHERE id != ?", (past, past, past, young))
        db.execute("UPDATE runs SET finished = NULL WHERE id IN (?, ?)", kept[1:])
    assert delete_old(store, 2.0) == [old]
    assert {record.id for record in store.list()} == {young, *kept}


def test_settings_are_read_from_the_environment_and_a_wrong_one_is_named() -> None:
    assert server_settings({}).jobs >= 1
    read = server_settings({"MTZ_JOBS": "3", "MTZ_OWNERS": "browser", "MTZ_KEEP_DAYS": "0.5", "MTZ_MOST_STEPS": ""})
    assert (read.jobs, read.owners, read.keep_days, read.most_steps) == (3, "browser", 0.5, None)
    for name, text in (("MTZ_JOBS", "0"), ("MTZ_OWNERS", "me"), ("MTZ_ADMIN", "short"), ("MTZ_MOST_DISK", "much")):
        with pytest.raises(SpecError, match=rf"\${name}") as told:
            server_settings({name: text})
        assert "short" not in str(told.value).split(":")[0]
    assert "a long token" not in repr(server_settings({"MTZ_ADMIN": "a long token"}))


@pytest.mark.parametrize(
    ("owners", "address", "browsers", "short"),
    [("auto", "localhost", False, 1), ("auto", "0.0.0.0", True, 0), ("auto", None, True, 0),
     ("browser", "localhost", True, 0), ("everyone", "0.0.0.0", False, 1)],
)  # fmt: skip
def test_runs_belong_to_browsers_where_others_can_come(
    owners: Any, address: str | None, browsers: bool, short: int
) -> None:
    settings = ServerSettings(owners=owners)
    assert (settings.by_browser(address), settings.extra_places(address)) == (browsers, short)


def test_a_run_is_called_by_what_it_zips_until_it_is_renamed(store: RunStore) -> None:
    run = store.create(parse_run_spec({"networks": NETWORKS, "zip": {"share": 0.6}})).id
    assert run_name(store.get(run)) == "LeNet-5 · digits + clothes · 60 %"
    several = {"share": {"conv1": 0.5, "fc1": 0.9}}
    assert run_name(store.create(parse_run_spec({"networks": NETWORKS, "zip": several}))).endswith("50–90 %")
    planned = {"share": "auto", "budget": {"size": 1.5}}
    assert run_name(store.create(parse_run_spec({"networks": NETWORKS, "zip": planned}))).endswith("size 1.5")
    at = ["--store", str(store.root)]
    assert main(["rename", run, "  my \n run ", *at]) == 0
    assert main(["tag", run, "b", "a", "b", "", *at]) == 0
    assert (run_name(store.get(run)), store.get(run).tags) == ("my run", ("a", "b"))
    assert store.get(run).spec.title == "", "the specification is what was asked for"
    for title, tags in (("x" * 201, ["new"]), ("new", ["x" * 41]), ("new", [str(k) for k in range(21)])):
        with pytest.raises(RunError, match="at most"):
            labels.label(store, run, title, tags)
    assert (store.get(run).title, store.get(run).tags) == ("my run", ("a", "b")), "both or neither"
    assert main(["tag", run, "b, \u202ea\0", "\udcff", *at]) == 0, "no tag turns what follows it, or prints nothing"
    assert store.get(run).tags == ("a", "b")
    assert main(["delete", run, *at]) == 0
    assert main(["delete", run, *at]) == 2


def test_a_stranger_sees_no_buttons_and_the_reason(
    visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTZ_OWNERS", "browser")
    for status, key in (("running", "stop"), ("lost", "resume"), ("finished", "run-")):
        run = owned(store, synthetic_run(store, status=status, layers=SMALL).id, ANN)
        app = visit("pages/2_Zip.py", run=run)
        assert not [button.key for button in app.button if str(button.key).startswith(key)]
        if status != "finished":
            assert "belongs to another browser" in shown(app)
    monkeypatch.setenv("MTZ_OWNERS", "everyone")
    assert f"run-sure-{run}" in [button.key for button in visit("pages/2_Zip.py", run=run).button]


def as_browser(app: Any, cookie: str, **parameters: str) -> Any:
    app.session_state["browser-cookie"] = cookie
    app.query_params.clear()
    app.query_params.update(parameters)
    return app.run()


def test_on_compare_a_run_is_named_tagged_and_deleted_by_whose_it_is_and_filtered_by_everybody(
    visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTZ_OWNERS", "browser")
    monkeypatch.setenv("MTZ_ADMIN", "the token")
    secret = people.secret_of(store.root)
    ann, bob = people.new_cookie(secret), people.new_cookie(secret)
    mine, other = (owned(store, synthetic_run(store, layers=SMALL, title=t).id, ann[:32]) for t in ("one", "two"))
    app = as_browser(visit(COMPARE), ann, run=mine)
    assert "Tags" not in [choice.label for choice in app.multiselect]
    app.text_input(key=f"run-title-{mine}").set_value(" =my  run")
    app.text_input(key=f"run-tags-{mine}").set_value("best,  class 3, <b>best</b>")
    app = app.button(key=f"run-save-{mine}").click().run()
    assert (store.get(mine).title, store.get(mine).tags) == ("=my run", ("<b>best</b>", "best", "class 3"))
    assert "\\<b\\>best" in shown(app)
    assert set(app.dataframe[0].value["tags"]) == {"", "<b>best</b>, best, class 3"}

    app = app.multiselect(key="url-tag").set_value(["best", "class 3"]).run()
    assert list(app.dataframe[0].value["title"]) == ["=my run"]
    assert app.query_params["tag"] == ["best", "class 3"]
    app = as_browser(visit(COMPARE), bob, run=mine, tag="best")
    assert list(app.dataframe[0].value["title"]) == ["=my run"]
    assert "belongs to another browser" in shown(app)
    assert not [each.key for each in (*app.button, *app.text_input) if str(each.key).startswith("run-")]

    copy = visitor(store, bob[:32]).start(store.get(mine).spec)
    assert (copy.owner, copy.tags) == (bob[:32], ())
    for browser, run in ((ann[:32], copy.id), (bob[:32], mine)):
        with pytest.raises(AccessError):
            visitor(store, browser).label(run, tags=["x"])
    people.make_administrator(store, bob[:32], "the token", "the token")
    app = as_browser(app, bob, run=other, pin=other).button(key=f"run-sure-{other}").click().run()
    app = app.button(key=f"run-delete-{other}").click().run()
    assert not app.exception
    assert mine in [record.id for record in store.list()]
    assert other not in [record.id for record in store.list()]
    assert not {"run", "pin"} & set(app.query_params), "what is gone is no longer asked for"


def test_lists_of_runs_are_narrowed_down_by_tags(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [store.create(synthetic_spec()).id for _ in range(3)]
    for run, tags in zip(runs, (["a", "b"], ["a"], []), strict=True):
        labels.label(store, run, tags=tags)
    with writing(store.database) as db:
        db.execute("UPDATE runs SET tags = 'no JSON' WHERE id = ?", (runs[2],))
    assert [record.id for record in store.list(tags=["a"])] == [runs[1], runs[0]]
    assert [record.id for record in store.list(tags=["b", "a"], limit=1)] == [runs[0]]
    assert main(["list", "--tag", "b", "--store", str(store.root)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 2
    assert listed[1].endswith("[a, b]")


def test_a_run_in_the_queue_says_its_position_and_is_stopped_there(
    visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTZ_JOBS", "1")
    monkeypatch.setenv("MTZ_JOB_MEMORY", "1")
    store.claim(store.create(synthetic_spec()).id)  # this process works
    first, second = (visitor(store, None).start(synthetic_spec()).id for _ in range(2))
    app = visit("pages/2_Zip.py", run=second)
    assert any("Position 2 in the queue" in str(found.proto) for found in app.get("progress"))
    app.button(key="stop").click().run()
    assert store.get(second).status is RunStatus.CANCELLED
    assert [ticket.id for ticket in queue.waiting(store) if ticket.started is None] == [first]
