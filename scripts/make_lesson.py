"""Write `assets/example/lesson.json`: everything that the Learn page shows, computed by the engine's own functions.

    python -m scripts.make_lesson [PART ...]

Without parts all of them are computed anew, which takes about six minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from mtz_core.figures.lessons import LESSON
from scripts.lesson import bowls, measured, neurons

DIGITS, CLOTHES, LETTERS = (f"lenet300-{task}-0" for task in ("mnist", "fashion", "letters"))


def rounded(value: Any) -> Any:
    """Numbers to seven significant digits, so that the file stays small."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def two_networks() -> dict[str, Any]:
    """Step 1."""
    return neurons.two_networks(neurons.first_layer(DIGITS), neurons.first_layer(CLOTHES))


def two_weights() -> dict[str, Any]:
    """Steps 2 and 3."""
    a, b = neurons.first_layer(DIGITS), neurons.first_layer(CLOTHES)
    pixels = bowls.choose_pixels(a, b)
    pair = bowls.choose_pair(a, b, pixels, (neurons.clear(a, 60), neurons.clear(b, 60)))
    return bowls.two_bowls(a, b, pixels, pair)


def nearest() -> dict[str, Any]:
    """Step 4."""
    found = neurons.nearest(neurons.first_layer(LETTERS), neurons.first_layer(DIGITS))
    zips = {metric: measured.by_metric(metric, (LETTERS, DIGITS)) for metric in ("functional", "euclidean")}
    return found | {"zips": zips}


def pairing() -> dict[str, Any]:
    """Step 5."""
    return neurons.six_by_six(neurons.first_layer(DIGITS), neurons.first_layer(CLOTHES))


def layers() -> dict[str, Any]:
    """Step 7."""
    found = {name: measured.layer_by_layer(name == "compensated") for name in ("plain", "compensated")}
    return {"images": measured.shown_images(), "tested": measured.TESTED} | found


def wrong() -> dict[str, Any]:
    """Step 8."""
    errors = {
        measured.case_name(*case): [measured.what_can_go_wrong(*case, seed) for seed in range(measured.DRAWS)]
        for case in measured.CASES
    }
    return {"errors": errors, "seen": measured.seen_images()}


def sweeps() -> dict[str, Any]:
    """Step 9."""
    return dict(measured.sweeps())


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "networks": two_networks,
    "weights": two_weights,
    "nearest": nearest,
    "pairing": pairing,
    "layers": layers,
    "wrong": wrong,
    "sweeps": sweeps,
}


def main() -> None:
    """Compute the parts that are asked for and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    wanted = parser.parse_args().parts or list(PARTS)
    kept = json.loads(LESSON.read_text(encoding="utf-8")) if LESSON.exists() else {}
    for name in wanted:
        kept[name] = rounded(PARTS[name]())
    LESSON.write_text(json.dumps({name: kept[name] for name in PARTS if name in kept}) + "\n", encoding="utf-8")
    print(f"{LESSON}: {LESSON.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
