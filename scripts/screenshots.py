"""Save a picture of every page, light and dark, at three widths, into tests/screenshots/ (made-up runs).

    python scripts/screenshots.py [--only Zip] [--widths 390 1280 1920]

Says which page scrolls sideways or shows an exception; nothing else is judged: look at the pictures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mtz_core.runs.store import RunStore  # noqa: E402
from tests.browser.server import chromium, dashboard, settle  # noqa: E402
from tests.synthetic import LENET5, synthetic_run  # noqa: E402

TARGET = ROOT / "tests" / "screenshots"
TWO = "parents=lenet300-mnist-0&parents=lenet300-fashion-0"


def views(store: RunStore) -> dict[str, str]:
    """Make runs of every kind, and return name → address of what is to be seen."""
    done = synthetic_run(store, share=1.0, title="digits and clothes")
    three = synthetic_run(store, tasks=3, title="three tasks")
    failed = synthetic_run(store, status="failed", layers=LENET5, title="a failed one")
    lost = synthetic_run(store, status="lost", layers=LENET5, title="an interrupted one")
    running = synthetic_run(store, status="running", title="a live one")
    return {
        "home": "/",
        "networks": f"/Networks?{TWO}",
        "networks-mixed": "/Networks?parents=lenet300-mnist-0&parents=lenet5-fashion-0",
        "zip": f"/Zip?{TWO}&share-fc2=0.5",
        "zip-finished": f"/Zip?run={done.id}",
        "zip-three": f"/Zip?run={three.id}",
        "zip-failed": f"/Zip?run={failed.id}",
        "zip-lost": f"/Zip?run={lost.id}",
        "zip-live": f"/Zip?run={running.id}",
        "zip-unknown": "/Zip?run=nonsense",
        "inspect": f"/Inspect?run={done.id}",
        "compare": f"/Compare?run={done.id}",
        "learn": "/Learn",
    }


def main() -> None:
    """Read the command line, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a view's name")
    parser.add_argument("--widths", nargs="+", type=int, default=[390, 1280, 1920])
    parser.add_argument("--modes", nargs="+", default=["light", "dark"])
    options = parser.parse_args()
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Path(folder) / "runs")
        wanted = {name: path for name, path in views(store).items() if options.only.lower() in name}
        with dashboard(store.root) as address, chromium() as browser:
            for mode in options.modes:
                for width in options.widths:
                    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=mode)
                    for name, path in wanted.items():
                        page.goto(address + path)
                        settle(page)
                        page.wait_for_timeout(900)
                        # The page scrolls inside a container: a window as high as its content shows all of it.
                        height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
                        page.set_viewport_size({"width": width, "height": max(900, min(6000, height))})
                        page.wait_for_timeout(500)
                        page.screenshot(path=TARGET / f"{name}-{mode}-{width}.png")
                        wide = page.evaluate(
                            "(() => { const m = document.querySelector('[data-testid=stMain]');"
                            " return m.scrollWidth - m.clientWidth })()"
                        )
                        if wide > 0:
                            print(f"{name} {mode} {width}: scrolls sideways by {wide} px")
                        if page.locator("[data-testid=stException]").count():
                            print(f"{name} {mode} {width}: shows an exception")
                        page.set_viewport_size({"width": width, "height": 900})
                    page.close()
    print(f"pictures are in {TARGET}")


if __name__ == "__main__":
    main()
