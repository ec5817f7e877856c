"""Break the engine on purpose and count how often the tests notice: `make mutants` (docs/testing.md).

mutmut makes the mutants (small changes of one expression) and runs each against the tests that reach its function. All
of them take a day; a random sample says within a few percent how many are killed. What is known is kept in `mutants/`,
so a run that was interrupted goes on, and a larger sample with the same seed contains the smaller one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

KEPT = Path("mutants")
LEAST = 0.85
"""Part of the mutants that the tests must kill."""
PACKAGES = ("algebra", "pairing", "layerwise", "budget", "calibration", "network")
SMALLEST = "mtz_core.algebra.ridge.x_walk_downhill__mutmut_1"
"""Tried first: this writes all mutants, and finds out which tests reach which function."""
OUTCOMES = {None: "open", 0: "survived", 1: "killed", 3: "killed", 5: "no tests", 33: "no tests"}
OUTCOMES |= dict.fromkeys((36, 24, -24, 152, 255), "timeout")
NOTICED = ("killed", "timeout")
BATCH = 150
"""Mutants that are tried together, the quickest first; an interrupted run has whole batches of a random order."""


def outcomes() -> dict[str, str]:
    """What is known of every mutant, by its name."""
    found = {}
    for path in sorted(KEPT.glob("mtz_core/**/*.meta")):
        for name, code in json.loads(path.read_text())["exit_code_by_key"].items():
            found[name] = OUTCOMES.get(code, "other")
    return found


def mutmut(names: Sequence[str]) -> None:
    """Run some mutants, one after the other; torch's threads do not survive that processes are forked."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names]
    if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"mutmut failed; see what it says: {' '.join(command[:6])} {names[0]!r}")


def chosen(names: Sequence[str], paths: Sequence[str], sample: int | None, seed: int) -> list[str]:
    """The mutants of some files or folders; of these, so many at random.

    >>> chosen(["mtz_core.budget.x_a__mutmut_1", "mtz_core.network.x_b__mutmut_1"], ["mtz_core/budget"], 1, 0)
    ['mtz_core.budget.x_a__mutmut_1']
    """
    modules = [path.rstrip("/").removesuffix(".py").replace("/", ".") for path in paths]
    within = sorted(name for name in names if not modules or any(name.startswith(f"{m}.") for m in modules))
    random.Random(seed).shuffle(within)
    return within[:sample]


def interval(killed: int, tried: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of which a sample is known."""
    z, share = 1.96, killed / tried
    middle, spread = share + z * z / (2 * tried), z * math.sqrt(share * (1 - share) / tried + z * z / (4 * tried**2))
    return (middle - spread) / (1 + z * z / tried), (middle + spread) / (1 + z * z / tried)


def report(found: dict[str, str], whole: int) -> bool:
    """Print what became of some mutants, of which there are `whole`; return whether enough were killed."""
    kinds = ("killed", "timeout", "survived", "no tests", "other")
    print(f"{'package':<12}" + "".join(f"{kind:>10}" for kind in kinds) + f"{'noticed':>10}")
    for package in (*PACKAGES, "all"):
        counts = Counter(kind for name, kind in found.items() if package in ("all", name.split(".")[1]))
        if tried := sum(counts[kind] for kind in kinds):
            rate = sum(counts[kind] for kind in NOTICED) / tried
            print(f"{package:<12}" + "".join(f"{counts[kind]:>10}" for kind in kinds) + f"{rate:>9.1%}")
    tried = sum(kind != "open" for kind in found.values())
    killed = sum(kind in NOTICED for kind in found.values())
    if not tried:
        print("no mutant was tried")
        return False
    text = f"{killed} of {tried} mutants were noticed: {killed / tried:.1%}"
    if tried < whole:
        low, high = interval(killed, tried)
        text += f" (a sample of {whole:,}; 95 % interval {low:.1%} to {high:.1%})"
    print(text + f"; at least {LEAST:.0%} are wanted")
    for name, kind in sorted(found.items()):
        if kind not in (*NOTICED, "open"):
            print(f"  {kind}: {name}")
    return killed >= LEAST * tried


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what is not known yet, then report; 1 if too few are killed."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--paths", nargs="*", default=[], help="files or folders, e.g. mtz_core/pairing")
    parser.add_argument("--sample", type=int, help="how many, at random; left out: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="try those that were not noticed once more")
    parser.add_argument("--report", action="store_true", help="try nothing")
    options = parser.parse_args(arguments)
    if not (KEPT / "mutmut-stats.json").exists():
        mutmut([SMALLEST])
    known = outcomes()
    names = chosen(list(known), options.paths, options.sample, options.seed)
    again = ("open", "survived", "no tests", "other") if options.again else ("open",)
    if (left := [name for name in names if known[name] in again]) and not options.report:
        for first in range(0, len(left), BATCH):
            mutmut(left[first : first + BATCH])
        known = outcomes()
    whole = len(chosen(list(known), options.paths, None, 0))
    return 0 if report({name: known[name] for name in names}, whole) else 1


if __name__ == "__main__":
    raise SystemExit(main())
