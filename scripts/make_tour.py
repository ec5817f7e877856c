"""Record a minute of the real dashboard as a moving picture: `python -m scripts.make_tour docs/images/tour.gif`.

The app is started on an empty store and walked through as a visitor would: Home plays, two networks are zipped while
the page shows it, their answers are looked at, a digit is drawn, the pair that was merged dearest is inspected down to
where its difference comes from, and a ball rolls in the lesson. Every frame is a screenshot; what waits longer than a
frame is not shown waiting.
"""

from __future__ import annotations

import argparse
import io
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests.browser.server import chromium, dashboard, settle

WIDTH, HEIGHT, SHRINK = 1280, 800, 0.7
FRAME, SHOWN = 500, 330
"""Milliseconds from one picture to the next, and for which each is shown."""
COLOURS = 96
SEVEN = ((80, 60), (200, 60), (150, 150), (120, 240))


class Tour:
    """Frames of a page, at most `FRAME` apart."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.lengths: list[int] = []

    def look(self, frames: int = 1, still: int = 0) -> None:
        """Take so many frames, and hold the last one for `still` more."""
        for k in range(frames):
            if k:
                self.page.wait_for_timeout(FRAME)
            picture = Image.open(io.BytesIO(self.page.screenshot(type="png"))).convert("RGB")
            size = (round(SHRINK * WIDTH), round(SHRINK * HEIGHT))
            self.frames.append(picture.resize(size, Image.Resampling.LANCZOS))
            self.lengths.append(SHOWN)
        self.lengths[-1] += still * SHOWN

    def go(self, address: str) -> None:
        """Open an address and wait until it stands still."""
        self.page.goto(address)
        settle(self.page)

    def save(self, path: Path) -> None:
        """Write all frames as one GIF with one palette, so that colours keep still."""
        columns = self.frames[:: max(1, len(self.frames) // 12)]
        sheet = Image.new("RGB", (columns[0].width, columns[0].height * len(columns)))
        for k, frame in enumerate(columns):
            sheet.paste(frame, (0, k * frame.height))
        palette = sheet.quantize(COLOURS, method=Image.Quantize.MEDIANCUT)
        drawn = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames]
        drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=self.lengths, loop=0, optimize=True)


def walk(page: Page, address: str) -> Tour:
    """Walk through the dashboard and return what was seen."""
    tour = Tour(page)
    tour.go(address)
    tour.look(frames=14)
    tour.go(f"{address}/Zip?parents=lenet5-mnist-0&parents=lenet5-fashion-0&retrain=layerwise&steps=60")
    tour.look(still=4)
    page.get_by_role("button", name="Start").click()
    while not page.get_by_text("Take it with you").count():
        page.wait_for_timeout(FRAME)
        if page.locator("canvas, .js-plotly-plot").count():
            tour.look()
    settle(page)
    tour.look(still=4)
    run = re.search(r"run=([\w-]+)", page.url)
    assert run is not None
    tour.go(f"{address}/Zip?run={run[1]}&view=answers&of=clothes")
    tour.look(still=5)
    _draw_a_seven(tour)
    tour.go(f"{address}/Inspect?run={run[1]}")
    tour.look(still=5)
    page.mouse.wheel(0, 420)
    page.wait_for_timeout(FRAME)
    tour.look(still=5)
    tour.go(f"{address}/Inspect?run={run[1]}&layer=conv2&view=origin")
    page.get_by_role("button", name="Find out").click()
    page.get_by_text("Which inputs make the difference").wait_for(timeout=90_000)
    settle(page)
    for _ in range(3):
        page.mouse.wheel(0, 560)
        page.wait_for_timeout(2 * FRAME)
        tour.look(still=8)
    tour.go(f"{address}/Compare?run={run[1]}")
    tour.look(still=6)
    for step, frames in ((2, 8), (5, 8), (7, 8)):
        tour.go(f"{address}/Learn?step={step}")
        play = page.get_by_role("button", name="Play").first
        if play.count():
            play.click()
        tour.look(frames=frames)
    return tour


def _draw_a_seven(tour: Tour) -> None:
    page, paper = tour.page, tour.page.locator("canvas.paper")
    paper.scroll_into_view_if_needed()
    box = paper.bounding_box()
    assert box is not None
    places = [(box["x"] + x, box["y"] + y) for x, y in SEVEN]
    page.mouse.move(*places[0])
    page.mouse.down()
    for x, y in places[1:]:
        page.mouse.move(x, y, steps=8)
        tour.look()
    page.mouse.up()
    page.get_by_role("button", name="Ask the networks").click()
    page.locator("table.answers").first.wait_for(timeout=90_000)
    settle(page)
    tour.look(still=5)


@contextmanager
def _page() -> Iterator[tuple[Page, str]]:
    with tempfile.TemporaryDirectory() as folder, dashboard(Path(folder) / "runs") as address, chromium() as browser:
        yield browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}), address


def main() -> None:
    """Write the picture and say how long it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path
    with _page() as (page, address):
        tour = walk(page, address)
    tour.save(path)
    print(f"{path}: {len(tour.frames)} frames, {sum(tour.lengths) / 1000:.0f} s, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
