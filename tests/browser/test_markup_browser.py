"""What people write is shown as they wrote it: no name or title becomes a picture, a link or a style on a page."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from playwright.sync_api import Browser, Request

from mtz_core.runs.store import RunStore
from tests.browser.server import settle
from tests.synthetic import Layer, synthetic_run

TITLE = (
    "![x](http://evil.example/a.png) <img src='http://evil.example/b'> **b** $x$ :red[r] <a href='http://e.example'>"
)
LAYER = "![l](http://evil.example/l.png)<a href='http://evil.example/l'>_l_"
TASKS = ["![t](http:evil.png) <b>t", "**u** `u` ![u](data:,u)"]
"""Without a slash: data is called by the last part of its path."""


def test_no_name_is_markup_on_any_page(browser: Browser, address: str, store: RunStore) -> None:
    run = synthetic_run(store, layers=(Layer(LAYER, 10), Layer("fc2", 8)), title=TITLE)
    store.update_summary(run.id, tasks=TASKS, parents=[TITLE, LAYER], warnings=[TITLE])
    asked: list[str] = []

    def on_request(request: Request) -> None:
        if (
            not request.url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))
            or "evil" in urlsplit(request.url).path
        ):
            asked.append(request.url)

    page = browser.new_page()
    page.on("request", on_request)
    try:
        for path, told in (
            ("", [TITLE]),
            (f"Zip?run={run.id}", [TITLE, f"Error on {TASKS[0]}", f"Error on {TASKS[1]}"]),
            (f"Inspect?run={run.id}", [f"Rank for {TASKS[0]}", LAYER]),
            (f"Compare?run={run.id}", [TITLE, f"Error, {TASKS[1]}"]),
            ("Zip?seed=![x](http://evil.example/a.png)", ["“![x](http://evil.example/a.png)”"]),
            ("Zip?run=![x](http://evil.example/a.png)", ["![x](http://evil.example/a.png)"]),
        ):
            page.goto(f"{address}/{path}")
            settle(page)
            said = page.inner_text("[data-testid=stApp]")
            assert [text for text in told if text not in said] == [], path
            assert page.locator("[data-testid=stApp] img[src*=evil]").count() == 0
            # A bare address may be clicked as what it is; none hides behind other words.
            away = page.locator("[data-testid=stApp] a[href^='http://e']").all()
            shown = [(link.inner_text(), unquote(link.get_attribute("href") or "")) for link in away]
            assert all(text == target for text, target in shown), (path, shown)
    finally:
        page.close()
    assert asked == []
