"""Open every page of the dashboard, light and dark, on a phone and on screens, and measure how it looks.

    python -m scripts.walk_pages                            # all: prints a row per page, then the faults, by kind
    python -m scripts.walk_pages --only inspect --widths 390 --modes dark --pictures tests/screenshots

It ends with an error where a page misses the bar: no exception, no text cut off or covered, no sideways scroll, a
cumulative layout shift below 0.1, and no violation that axe calls critical or serious.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtz_core.runs.origins import keep_layers, keep_pair
from mtz_core.runs.store import RunStore
from mtz_core.spec import parse_run_spec
from tests.browser.look import BAD, Look, open_and_measure
from tests.browser.server import chromium, dashboard
from tests.synthetic import LENET5, synthetic_findings, synthetic_run

TWO = "parents=lenet300-mnist-0&parents=lenet300-fashion-0"
STEPS = (*map(str, range(1, 10)), "end")


def real_run(store: RunStore) -> str:
    """Zip two small networks for real, so that their answers can be looked at."""
    from mtz_core.runs.worker import execute

    spec = {
        "title": "two LeNets",
        "networks": [{"parent": "lenet300-mnist-0"}, {"parent": "lenet300-fashion-0"}],
        "calibration": {"images": 200},
        "zip": {"share": 0.6, "retrain": {"steps": 20, "evaluate_every": 10}},
    }
    record = store.create(parse_run_spec(spec))
    execute(store, record.id)
    return record.id


def views(store: RunStore) -> dict[str, str]:
    """Make the runs and return name → address of what is to be seen."""
    real = real_run(store)
    made = [
        synthetic_run(store, layers=LENET5, share=share, seed=seed, title=title).id
        for seed, (share, title) in enumerate([(0.8, "most of it"), (0.4, "less of it"), (1.0, "everything")])
    ]
    found_out = synthetic_findings("fc1", (1, 2))
    keep_pair(store.get(made[0]).path, found_out)
    keep_layers(store.get(made[0]).path, found_out.likeness)
    pins = "&".join(f"pin={run}" for run in made[:2])
    found = {
        "home": "/",
        "networks": f"/Networks?{TWO}",
        "zip-plan": f"/Zip?{TWO}&share-fc2=0.5",
        "zip-how": f"/Zip?run={made[0]}",
        "zip-answers": f"/Zip?run={real}&view=answers",
        "zip-replay": f"/Zip?run={made[0]}&view=replay",
        "inspect-map": f"/Inspect?run={made[0]}&layer=fc1",
        "inspect-origin": f"/Inspect?run={made[0]}&layer=fc1&view=origin&i=1&j=2",
        "inspect-pairs": f"/Inspect?run={made[0]}&layer=fc1&view=pairs",
        "inspect-harm": f"/Inspect?run={made[0]}&layer=fc1&view=harm",
        "compare": f"/Compare?run={made[1]}&{pins}",
    }
    found |= {f"learn-{step}": f"/Learn?step={step}" for step in STEPS}
    return found | {f"learn-{step}-present": f"/Learn?step={step}&present=1" for step in STEPS}


@contextmanager
def served() -> Iterator[tuple[str, dict[str, str]]]:
    """Serve the dashboard with the runs of `views`; yield its address and the views."""
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Path(folder) / "runs")
        made = views(store)
        with dashboard(store.root) as address:
            yield address, made


def row(name: str, width: int, mode: str, look: Look) -> str:
    """One page as a row of a table."""
    return (
        f"| {name} | {width} | {mode} | {len(look.exceptions)} | {look.shift:.3f} | {look.count(BAD)} | "
        f"{look.count(('moderate', 'minor'))} | {len(look.clipped)} | {len(look.overlap)} | {len(look.sideways)} | "
        f"{look.height} |"
    )


def main() -> int:
    """Read the command line, walk, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of pages' names")
    parser.add_argument("--widths", nargs="+", type=int, default=[390, 1440, 1920])
    parser.add_argument("--modes", nargs="+", default=["light", "dark"])
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each page")
    options = parser.parse_args()
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
    faults: dict[str, list[str]] = {}
    began, count = time.monotonic(), 0
    with served() as (address, made), chromium() as browser:
        print("| page | width | mode | exceptions | CLS | axe bad | axe minor | cut off | covered | sideways | high |")
        print(f"{'| --- ' * 11}|")
        for name, path in made.items():
            if not any(part in name for part in options.only):
                continue
            for width in options.widths:
                for mode in options.modes:
                    picture = options.pictures and options.pictures / f"{name}-{width}-{mode}.png"
                    look = open_and_measure(browser, address + path, width=width, mode=mode, picture=picture)
                    print(row(name, width, mode, look), flush=True)
                    count += 1
                    for fault in look.faults():
                        faults.setdefault(fault, []).append(f"{name} {width} {mode}")
    for fault, where in sorted(faults.items(), key=lambda item: -len(item[1])):
        print(f"- {fault}\n    in {len(where)}: {', '.join(where[:6])}")
    print(f"{count} pages in {time.monotonic() - began:.0f} s; {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
