"""A sweep: what a second worker wins, and that nothing is lost or doubled whoever is killed.

Points are small zips. Kills hit, in turn and at random moments, the worker of a run, the command, and the scheduler of
a cluster that does not belong to the command. After each death of a command or a scheduler the same command is given
again, as a user would.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import yaml

from benchmarks.machine import table
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.system.paths import child_environment

PARENTS = ("lenet300-mnist-0", "lenet300-mnist-1")
PAUSE = (1.0, 4.0)
"""Seconds between two kills, with runs at work."""
PATIENCE = 120.0
KINDS = ("worker", "command", "scheduler")


def run(points: int = 8, kills: int = 20, seed: int = 0) -> None:
    """Print both."""
    with tempfile.TemporaryDirectory() as folder:
        _speed(Path(folder), points)
        if kills:
            _kills(Path(folder), points, kills, random.Random(seed))


def _sweep(folder: Path, points: int, steps: int) -> Path:
    base = {
        "networks": [{"parent": name} for name in PARENTS],
        "calibration": {"images": 100},
        "evaluation": {"images": 500, "harm": False},
        "zip": {"compensate": False, "retrain": {"steps": steps}},
    }
    path = folder / f"points-{points}-{steps}.yaml"
    path.write_text(yaml.safe_dump({"base": base, "over": {"zip.seed": list(range(points))}}), encoding="utf-8")
    return path


def _environment(store: Path, jobs: int, scheduler: str | None = None) -> dict[str, str]:
    given = {"MTZ_RUNS": str(store), "MTZ_JOBS": str(jobs), "MTZ_THREADS": "1", "MTZ_KEEP_FREE": "0"}
    given |= {"MTZ_JOB_MEMORY": "1", "MTZ_MEMORY": "3G"}
    return {**child_environment(), **given, **({} if scheduler is None else {"MTZ_SCHEDULER": scheduler})}


def _speed(folder: Path, points: int) -> None:
    """N independent points with one process and with two, one thread each."""
    seconds = {}
    for jobs in (1, 2):
        command = [sys.executable, "-m", "mtz_core", "sweep", str(_sweep(folder, points, 100)), "--quiet"]
        environment, began = _environment(folder / f"store-{jobs}", jobs), time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds[jobs] = time.perf_counter() - began
    print(f"\n{points} points of a sweep, from the command to its end, start of the workers included\n")
    rows = [[str(jobs), f"{spent:.1f} s", f"{seconds[1] / spent:.2f}"] for jobs, spent in seconds.items()]
    print(table(["processes", "time", "times as fast"], rows), flush=True)


class _Victims:
    """The command and, where there is one, the scheduler with its workers; each is started again when it is gone."""

    def __init__(self, file: Path, store: Path, log: Path, own_scheduler: bool) -> None:
        self._file, self._store, self._log = file, store, log
        self._port = _free_port() if own_scheduler else None
        self._cluster: list[subprocess.Popen[bytes]] = []
        self.command = self._start_command()

    def kill(self, kind: str, store: RunStore) -> bool:
        """Kill one of a kind with signal 9; `False` if there was none."""
        if kind == "scheduler":
            self._cluster[0].kill()
            for process in self._cluster:
                process.kill()
                process.wait()
            return True
        if kind == "command":
            self.command.kill()
            self.command.wait()
            return True
        working = [run.pid for run in store.list() if run.status is RunStatus.RUNNING and run.pid]
        with suppress(ProcessLookupError):
            if working:
                os.kill(working[0], signal.SIGKILL)
        return bool(working)

    def look(self) -> bool:
        """Start what is gone again; `True` once the command has ended well."""
        if self.command.poll() is None:
            return False
        if self.command.returncode == 0:
            return True
        self.command = self._start_command()
        return False

    def close(self) -> None:
        """End all."""
        for process in (self.command, *self._cluster):
            process.kill()
            process.wait()

    def _start_command(self) -> subprocess.Popen[bytes]:
        scheduler = None
        if self._port is not None:
            scheduler = f"tcp://127.0.0.1:{self._port}"
            if not self._cluster or self._cluster[0].poll() is not None:
                self._cluster = self._start_cluster(scheduler)
        command = [sys.executable, "-m", "mtz_core", "sweep", str(self._file), "--quiet"]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=_environment(self._store, 2, scheduler), stdout=log, stderr=log)

    def _start_cluster(self, address: str) -> list[subprocess.Popen[bytes]]:
        at = ["--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard"]
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
        scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", *at]
        with self._log.open("ab") as log:
            environment = _environment(self._store, 2)
            return [subprocess.Popen(c, env=environment, stdout=log, stderr=log) for c in (scheduler, worker, worker)]


def _kills(folder: Path, points: int, kills: int, draw: random.Random) -> None:
    """Half of the kills with workers of the command's own, half with a scheduler that it finds."""
    rows = []
    for own_scheduler, share in ((False, kills - kills // 2), (True, kills // 2)):
        store = RunStore(folder / f"killed-{own_scheduler}")
        kinds = KINDS if own_scheduler else KINDS[:2]
        log = folder / f"log-{own_scheduler}"
        victims = _Victims(_sweep(folder, points, 500), store.root, log, own_scheduler)
        try:
            done, seconds = _hunt(victims, store, share, kinds, draw)
        finally:
            victims.close()
        found = store.list()
        finished = sum(run.status is RunStatus.FINISHED for run in found)
        ends = Counter(len(store.events(run.id, kinds=["Finished"])) for run in found)
        different = len({run.spec.zip.seed for run in found})
        whose = "a scheduler that it finds" if own_scheduler else "its own"
        told = ", ".join(f"{done[kind]} × {kind}" for kind in kinds)
        rows.append(
            [whose, told, f"{points}", f"{different}", f"{len(found)}", f"{finished}", f"{ends[1]}", f"{seconds:.0f} s"]
        )
    print("\nKills by signal 9 in the middle of a sweep\n")
    header = ["workers", "killed", "points", "points there", "runs", "finished", "with one end", "time"]
    print(table(header, rows), flush=True)


def _hunt(
    victims: _Victims, store: RunStore, kills: int, kinds: tuple[str, ...], draw: random.Random
) -> tuple[Counter[str], float]:
    """Kill until it was often enough, then wait for the end."""
    done: Counter[str] = Counter()
    began = quiet = time.perf_counter()
    pause = draw.uniform(*PAUSE)
    while not victims.look():
        time.sleep(0.1)
        now = time.perf_counter()
        busy = any(run.status is RunStatus.RUNNING for run in store.list())
        if busy and now - quiet > pause and done.total() < kills:
            kind = kinds[done.total() % len(kinds)]
            done[kind] += victims.kill(kind, store)
            quiet, pause = time.perf_counter(), draw.uniform(*PAUSE)
        if not busy and now - quiet > PATIENCE:
            raise RuntimeError(f"nothing happens: {[str(run.status) for run in store.list()]}")
    return done, time.perf_counter() - began


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
