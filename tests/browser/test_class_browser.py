"""Two browsers on one server: a run belongs to the one that started it, also after a reload, and the other waits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from mtz_core.runs.store import RunStore
from scripts import class_load
from tests.browser.server import dashboard, settle
from tests.browser.test_browser import start

TOKEN = "a token of some length"


def test_the_load_script_presses_start_and_sees_every_run_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["class_load", "--browsers", "2"])
    assert class_load.main() == 0
    assert "runs: 2 started, 2 finished" in capsys.readouterr().out


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
