"""How long a user waits: from the command to the first picture, and from a click to a finished zip."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.machine import table
from tests.browser.server import chromium, dashboard, settle

PICTURE = "img.picture"
SAMPLES = ".samples img"


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
        ["preset “same task”: click on it, Start → finished", zipped],
    ]
    print(table(["", "median, s", "worst, s"], [[n, f"{statistics.median(v):.1f}", f"{max(v):.1f}"] for n, v in rows]))
