"""What only a real browser shows: first picture, keyboard, live updates, refresh, narrow screens."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from mtz_core.runs.store import RunStore
from tests.browser.server import dashboard, free_port, settle
from tests.synthetic import synthetic_run

FIRST_PICTURE = 15.0  # seconds; about one on an idle machine
RUN = 180_000  # milliseconds that a small zip may take on a busy machine


def start(page: Page, address: str, query: str = "") -> str:
    """Start a zip from the Zip page and return the run's identifier."""
    page.goto(f"{address}/Zip?{query}")
    settle(page)
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(re.compile("run="), timeout=30_000)
    found = re.search(r"run=([\w-]+)", page.url)
    assert found
    return found[1]


def chip(page: Page, status: str) -> Locator:
    """The chip that shows a run's status (an icon, then the word)."""
    return page.locator(".stMarkdownBadge").filter(has_text=status)


def test_landing_shows_a_picture_soon_and_draws_no_plotly(page: Page, address: str) -> None:
    began = time.monotonic()
    page.goto(address)
    page.locator("img.picture").first.wait_for(timeout=FIRST_PICTURE * 1000)
    assert time.monotonic() - began < FIRST_PICTURE
    settle(page)
    assert page.locator(".js-plotly-plot").count() == 0
    expect(page.locator(".st-key-menu").get_by_role("link", name="Learn")).to_be_visible()


def test_preset_start_finished(page: Page, address: str, store: RunStore) -> None:
    page.goto(address)
    settle(page)
    page.get_by_role("link", name="Open").first.click()
    page.wait_for_url("**/Zip**")
    settle(page)
    page.get_by_role("button", name="Start").click()
    chip(page, "Finished").wait_for(timeout=RUN)
    run_id = re.search(r"run=([\w-]+)", page.url)
    assert run_id
    record = store.get(run_id[1])
    assert str(record.status) == "finished"
    error = record.summary["errors"][0]
    expect(page.get_by_test_id("stMetricValue").nth(1)).to_contain_text(f"{error:.2f}")
    expect(page.get_by_role("button", name=re.compile("Zipped network"))).to_be_visible()


def test_slider_by_keyboard_changes_size_and_url(page: Page, address: str) -> None:
    page.goto(f"{address}/Zip")
    settle(page)
    size = page.locator("[data-total=size] dd")
    before = size.inner_text()
    slider = page.get_by_role("slider", name="Share of fc1")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowLeft")
    expect(size).not_to_have_text(before, timeout=20_000)
    page.wait_for_url(re.compile(r"share-fc1=0\.8"), timeout=20_000)
    page.reload()
    settle(page)
    expect(page.get_by_role("slider", name="Share of fc1")).to_have_value("0.8")


def test_stop_stops_and_a_second_tab_knows(page: Page, browser: Browser, address: str, store: RunStore) -> None:
    run_id = start(page, address, "retrain=final&steps=20000")
    other = browser.new_page()
    other.goto(f"{address}/Zip?run={run_id}")
    other.get_by_role("button", name="Stop").wait_for(timeout=60_000)
    page.get_by_role("button", name="Stop").click()
    chip(page, "Stopped").wait_for(timeout=RUN)
    chip(other, "Stopped").wait_for(timeout=60_000)
    assert str(store.get(run_id).status) == "cancelled"
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    other.close()


def test_refresh_and_a_new_server_reattach(page: Page, address: str, store: RunStore) -> None:
    run = synthetic_run(store, title="still here")
    page.goto(f"{address}/Zip?run={run.id}")
    settle(page)
    page.reload()
    expect(page.get_by_role("heading", name="still here")).to_be_visible(timeout=30_000)
    with dashboard(store.root, free_port()) as another:
        page.goto(f"{another}/Zip?run={run.id}")
        expect(page.get_by_role("heading", name="still here")).to_be_visible(timeout=30_000)


def test_a_killed_worker_is_noticed(page: Page, address: str, store: RunStore) -> None:
    run_id = start(page, address, "retrain=final&steps=20000")
    until = time.monotonic() + RUN / 1000
    while str(store.get(run_id).status) != "running" and time.monotonic() < until:
        time.sleep(0.3)
    worker = store.get(run_id).pid
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    chip(page, "Interrupted").wait_for(timeout=60_000)
    expect(page.get_by_role("button", name="Resume")).to_be_visible()


@pytest.mark.parametrize("path", ["/", "/Networks", "/Zip"])
def test_a_phone_needs_no_sideways_scrolling(browser: Browser, address: str, path: str) -> None:
    phone = browser.new_page(viewport={"width": 390, "height": 844})
    phone.goto(address + path)
    settle(phone)
    main = phone.get_by_test_id("stMain")
    assert main.evaluate("m => m.scrollWidth - m.clientWidth") <= 0
    phone.close()
