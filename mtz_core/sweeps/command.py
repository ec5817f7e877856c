"""`mtz sweep FILE`: a sweep on the command line. All that it needs is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mtz_core.errors import SpecError
from mtz_core.sweeps.example import EXAMPLE


def add_sweep(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add the command to a parser's commands."""
    told = "make and execute all runs of a YAML file with lists, each once"
    command = commands.add_parser("sweep", parents=parents, help=told)
    command.add_argument("file", type=Path, nargs="?", metavar="SWEEP.yaml")
    command.add_argument("--example", action="store_true", help="print a commented file, and run nothing")
    command.add_argument("--check", action="store_true", help="check every point, say how many there are, run nothing")
    command.add_argument("--csv", type=Path, metavar="FILE", help="write all points and their results to FILE")
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.set_defaults(command=sweep)


def sweep(options: argparse.Namespace) -> int:
    """Run a sweep; 0 if all of its points have finished, 1 if one failed, 130 if it was stopped."""
    from mtz_core.runs.records import RunStatus
    from mtz_core.runs.store import RunStore
    from mtz_core.sweeps.engine import run_sweep
    from mtz_core.sweeps.plan import load_sweep
    from mtz_core.sweeps.told import SweepLine, json_lines, results_table, write_csv

    if options.example:
        print(EXAMPLE, end="")
        return 0
    if options.file is None:
        raise SpecError("which sweep? give its file; `sweep --example` prints one")
    plan = load_sweep(options.file)
    if options.check:
        print(f"{len(plan.points):,} points, {plan.different:,} of them different; all of them make sense")
        return 0
    line = SweepLine(sys.stderr)
    silent = options.quiet and not options.json
    listen = json_lines(sys.stdout) if options.json else None if silent else line
    try:
        results = run_sweep(plan, RunStore(options.store), listen)
    finally:
        if not options.json and not silent:
            line.close()
    if not options.json:
        print(results_table(plan, results))
    if options.csv is not None:
        write_csv(options.csv, plan, results)
    ended = {each.status for each in results}
    if ended == {RunStatus.FINISHED}:
        return 0
    return 130 if RunStatus.CANCELLED in ended else 1
