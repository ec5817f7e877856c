"""How long a user waits: from the command to the first picture, and from a click to a finished zip."""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, expect

from benchmarks.machine import table
from mtz_core.runs.store import RunStore
from tests.browser.server import chromium, dashboard, settle
from tests.synthetic import Layer, synthetic_run

PICTURE = "img.picture"
SAMPLES = ".samples img"
SIDES = (512, 4096)
"""Neurons of a layer in each of two networks, whose map is looked at."""


def run(repeats: int = 5) -> None:
    """Start the dashboard, open it in Chromium, start the preset "same task"."""
    started, opened, compared, zipped = [], [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder, chromium() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            begin = time.perf_counter()
            with dashboard(Path(folder) / "runs") as address:
                page.goto(address)
                page.wait_for_selector(PICTURE, timeout=60_000)
                started.append(time.perf_counter() - begin)
                fresh = browser.new_page(viewport={"width": 1280, "height": 900})
                begin = time.perf_counter()
                fresh.goto(address)
                fresh.wait_for_selector(PICTURE, timeout=60_000)
                opened.append(time.perf_counter() - begin)
                settle(fresh)
                networks = browser.new_context().new_page()
                begin = time.perf_counter()
                networks.goto(f"{address}/Networks")
                networks.wait_for_selector(SAMPLES, timeout=60_000)
                compared.append(time.perf_counter() - begin)
                networks.close()
                begin = time.perf_counter()
                fresh.get_by_role("link", name="Open").first.click()
                start = fresh.get_by_role("button", name="Start")
                start.wait_for(timeout=60_000)
                settle(fresh)
                start.click()
                fresh.locator(".stMarkdownBadge").filter(has_text="Finished").wait_for(timeout=120_000)
                zipped.append(time.perf_counter() - begin)
    print("\n## Dashboard, environment ready\n")
    rows = [
        ["command → first picture", started],
        ["opening the page → first picture", opened],
        ["opening Networks → first picture", compared],
        ["preset “same task”: click on it, Start → finished, harm measured", zipped],
    ]
    print(table(["", "median, s", "worst, s"], [[n, f"{statistics.median(v):.1f}", f"{max(v):.1f}"] for n, v in rows]))
    _selections()


def _selections(choices: int = 10) -> None:
    """Time from choosing a cell of the map by the keyboard until everything about its two neurons is drawn."""
    rows = []
    for side in SIDES:
        with tempfile.TemporaryDirectory() as folder, chromium() as browser:
            store = RunStore(Path(folder) / "runs")
            made = synthetic_run(store, layers=(Layer("wide", side),), title=f"{side}")
            with dashboard(store.root) as address:
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.goto(f"{address}/Inspect?run={made.id}&layer=wide&i=0&j=0")
                took = [_choose(page) for _ in range(choices)]
        rows.append([f"{side:,} × {side:,}", f"{statistics.median(took):.2f}", f"{max(took):.2f}"])
    print("\n## From a selected cell to its view\n")
    print(table(["neurons", "median, s", "worst, s"], rows))


def _choose(page: Page) -> float:
    """Go one step to the right on the map and choose what is there; return the seconds until its view is drawn."""
    settle(page)
    heading = page.get_by_role("heading", name=re.compile(r"^digits \d+ and clothes \d+$"))
    expect(heading).to_be_visible(timeout=120_000)
    before = heading.inner_text()
    page.locator("canvas.map").focus()
    page.keyboard.press("ArrowRight")
    begin = time.perf_counter()
    page.keyboard.press("Enter")
    expect(heading).not_to_have_text(before, timeout=60_000)
    settle(page)
    return time.perf_counter() - begin
