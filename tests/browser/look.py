"""How a page looks, measured: exceptions, what moves while it loads, what axe finds, text that is cut off or covered.

`open_and_measure` opens a page as a visitor does who comes by its link: in a context of its own, with nothing cached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.browser.server import settle

STEADY = 0.1
"""A cumulative layout shift below this is good (web.dev/articles/cls)."""
BAD = ("critical", "serious")
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
SHIFTS = """
window.shifts = [];
const named = (node) => {
  for (let at = node; at; at = at.parentElement ?? at.getRootNode?.().host) {
    const key = [...(at.classList ?? [])].find((name) => name.startsWith("st-key-"));
    if (key || at.dataset?.testid) return key ?? at.dataset.testid;
  }
  return node?.nodeName ?? "?";
};
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.hadRecentInput) continue;
    const at = (box) => ["x", "y", "width", "height"].map((side) => Math.round(box[side])).join(" ");
    const moved = entry.sources.map((s) => `${named(s.node)} ${at(s.previousRect)} → ${at(s.currentRect)}`);
    window.shifts.push({ value: entry.value, at: entry.startTime, moved });
  }
}).observe({ type: "layout-shift", buffered: true });
"""
MEASURE = Path(__file__).with_name("look.js").read_text(encoding="utf-8")


@dataclass
class Look:
    """What was measured of one page."""

    exceptions: list[str]
    shift: float
    moved: list[str]
    violations: list[dict[str, Any]]
    clipped: list[str] = field(default_factory=list)
    overlap: list[str] = field(default_factory=list)
    sideways: list[str] = field(default_factory=list)
    height: int = 0

    def count(self, impacts: Iterable[str]) -> int:
        return sum(len(found["nodes"]) for found in self.violations if found["impact"] in impacts)

    def faults(self) -> list[str]:
        """Everything that misses the bar, in words."""
        said = [f"exception: {text}" for text in self.exceptions]
        if self.shift >= STEADY:
            said.append(f"layout shift {self.shift:.3f}: {'; '.join(self.moved[:4])}")
        for found in self.violations:
            if found["impact"] in BAD:
                said.append(f"axe {found['impact']} {found['id']}: {'; '.join(map(_where, found['nodes'][:4]))}")
        said += [f"cut off: {text}" for text in self.clipped]
        said += [f"covered: {text}" for text in self.overlap]
        return said + [f"scrolls sideways: {text}" for text in self.sideways if text.startswith("the page")]


def cumulative(shifts: list[dict[str, Any]]) -> float:
    """Return the cumulative layout shift as web-vitals counts it: the worst window of ≤ 5 s without a pause of 1 s."""
    worst = window = 0.0
    began = last = -1e9
    for shift in shifts:
        if shift["at"] - last >= 1000 or shift["at"] - began >= 5000:
            window, began = 0.0, shift["at"]
        window, last = window + shift["value"], shift["at"]
        worst = max(worst, window)
    return worst


def measure(page: Page, *, axe: bool = True) -> Look:
    """Measure a page that has been opened with `SHIFTS` as its first script."""
    exceptions = page.locator("[data-testid=stException]").all_inner_texts()
    shifts = page.evaluate("window.shifts")
    found = page.evaluate(MEASURE)
    moved = [f"{s['value']:.3f} at {s['at'] / 1000:.1f} s ({', '.join(s['moved'][:3])})" for s in shifts]
    height = page.evaluate("document.querySelector('[data-testid=stMain]')?.scrollHeight ?? 0")
    violations = Axe().run(page, options=RULES).response["violations"] if axe else []
    worst = sorted(zip([s["value"] for s in shifts], moved, strict=True), reverse=True)
    texts = {name: [_times(*each) for each in Counter(found[name]).items()] for name in found}
    return Look(exceptions, cumulative(shifts), [text for _, text in worst], violations, height=height, **texts)


def open_and_measure(
    browser: Browser, address: str, *, width: int, mode: Any, picture: Path | None = None, axe: bool = True
) -> Look:
    """Open an address in a fresh context and measure it; `picture` takes the whole page as it is then."""
    high = 844 if width < 640 else 900
    context = browser.new_context(viewport={"width": width, "height": high}, color_scheme=mode)
    try:
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.add_init_script(SHIFTS)
        page.goto(address)
        settle(page)
        page.wait_for_timeout(900)
        settle(page)
        look = measure(page, axe=axe)
        look.exceptions += errors
        if picture is not None:
            page.set_viewport_size({"width": width, "height": max(high, min(6000, look.height))})
            page.wait_for_timeout(400)
            page.screenshot(path=picture)
        return look
    finally:
        context.close()


def _where(node: dict[str, Any]) -> str:
    target = node["target"][-1]
    text = " ".join(node["html"].split())[:90]
    return f"{target[-1] if isinstance(target, list) else target} <{text}>"[:190]


def _times(text: str, count: int) -> str:
    return text if count == 1 else f"{text} ({count} times)"
