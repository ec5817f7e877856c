"""The benchmarks run; their figures are not tested."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest
import torch

from benchmarks import difference, linear, memory, residual, rivals, streams, subsets
from benchmarks.machine import describe, table
from benchmarks.quality import calibration_images, load_task
from mtz_core import ZipSpec


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


def _header(printed: str) -> list[list[str]]:
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_residual_benchmark_compares_zipping_with_its_rivals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(residual, "SETS", {"a pair": ("mnist-0", "mnist-1")})
    residual.run(None, 1, images=60, steps=2, architecture="lenet300")
    rows = {row[0]: row[1:] for row in _header(capsys.readouterr().out)}
    assert [row[3] for name, row in rows.items() if name.startswith("MTZ")] == ["1.007×", "1.223×", "1.532×", "1.007×"]
    assert rows["activation matching, permute + reset"][3] == "1.004×"
    assert float(rows["parents"][0]) < float(rows["plain averaging"][0].split()[0])


def test_rivals_benchmark_measures_on_neither_calibration_nor_test_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = load_task("lenet300-letters-0", None)
    (calibration,) = calibration_images([task], 2400, 5)
    found = rivals.held_out(task, 2400, 5, 0, most=70)
    assert len(found.test[0]) == 70
    known = {image.numpy().tobytes() for image in calibration}
    assert not known & {image.numpy().tobytes() for image in found.test[0]}
    assert {image.numpy().tobytes() for image in found.test[0]} < {i.numpy().tobytes() for i in task.train[0]}
    torch.testing.assert_close(found.train[0], task.train[0])

    monkeypatch.setattr(rivals, "PAIRS", (("mnist-1", "letters-0"),))
    monkeypatch.setattr(rivals, "CANDIDATES", (rivals.CANDIDATES[0], rivals.CANDIDATES[-1]))
    rivals.run(None, 1, images=60, most=50, architecture="lenet300")
    rows = _header(capsys.readouterr().out)
    assert [row[:4] for row in rows[2:]] == [["permute", "written", "", ""], ["zip", "read", "average", "1.0"]]


@pytest.mark.parametrize(("benchmark", "field"), [(subsets, "sharing"), (streams, "streams")])
def test_a_benchmark_of_an_absent_field_says_so(
    benchmark: Any, field: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "available", lambda: False)
    benchmark.run(None, 1)
    assert f'no ZipSpec field "{field}"' in capsys.readouterr().out


def test_subsets_benchmark_bisects_to_equal_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the field taken out, both zips are the same: the share found is the share asked for."""
    monkeypatch.setattr(subsets, "available", lambda: True)
    monkeypatch.setattr(subsets, "specification", lambda sharing, **fields: ZipSpec(**fields))
    monkeypatch.setattr(subsets, "SHARES", (0.5,))
    subsets.run(None, 1, images=40, architecture="lenet300", halvings=2)
    rows = _header(capsys.readouterr().out)
    assert [row[:3] for row in rows[2:]] == [["all or nothing", "0.50", rows[2][2]], ["subsets", "0.50", rows[2][2]]]


def test_least_share_is_found_or_reported_missing() -> None:
    assert subsets.least_share(lambda share: round(1000 * (1 - share / 2)), 750) == 0.5
    assert subsets.least_share(lambda share: round(1000 * (1 - share / 2)), 400) is None


def test_streams_benchmark_prints_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streams, "available", lambda: True)
    monkeypatch.setattr(streams, "specification", lambda streams, **fields: ZipSpec(**fields))
    monkeypatch.setattr(streams, "SETS", (("mnist-0", "mnist-1"),))
    streams.run(None, 1, images=40, architecture="lenet300")
    rows = _header(capsys.readouterr().out)
    assert [row[1:3] for row in rows[2:]] == [["1.0", "first"], ["1.0", "all"], ["0.5", "first"], ["0.5", "all"]]


def test_linear_benchmark_prints_three_tables(capsys: pytest.CaptureFixture[str]) -> None:
    linear.run(counts=(20, 40), depths=(2, 4), residual=(1,), images=20)
    rows = _header(capsys.readouterr().out)
    assert [row[0] for row in rows if row[0].isdigit() or row[0].startswith("depth")] == [
        *("20", "40", "2", "4", "depth 6·1 + 2")
    ]


def test_memory_benchmark_measures_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    memory.run(("squeezenet1_1",), images=4, side=32)
    row = _header(capsys.readouterr().out)[-1]
    assert row[0] == "squeezenet1_1"
    assert 0.1 < float(row[1]) < 16
