"""The bar for how pages look, held for some pages; `python -m scripts.walk_pages` asks it of all, in every width."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from mtz_core.runs.origins import keep_layers, keep_pair
from mtz_core.runs.store import RunStore
from tests.browser.look import open_and_measure
from tests.browser.server import settle
from tests.synthetic import LENET5, synthetic_findings, synthetic_run


@pytest.fixture(scope="module")
def run(store: RunStore) -> str:
    made = synthetic_run(store, layers=LENET5, title="looked at")
    found = synthetic_findings("fc1", (1, 2))
    keep_pair(made.path, found)
    keep_layers(made.path, found.likeness)
    return made.id


@pytest.mark.parametrize(
    ("path", "width", "mode"),
    [
        ("", 1440, "light"),
        ("Zip?run={run}", 1440, "dark"),
        ("Inspect?run={run}&layer=fc1", 390, "light"),
        ("Inspect?run={run}&layer=conv2&view=pairs", 1920, "dark"),
        ("Inspect?run={run}&layer=fc1&view=origin&i=1&j=2", 390, "light"),
        ("Compare?run={run}", 390, "dark"),
        ("Learn?step=4&present=1", 1440, "light"),
    ],
)
def test_a_page_meets_the_bar(browser: Browser, address: str, run: str, path: str, width: int, mode: str) -> None:
    look = open_and_measure(browser, f"{address}/{path.format(run=run)}", width=width, mode=mode)
    assert look.faults() == []


def test_every_move_is_one_step_back_and_the_menu_keeps_what_is_looked_at(page: Page, address: str, run: str) -> None:
    page.goto(f"{address}/Inspect?run={run}&layer=fc1")
    settle(page)
    menu = page.locator(".st-key-menu")
    seen = [page.url]

    def moved(fragment: str) -> None:
        page.wait_for_url(lambda url: fragment in url)
        settle(page)
        seen.append(page.url)

    page.locator(".st-key-glance-conv2").get_by_role("button").click()
    moved("layer=conv2")
    page.locator("canvas.map").click(position={"x": 200, "y": 200})
    moved("i=")
    menu.get_by_role("link", name="looked at").click()
    moved("/Zip?run=")
    menu.get_by_role("link", name="Compare").click()
    moved("/Compare?run=")
    menu.get_by_role("link", name="Inspect").click()
    moved("/Inspect?")
    assert seen[-1] == seen[2]
    expect(page.locator("canvas.map")).to_be_visible()
    for before in reversed(seen[:-1]):
        page.go_back()
        page.wait_for_url(before)
        settle(page)
