"""Processes that compute say how many threads they use, and sleep while they wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtz_core.errors import SpecError
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.system import threads
from tests.synthetic import synthetic_spec

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("MTZ_THREADS", "MTZ_JOBS", *threads.COUNTS, *threads.PASSIVE)
ASKED = """
import json, os, sys
from mtz_core.cli import main
{before}
import torch
print(json.dumps([torch.get_num_threads(), os.environ.get("OMP_WAIT_POLICY")]))
"""


def asked(before: str, **environment: str) -> list[object]:
    """Threads of torch, and how they wait, in a process that begins with `before`."""
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    code = ASKED.format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=True
    )
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_command_computes_with_the_threads_it_was_given_and_waits_passively() -> None:
    given = "main(['plan', 'no-such-file.yaml', '--threads', '1'])"
    assert asked(given) == [1, "PASSIVE"]
    assert asked("main(['list'])")[1] is None  # a command that computes nothing changes nothing
    assert asked("from mtz_core.own import job; job.threads.settle()", MTZ_THREADS="1") == [1, "PASSIVE"]


def test_the_default_divides_the_cores_among_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 8)
    assert (threads.jobs_at_once(), threads.threads_per_job()) == (4, 2)
    monkeypatch.setenv("MTZ_JOBS", "3")
    assert threads.threads_per_job() == 2
    monkeypatch.setenv("MTZ_JOBS", "16")
    assert threads.threads_per_job() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    assert threads.threads_per_job() == 5
    monkeypatch.setenv("MTZ_THREADS", "6")
    assert threads.threads_per_job() == 6


def test_a_single_core_has_one_job_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 1)
    assert (threads.jobs_at_once(), threads.threads_per_job()) == (1, 1)


@pytest.mark.parametrize("text", ["0", "many", "-2", "1.5"])
def test_a_number_that_makes_no_sense_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTZ_THREADS", text)
    with pytest.raises(SpecError, match=r"MTZ_THREADS.*whole number"):
        threads.threads_per_job()
    with pytest.raises(SpecError, match="threads is 0"):
        threads.settle(0)


def test_a_run_says_how_many_threads_its_worker_used(store: RunStore) -> None:
    record = store.create(synthetic_spec(title="threads"))
    code = f"import sys; from mtz_core.cli import main; sys.exit(main(['worker', {record.id!r}, '--threads', '1']))"
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment = kept | {"MTZ_RUNS": str(store.root)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False, timeout=120)
    assert store.get(record.id).summary["threads"] == 1
    assert store.get(record.id).status is RunStatus.FINISHED
