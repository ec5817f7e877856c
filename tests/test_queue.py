"""The queue: fair between owners, never more at once than the machine bears; no crash or pause locks anybody out."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from mtz_core.errors import RunError
from mtz_core.runs import alive, launch, queue
from mtz_core.runs.place import Place, place
from mtz_core.runs.pulse import Pulse
from mtz_core.runs.queue import Capacity
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.runs.turns import Ticket, in_order, waits
from tests.synthetic import synthetic_run, synthetic_spec

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
TWO = Capacity(places=2, need=1, keep=0, free=lambda: GIB)


def ask(store: RunStore, owner: str, count: int = 1) -> list[str]:
    """Runs that wait, in this order."""
    found = [
        store.create(synthetic_spec(), owner=owner, ticket=Ticket("", "run", owner, time.time())) for _ in range(count)
    ]
    return [record.id for record in found]


def change(store: RunStore, statement: str, *values: object) -> None:
    with sqlite3.connect(store.root / "runs.sqlite3") as db:
        db.execute(statement, values)
    db.close()


def end(store: RunStore, run: str) -> None:
    change(store, "UPDATE runs SET status = 'finished', finished = ? WHERE id = ?", time.time(), run)


def at_work(store: RunStore) -> list[str]:
    return [ticket.id for ticket in queue.waiting(store) if ticket.started is not None]


def test_of_two_owners_who_wait_neither_is_served_twice_more_than_the_other() -> None:
    chance = random.Random(0)
    for _ in range(50):
        tickets = [
            Ticket(
                f"{k:03}", chance.choice(["run", "plan", "check", "inspect"]), chance.choice("abcd"), chance.random()
            )
            for k in range(40)
        ]
        order = in_order(tickets, {})
        assert sorted(order, key=lambda t: t.id) == tickets
        for lane in ("long", "short"):
            mine = [t for t in order if t.lane == lane]
            for k in range(len(mine)):
                served, still = Counter(t.owner for t in mine[:k]), {t.owner for t in mine[k:]}
                counts = [served[owner] for owner in still]
                assert max(counts) - min(counts) <= 1
            for owner in "abcd":
                asked = [t.asked for t in mine if t.owner == owner]
                assert asked == sorted(asked)
        lanes = [t.lane for t in order]
        both = min(lanes.count("long"), lanes.count("short"))
        assert all(a != b for a, b in pairwise(lanes[: 2 * both]))


def test_a_greedy_browser_does_not_keep_others_waiting(store: RunStore) -> None:
    greedy = ask(store, "greedy", 8)
    assert [t.id for t in queue.admit(store, TWO)] == greedy[:2]
    modest = ask(store, "modest")
    standing = queue.standing(store, modest[0], TWO)
    assert standing is not None
    assert standing.before == 0
    end(store, greedy[1])
    assert [t.id for t in queue.admit(store, TWO)] == modest


def test_never_more_at_once_than_there_are_places_whoever_asks_and_however_often(store: RunStore) -> None:
    runs = [run for owner in "abcde" for run in ask(store, owner, 4)]
    given: list[str] = []
    most, over = [0], threading.Event()

    def look() -> None:
        mine: list[str] = []
        while not over.is_set():
            new = [t.id for t in queue.admit(store, TWO)]
            given.extend(new)
            mine += new
            most[0] = max(most[0], len(at_work(store)))
            for run in mine:
                end(store, run)
            mine = []
            if len(given) >= len(runs):
                over.set()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(given) == sorted(runs), "each is given a place once, and none is lost"
    assert 0 < most[0] <= 2
    owners = [store.get(run).owner for run in given]
    assert all(set(owners[k : k + 5]) == set("abcde") for k in range(0, 20, 5))


def test_a_short_job_has_a_place_of_its_own_only_where_there_is_one(store: RunStore) -> None:
    one, more = replace(TWO, places=1), replace(TWO, places=1, short=1)
    ask(store, "a", 2)
    queue.admit(store, one)
    queue.ask(store, "check", "b", "check-1")
    queue.admit(store, one)
    assert len(at_work(store)) == 1
    queue.ask(store, "inspect", "b", "inspect-1")
    queue.admit(store, more)
    queue.admit(store, more)
    assert len(at_work(store)) == 2
    assert "check-1" in at_work(store)


def test_a_job_waits_for_memory_and_says_so(store: RunStore) -> None:
    (run,) = ask(store, "a")
    tight = replace(TWO, need=500, keep=100, free=lambda: 599)
    assert queue.admit(store, tight) == []
    standing = queue.standing(store, run, tight)
    assert standing is not None
    assert standing.short_of == (500, 499)
    ask(store, "b")
    # what was given a place has not taken its memory yet: for a second one there is none
    assert [t.id for t in queue.admit(store, replace(tight, free=lambda: 700))] == [run]
    assert queue.admit(store, replace(tight, free=lambda: 1099)) == []


def test_how_long_it_takes_is_what_a_simulation_finds() -> None:
    chance = random.Random(1)
    for _ in range(100):
        places = chance.randint(1, 4)
        remaining = [chance.randint(1, 30) for _ in range(chance.randint(0, places))]
        ahead = [chance.randint(1, 30) for _ in range(chance.randint(0, 9))]
        work, line, now = list(remaining), list(ahead), 0
        while True:
            while line and len(work) < places:
                work.append(line.pop(0))
            if not line and len(work) < places:
                break
            now, work = now + 1, [left - 1 for left in work if left > 1]
        assert waits(remaining, ahead, places) == now


def test_a_stopped_run_leaves_the_queue_and_a_deleted_one_too(store: RunStore) -> None:
    first, second, third = ask(store, "a", 3)
    store.request_cancel(first)
    assert store.get(first).status is RunStatus.CANCELLED
    store.delete(second)
    assert [t.id for t in queue.waiting(store)] == [third]


def worker(store: RunStore, run: str) -> subprocess.Popen[str]:
    """A process that takes a run and gives signs of life."""
    program = (
        "import sys, time\nfrom mtz_core.runs.store import RunStore\nfrom mtz_core.runs.pulse import Pulse\n"
        "store = RunStore(sys.argv[1])\nrun = store.claim(sys.argv[2], launcher=int(sys.argv[3]))\n"
        "with Pulse(store, run.id) as pulse:\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(store.root), run, str(os.getpid())],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    return process


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_crash_frees_the_place_and_a_pause_gives_it_on_until_it_is_that_jobs_turn_again(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replace(TWO, places=1)
    first, second, third = ask(store, "a", 3)
    queue.admit(store, one)
    crashed = worker(store, first)
    assert queue.admit(store, one) == []
    crashed.kill()
    crashed.wait()
    assert [t.id for t in queue.admit(store, one)] == [second]
    assert store.get(first).status is RunStatus.LOST

    paused = worker(store, second)
    os.kill(paused.pid, signal.SIGSTOP)
    try:
        monkeypatch.setattr(alive, "HEARTBEAT_LIMIT", 1.5)
        until(lambda: [t.id for t in queue.admit(store, one)] == [third])
        assert store.get(second).status is RunStatus.PAUSED
        os.kill(paused.pid, signal.SIGCONT)
        until(lambda: store.get(second).status is RunStatus.RUNNING)
        assert store.get(second).waiting, "it is awake, and waits: the place is taken"
        change(store, "UPDATE queue SET beat = ? WHERE id = ?", time.time() + 60, third)
        queue.admit(store, one)
        assert at_work(store) == [third]
        end(store, third)
        until(lambda: not queue.admit(store, one) and at_work(store) == [second])
    finally:
        paused.kill()
        paused.wait()


def test_a_worker_without_its_place_stands_still(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = ask(store, "a")
    queue.admit(store, TWO)
    store.claim(run, launcher=os.getpid())
    with Pulse(store, run) as pulse:
        change(store, "UPDATE queue SET started = NULL WHERE id = ?", run)
        until(lambda: not pulse.held.is_set())
        queue.admit(store, TWO)
        assert pulse.held.wait(5.0)


def test_a_start_that_comes_to_nothing_is_tried_again_and_given_up_with_the_reason(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = ask(store, "a")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    for _ in range(200):
        launch.start_waiting(store, TWO)
        if not store.get(run).status.active:
            break
        assert store.get(run).status is RunStatus.QUEUED, "nobody is told that it was interrupted"
        time.sleep(0.05)
    record = store.get(run)
    assert record.status is RunStatus.FAILED
    assert f"started {queue.TRIES} times" in (record.message or "")
    assert queue.waiting(store) == []


def test_a_server_that_dies_between_giving_a_place_and_starting_loses_no_run(store: RunStore) -> None:
    (run,) = ask(store, "a")
    code = (
        "import os, sys\nfrom mtz_core.runs import queue\nfrom mtz_core.runs.store import RunStore\n"
        "store = RunStore(sys.argv[1])\n(t,) = queue.admit(store, queue.Capacity(1, need=1, keep=0))\n"
        "store.reserve(t.id)\nos._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store.root)], cwd=ROOT, check=False).returncode == 9
    assert store.get(run).status is RunStatus.QUEUED
    assert [t.id for t in queue.admit(store, TWO)] == [run]
    assert store.reserve(run).id == run


def test_a_run_of_another_container_is_lost_only_when_its_pulse_is(store: RunStore) -> None:
    run = store.claim(store.create(synthetic_spec()).id)
    change(store, "UPDATE runs SET host = 'elsewhere pid:[1]', pid = 4194305, pid_created = 1.0 WHERE id = ?", run.id)
    change(store, "UPDATE queue SET host = 'elsewhere pid:[1]', pid = 4194305, pid_created = 1.0 WHERE id = ?", run.id)
    assert store.get(run.id).status is RunStatus.RUNNING
    queue.admit(store, TWO)
    assert at_work(store) == [run.id]
    for table, column in (("runs", "heartbeat"), ("queue", "beat")):
        change(store, f"UPDATE {table} SET {column} = ?", time.time() - alive.HEARTBEAT_LIMIT - 1)
    assert store.get(run.id).status is RunStatus.LOST
    queue.admit(store, TWO)
    assert at_work(store) == []


def test_the_command_line_asks_nobody_but_counts(store: RunStore) -> None:
    store.claim(store.create(synthetic_spec()).id)
    (run,) = ask(store, "a")
    assert queue.admit(store, replace(TWO, places=1)) == []
    standing = queue.standing(store, run, replace(TWO, places=1))
    assert standing is not None
    assert standing.before == 0


def test_a_run_that_was_interrupted_goes_on_in_its_turn(store: RunStore) -> None:
    run = synthetic_run(store, status="lost")
    queue.ask_again(store, run.id)
    record = store.get(run.id)
    assert (record.status, record.waiting, record.attempt) == (RunStatus.QUEUED, True, 1)
    with pytest.raises(RunError, match="waits in the queue"):
        store.heartbeat(run.id)
    with pytest.raises(RunError, match="cannot be resumed"):
        queue.ask_again(store, run.id)
    queue.admit(store, TWO)
    assert store.claim(run.id, launcher=os.getpid()).attempt == 2


def test_whoever_waits_and_is_gone_is_forgotten(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(TWO, places=1)
    with place(store, "check", "a", one):
        assert len(at_work(store)) == 1
        queue.ask(store, "plan", "b", "plan-1")
        monkeypatch.setattr(alive, "HEARTBEAT_LIMIT", 0.0)
        queue.admit(store, one)
        assert "plan-1" not in [t.id for t in queue.waiting(store)]
    assert queue.waiting(store) == []
    with pytest.raises(KeyError), place(store, "check", "a", one):
        raise KeyError
    assert queue.waiting(store) == []


def test_a_process_takes_over_the_place_that_it_was_given(store: RunStore) -> None:
    queue.ask(store, "plan", "a", "plan-1")
    queue.admit(store, TWO)
    with Place(store, "plan-1") as held:
        held.hold(TWO)
        assert [t.pid for t in queue.waiting(store)] == [os.getpid()]
    assert queue.waiting(store) == []


def test_a_store_of_before_is_brought_up_to_date(store: RunStore) -> None:
    run = synthetic_run(store)
    with sqlite3.connect(store.root / "runs.sqlite3") as db:
        for table in ("queue", "turns", "administrators"):
            db.execute(f"DROP TABLE {table}")
        db.execute("DROP INDEX runs_by_fingerprint")
        for column in ("owner", "host", "tags", "fingerprint"):
            db.execute(f"ALTER TABLE runs DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert store.get(run.id) == replace(run, host=None)
    ask(store, "a")
    assert len(queue.admit(store, TWO)) == 1
