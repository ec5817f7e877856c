"""The server comes first: what it starts steps back, and what it sends leaves at once."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from mtz_core.runs import launch
from mtz_core.runs.store import RunStore
from mtz_core.system import machine
from mtz_core.system.garbage import collect_now_and_then
from mtz_core.system.sockets import DESCRIPTORS, send_at_once
from tests.synthetic import synthetic_spec

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
GROUPS = Path("/proc/self/autogroup").exists()
needs_nice = pytest.mark.skipif(not hasattr(os, "getpriority"), reason="no priorities on this system")


def nice(pid: int = 0) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


def session(pid: int) -> str:
    """What Linux says of the session of a process, among others how nice it is."""
    return Path(f"/proc/{pid}/autogroup").read_text(encoding="ascii").strip() if GROUPS else ""


@needs_nice
@pytest.mark.parametrize("leads", [True, False])
def test_a_process_steps_back_and_with_it_its_session_but_never_ours(leads: bool) -> None:
    ours, behind = session(os.getpid()), nice() + machine.KINDER
    with subprocess.Popen(SLEEP, start_new_session=leads) as child:
        try:
            machine.step_back(child.pid)
            assert nice(child.pid) == behind
            if leads and GROUPS:
                assert session(child.pid).endswith(f"nice {behind}")
            assert session(os.getpid()) == ours
        finally:
            child.kill()
    assert nice() == behind - machine.KINDER
    machine.step_back(child.pid)  # it is gone


@needs_nice
@pytest.mark.skipif(not GROUPS, reason="sessions have no priority on this system")
def test_a_wish_for_which_the_system_has_no_time_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    wishes: list[str] = []
    monkeypatch.setattr(machine, "PAUSES", (0.0, 0.0))

    def write(path: Path, text: str) -> None:
        wishes.append(f"{path} {text}")
        if len(wishes) % 3:
            raise BlockingIOError

    monkeypatch.setattr(Path, "write_text", write)
    with subprocess.Popen(SLEEP, start_new_session=True) as child:
        machine.step_back(child.pid)
        child.kill()
    assert wishes == [f"/proc/{child.pid}/autogroup {nice() + machine.KINDER}"] * 3


@needs_nice
def test_a_worker_is_behind_the_server_from_its_first_moment(store: RunStore) -> None:
    with launch.start_worker(store, store.create(synthetic_spec()).id) as worker:
        try:
            assert nice(worker.pid) == nice() + machine.KINDER
        finally:
            worker.kill()


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="this system does not list what a process has open")
def test_what_a_listening_socket_accepts_sends_at_once_though_its_protocol_is_not_named() -> None:
    with socket.socket() as listening, (DESCRIPTORS.parent / "null").open() as other:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        assert not accepted_sends_at_once(listening)
        before = set(os.listdir(DESCRIPTORS))
        assert send_at_once() >= 1
        assert set(os.listdir(DESCRIPTORS)) == before
        assert accepted_sends_at_once(listening)
        assert not other.closed


def accepted_sends_at_once(listening: socket.socket) -> bool:
    with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
        return accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_all_garbage_is_collected_now_and_then_and_modules_are_looked_at_once() -> None:
    class Ring:
        def __init__(self) -> None:
            self.itself = self

    async def served() -> tuple[int, int]:
        collecting = asyncio.create_task(collect_now_and_then(0.02, 0.01))
        try:
            await until(lambda: gc.get_freeze_count() > 0)
            frozen = gc.get_freeze_count()
            gone = weakref.ref(Ring())
            await until(lambda: gone() is None)
            later = gc.get_freeze_count()
        finally:
            collecting.cancel()
        return frozen, later

    gc.disable()
    try:
        frozen, later = asyncio.run(served())
        assert 10_000 < frozen < later + 100
        assert len(gc.get_objects()) < frozen
    finally:
        gc.enable()
        gc.unfreeze()


async def until(true: Callable[[], bool]) -> None:
    """Wait, for ten seconds at most."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came about")
