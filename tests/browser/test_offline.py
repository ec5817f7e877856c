"""Nothing in the dashboard needs the network: what the browser asks for and what it complains about."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, Response

from mtz_core.runs.store import RunStore
from tests.browser.server import settle
from tests.synthetic import Layer, synthetic_run

# Under a page's address Streamlit first looks for its server in that folder, then above it.
STREAMLITS_OWN = re.compile(r"/\w+/_stcore/(health|host-config)$")


@pytest.mark.parametrize("path", ["", "Networks", "Zip", "Zip?run=", "Inspect?run=", "Compare?run=", "Learn?step=2"])
def test_a_page_asks_nobody_else_and_has_no_complaints(page: Page, address: str, store: RunStore, path: str) -> None:
    if path.endswith("="):
        path += synthetic_run(store, layers=(Layer("fc1", 10), Layer("fc2", 8))).id
    problems: list[str] = []

    def on_request(request: Request) -> None:
        if not request.url.startswith((address, address.replace("http", "ws"), "data:", "blob:")):
            problems.append(f"asks {request.url}")

    def on_response(response: Response) -> None:
        if response.status >= 400 and not STREAMLITS_OWN.search(response.url):
            problems.append(f"{response.status} {response.url}")

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not STREAMLITS_OWN.search(message.location["url"]):
            problems.append(f"{message.type}: {message.text}")

    page.on("request", on_request)
    page.on("response", on_response)
    page.on("console", on_console)
    page.goto(f"{address}/{path}")
    settle(page)
    page.wait_for_timeout(1000)
    assert not problems
