"""A sweep is every combination once: of its points none is lost and none computed twice, whoever else is at them."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mtz_core.cli import main
from mtz_core.errors import RunError, SpecError
from mtz_core.runs import database, labels, queue, same
from mtz_core.runs import fingerprint as fingerprints
from mtz_core.runs.fingerprint import fingerprint, note
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.spec import RunSpec, parse_run_spec
from mtz_core.sweeps import engine, plan
from mtz_core.sweeps.engine import Running
from mtz_core.sweeps.events import Event
from mtz_core.sweeps.example import EXAMPLE
from mtz_core.sweeps.plan import Sweep, load_sweep, plan_sweep
from mtz_core.sweeps.pool import Size, local_size
from mtz_core.sweeps.remote import ELSEWHERE, Task, unfit, work
from tests.synthetic import Layer, synthetic_events

BASE: dict[str, Any] = {"networks": [{"parent": "lenet300-mnist-0"}, {"parent": "lenet300-mnist-1"}]}
HERE = Path(__file__).parent


def planned(over: dict[str, Any] | None = None, together: list[Any] | None = None, **more: Any) -> Sweep:
    return plan_sweep({"base": BASE, "over": over or {}, "together": together or []} | more, "named", HERE)


# Points


def test_points_are_all_combinations_and_what_goes_together_varies_in_step() -> None:
    shares, seeds = [0.2, 0.5, 1.0], [3, 4]
    steps = [(100, 10), (200, 20)]
    both = {"calibration.images": [a for a, _ in steps], "zip.retrain.steps": [b for _, b in steps]}
    sweep = planned({"zip.share": shares, "zip.seed": seeds}, [both])
    found = [(p.spec.zip.share, p.spec.zip.seed, p.spec.calibration.images, _steps(p.spec)) for p in sweep.points]
    assert found == [(a, b, *c) for a, b, c in itertools.product(shares, seeds, steps)]
    assert [p.number for p in sweep.points] == list(range(1, 13))
    assert sweep.different == 12
    assert {p.spec.title for p in sweep.points} >= {
        "named: share 0.2, seed 3, calibration.images 100, retrain.steps 10"
    }


def test_a_value_is_the_whole_value_of_its_field_and_nothing_leaks_from_point_to_point() -> None:
    other = [{"parent": "lenet300-fashion-0"}, {"parent": "lenet300-mnist-0"}]
    by_layer = {"networks": [BASE["networks"], other], "zip.share": [{"fc1": 0.5}, {"layer.0": 7, "fc2": 2}]}
    points = planned(by_layer).points
    assert [p.spec.networks[0].parent for p in points] == ["lenet300-mnist-0"] * 2 + ["lenet300-fashion-0"] * 2
    assert [p.spec.zip.share for p in points] == [{"fc1": 0.5}, {"layer.0": 7, "fc2": 2}] * 2
    one = plan_sweep(
        {"base": BASE | {"zip": {"share": {"fc1": 0.5}}}, "over": {"zip.share.layer1.0.conv1": [1, 2]}}, "x", HERE
    )
    assert [p.spec.zip.share for p in one.points] == [{"fc1": 0.5, "layer1.0.conv1": k} for k in (1, 2)]
    names = planned({"networks.1.parent": ["lenet300-mnist-0", "lenet300-letters-0"]}).points
    assert [[n.parent for n in p.spec.networks] for p in names] == [
        ["lenet300-mnist-0", "lenet300-mnist-0"], ["lenet300-mnist-0", "lenet300-letters-0"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("over", "together", "message"),
    [
        ({}, [], "nothing varies"),
        ({"zip.shar": [1.0]}, [], r"1 of 1 points .*\npoint 1 \(shar 1.0\): zip.shar: Extra inputs"),
        ({"zip.share": [0.5, 1.5]}, [], r"1 of 2 points .*\npoint 2 \(share 1.5\): zip.share"),
        ({"zip.share": []}, [], "over.zip.share: the list is empty"),
        ({"zip..share": [1.0]}, [], "no field"),
        ({"zip.share": 0.5}, [], "over.zip.share: .*list"),
        ({"networks.2.parent": ["x"]}, [], "there is no '2' in a list of 2"),
        ({"title.x": [1]}, [], "point 1"),
        ({"networks.0.parent": ["nobody"]}, [], r"networks.0.parent: .*nobody"),
        ({"data_root": ["nowhere"]}, [], "point 1 .*nowhere"),
        ({"zip.retrain": [None], "zip.retrain.steps": [1]}, [], "varied twice"),
        ({"zip.seed": [1]}, [{"zip.seed": [2]}], "varied twice"),
        ({}, [{"zip.seed": [1, 2], "zip.share": [0.5]}], "zip.seed has 2, zip.share has 1"),
        ({}, [{}], "together.0: .*empty"),
        (
            {"zip.seed": list(range(101)), "zip.positions": list(range(1, 101))},
            [],
            "101 × 100 = 10,100 points, .*10,000",
        ),
    ],
)
def test_what_makes_no_sense_is_told_with_its_point_and_field(over: Any, together: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        planned(over, together)


def test_many_wrong_points_are_counted_and_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="20 of 20 points") as told:
        planned({"zip.alpha": [[1.0, float(k), 2.0] for k in range(1, 21)]})
    assert str(told.value).count("\n") == plan.SHOWN_PROBLEMS + 1
    assert str(told.value).endswith("and 12 more")
    own = {"architecture": "lenet300", "weights": "gone.safetensors", "data": "mnist"}
    with pytest.raises(SpecError, match=r"networks.1.weights: .*gone.safetensors is not there"):
        plan_sweep({"base": {"networks": [BASE["networks"][0], own]}, "over": {"zip.seed": [1]}}, "x", tmp_path)
    for bad in ("- 1", "base: 3", "bas: {}", "base: {}\nname: 'a,b'\nover: {zip.seed: [1]}", "a: [", "1: 2"):
        path = tmp_path / "bad.yaml"
        path.write_text(bad)
        with pytest.raises(SpecError):
            load_sweep(path)


def test_the_example_is_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--example"]) == 0
    assert capsys.readouterr().out == EXAMPLE
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLE)
    assert main(["sweep", str(path), "--check"]) == 0
    assert capsys.readouterr().out.startswith("6 points, 6 of them different")
    assert main(["sweep"]) == 2


# Fingerprints


def spec(**fields: Any) -> RunSpec:
    return parse_run_spec(BASE | fields)


def test_a_fingerprint_changes_with_whatever_decides_a_result_and_with_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MTZ_DATA", raising=False)
    weights = tmp_path / "own.safetensors"
    weights.write_bytes(b"one")
    own = {"networks": [BASE["networks"][0], {"architecture": "lenet300", "weights": str(weights), "data": "mnist"}]}
    first = fingerprint(spec(**own))
    os.utime(weights, ns=(1, 1))
    assert fingerprint(spec(**own, title="other", origin="x", zip={"share": 1.0})) == first
    named = [own["networks"][0], {**own["networks"][1], "name": "mine"}]
    assert fingerprint(spec(networks=named)) == first
    changed = [fingerprint(spec(**own, zip={"seed": 1}))]
    weights.write_bytes(b"two")
    changed.append(fingerprint(spec(**own)))
    (tmp_path / "root").mkdir()
    monkeypatch.setenv("MTZ_DATA", str(tmp_path / "root"))
    changed.append(fingerprint(spec(**own)))
    (tmp_path / "root" / "mnist.npz").write_bytes(b"x")
    changed.append(fingerprint(spec(**own)))
    monkeypatch.setattr(fingerprints, "engine", lambda: "another program")
    changed.append(fingerprint(spec(**own)))
    assert len({first, *changed}) == 6


def test_one_fingerprint_is_one_run_however_many_ask_at_once(store: RunStore) -> None:
    found: list[str] = []

    def ask() -> None:
        found.append(store.create(spec(), fingerprint="f").id)

    asking = [threading.Thread(target=ask) for _ in range(6)]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    assert len(found) == 6
    assert len(set(found)) == len(store.list()) == len([p for p in store.root.iterdir() if p.is_dir()]) == 1
    assert store.create(spec(), fingerprint="g").id != found[0]


def test_a_run_that_was_started_by_hand_is_the_sweeps_as_far_as_it_reads_the_same(store: RunStore) -> None:
    mine = fingerprint(spec())
    by_hand = store.create(spec(title="by hand"))
    assert store.create(spec(), fingerprint=mine).id == by_hand.id, "nobody knows yet, and it may be the same"
    assert store.create(spec(zip={"seed": 5}), fingerprint="f").id != by_hand.id
    note(store, store.claim(by_hand.id))
    assert store.get(by_hand.id).fingerprint == mine
    store.set_status(by_hand.id, RunStatus.FINISHED)
    assert store.create(spec(), fingerprint=mine).id == by_hand.id
    old = store.create(spec())  # of a program that noted no fingerprints
    store.claim(old.id)
    store.set_status(old.id, RunStatus.FINISHED)
    assert store.create(spec(), fingerprint="another program's").id not in (old.id, by_hand.id)


def test_a_run_that_goes_on_with_another_program_has_no_fingerprint(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.create(spec())
    note(store, store.claim(run.id))
    store.save_checkpoint(run.id, {}, {})
    first = store.get(run.id).fingerprint
    note(store, store.get(run.id))
    assert store.get(run.id).fingerprint == first is not None
    monkeypatch.setattr(fingerprints, "engine", lambda: "another program")
    note(store, store.get(run.id))
    assert store.get(run.id).fingerprint is None


# Running, with workers that only write made-up events


class Workers:
    """Stands in for a pool: threads that claim runs and finish them, or die over those that `fatal` names."""

    log: ClassVar[list[tuple[str, bool]]] = []
    """Runs that were claimed, each with whether it had a place in the queue then."""

    fatal: tuple[float, ...] = ()
    fails: tuple[float, ...] = ()
    seconds = 0.05

    def __init__(self, store: RunStore, size: Size, address: str | None, woken: threading.Event) -> None:
        self.local, self.slots, self.text = address is None, 2, "made up"
        self._store, self._woken = store, woken
        self._answers: list[tuple[str, str, str | None]] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def submit(self, run_id: str) -> None:
        threading.Thread(target=self._work, args=(run_id,), daemon=True).start()

    def answers(self) -> Iterator[tuple[str, str, str | None]]:
        while self._answers:
            yield self._answers.pop()

    def _work(self, run_id: str) -> None:
        share = self._store.get(run_id).spec.zip.share
        if share in self.fatal:
            self._answers.append((run_id, "", "they died"))
            self._woken.set()
            return
        try:
            note(self._store, self._store.claim(run_id, launcher=os.getpid(), resume=True, counted=self.local))
        except RunError:
            self._answers.append((run_id, ELSEWHERE, None))
            return
        self.log.append((run_id, run_id in [ticket.id for ticket in queue.waiting(self._store)]))
        until = time.monotonic() + self.seconds
        while time.monotonic() < until and not self._store.cancel_requested(run_id):
            time.sleep(0.01)
        status = RunStatus.CANCELLED if self._store.cancel_requested(run_id) else RunStatus.FINISHED
        status = RunStatus.FAILED if share in self.fails else status
        if status is RunStatus.FINISHED:
            for event in list(synthetic_events(layers=(Layer("fc1", 4),), images=10))[-1:]:
                self._store.append(run_id, event)
        self._store.set_status(run_id, status, "it failed" if status is RunStatus.FAILED else None)
        self._answers.append((run_id, str(status), None))
        self._woken.set()


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> type[Workers]:
    monkeypatch.setenv("MTZ_JOBS", "2")
    monkeypatch.setenv("MTZ_KEEP_FREE", "0")
    monkeypatch.setenv("MTZ_JOB_MEMORY", "1")
    monkeypatch.setattr(engine, "LOOK", 0.02)
    monkeypatch.setattr(engine, "TELLING", 0.05)
    made: type[Workers] = type("Made", (Workers,), {"log": []})
    return made


def ran(sweep: Sweep, store: RunStore, kind: type[Workers], scheduler: str | None = None, listen: Any = None) -> Any:
    events: list[Event] = []
    running = Running(sweep, store, listen or events.append, scheduler, kind)  # type: ignore[arg-type]
    results = running.run()
    assert [r.point.number for r in results] == [p.number for p in sweep.points]
    return results, events


@pytest.mark.parametrize("scheduler", [None, "tcp://somewhere:1"])
def test_two_commands_on_one_sweep_compute_every_point_once(
    store: RunStore, workers: type[Workers], scheduler: str | None
) -> None:
    sweep = planned({"zip.share": [0.1, 0.2, 0.3, 0.4], "zip.seed": [1, 2]})
    by_hand = store.create(sweep.points[0].spec.model_copy(update={"title": "by hand"}))
    note(store, store.claim(by_hand.id))
    store.set_status(by_hand.id, RunStatus.FINISHED)
    found: list[Any] = []
    both = [threading.Thread(target=lambda: found.append(ran(sweep, store, workers, scheduler)[0])) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(timeout=60)
    assert len(found) == 2
    assert {r.status for results in found for r in results} == {RunStatus.FINISHED}
    assert len(store.list()) == 8
    assert len(workers.log) == len({run for run, _ in workers.log}) == 7, "the one by hand was taken"
    assert {run.tags for run in store.list()} == {("named",)}
    assert queue.waiting(store) == []
    for one, other in zip(*found, strict=True):
        assert one.record.id == other.record.id
        assert one.taken or other.taken
    results, _ = ran(sweep, store, workers, scheduler)
    assert len(workers.log) == 7, "and nothing is computed again"
    assert all(r.taken for r in results)


def test_a_run_of_the_same_text_that_read_other_files_is_waited_for_and_not_taken(
    store: RunStore, workers: type[Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = planned({"zip.share": [0.1]})
    by_hand = store.create(sweep.points[0].spec)
    store.claim(by_hand.id)
    seen: list[int] = []

    def end() -> None:
        seen.append(len(workers.log))
        with database.writing(store.database) as db:
            same.note(db, by_hand.id, "of other files")
        store.set_status(by_hand.id, RunStatus.FINISHED)

    threading.Timer(0.4, end).start()
    (result,), _ = ran(sweep, store, workers)
    assert seen == [0], "it may have become the same"
    assert result.status is RunStatus.FINISHED
    assert result.record.id != by_hand.id
    assert result.record.fingerprint == sweep.points[0].fingerprint


def test_a_point_over_which_workers_die_is_marked_and_the_others_go_on(store: RunStore, workers: type[Workers]) -> None:
    workers.fatal, workers.fails = (0.2,), (0.4,)
    results, _ = ran(planned({"zip.share": [0.1, 0.2, 0.3, 0.4]}), store, workers)
    assert [str(r.status) for r in results] == ["finished", "failed", "finished", "failed"]
    assert [r.message for r in results] == [None, "they died", None, "it failed"]
    assert [r.record.message for r in results[1::2]] == ["they died", "it failed"]
    workers.fatal = workers.fails = ()
    again, _ = ran(planned({"zip.share": [0.1, 0.2, 0.3, 0.4]}), store, workers)
    assert {r.status for r in again} == {RunStatus.FINISHED}
    assert [r.record.id for r in again] == [r.record.id for r in results], "they go on, and are no other runs"


def test_a_stop_cancels_what_is_at_work_and_leaves_nothing_that_waits(store: RunStore, workers: type[Workers]) -> None:
    workers.seconds = 30.0
    running = Running(planned({"zip.seed": [1, 2, 3, 4, 5]}), store, lambda event: None, None, workers)  # type: ignore[arg-type]
    timer = threading.Timer(0.4, lambda: running.stop.set())
    timer.start()
    results = running.run()
    assert [str(r.status) for r in results] == ["cancelled"] * 5
    assert [r.record is not None for r in results] == [True, True, False, False, False]
    assert queue.waiting(store) == []
    workers.seconds = 0.01
    again, _ = ran(planned({"zip.seed": [1, 2, 3, 4, 5]}), store, workers)
    assert {str(r.status) for r in again} == {"finished"}
    assert len(store.list()) == 5


def test_points_wait_for_their_place_behind_jobs_of_the_dashboard(store: RunStore, workers: type[Workers]) -> None:
    queue.ask(store, "plan", None, "plan-1")
    queue.ask(store, "plan", None, "plan-2")
    queue.admit(store, queue.Capacity(2, need=0, keep=0))
    assert [t.started is not None for t in queue.waiting(store)] == [True, True]
    at_work: list[int] = []
    waits: list[Any] = []

    def listen(event: Event) -> None:
        at_work.append(sum(t.started is not None for t in queue.waiting(store)))
        waits.append(getattr(event, "waits", None))
        for job in ("plan-1", "plan-2"):
            queue.beat(store, job)

    def free() -> None:
        waits.append(len(workers.log))
        queue.leave(store, "plan-1")

    timer = threading.Timer(0.6, free)
    timer.start()
    ran(planned({"zip.seed": [1, 2, 3]}), store, workers, listen=listen)
    assert max(at_work) <= 2
    assert 0 in waits, "nothing was computed before a place was free"
    assert [counted for _, counted in workers.log] == [True] * 3
    queue.leave(store, "plan-2")


def test_a_cluster_of_other_machines_takes_no_places_of_this_one(store: RunStore, workers: type[Workers]) -> None:
    for job in ("plan-1", "plan-2"):
        queue.ask(store, "plan", None, job)
    queue.admit(store, queue.Capacity(2, need=0, keep=0))
    results, _ = ran(planned({"zip.seed": [1, 2, 3]}), store, workers, "tcp://somewhere:1")
    assert {r.status for r in results} == {RunStatus.FINISHED}
    assert {t.id for t in queue.waiting(store)} == {"plan-1", "plan-2"}
    assert [counted for _, counted in workers.log] == [False] * 3


# Workers


def task(store: RunStore, run: str = "", /, **fields: Any) -> Task:
    store.root.mkdir(parents=True, exist_ok=True)
    (store.root / ".sweep-1").write_text("inside")
    given = {"engine": fingerprints.engine(), "mark": ".sweep-1", "inside": "inside", "threads": 1, "counted": True}
    return Task(**{"store": str(store.root), "run": run, "launcher": os.getpid()} | given | fields)


def test_a_worker_that_cannot_do_a_sweeps_runs_says_why(store: RunStore, tmp_path: Path) -> None:
    assert unfit(task(store)) is None
    for fields, reason in (
        ({"store": str(tmp_path / "elsewhere")}, "does not see the store"),
        ({"inside": "another"}, "another folder"),
        ({"engine": "another"}, "another version"),
    ):
        assert reason in str(unfit(task(store, **fields)))
    assert "--nthreads 1" in str(unfit(task(store), slots=2))
    with pytest.raises(RunError, match="another version"):
        work(task(store, engine="another"))


def test_a_worker_leaves_a_run_alone_that_is_over_or_at_another_process(store: RunStore) -> None:
    run = store.create(spec())
    store.claim(run.id)
    assert work(task(store, run.id)) == ELSEWHERE
    store.set_status(run.id, RunStatus.CANCELLED)
    assert work(task(store, run.id)) == "cancelled"
    assert store.get(run.id).attempt == 1


def test_processes_times_threads_are_never_more_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, places, wanted, runs in itertools.product((1, 2, 3, 8), (1, 2, 16), ("1", "2", "9"), (1, 100)):
        monkeypatch.setattr("mtz_core.sweeps.pool.cores", lambda cores=cores: cores)
        monkeypatch.setenv("MTZ_THREADS", wanted)
        size = local_size(runs, places)
        assert 1 <= size.processes * size.threads <= cores
        assert size.processes <= min(runs, places)
        assert size.memory > 0


def test_a_tag_more_leaves_the_others_and_every_run_in_order(store: RunStore) -> None:
    run = store.create(spec())
    labels.label(store, run.id, tags=["mine"])
    labels.add_tag(store, [run.id, "20260101-000000-000000"], "named")
    assert store.get(run.id).tags == ("mine", "named")
    labels.label(store, run.id, tags=[str(k) for k in range(20)])
    labels.add_tag(store, [run.id], "named")
    assert len(store.get(run.id).tags) == 20


def _steps(spec: RunSpec) -> int:
    assert spec.zip.retrain is not None
    return spec.zip.retrain.steps
