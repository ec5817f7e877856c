"""How far a run is: one number, on its page and in the sidebar of every page, that moves by itself."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from mtz_core.runs.store import RunStore
from tests.browser.server import settle
from tests.synthetic import synthetic_run


@pytest.fixture
def advance(store: RunStore) -> Iterator[tuple[str, Callable[[float], None]]]:
    """A run that is going on, and what sets how far it is."""
    run = synthetic_run(store, status="running", title="half way")

    def change(field: str, value: float | str) -> None:
        with sqlite3.connect(store.root / "runs.sqlite3") as db:
            db.execute(f"UPDATE runs SET {field} = ? WHERE id = ?", (value, run.id))

    yield run.id, lambda fraction: change("fraction", fraction)
    change("status", "cancelled")


def test_the_sidebar_and_the_page_of_a_run_say_the_same_and_move(
    page: Page, browser: Browser, address: str, advance: tuple[str, Callable[[float], None]]
) -> None:
    run_id, goes_on = advance
    goes_on(0.41)
    page.goto(f"{address}/Zip?run={run_id}")
    other = browser.new_page()
    other.goto(f"{address}/Networks")
    for opened in (page, other):
        settle(opened)
    for fraction, said in ((0.41, "41\xa0%"), (0.57, "57\xa0%"), (0.83, "83\xa0%")):
        goes_on(fraction)
        for opened in (page, other):
            beside = opened.get_by_test_id("stSidebar").get_by_role("link", name=re.compile(r"% · half way"))
            expect(beside).to_have_count(1)
            expect(beside).to_contain_text(said, timeout=15_000)
        expect(page.get_by_test_id("stProgress")).to_contain_text(f"{said} done", timeout=15_000)
    other.close()
