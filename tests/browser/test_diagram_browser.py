"""The drawing of networks in a browser: pointer and keyboard open layers, marks are as large as what they stand for."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from mtz_core.runs.store import RunStore
from tests.browser.server import settle
from tests.synthetic import Layer, synthetic_run

SMALL = (Layer("fc1", 10), Layer("fc2", 8))


def column(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=re.compile(rf"^{re.escape(name)}:"))


def test_a_layer_is_opened_by_click_and_by_keyboard(page: Page, address: str, store: RunStore) -> None:
    run = synthetic_run(store, layers=SMALL, title="drawn")
    page.goto(f"{address}/Inspect?run={run.id}&layer=fc1")
    settle(page)
    expect(column(page, "fc1")).to_have_attribute("aria-pressed", "true")
    column(page, "fc2").click()
    expect(page).to_have_url(re.compile("layer=fc2"))
    expect(column(page, "fc2")).to_have_attribute("aria-pressed", "true")
    settle(page)
    column(page, "fc2").focus()
    page.keyboard.press("ArrowLeft")
    expect(column(page, "fc1")).to_be_focused()
    expect(page.locator(".told")).to_contain_text("fc1: dense, 10 neurons")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("layer=fc1"))


def test_on_zip_a_layer_leads_to_its_slider_and_marks_keep_their_proportion(page: Page, address: str) -> None:
    page.goto(f"{address}/Zip?parents=lenet5-mnist-0&parents=lenet5-fashion-0&share-conv2=0.5")
    settle(page)
    column(page, "conv2").click()
    slider = page.get_by_role("slider", name="Share of conv2")
    expect(slider).to_be_focused()
    page.wait_for_timeout(1200)  # the drawing moves to where it stands
    drawn = page.locator(".frame:has(.stage)").evaluate("frame => frame.drawn")
    large = [mark for mark in drawn if mark["side"] > 1.6]
    assert len({mark["column"] for mark in large}) >= 3
    areas = [mark["side"] ** 2 / mark["numbers"] for mark in large]
    assert max(areas) == pytest.approx(min(areas), rel=1e-6)
    numbers = sum(mark["numbers"] for mark in drawn)
    expect(column(page, "conv2")).to_have_attribute("aria-label", re.compile("25 to be shared"))
    assert f"{numbers / 862160:.0%}".rstrip("%") in page.locator("[data-total=size] dd").inner_text()


def test_who_wants_no_motion_sees_the_end_of_the_run_at_once(browser: Browser, address: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    page.goto(address)
    expect(page.get_by_role("button", name="Replay")).to_be_visible(timeout=15_000)
    steps = page.get_by_role("slider", name="Layers merged")
    assert steps.input_value() == steps.get_attribute("max")
    settle(page)
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390
    page.close()
