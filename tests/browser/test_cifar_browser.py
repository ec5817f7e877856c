"""The example whose images are the user's own: without them it says what to put where, and nothing can be started."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from mtz_core.zoo.catalog import catalog
from pages.ui.presets import HALVES
from tests.browser.server import dashboard, settle


@pytest.mark.skipif(not set(HALVES) <= set(catalog()), reason="the networks of this example are not bundled")
def test_without_the_images_the_example_says_what_to_put_where(browser: Browser, tmp_path: Path) -> None:
    with dashboard(tmp_path / "runs", MTZ_DATA="", MTZ_UPLOADS=str(tmp_path / "uploads")) as address:
        page = browser.new_page()
        page.goto(f"{address}/Networks")
        settle(page)
        page.get_by_role("link", name="Two halves of CIFAR-10").click()
        expect(page.get_by_text("What to put where")).to_be_visible()
        expect(page.get_by_text("cifar-10-batches-py/", exact=True)).to_be_visible()
        settle(page)
        page.get_by_role("link", name="Zip them").click()
        expect(page.get_by_role("button", name="Start", exact=True)).to_be_disabled()
        expect(page.get_by_text("MTZ_DATA=/path/to/folder mtz app")).to_be_visible()
        assert page.locator("[data-testid=stException]").count() == 0
        page.close()
