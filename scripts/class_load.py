"""A class on one server: many browsers press Start at once, and go on doing so. Prints what they met.

    python -m scripts.class_load --browsers 20               # one Start each, at the same moment
    python -m scripts.class_load --browsers 20 --minutes 5   # again and again, for five minutes

Each browser is a connection that speaks Streamlit's protocol as Chromium does (twenty Chromiums would be the load
themselves): it opens the Zip page with a cookie of its own, presses Start, and has the page look for news as often as
it says.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import re
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect

from mtz_core.runs import people, queue
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from tests.browser.server import dashboard

RUN = re.compile(r"run=([0-9]{8}-[0-9]{6}-[0-9a-f]{6})")
PATIENCE = 120.0
MIB = 2**20


@dataclass
class Met:
    """What all browsers met, in seconds and in words."""

    opened: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    looked: list[float] = field(default_factory=list)
    slid: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    at_work: list[int] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    computed: float = 0.0
    """CPU seconds of the server itself, without its workers, from the first Start on."""
    early: int = 0
    """Interactions before that."""

    def interactions(self) -> int:
        """How often a page was drawn, or a part of it."""
        return sum(map(len, (self.opened, self.slid, self.answered, self.looked)))


class Tab:
    """One browser with one page."""

    def __init__(self, socket: ClientConnection, met: Met) -> None:
        self._socket, self._met = socket, met
        self._page = ""
        self.query, self.fragment, self.every = "", "", 1.0
        self.widgets: dict[str, str] = {}
        self.said = ""

    async def ask(self, *states: WidgetState, fragment: str = "", answer: str = "") -> float:
        """Let the page run; return the seconds until it is drawn, or until its address holds `answer`."""
        message = BackMsg()
        message.rerun_script.query_string = self.query
        if fragment:
            message.rerun_script.page_script_hash = self._page
        else:
            message.rerun_script.page_name = "Zip"
        message.rerun_script.fragment_id = fragment
        message.rerun_script.is_auto_rerun = bool(fragment)
        message.rerun_script.widget_states.widgets.extend(states)
        began = time.monotonic()
        answered: float | None = None
        await self._socket.send(message.SerializeToString())
        while True:
            raw = await asyncio.wait_for(self._socket.recv(), PATIENCE)
            told = ForwardMsg()
            told.ParseFromString(raw if isinstance(raw, bytes) else raw.encode())
            self._read(told)
            if answer and answered is None and answer in self.query:
                answered = time.monotonic() - began
            if told.WhichOneof("type") == "script_finished":
                if told.script_finished in (
                    ForwardMsg.FINISHED_SUCCESSFULLY,
                    ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY,
                ):
                    if not answer or answered is not None:
                        return time.monotonic() - began if answered is None else answered
                elif told.script_finished == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
                    raise RuntimeError("the page does not compile")

    def _read(self, told: ForwardMsg) -> None:
        match told.WhichOneof("type"):
            case "new_session":
                self._page = told.new_session.page_script_hash
            case "page_info_changed":
                self.query = told.page_info_changed.query_string
            case "auto_rerun":
                self.fragment, self.every = told.auto_rerun.fragment_id, told.auto_rerun.interval
            case "stop_auto_rerun":
                self.fragment = ""
            case "delta":
                self._drawn(told.delta.new_element)

    def _drawn(self, element: Any) -> None:
        kind = element.WhichOneof("type")
        if kind == "button":
            self.widgets[element.button.label] = element.button.id
        elif kind == "progress":
            self.said = element.progress.text
        elif kind == "exception":
            self._met.errors.append(f"{element.exception.type}: {element.exception.message[:200]}")
        elif kind == "alert" and element.alert.format == element.alert.ERROR:
            self._met.errors.append(element.alert.body[:200])


async def zip_once(tab: Tab, met: Met, gate: asyncio.Barrier | None, share: float, store: RunStore) -> None:
    """Open the page, move a slider, press Start, watch the run to its end."""
    tab.query, tab.fragment = f"share-fc1={share:.2f}", ""
    met.opened.append(await tab.ask())
    tab.query = f"share-fc1={share / 2:.2f}"  # what a slider writes when it is let go
    met.slid.append(await tab.ask())
    if gate is not None:
        await gate.wait()
    met.answered.append(await tab.ask(WidgetState(id=tab.widgets["Start"], trigger_value=True), answer="run="))
    found = RUN.search(tab.query)
    if found is None:
        met.errors.append(f"a start was lost: {tab.query}")
        return
    met.runs.append(found[1])
    while store.get(found[1]).status.active:
        await asyncio.sleep(tab.every)
        met.looked.append(await tab.ask(fragment=tab.fragment))


async def browser(
    number: int, address: str, cookie: str, met: Met, gate: asyncio.Barrier, store: RunStore, end: float
) -> None:
    """One pupil: one Start, or one after another until `end`."""
    chance = random.Random(number)
    async with connect(
        f"{address.replace('http', 'ws')}/_stcore/stream", origin=address, subprotocols=["streamlit"],  # type: ignore[arg-type, list-item]
        additional_headers={"Cookie": f"{people.COOKIE}={cookie}"}, max_size=None, ping_timeout=PATIENCE,
    ) as socket:  # fmt: skip
        for turn in itertools.count():
            tab = Tab(socket, met)
            try:
                await zip_once(tab, met, gate if turn == 0 else None, chance.uniform(0.3, 1.0), store)
            except Exception as error:
                met.errors.append(f"browser {number}: {type(error).__name__} {error}")
                await gate.abort()  # nobody waits for one that will not come
                return
            if time.monotonic() > end:
                return


async def watch(store: RunStore, met: Met, server: psutil.Process) -> None:
    """Look at the queue and at the memory, every half second."""
    while True:
        await asyncio.sleep(0.5)
        met.at_work.append(sum(ticket.started is not None for ticket in queue.waiting(store)))
        workers = 0.0
        for child in server.children(recursive=True):
            try:
                workers += child.memory_info().rss / MIB
            except psutil.Error:
                continue
        met.memory.append((server.memory_info().rss / MIB, workers))


async def lesson(address: str, store: RunStore, browsers: int, seconds: float, server: psutil.Process) -> Met:
    """All browsers at once."""
    met, gate, secret = Met(), asyncio.Barrier(browsers + 1), people.secret_of(store.root)
    watching = asyncio.create_task(watch(store, met, server))
    counting = asyncio.create_task(count(met, gate, server))
    end = time.monotonic() + seconds
    pupils = [browser(k, address, people.new_cookie(secret), met, gate, store, end) for k in range(browsers)]
    await asyncio.gather(*pupils)
    watching.cancel()
    met.computed += computed(server)
    counting.cancel()
    return met


async def count(met: Met, gate: asyncio.Barrier, server: psutil.Process) -> None:
    """Begin to count when all browsers are ready to press Start; never, if one of them fails before."""
    with suppress(asyncio.BrokenBarrierError):
        await gate.wait()
    met.computed, met.early = -computed(server), met.interactions()


def computed(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has taken itself."""
    times = process.cpu_times()
    return float(times.user + times.system)


def tell(met: Met, store: RunStore, seconds: float, jobs: int) -> int:
    """Print what was met; return 1 if a start was lost, an error shown, or too much done at once."""
    print(f"{seconds:.0f} s, {psutil.cpu_count()} cores, load {psutil.getloadavg()[0]:.1f}")
    named = [("page opened", met.opened), ("slider → size", met.slid), ("Start → answer", met.answered)]
    for name, values in [*named, ("look at the run", met.looked)]:
        if values:
            print(f"{name:16} {len(values):6}  median {statistics.median(values):.2f} s  worst {max(values):.2f} s")
    everything = [*met.slid, *met.answered, *met.looked]
    if everything:
        print(f"{'all interactions':16} {len(everything):6}  median {statistics.median(everything):.2f} s")
    counted = met.interactions() - met.early
    if counted > 0:
        print(f"server: {1000 * met.computed / counted:.0f} ms of CPU for an interaction, {met.computed:.1f} s in all")
    records = [store.get(run) for run in met.runs]
    states = {status: sum(r.status is status for r in records) for status in RunStatus}
    print(f"runs: {len(records)} started, " + ", ".join(f"{n} {status}" for status, n in states.items() if n))
    in_order = [r.started or 0.0 for r in sorted(records, key=lambda r: r.created)]
    late = sum(b < a for a, b in itertools.pairwise(in_order))
    print(f"first come, first served: {late} of {len(records)} began before one that came earlier")
    print(f"jobs at once: at most {max(met.at_work)} of {jobs}")
    server, workers = zip(*met.memory, strict=True)
    tenth = max(1, len(server) // 10)
    early, last = statistics.median(server[tenth : 2 * tenth]), statistics.median(server[-tenth:])
    print(
        f"memory: server {early:.0f} → {last:.0f} MiB (most {max(server):.0f}), workers at most {max(workers):.0f} MiB"
    )
    for error in dict.fromkeys(met.errors):
        print(f"error, {met.errors.count(error)} times: {error}")
    good = bool(records) and not met.errors and states[RunStatus.FINISHED] == len(records) and max(met.at_work) <= jobs
    return 0 if good else 1


def main() -> int:
    """Serve, load, tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="go on pressing Start for so long (default: once each)"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Path(folder) / "runs")
        environment = {"MTZ_OWNERS": "browser", "MTZ_JOBS": str(options.jobs), "MTZ_UPLOADS": f"{folder}/uploads"}
        with dashboard(store.root, options.port, **environment) as address:
            server = next(p for p in psutil.Process().children() if "app" in p.cmdline())
            began = time.monotonic()
            met = asyncio.run(lesson(address, store, options.browsers, 60 * options.minutes, server))
            return tell(met, store, time.monotonic() - began, options.jobs)


if __name__ == "__main__":
    raise SystemExit(main())
