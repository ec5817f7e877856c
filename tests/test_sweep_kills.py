"""Whoever is killed in the middle of a sweep, its points are all there in the end, once each, by real Dask workers."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtz_core.runs.alive import process_created
from mtz_core.runs.records import RunRecord, RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.system.paths import child_environment

SWEEP: dict[str, Any] = {
    "base": {
        "networks": [{"parent": "lenet300-mnist-0"}, {"parent": "lenet300-mnist-1"}],
        "calibration": {"images": 50},
        "evaluation": {"images": 20, "live_images": 20, "harm": False},
        "zip": {"ridge": 0.01, "compensate": False, "retrain": {"steps": 20, "batch_size": 8}},
    },
    "over": {"zip.share": [0.2, 0.4]},
}


def _started(file: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mtz_core", "sweep", str(file), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_environment(), start_new_session=True,
    )  # fmt: skip


def _wait(store: RunStore, wanted: Callable[[RunRecord], bool], command: subprocess.Popen[str]) -> RunRecord:
    until = time.monotonic() + 200.0
    while time.monotonic() < until and command.poll() is None:
        for run in store.list():
            if wanted(run):
                return run
        time.sleep(0.02)
    raise AssertionError(f"{store.list()}, {command.poll()}")


@pytest.fixture
def file(store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in (("JOBS", "2"), ("THREADS", "1"), ("KEEP_FREE", "0"), ("JOB_MEMORY", "1"), ("MEMORY", "3G")):
        monkeypatch.setenv(f"MTZ_{name}", value)
    monkeypatch.delenv("MTZ_SCHEDULER", raising=False)
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(SWEEP))
    return path


def test_killed_workers_and_commands_lose_no_point_and_double_none(store: RunStore, file: Path, tmp_path: Path) -> None:
    command = _started(file)
    run = _wait(store, lambda run: run.status is RunStatus.RUNNING and _has_checkpoint(store, run), command)
    assert run.pid is not None
    assert run.pid != command.pid
    os.kill(run.pid, signal.SIGKILL)  # a worker
    again = _wait(store, lambda r: r.id == run.id and r.attempt == 2 and r.status is RunStatus.RUNNING, command)
    assert again.pid != run.pid
    command.send_signal(signal.SIGKILL)  # the command; its workers end with it
    command.communicate()
    until = time.monotonic() + 20.0
    while process_created(again.pid or 0) == again.pid_created and time.monotonic() < until:
        time.sleep(0.05)
    assert store.get(run.id).status in (RunStatus.LOST, RunStatus.FINISHED)

    table = tmp_path / "table.csv"
    out, err = _started(file, "--json", "--csv", str(table)).communicate(timeout=200)
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0]["event"] == "Begun", err
    assert [line["status"] for line in lines if line["event"] == "Result"] == ["finished"] * 2
    runs = store.list(tags=["two"])
    assert len(runs) == len(store.list()) == 2
    assert store.get(run.id).attempt in (2, 3)
    for each in runs:
        kinds = [event.kind for event in store.events(each.id)]
        assert [kinds.count(kind) for kind in ("Started", "LayerZipped", "Finished")] == [1, 2, 1]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["zip.share"] for row in rows] == ["0.2", "0.4"]
    assert [row["run"] for row in rows] == [_of(runs, share).id for share in (0.2, 0.4)]
    assert [float(row["error 1"]) for row in rows] == [_of(runs, share).summary["errors"][0] for share in (0.2, 0.4)]
    assert list(store.root.glob(".sweep-*")) == [], "the mark of the command that was killed"


def test_ctrl_c_cancels_what_is_at_work_and_the_command_ends(store: RunStore, file: Path) -> None:
    command = _started(file)
    _wait(store, lambda run: run.status is RunStatus.RUNNING and run.fraction > 0, command)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does it: workers, too
    out, err = command.communicate(timeout=100)
    assert command.returncode == 130, err
    assert "Traceback" not in err
    assert {run.status for run in store.list()} <= {RunStatus.CANCELLED, RunStatus.FINISHED}
    assert "cancelled" in out


def _has_checkpoint(store: RunStore, run: RunRecord) -> bool:
    return store.last_event(run.id, "LayerFinished") is not None and any(run.path.glob("checkpoint-*"))


def _of(runs: list[RunRecord], share: float) -> RunRecord:
    return next(run for run in runs if run.spec.zip.share == share)
