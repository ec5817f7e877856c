"""Two browsers on one server: a run belongs to the one that started it, also after a reload, and the other waits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect

from mtz_core.runs.store import RunStore
from tests.browser.server import ROOT, dashboard, settle
from tests.browser.test_browser import start

TOKEN = "a token of some length"


def test_the_load_script_presses_start_and_sees_every_run_end() -> None:
    command = [sys.executable, "-m", "scripts.class_load", "--browsers", "2"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert "runs: 2 started, 2 finished" in told.stdout, told.stderr[-2000:]
    assert told.returncode == 0


def stop_of(page: Page) -> Locator:
    return page.get_by_role("button", name="Stop")


def test_only_the_browser_that_started_a_run_can_stop_it(browser: Browser, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    store = RunStore(runs)
    with dashboard(runs, MTZ_OWNERS="browser", MTZ_JOBS="1", MTZ_ADMIN=TOKEN, MTZ_MOST_STEPS="20000") as address:
        first, second, third = (browser.new_context().new_page() for _ in range(3))
        slow = start(first, address, "retrain=final&steps=20000")
        expect(stop_of(first)).to_be_visible(timeout=30_000)
        second.goto(f"{address}/Zip?run={slow}")
        expect(second.get_by_text("belongs to another browser")).to_be_visible(timeout=30_000)
        expect(stop_of(second)).to_have_count(0)

        waits = start(second, address)
        expect(second.get_by_text("Next in the queue")).to_be_visible(timeout=30_000)
        second.reload()
        expect(second.get_by_text("Next in the queue")).to_be_visible(timeout=30_000)
        expect(stop_of(second)).to_be_visible()
        assert store.get(waits).owner not in (None, store.get(slow).owner)

        third.goto(f"{address}/Zip?run={waits}&admin={TOKEN}")
        stop_of(third).click(timeout=30_000)
        expect(second.locator(".stMarkdownBadge").filter(has_text="Stopped")).to_be_visible(timeout=30_000)
        assert TOKEN not in third.url

        first.reload()
        settle(first)
        stop_of(first).click()
        expect(first.locator(".stMarkdownBadge").filter(has_text="Stopped")).to_be_visible(timeout=30_000)

        first.goto(f"{address}/Zip?retrain=final&steps=20001")
        settle(first)
        first.get_by_role("button", name="Start").click()
        expect(first.get_by_text(re.compile("at most 20,000 .MTZ_MOST_STEPS"))).to_be_visible(timeout=30_000)
        for page in (first, second, third):
            page.context.close()
