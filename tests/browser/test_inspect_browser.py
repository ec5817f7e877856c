"""What only a browser can tell: the heatmap answers mouse and keyboard, a point of Compare opens its run."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from mtz_core.runs.origins import keep_pair
from mtz_core.runs.store import RunStore
from tests.browser.server import settle
from tests.synthetic import Layer, synthetic_findings, synthetic_run

SMALL = (Layer("fc1", 10), Layer("fc2", 8))
LEFT, TOP = 40, 36  # the map's margins in pixels


def test_heatmap_answers_click_and_keyboard(page: Page, address: str, store: RunStore) -> None:
    run = synthetic_run(store, layers=SMALL, title="heatmap")
    page.goto(f"{address}/Inspect?run={run.id}&layer=fc1&i=0&j=0")
    settle(page)
    canvas = page.locator("canvas.map")
    expect(canvas).to_be_visible()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    cell = (box["height"] - TOP - 2) / 10
    at = {"x": LEFT + 6.5 * cell, "y": TOP + 2.5 * cell}
    canvas.hover(position=at)
    expect(page.locator(".readout")).to_contain_text("digits neuron 2, clothes neuron 6")
    tip, box = page.locator(".tip").bounding_box(), canvas.bounding_box()
    assert tip is not None
    assert box is not None
    assert abs(tip["x"] - box["x"] - at["x"]) < 300  # 240 wide at most, beside the pointer
    assert 0 < tip["y"] - box["y"] - at["y"] < 40
    canvas.click(position=at)
    expect(page).to_have_url(re.compile(r"i=2&j=6"))
    expect(page.get_by_role("heading", name="digits 2 and clothes 6")).to_be_visible()
    canvas.focus()
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_role("heading", name="digits 3 and clothes 7")).to_be_visible()
    page.reload()
    settle(page)
    expect(page.get_by_role("heading", name="digits 3 and clothes 7")).to_be_visible()


def test_the_view_of_origins_is_a_click_away_and_follows_the_chosen_neurons(
    page: Page, address: str, store: RunStore
) -> None:
    run = synthetic_run(store, layers=SMALL, title="origins")
    keep_pair(run.path, synthetic_findings("fc1", (2, 6)))
    page.goto(f"{address}/Inspect?run={run.id}&layer=fc1&i=2&j=6")
    settle(page)
    page.get_by_role("radio", name="Where it comes from").click()
    expect(page).to_have_url(re.compile("view=origin"))
    expect(page.get_by_role("heading", name="Why digits 2 and clothes 6 differ")).to_be_visible()
    expect(page.get_by_text("One of the halves pairs these two neurons.")).to_be_visible()
    page.get_by_role("spinbutton", name="clothes neuron").fill("7")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Find out")).to_be_visible()
    expect(page).to_have_url(re.compile("j=7"))


def test_a_point_of_compare_opens_its_run(page: Page, address: str, store: RunStore) -> None:
    run = synthetic_run(store, layers=(Layer("conv1", 6, kernel=(5, 5)), Layer("fc1", 12, 16)), title="the only point")
    page.goto(f"{address}/Compare?networks=lenet5-fashion-0+%2B+lenet5-mnist-0")
    settle(page)
    point = page.locator(".js-plotly-plot .scatterlayer .trace .point").last
    expect(point).to_be_visible()
    # the drag layer of plotly lies over the points
    points = page.locator(".js-plotly-plot .scatterlayer .trace").filter(has=page.locator(".point"))
    for k in range(points.count()):
        box = points.nth(k).locator(".point").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(500)
        settle(page)
        if page.get_by_role("heading", name="the only point").count():
            break
    page.get_by_role("link", name="Inspect this run").click()
    expect(page).to_have_url(re.compile(rf"Inspect\?run={run.id}"))
    expect(page.get_by_role("heading", name="Functional difference")).to_be_visible()


def test_pages_do_not_scroll_sideways_on_a_phone(page: Page, address: str, store: RunStore) -> None:
    run = synthetic_run(store, layers=SMALL)
    page.set_viewport_size({"width": 390, "height": 844})
    for path in (f"Inspect?run={run.id}", "Compare", "Learn?step=2", "Learn?step=5", "Learn?step=9"):
        page.goto(f"{address}/{path}")
        settle(page)
        width = page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
        assert width <= 390, path
