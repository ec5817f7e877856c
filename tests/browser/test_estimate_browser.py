"""Estimating the harm of pairs stops at once when Stop is clicked, and what was found stays."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from mtz_core.runs.estimated import estimated, of_layer
from mtz_core.runs.store import RunStore
from mtz_core.runs.worker import execute
from mtz_core.spec import parse_run_spec
from tests.browser.server import settle


def test_stop_ends_the_estimates_and_keeps_those_that_were_found(page: Page, address: str, store: RunStore) -> None:
    spec = {
        "networks": [{"parent": "lenet300-mnist-0"}, {"parent": "lenet300-fashion-0"}],
        "calibration": {"images": 60},
        "evaluation": {"images": 50, "live_images": 50, "harm": False},
        "zip": {"share": {"fc1": 300}, "relu_rounds": 0, "ridge": 0.01},
    }
    run = store.create(parse_run_spec(spec))
    execute(store, run.id)
    page.goto(f"{address}/Inspect?run={run.id}&layer=fc1&view=pairs")
    settle(page)
    page.get_by_role("button", name="Estimate the harm of all 300 pairs").click()
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    expect(page.get_by_text(re.compile(r"^[1-9]\d* of 300 pairs")).first).to_be_visible(timeout=40_000)
    stop.click()
    expect(stop).to_be_hidden()
    settle(page)
    found = of_layer(estimated(store, run.id), "fc1")
    assert 0 < len(found) < 300
    expect(page.get_by_text(re.compile("(is|was) estimated to do most harm"))).to_be_visible()
    expect(page.get_by_role("button", name=f"Estimate the harm of the {300 - len(found)} others")).to_be_visible()
    page.wait_for_timeout(1500)  # a process that still went on would write by now
    assert of_layer(estimated(store, run.id), "fc1") == found
