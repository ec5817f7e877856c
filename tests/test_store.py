"""The run store keeps what it is given, whenever its writer dies, and refuses what it cannot mean."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from mtz_core.errors import RunError
from mtz_core.events import DifferenceComputed, Evaluated, Finished, LayerFinished, LayerZipped, RetrainStep, Started
from mtz_core.outputs.types import TaskType
from mtz_core.runs import alive, database, encode
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.structure.networks import structure_from_json
from mtz_core.structure.sizes import ParameterCounts
from tests.synthetic import LENET5, Layer, synthetic_events, synthetic_run, synthetic_spec

ROOT = Path(__file__).resolve().parents[1]
SMALL = (Layer("fc1", 12), Layer("fc2", 6))


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def test_a_store_that_does_not_exist_is_empty_and_reading_makes_nothing(store: RunStore) -> None:
    assert store.list() == []
    assert not store.root.exists()


@pytest.mark.parametrize("layers", [SMALL, LENET5])
def test_arrays_come_back_as_they_were_yielded(store: RunStore, layers: tuple[Layer, ...]) -> None:
    run = synthetic_run(store, tasks=3, layers=layers, seed=3, images=20)
    events = list(synthetic_events(tasks=3, layers=layers, seed=3, images=20))
    assert store.layers(run.id) == [layer.name for layer in layers]
    for event in events:
        if isinstance(event, DifferenceComputed):
            arrays = store.layer_arrays(run.id, event.layer)
            assert set(event.differences) == {(0, 1), (0, 2), (1, 2)}
            for (t, u), values in event.differences.items():
                assert arrays[f"difference_{t}_{u}"].dtype == np.float32
                np.testing.assert_allclose(arrays[f"difference_{t}_{u}"], values, rtol=1e-6)
        if isinstance(event, LayerZipped):
            arrays = store.layer_arrays(run.id, event.layer)
            np.testing.assert_array_equal(arrays["pairs"], event.pairs)
            np.testing.assert_array_equal(arrays["costs"], event.costs)
            np.testing.assert_allclose(arrays["merged"], event.merged, rtol=1e-6)
            for t in range(3):
                np.testing.assert_array_equal(arrays[f"top_images_{t}"], event.top_images[t])
                np.testing.assert_array_equal(arrays[f"weights_{t}"], event.weights[t])
                np.testing.assert_array_equal(arrays[f"columns_{t}"], event.columns[t])
                np.testing.assert_allclose(arrays[f"matters_{t}"], event.matters[t], rtol=1e-6)
                np.testing.assert_allclose(arrays[f"scales_{t}"], event.scales[t], rtol=1e-6)
                np.testing.assert_allclose(arrays[f"gains_{t}"], event.gains[t], rtol=1e-6)
    assert [event.kind for event in store.events(run.id)] == [type(event).__name__ for event in events]


def test_events_are_filtered_by_number_and_kind(store: RunStore) -> None:
    run = synthetic_run(store, layers=SMALL)
    everything = store.events(run.id)
    assert [event.seq for event in everything] == list(range(1, len(everything) + 1))
    assert store.events(run.id, after=7) == everything[7:]
    some = store.events(run.id, after=7, kinds=["Evaluated", "Finished"])
    assert some == [event for event in everything[7:] if event.kind in ("Evaluated", "Finished")]
    assert store.last_event(run.id) == everything[-1]
    assert store.last_event(run.id, "Failed") is None


def test_structures_and_counts_are_read_back_equal(store: RunStore) -> None:
    run = synthetic_run(store, layers=LENET5, images=4)
    started = next(event for event in synthetic_events(layers=LENET5) if isinstance(event, Started))
    stored = store.last_event(run.id, "Started")
    assert stored is not None
    assert tuple(structure_from_json(item) for item in stored.data["structures"]) == started.structures
    counts = ParameterCounts(10, (3, 4), (20, 30))
    data = encode.counts_data(counts)
    assert ParameterCounts(data["shared"], tuple(data["private"]), tuple(data["parents"])) == counts


def test_numbers_that_json_lacks_become_null(store: RunStore) -> None:
    run = store.create(synthetic_spec())
    counts = ParameterCounts(1, (1, 1), (2, 2))
    store.append(
        run.id,
        Evaluated(
            fraction=0.5, seconds=1.0, stage="parents", layer=None, step=0, errors=(float("nan"), np.float32(2.5)),
            images=(0, np.int64(7)), counts=counts,
        ),
    )  # fmt: skip
    last = store.last_event(run.id)
    assert last is not None
    assert last.data["errors"] == [None, 2.5]
    assert last.data["images"] == [0, 7]
    assert store.get(run.id).summary["parent_errors"] == [None, 2.5]


def test_types_of_tasks_are_stored_with_a_run_and_come_back(store: RunStore) -> None:
    run = store.create(synthetic_spec())
    assert run.types == ()
    types = (TaskType("multilabel", probabilities=True), TaskType("multiclass", 2, ignore_index=255, dense=True))
    started = next(event for event in synthetic_events(layers=SMALL) if isinstance(event, Started))
    store.append(run.id, dataclasses.replace(started, types=types))
    assert store.get(run.id).types == types
    counts, scores = ParameterCounts(1, (1, 1), (2, 2)), ({"mean average precision, %": float("nan")}, {})
    last = Finished(
        fraction=1.0, seconds=1.0, counts=counts, errors=(1.0, 2.0), parent_errors=(1.0, 1.0), types=types,
        scores=scores, parent_scores=scores,
    )  # fmt: skip
    store.append(run.id, last)
    assert store.get(run.id).summary["scores"] == [{"mean average precision, %": None}, {}]


def test_large_weights_are_left_out_and_named(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "WEIGHT_LIMIT", 2 * 12 * 785 * 4)
    run = synthetic_run(store, layers=SMALL)
    zipped = [event.data["omitted"] for event in store.events(run.id, kinds=["LayerZipped"])]
    assert zipped == [["weights_1"], []]
    assert "weights_1" not in store.layer_arrays(run.id, "fc1")
    assert "weights_1" in store.layer_arrays(run.id, "fc2")


@pytest.mark.parametrize(
    "bad", ["", "../../etc/passwd", "20260101-000000-abcdef/..", "20260101-000000-ABCDEF", "20260101-000000-abcdef\n",
            "２0260101-000000-abcdef", None, 7, "x" * 10_000],
)  # fmt: skip
def test_malformed_identifiers_are_refused_everywhere(store: RunStore, bad: object) -> None:
    store.create(synthetic_spec())
    step = RetrainStep(fraction=0.0, seconds=0.0, layer=None, step=1, losses=(1.0,))
    for call in (
        store.get, store.events, store.layers, store.last_event, store.request_cancel, store.delete, store.claim,
        store.heartbeat, store.cancel_requested, store.load_checkpoint, lambda i: store.layer_arrays(i, "fc1"),
        lambda i: store.images(i, 0), lambda i: store.append(i, step), store.reserve, lambda i: store.hand_over(i, 1),
        lambda i: store.save_checkpoint(i, {}, {}), lambda i: store.set_status(i, RunStatus.FAILED),
        lambda i: store.save_images(i, 0, np.zeros(1)), lambda i: store.update_summary(i, a=1),
    ):  # fmt: skip
        with pytest.raises(RunError, match="is not a run identifier"):
            call(bad)  # type: ignore[arg-type, operator]


def test_unknown_run_and_layer_say_so(store: RunStore) -> None:
    with pytest.raises(RunError, match="there is no run"):
        store.get("20260101-000000-abcdef")
    run = synthetic_run(store, layers=SMALL)
    with pytest.raises(RunError, match="no arrays of layer 'fc9'"):
        store.layer_arrays(run.id, "fc9")


def test_odd_layer_names_stay_inside_the_run_folder(store: RunStore) -> None:
    names = ["../../up", "layer1.0.conv1", "a/b\\c:*?", "…", "a.b", "a b", "A" * 300]
    run = store.create(synthetic_spec())
    for value, name in enumerate(names):
        matrix = np.full((2, 2), float(value))
        store.append(
            run.id, DifferenceComputed(fraction=0, seconds=0, layer=name, differences={(0, 1): matrix}, ridge=0)
        )
    assert store.layers(run.id) == names
    for value, name in enumerate(names):
        arrays = store.layer_arrays(run.id, name)
        assert arrays["difference_0_1"][0, 0] == value
        assert arrays.path("difference_0_1").resolve().parent == (run.path / "arrays").resolve()


def test_list_is_newest_first_and_survives_an_unreadable_run(store: RunStore) -> None:
    runs = [store.create(synthetic_spec(title=str(i))) for i in range(4)]
    assert [run.title for run in store.list()] == ["3", "2", "1", "0"]
    assert [run.title for run in store.list(limit=2)] == ["3", "2"]
    _execute(store, "UPDATE runs SET spec = '{\"networks\": 1}' WHERE id = ?", runs[1].id)
    assert [run.title for run in store.list()] == ["3", "2", "0"]
    with pytest.raises(RunError, match="networks"):
        store.get(runs[1].id)


def test_a_newer_store_and_a_file_that_is_no_store_are_refused(store: RunStore) -> None:
    store.create(synthetic_spec())
    _execute(store, "PRAGMA user_version = 99")
    for call in (store.list, lambda: store.create(synthetic_spec())):
        with pytest.raises(RunError, match="newer MTZ Explorer"):
            call()
    other = RunStore(store.root / "other")
    other.root.mkdir()
    (other.root / "runs.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(RunError, match="cannot be used"):
        other.list()


def test_deleting_removes_rows_and_files_but_not_under_a_live_worker(store: RunStore) -> None:
    run, other = synthetic_run(store, layers=SMALL), synthetic_run(store, layers=SMALL, status="running")
    store.delete(run.id)
    assert not run.path.exists()
    with pytest.raises(RunError, match="there is no run"):
        store.events(run.id)
    with pytest.raises(RunError, match="cancel it"):
        store.delete(other.id)
    assert [record.id for record in store.list()] == [other.id]


def test_cancelling_asks_a_worker_and_ends_a_run_without_one(store: RunStore) -> None:
    queued = store.create(synthetic_spec())
    store.request_cancel(queued.id)
    assert store.get(queued.id).status is RunStatus.CANCELLED
    running = synthetic_run(store, layers=SMALL, status="running")
    assert not store.cancel_requested(running.id)
    store.request_cancel(running.id)
    assert store.cancel_requested(running.id)
    assert store.get(running.id).status is RunStatus.RUNNING
    lost = synthetic_run(store, layers=SMALL, status="lost")
    store.request_cancel(lost.id)
    assert store.get(lost.id).status is RunStatus.CANCELLED
    with pytest.raises(RunError, match="only a queued or running"):
        store.request_cancel(lost.id)


def test_a_worker_counts_as_dead_when_gone_a_zombie_or_another_process_and_as_paused_when_silent(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.claim(store.create(synthetic_spec()).id)
    assert store.get(run.id).status is RunStatus.RUNNING

    child = subprocess.Popen([sys.executable, "-c", ""])
    _execute(store, "UPDATE runs SET pid = ?, pid_created = NULL WHERE id = ?", child.pid, run.id)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, but nobody has asked for its exit status
    assert store.get(run.id).status is RunStatus.LOST
    child.wait()
    assert store.get(run.id).status is RunStatus.LOST

    _execute(store, "UPDATE runs SET pid = ?, pid_created = ? WHERE id = ?", os.getpid(), 1000.0, run.id)
    assert store.get(run.id).status is RunStatus.LOST
    _execute(store, "UPDATE runs SET pid_created = ? WHERE id = ?", alive.process_created(os.getpid()), run.id)
    assert store.get(run.id).status is RunStatus.RUNNING
    monkeypatch.setattr(alive, "HEARTBEAT_LIMIT", 0.0)
    assert store.get(run.id).status is RunStatus.PAUSED


def test_only_one_worker_claims_a_run(store: RunStore) -> None:
    run = store.create(synthetic_spec())
    store.claim(run.id)
    for resume in (False, True):
        with pytest.raises(RunError, match="is running"):
            store.claim(run.id, resume=resume)
    finished = synthetic_run(store, layers=SMALL)
    with pytest.raises(RunError, match="is finished"):
        store.claim(finished.id, resume=True)
    failed = synthetic_run(store, layers=SMALL, status="failed")
    with pytest.raises(RunError, match="resume continues it"):
        store.claim(failed.id)


def test_resuming_drops_what_came_after_the_checkpoint(store: RunStore) -> None:
    run = store.claim(store.create(synthetic_spec()).id)
    tensors = {"a.b": np.arange(6.0).reshape(2, 3), "n": np.array(3), "empty": np.zeros((0, 4), np.float32)}
    kept: list[str] = []
    for event in synthetic_events(layers=SMALL):
        store.append(run.id, event)
        if isinstance(event, LayerFinished) and not kept:
            store.save_checkpoint(run.id, {"old": np.zeros(1)}, {})
            store.save_checkpoint(run.id, tensors, {"layer": event.layer, "done": [1, 2]})
            kept = [item.kind for item in store.events(run.id)]
    assert store.layers(run.id) == ["fc1", "fc2"]
    store.set_status(run.id, RunStatus.CANCELLED)

    again = store.claim(run.id, resume=True)
    assert (again.attempt, again.status, again.summary["errors"]) == (2, RunStatus.RUNNING, None)
    assert [event.kind for event in store.events(run.id)] == kept
    assert store.layers(run.id) == ["fc1"]
    assert {path.name for path in (run.path / "arrays").iterdir()} == {
        store.layer_arrays(run.id, "fc1").path(key).name for key in store.layer_arrays(run.id, "fc1")
    }
    checkpoint = store.load_checkpoint(run.id)
    assert checkpoint is not None
    assert checkpoint.meta == {"layer": "fc1", "done": [1, 2]}
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor)
    assert len(list(run.path.glob("checkpoint-*"))) == 1
    last = store.append(run.id, RetrainStep(fraction=0.5, seconds=1.0, layer="fc2", step=1, losses=(1.0,)))
    assert last > len(list(synthetic_events(layers=SMALL))), "numbers are never used twice"


WRITER = """
import sys
from mtz_core.events import LayerFinished
from mtz_core.runs.store import RunStore
from tests.synthetic import synthetic_events, synthetic_spec
import numpy as np
store = RunStore(sys.argv[1])
print("ready", flush=True)
while True:
    run = store.claim(store.create(synthetic_spec()).id)
    for _ in range(5):
        store.save_images(run.id, 0, np.ones((2000, 1, 28, 28)))
    for event in synthetic_events(seed=int(sys.argv[2])):
        store.append(run.id, event)
        if isinstance(event, LayerFinished):
            store.save_checkpoint(run.id, {"w": np.ones((300, 785))}, {"layer": event.layer})
"""


def test_a_kill_at_any_moment_leaves_runs_whose_every_array_loads(store: RunStore) -> None:
    """Two writers at a time, killed at random moments, while this process reads."""
    rng = np.random.default_rng(0)
    arrays = 0
    for attempt in range(3):
        writers = [_start(WRITER, store.root, str(attempt * 2 + i)) for i in range(2)]
        deadline = time.monotonic() + float(rng.uniform(0.3, 1.6))
        while time.monotonic() < deadline:
            arrays += _read_everything(store)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
        arrays += _read_everything(store)
        # A writer that was killed between creating and claiming a run leaves it queued, for whoever claims it next.
        assert all(record.pid is None or not record.status.active for record in store.list())
    assert arrays > 50
    with sqlite3.connect(store.root / "runs.sqlite3") as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    db.close()
    record = next(record for record in store.list() if record.status is RunStatus.LOST)
    assert store.claim(record.id, resume=True).status is RunStatus.RUNNING


def test_threads_that_open_a_new_store_together_all_write(store: RunStore) -> None:
    failures: list[BaseException] = []

    def write() -> None:
        try:
            run = store.create(synthetic_spec())
            for step in range(10):
                store.append(run.id, RetrainStep(fraction=0.0, seconds=0.0, layer=None, step=step, losses=(1.0,)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [len(store.events(run.id)) for run in store.list()] == [10] * 6


def test_pages_need_no_torch() -> None:
    code = (
        "import sys, mtz_core.runs.store, mtz_core.runs.alive, tests.synthetic\n"
        "print([name for name in ('torch', 'streamlit', 'plotly') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _read_everything(store: RunStore) -> int:
    count = 0
    for record in store.list():
        store.events(record.id)
        for layer in store.layers(record.id):
            arrays = store.layer_arrays(record.id, layer)
            count += sum(1 for key in arrays if arrays[key].size)
        if (record.path / "images-0.npy").exists():
            assert store.images(record.id, 0).shape == (2000, 1, 28, 28)
        if not record.status.active:  # a live writer replaces its checkpoint, and only the next writer reads it
            checkpoint = store.load_checkpoint(record.id)
            assert checkpoint is None or checkpoint.tensors["w"].shape == (300, 785)
    return count


def _start(code: str, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _execute(store: RunStore, statement: str, *values: object) -> None:
    with sqlite3.connect(store.root / "runs.sqlite3") as db:
        db.execute(statement, values)
    db.close()


def test_on_a_networks_disk_all_write_and_what_a_killed_writer_left_is_taken_back(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "file_system", lambda folder: "nfs4")
    found: list[str] = []

    def write(number: int) -> None:
        for _ in range(5):
            found.append(store.create(synthetic_spec(title=str(number))).id)
            assert found[-1] in [run.id for run in store.list()]

    writing = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for each in writing:
        each.start()
    for each in writing:
        each.join()
    assert sorted(found) == sorted(run.id for run in store.list())
    assert len(set(found)) == 15
    killed = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "assert db.execute('PRAGMA journal_mode').fetchone()[0] == 'delete'\n"
        "db.execute('PRAGMA cache_size = 1')\n"
        "db.execute('BEGIN IMMEDIATE')\n"
        "db.execute('UPDATE runs SET title = hex(zeroblob(20000))')\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", killed, str(store.database)], check=True)
    assert store.database.with_name(f"{store.database.name}-journal").exists()
    assert {run.title for run in store.list()} == {"0", "1", "2"}


@pytest.mark.parametrize(("kind", "wanted"), [("nfs4", "delete"), ("lustre", "delete"), ("ext4", "wal"), ("", "wal")])
def test_the_journal_is_one_that_the_disk_can_keep(
    kind: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [SimpleNamespace(mountpoint=str(at), fstype=what) for at, what in (("/", "xfs"), (tmp_path, kind))]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    assert database.journal(tmp_path / "runs") == wanted
    assert database.journal(tmp_path.parent) == "wal"
