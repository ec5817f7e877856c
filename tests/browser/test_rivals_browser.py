"""From a run of two bundled networks to the marks of all rivals in the plane, at one click."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from mtz_core.baselines.kinds import BASELINES
from mtz_core.runs import contest
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.spec import parse_run_spec
from tests.browser.server import settle
from tests.synthetic import synthetic_events

PARENTS = ("lenet300-letters-0", "lenet300-fashion-0")


def finished(store: RunStore, spec: object) -> str:
    """A run whose events are made up."""
    record = store.create(spec)  # type: ignore[arg-type]  # a specification
    store.claim(record.id)
    for event in (*synthetic_events(),):
        if type(event).__name__ in ("Started", "Finished"):
            store.append(record.id, event)
    store.set_status(record.id, RunStatus.FINISHED)
    return record.id


def test_a_click_adds_the_rivals_that_are_missing_and_their_marks_appear(
    page: Page, address: str, store: RunStore
) -> None:
    networks = [{"parent": name} for name in PARENTS]
    spec = parse_run_spec({"networks": networks, "calibration": {"images": 20}, "evaluation": {"images": 30}})
    run = finished(store, spec)
    missing = ("permute",)
    for method in BASELINES.names:
        if method not in missing:
            finished(store, contest.rival_spec(spec, method, 1.0))
    page.goto(f"{address}/Compare?run={run}")
    settle(page)
    legend = page.locator(".js-plotly-plot .legendtext")
    expect(legend.filter(has_text="rival: permute")).to_have_count(0)
    page.get_by_role("button", name="Add the rivals").click()
    expect(page.get_by_text(re.compile("Rivals: [0-9] of"))).to_be_visible(timeout=60_000)
    for method in missing:
        expect(legend.filter(has_text=re.compile(rf"^rival: {method}$"))).to_have_count(1, timeout=120_000)
    expect(legend.filter(has_text="ours: optimal pairs, compensated")).to_have_count(1)
    made = [record for record in store.list() if record.spec.rival and record.spec.rival.method in missing]
    assert sorted(record.spec.rival.method for record in made if record.spec.rival) == sorted(missing)
    assert {str(record.status) for record in made} == {"finished"}
    expect(page.get_by_role("button", name="Add the rivals")).to_be_enabled()
