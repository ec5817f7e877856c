"""The benchmarks run; their figures are not tested."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import difference
from benchmarks.machine import describe, table


def test_difference_benchmark_prints_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("N", 6), ("D", 20), ("PAIRS", 5)):
        monkeypatch.setattr(difference, name, value)
    difference.run()
    printed = capsys.readouterr().out
    assert "loop over pairs, extrapolated from 5" in printed
    assert "× slower" in printed


def test_tables_line_up_and_the_machine_is_named() -> None:
    lines = table(["a", "b"], [["long cell", "1"], ["x", "22"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "torch" in describe()


def test_an_unknown_benchmark_is_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "same-task" in done.stderr
