"""Write assets/curves.json: curves of the examples on Home and of bundled pairs, so that sliders answer at once.

    python -m scripts.build_curves [--seconds N] [PARENT PARENT ...]

Resumable: what the file has is kept, every pair is written as soon as it is measured, and after N seconds no further
one is begun. Pairs that cannot be zipped are left out, and those whose images are not bundled.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from mtz_core.budget.plan import choice_data
from mtz_core.budget.shipped import CURVES, VERSION, curves_key, plain_spec, rounded, shipped_curves
from mtz_core.structure.sizes import why_not_zippable
from mtz_core.zoo.catalog import catalog
from mtz_core.zoo.structures import structures
from pages.ui.presets import PRESETS

FAMILIES = ("lenet300", "lenet5", "lstm", "resnet14")


def wanted() -> Iterator[tuple[str, ...]]:
    """Yield the examples, then all pairs of one family, the small ones first and sparse ones, which take long, last."""
    yield from (preset.parents for preset in PRESETS if preset.bundled)
    pairs = [
        pair
        for family in FAMILIES
        for pair in combinations([name for name, info in catalog().items() if info.architecture == family], 2)
    ]
    yield from sorted(pairs, key=lambda pair: any("sparse" in name for name in pair))


def measured(parents: tuple[str, ...]) -> dict[str, Any]:
    """Measure networks with everything as it is by default."""
    from mtz_core.runs.inputs import gather
    from mtz_core.zipping.forecast import Measuring, plan

    spec = plain_spec(parents)
    inputs = gather(spec)
    steps = plan(inputs.networks, inputs.calibration, inputs.zipping(spec), inputs.evaluation)
    (found,) = [item for item in steps if not isinstance(item, Measuring)]
    return {"parents": list(parents), **rounded(choice_data(found.choice)), "changed": found.changed}


def write(known: Mapping[str, Any]) -> None:
    """Write the file, one line for every set of networks."""
    lines = (f"{json.dumps(key)}: {json.dumps(each, separators=(',', ':'))}" for key, each in known.items())
    body = ",\n".join(lines)
    CURVES.write_text(f'{{"version": {VERSION}, "curves": {{\n{body}\n}}}}\n', encoding="utf-8")


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parents", nargs="*", help="measure these networks alone")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further one after so many")
    options = parser.parse_args()
    began, known = time.monotonic(), dict(shipped_curves())
    for parents in [tuple(options.parents)] if options.parents else list(dict.fromkeys(wanted())):
        key = curves_key(plain_spec(parents))
        if key in known or why_not_zippable([structures()[name] for name in parents], parents):
            continue
        if time.monotonic() - began > options.seconds:
            print("more is left")
            break
        start = time.monotonic()
        known[key] = measured(parents)
        write(known)
        print(f"{' + '.join(parents)}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
