"""The lesson in a browser: keys walk through it, the ball answers, Back is one step, the handout has nine pages."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from mtz_core.figures.lessons import load_lesson
from pages.ui.lesson.texts import STEPS, load_texts
from tests.browser.server import settle

TEXTS = load_texts()["steps"]


def test_the_keyboard_walks_through_all_steps_and_back_is_one_step(page: Page, address: str) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if "BidiComponent" in said.text else None)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}/Learn?hide=question")
    for step in (*STEPS, "end"):
        expect(page.get_by_role("heading", level=1, name=TEXTS[step]["title"])).to_be_visible(timeout=30_000)
        assert (
            page.evaluate("(m => m.scrollWidth - m.clientWidth)(document.querySelector('[data-testid=stMain]'))") <= 0
        )
        settle(page)
        if step != "end":
            page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile(r"step=end.*hide=question|hide=question.*step=end"))
    page.go_back()
    expect(page.get_by_role("heading", level=1, name=TEXTS["9"]["title"])).to_be_visible(timeout=30_000)
    expect(page.locator(".question")).to_be_hidden()
    assert problems == []


def test_keys_that_come_faster_than_the_pages_are_all_counted(page: Page, address: str) -> None:
    page.goto(f"{address}/Learn?hide=question")
    expect(page.get_by_role("heading", level=1, name=TEXTS["1"]["title"])).to_be_visible(timeout=30_000)
    settle(page)
    for key in ("ArrowRight",) * 4 + ("ArrowLeft",):
        page.keyboard.press(key)
    expect(page).to_have_url(re.compile(r"step=4"))
    expect(page.get_by_role("heading", level=1, name=TEXTS["4"]["title"])).to_be_visible(timeout=30_000)
    page.go_back()
    page.wait_for_timeout(2_000)
    assert "step=4" not in page.url


def test_the_lowest_place_of_two_bowls_is_what_the_engine_computes(page: Page, address: str) -> None:
    page.goto(f"{address}/Learn?step=3&lowest=1")
    slider = page.get_by_role("slider", name="α, how much the digits count")
    slider.focus()
    slider.press("ArrowRight")
    expected = next(c["height"] for c in load_lesson()["weights"]["compromises"] if abs(c["alpha"] - 0.55) < 1e-9)
    expect(page.locator(".readout")).to_contain_text(f"the lowest place is {expected:.5f}")
    before = page.locator(".readout").inner_text()
    ball = page.locator("g.drag circle").last.bounding_box()
    assert ball is not None
    page.mouse.move(ball["x"] + ball["width"] / 2, ball["y"] + ball["height"] / 2)
    page.mouse.down()
    page.mouse.move(ball["x"] + 60, ball["y"] + 30, steps=4)
    page.mouse.up()
    expect(page.locator(".readout")).not_to_have_text(before)
    expect(page).to_have_url(re.compile(r"alpha=0\.55.*w1="))


def test_the_handout_is_one_page_a_step(page: Page, address: str) -> None:
    page.goto(f"{address}/Learn?handout=1")
    settle(page)
    expect(page.locator(".lesson h2")).to_have_count(9, timeout=30_000)
    printed = page.pdf(prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page[^s]", printed)) == 9
