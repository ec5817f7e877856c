"""Three people at work in a real browser, counted and timed: a teacher, an engineer and a researcher.

    python -m scripts.three_walks                    # all three: a row for each thing they do, then the sums
    python -m scripts.three_walks --only researcher --pictures tests/screenshots

What one does with hand or keyboard is an action: a press, a key, a file dropped, a text typed. The teacher types
nothing and chooses from no list. The script ends with an error where one of them does not get there, or needs more
actions than the bar grants.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import Locator, Page, expect
from torch import nn

from benchmarks.machine import describe
from mtz_core.runs.records import RunRecord
from mtz_core.runs.store import RunStore
from mtz_core.spec import parse_run_spec
from tests.browser.server import chromium, dashboard, settle

PATIENCE = 180_000
Until = Callable[[], object]


@dataclass
class Person:
    """Somebody in front of a page: what they do is counted, and how long the page takes to answer is measured."""

    who: str
    page: Page
    pictures: Path | None = None
    rows: list[tuple[str, float]] = field(default_factory=list)

    def press(self, what: str, there: Locator, until: Until) -> None:
        """Press something and wait until the page has answered."""
        self._do(what, there.click, until)

    def key(self, what: str, key: str, until: Until) -> None:
        """Press a key."""
        self._do(what, lambda: self.page.keyboard.press(key), until)

    def drop(self, file: Path, there: Locator, until: Until) -> None:
        """Give the page a file."""
        self._do(f"drop {file.name}", lambda: there.set_input_files(file), until)

    def look(self, name: str) -> None:
        """Keep a picture, if pictures are wanted."""
        settle(self.page)
        if self.pictures is not None:
            self.pictures.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=self.pictures / f"{self.who}-{name}.png")

    def _do(self, what: str, act: Callable[[], object], until: Until) -> None:
        began = time.monotonic()
        act()
        until()
        self.rows.append((what, time.monotonic() - began))
        print(f"| {self.who} | {len(self.rows)} | {what} | {self.rows[-1][1]:.1f} |", flush=True)


def seen(there: Locator) -> Until:
    """Wait until it can be seen."""
    return lambda: expect(there.first).to_be_visible(timeout=PATIENCE)


def at(page: Page, pattern: str) -> Until:
    """Wait until the address holds a pattern and the page is drawn."""

    def wait() -> None:
        page.wait_for_url(re.compile(pattern), timeout=PATIENCE)
        settle(page)

    return wait


def teacher(person: Person, address: str, store: RunStore, folder: Path) -> None:
    """Home, the lesson from its first to its last step, a zip of one's own, its answers."""
    page = person.page
    page.goto(address)
    settle(page)
    person.look("home")
    person.press("the lesson", page.get_by_role("link", name="How it works"), at(page, "Learn"))
    heading = page.get_by_role("heading", level=1)
    for step in range(2, 10):
        person.key(f"step {step}", "ArrowRight", at(page, f"step={step}"))
        seen(heading)()
    measured = page.get_by_role("button", name="Show what was measured")
    person.press("show what was measured", measured, seen(page.get_by_text("it leaves the parents at")))
    person.look("guess")
    done = page.get_by_text("Take it with you")
    person.press("zip them", page.get_by_role("button", name="Zip them now"), seen(done))
    person.look("zipped")
    assert store.list()[0].summary["errors"], "no errors were measured"


def engineer(person: Person, address: str, store: RunStore, folder: Path) -> None:
    """Two programs and their data by file, zipped, the answers that changed, the zipped network downloaded."""
    page = person.page
    for k, name in enumerate(("first", "second")):
        brought(folder, name, k)
    page.goto(address)
    settle(page)
    person.press("networks", page.get_by_role("link", name="Networks", exact=True), at(page, "Networks"))
    area = page.get_by_text("Bring your own network")
    person.press("bring your own", area, seen(page.get_by_text("safetensors, a state dict")))
    own, added = page.get_by_text("It brings its own architecture."), page.get_by_role("button", name="Check and add")
    weights, data = (page.locator(f"[class*=st-key-{key}-] input[type=file]") for key in ("weights", "images"))
    for k, name in enumerate(("first", "second")):
        person.drop(folder / f"{name}.pt2", weights, seen(own))
        person.drop(folder / f"{name}.npz", data, lambda: expect(added).to_be_enabled(timeout=PATIENCE))
        person.press("check and add", added, at(page, f"parents={name}-"))
        person.look(f"added-{k}")
    person.press("zip them", page.get_by_role("link", name="Zip them"), at(page, "Zip"))
    person.press("start", page.get_by_role("button", name="Start"), seen(page.get_by_text("Take it with you")))
    person.press("test drive", page.get_by_text("Test drive"), seen(page.get_by_text("answered otherwise")))
    person.look("answers")
    with page.expect_download(timeout=PATIENCE) as waiting:
        there = page.get_by_role("button", name=re.compile(r"^Zipped network"))
        person.press("download", there, lambda: None)
    kept = folder / "zipped.safetensors"
    waiting.value.save_as(kept)
    assert kept.stat().st_size > 1000, "the download is empty"


def brought(folder: Path, name: str, seed: int) -> None:
    """A small trained network with its inputs and labels, as an engineer has them: a program and an array."""
    chance, count = np.random.default_rng(seed), 400
    told = chance.integers(0, 4, count)
    at_ = np.linspace(0, 1, 128)
    waves = np.sin(2 * np.pi * (1 + told[:, None] + seed) * at_ + chance.uniform(0, 0.8, (count, 1)))
    x = (waves + chance.normal(0, 0.4, waves.shape)).astype(np.float32)[:, None]
    np.savez(folder / f"{name}.npz", inputs=x, labels=told)
    torch.manual_seed(seed)
    layers = [nn.Conv1d(1, 16, 9, 2), nn.ReLU(), nn.Conv1d(16, 16, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(448, 4)]
    network, inputs, labels = nn.Sequential(*layers), torch.from_numpy(x), torch.from_numpy(told)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    sizes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(network.eval(), (inputs[:2],), dynamic_shapes=sizes), folder / f"{name}.pt2")


def researcher(person: Person, address: str, store: RunStore, folder: Path) -> None:
    """From a run to the pair that does most measured harm, unmerged, and the error without it."""
    from mtz_core.runs.worker import execute

    page = person.page
    spec = {
        "title": "to look into",
        "networks": [{"parent": "lenet5-mnist-0"}, {"parent": "lenet5-fashion-0"}],
        "calibration": {"images": 300},
        "zip": {"share": 1.0},
    }
    run: RunRecord = store.create(parse_run_spec(spec))
    execute(store, run.id)
    page.goto(f"{address}/Zip?run={run.id}")
    settle(page)
    person.press("inspect", page.get_by_role("link", name="Inspect").last, at(page, f"Inspect.*run={run.id}"))
    worst = page.get_by_role("button", name=re.compile("^conv1")).last
    person.press("the worst layer", worst, at(page, "layer=conv1"))
    offered = page.get_by_role("button", name=re.compile("^Estimate the harm of all"))
    person.press("all pairs", page.get_by_text("All pairs"), seen(offered))
    found = page.get_by_role("button", name="Look at this pair")
    person.press("estimate their harm", offered, seen(found))
    offered.wait_for(state="hidden", timeout=PATIENCE)
    settle(page)
    person.look("pairs")
    what = page.get_by_role("button", name="What if…")
    person.press("look at the worst", found, seen(what))
    person.look("worst")
    apart = page.get_by_role("button", name="Unmerge this pair")
    person.press("what if", what, seen(apart))
    person.press("unmerge it", apart, seen(page.get_by_text("Error: ").filter(has_text="→")))
    person.look("unmerged")
    runs = sorted(store.list(), key=lambda record: record.created)
    before, after = (np.mean(record.summary["errors"]) for record in (store.get(run.id), runs[-1]))
    print(f"mean error {before:.2f} % → {after:.2f} %", flush=True)


WALKS: dict[str, tuple[Callable[[Person, str, RunStore, Path], None], int | None]] = {
    "teacher": (teacher, None),
    "engineer": (engineer, 12),
    "researcher": (researcher, 8),
}


def main() -> int:
    """Let them walk, one after the other; 1 where one needs too many actions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(WALKS), help="one of them")
    parser.add_argument("--pictures", type=Path, help="where pictures go")
    arguments = parser.parse_args()
    print(describe(), "\n\n| who | action | what | seconds |\n| --- | --- | --- | --- |", flush=True)
    sums, late = [], False
    with tempfile.TemporaryDirectory() as kept, chromium() as browser:
        store = RunStore(Path(kept) / "runs")
        with dashboard(store.root) as address:
            for who, (walk, most) in WALKS.items():
                if arguments.only in (None, who):
                    page = browser.new_page(viewport={"width": 1440, "height": 900})
                    page.set_default_timeout(30_000)
                    person = Person(who, page, arguments.pictures)
                    walk(person, address, store, Path(kept))
                    page.close()
                    count, seconds = len(person.rows), sum(s for _, s in person.rows)
                    sums.append(f"| {who} | {count} | {'any' if most is None else most} | {seconds:.0f} |")
                    late |= most is not None and count > most
    print("\n| who | actions | at most | seconds that the pages took |\n| --- | --- | --- | --- |")
    print("\n".join(sums))
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
