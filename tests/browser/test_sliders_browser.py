"""The sliders in a browser: what they count is what the engine counts, and they answer while they are moved."""

from __future__ import annotations

import random
import re
import statistics
from itertools import permutations
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from mtz_core.budget.choice import Choice, Curve
from mtz_core.budget.plan import choice_tables
from mtz_core.figures.text import bytes_text, count_text, percent_text, times_text
from mtz_core.structure.joint import JointStructure, joined
from mtz_core.structure.networks import GroupSummary, LayerSummary, NetworkStructure
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import (
    effective_shares,
    plan_counts,
    plan_range,
    shared_count,
    unfounded,
    why_not_zippable,
)
from mtz_core.structure.tables import counting_tables
from mtz_core.zoo.structures import structures
from pages.ui.presets import PRESETS
from tests.browser.server import ROOT, settle

COUNTS = (ROOT / "pages/ui/counts.js").read_text(encoding="utf-8")
RUN = """cases => cases.map(({ data, ratios }) => {
  const shared = data.tables.groups.map((group, g) => sharedCount(ratios[g], group.width));
  const found = effectiveShares(data.tables, shared), range = planRange(data.tables, found.shares);
  return { shares: found.shares, alike: [...found.alike].sort((a, b) => a - b), range, ...totalsOf(data, found.shares),
           exact: predicted(data.choice, found.shares).error };
})"""


def families() -> list[tuple[str, ...]]:
    """Pairs of bundled networks that can be zipped, one order in two, and the examples with three tasks."""
    pairs = [pair for k, pair in enumerate(permutations(structures(), 2)) if k % 2 == 0]
    fitting = [pair for pair in pairs if not why_not_zippable([structures()[name] for name in pair], pair)]
    return [*fitting, *(preset.parents for preset in PRESETS if len(preset.parents) > 2)]


def branching(width: int, deep: bool) -> NetworkStructure:
    """Two branches that are concatenated, a stream that widens and of which layers read and write a part."""
    layers = [
        LayerSummary("a", "Conv2d", width, 10, "a", {}, (3, 3), role="a"),
        LayerSummary("b", "Conv2d", 5, 9 * width + 1, "b", {"a": 9}, (3, 3), role="b"),
        LayerSummary("c", "Conv2d", 6, 9 * (width + 5), "c", {"a": 9, "b": 9}, (3, 3), bias=False, role="c"),
        LayerSummary("d", "Conv2d", 3, 9 * 3 + 1, "c", {"c": 4.5}, (3, 3), role="d"),
    ]
    groups = [GroupSummary("a", width, ("a",)), GroupSummary("b", 5, ("b",)), GroupSummary("c", 6, ("c", "d"))]
    if deep:
        layers.append(LayerSummary("e", "Linear", 7, 6 + 1, "e", {"c": 1}, role="e"))
        groups.append(GroupSummary("e", 7, ("e",)))
    last = groups[-1]
    layers.append(LayerSummary("head", "Linear", 4, last.width + 1, None, {last.name: 1}, role=f"head {deep}"))
    return NetworkStructure(tuple(layers), tuple(groups))


def choice_of(joint: JointStructure, rng: random.Random) -> Choice:
    """Made-up curves over all groups that can be shared, some with a gate."""
    curves: list[Curve] = []
    for group in (g for g in joint.groups if g.sharing):
        width = min(group.widths)
        counts = sorted({0, *(round(k * width / 7) for k in range(8))})
        heights = sorted(rng.random() ** 3 for _ in counts[1:])
        gate = curves[-1].group if curves and rng.random() < 0.5 else None
        curves.append(Curve(group.name, tuple(counts), (0.0, *heights), (), gate, rng.random() if gate else 0.0))
    together = ((0.1, 0.2), (1.0, 0.7)) if rng.random() < 0.6 else ()
    return Choice(joint, tuple(curves), rate=20 * rng.random(), base=0.01 * rng.random(), together=together)


def cases(joints: list[JointStructure], rng: random.Random) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What the browser is given, and what it must answer."""
    found = []
    for joint in joints:
        for _ in range(3):
            first = (joint.layers[0].name,)
            trunk = Keeping(True, True, True, common=first, once=first)
            keeping = rng.choice((Keeping(), Keeping(True, True), Keeping.all(), trunk))
            choice = choice_of(joint, rng)
            tables = counting_tables(joint, keeping)
            data = {"tables": tables, "choice": choice_tables(choice), "subsets": True, "changed": "answers"}
            ratios = [rng.choice((0.0, 0.25, 0.5, 0.9, 1.0, round(rng.random(), 2))) for _ in joint.groups]
            shared = {g.name: shared_count(x, g.widths) for g, x in zip(joint.groups, ratios, strict=True) if g.sharing}
            effective = shared | effective_shares(joint, shared)
            counts = plan_counts(joint, shared, keeping)
            low, high = plan_range(joint, shared, keeping)
            about, error = "≈ " if low < high else "", choice.error(choice.divergence(effective))
            numbers = {group.name: g for g, group in enumerate(joint.groups)}
            expected = {
                "shares": [effective.get(group.name, 0) for group in joint.groups],
                "alike": sorted(numbers[name] for name in unfounded(joint, shared)),
                "range": [low, high],
                "total": counts.total,
                "size": about + percent_text(counts.versus_all),
                "memory": f"{about}{count_text(counts.total)} · {bytes_text(4 * counts.total)}",
                "times": about + times_text(counts.versus_smallest),
                "exact": error,
            }
            found.append(({"data": data, "ratios": ratios}, expected))
    return found


def test_the_browser_counts_and_predicts_as_the_engine_does(page: Page) -> None:
    rng = random.Random(0)
    joints = [joined([structures()[name] for name in parents]) for parents in families()]
    for deep in ((True, True), (True, False, True), (False, True, True, False)):
        joints += [joined([branching(8 + 3 * k, each) for k, each in enumerate(deep)])] * 3
    asked = cases(joints, rng)
    assert len(asked) > 100
    answers = page.evaluate(f"(given) => {{ {COUNTS}; return ({RUN})(given); }}", [given for given, _ in asked])
    for answer, (_, expected) in zip(answers, asked, strict=True):
        assert answer["exact"] == pytest.approx(expected.pop("exact"), rel=1e-9, abs=1e-12)
        assert {name: answer[name] for name in expected} == expected
    assert any(answer["size"].startswith("≈") for answer in answers)
    assert any(answer["alike"] for answer in answers)


def test_numbers_are_written_as_python_writes_them(page: Page) -> None:
    numbers = [0, 0.5, 1.5, 2.5, 99.5, 999.4, 999.5, 1000, 1125, 1135, 12_350, 123_500, 999_499, 999_500, 1e6, 2.5e9]
    numbers += [random.Random(1).random() * 10**k for k in range(11)]
    found = page.evaluate(
        f"(given) => {{ {COUNTS}; return given.map((x) => [countText(x), bytesText(x), percentText(x / 1000)]); }}",
        numbers,
    )
    assert found == [[count_text(x), bytes_text(x), percent_text(x / 1000)] for x in numbers]


def slider(page: Page, name: str) -> Locator:
    return page.get_by_role("slider", name=re.compile(rf"^Share of {name}$"))


def total(page: Page, name: str) -> Locator:
    return page.locator(f"[data-total={name}] dd")


MOVE = """(input, value) => { // as a drag does; the answers must stand on the page when this returns
  const before = performance.now();
  input.value = value;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  return performance.now() - before;
}"""


def test_totals_and_curves_move_while_a_slider_is_dragged_and_the_address_when_it_is_let_go(
    page: Page, address: str
) -> None:
    page.goto(f"{address}/Zip?parents=lenet300-mnist-0&parents=lenet300-mnist-1&share-fc1=0.5")
    settle(page)
    one = slider(page, "fc1")
    expect(one).to_have_value("0.5")
    joint = joined([structures()[f"lenet300-mnist-{k}"] for k in (0, 1)])
    expected = plan_counts(joint, {"fc1": 150, "fc2": 100}, Keeping.all())
    expect(total(page, "size")).to_have_text(percent_text(expected.versus_all))
    error = total(page, "error").inner_text()
    assert re.fullmatch(r"\d+\.\d\xa0%", error)
    box = one.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 8, box["y"] + box["height"] / 2)
    none = plan_counts(joint, {"fc1": 0, "fc2": 100}, Keeping.all())
    assert total(page, "size").inner_text() == percent_text(none.versus_all)
    assert total(page, "error").inner_text() != error
    assert "share-fc1=0.5" in page.url
    row = page.locator(".st-key-share-fc1")
    assert "0 of 300 shared" in row.inner_text()
    assert "0 of 100 shared: it reads nothing that is shared" in page.locator(".st-key-share-fc2").inner_text()
    page.mouse.up()
    page.wait_for_url(re.compile("share-fc1=0(&|$)"), timeout=20_000)
    settle(page)
    expect(one).to_have_value("0")
    expect(total(page, "size")).to_have_text(percent_text(none.versus_all))
    times = [one.evaluate(MOVE, str(k / 50)) for k in range(50)]
    assert statistics.median(times) < 100, times


def test_keys_move_a_slider_and_all_of_them(page: Page, address: str) -> None:
    page.goto(f"{address}/Zip?parents=lenet300-mnist-0&parents=lenet300-mnist-1")
    settle(page)
    one, everything = slider(page, "fc2"), slider(page, "all layers")
    one.focus()
    for key, value in (("ArrowLeft", "0.95"), ("Home", "0"), ("ArrowUp", "0.05"), ("PageUp", "0.25"), ("End", "1")):
        one.press(key)
        expect(one).to_have_value(value)
    everything.focus()
    everything.press("PageDown")
    page.wait_for_url(re.compile("share-fc1=0.8.*share-fc2=0.8"), timeout=20_000)
    expect(one).to_have_value("0.8")
    said = one.get_attribute("aria-valuetext") or ""
    assert said.startswith("80\xa0%, 80 of 100 shared, ")
    assert said.endswith("of the answers may change")


def test_what_the_sliders_come_to_and_start_stay_in_view_and_cover_no_slider_that_has_the_focus(
    page: Page, address: str
) -> None:
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{address}/Zip?parents=resnet14-mnist-0&parents=resnet14-fashion-0")
    settle(page)
    page.locator(".mtz-row input").last.wait_for()
    on_top = """node => { const r = node.getBoundingClientRect(); const x = r.x + r.width / 2, y = r.y + r.height / 2;
                          return y > 0 && y < innerHeight && node.contains(document.elementFromPoint(x, y)); }"""
    start = page.get_by_role("button", name="Start")
    page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop = 700")
    assert start.evaluate(on_top)
    assert page.locator(".mtz-totals dd").first.is_visible()
    page.locator(".mtz-row input").last.focus()
    for _ in range(page.locator(".mtz-row input").count() - 1):
        page.keyboard.press("Shift+Tab")
        assert page.locator(":focus").evaluate(on_top)
        assert start.evaluate(on_top)
