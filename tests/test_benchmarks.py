"""The benchmarks run; their figures are not tested."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import (
    difference,
    forecast,
    harm,
    kinds,
    landscape,
    linear,
    many,
    memory,
    rivals,
    steps,
    streams,
    subsets,
    trunk,
    zipping,
)
from benchmarks.machine import describe, table
from mtz_core import RetrainSpec, ZipSpec
from mtz_core.baselines import merge_networks
from mtz_core.errors import SpecError
from mtz_core.zoo.catalog import parent_info
from tests.networks import Perceptron, images, randomised


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


def _refusing(*arguments: object) -> zipping.Cell:
    raise SpecError("it knows none")


def test_quality_benchmark_compares_and_goes_on_from_its_store(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(zipping, "SETS", {"seeds": ("mnist-0", "mnist-1")})
    monkeypatch.setattr(zipping, "WATCHED", 40)
    asked = {"architectures": ["lenet300"], "images": [60], "shares": [1.0], "sets": ["seeds"]}
    methods = ["paper", "ours", "ours, no more multiplications", "averaging", "permute + reset"]
    monkeypatch.setattr(zipping, "METHODS", {**zipping.METHODS, "refusing": _refusing})
    zipping.run(None, 1, tmp_path / "cells.json", methods=[*methods, "refusing"], **asked)
    printed = capsys.readouterr().out
    header, _, row, named, _, costs = [line for line in _header(printed) if len(line) > 3]
    found, cost = dict(zip(header, row, strict=True)), dict(zip(named, costs, strict=True))
    assert float(found["averaging"]) > float(found["ours"])
    assert (found["size"], cost["ours"]) == ("1.011×", "1.011×, 2.00×")
    assert re.fullmatch(r"1\.00\d×, 1\.00×", cost[once := "ours, no more multiplications"])
    assert float(found[once]) < float(found["averaging"])
    assert (found["refusing"], cost["refusing"]) == ("–", "–")
    assert "no refusing: it knows none" in printed
    assert "rank correlation" in printed
    monkeypatch.setattr(zipping, "METHODS", dict.fromkeys(methods))  # nothing is computed a second time
    zipping.run(None, 1, tmp_path / "cells.json", methods=methods, **asked)
    again = next(line for line in _header(capsys.readouterr().out) if line[:2] == row[:2] and len(line) > 3)
    assert [dict(zip(header, row, strict=True))[name] for name in methods] == again[5:10]


def test_every_candidate_among_the_rivals_can_be_run() -> None:
    """With all of its settings, on networks in which channels differ."""
    parents = [randomised(Perceptron(), seed) for seed in (0, 1)]
    for candidate in rivals.CANDIDATES:
        found = merge_networks(parents, [images(12), images(12, 1)], **candidate)
        assert found.counts.shared > 0, rivals.settings_text(candidate)


def test_forecast_benchmark_sets_predictions_beside_what_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "SHARES", (1.0,))
    forecast.run(1, ["lenet300-two"], 80)
    header, _, row = _header(capsys.readouterr().out)
    found = dict(zip(header, row, strict=True))
    ratio = float(found["predicted, %"]) / float(found["measured, %"])
    assert float(found["predicted ÷ measured"]) == pytest.approx(ratio, abs=0.02)
    assert float(found["inputs changed"]) >= forecast.LEAST


def test_subsets_benchmark_bisects_to_equal_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the field taken out, both zips are the same: the share found is the share asked for."""
    monkeypatch.setattr(subsets, "ZipSpec", lambda sharing, **fields: ZipSpec(**fields))
    monkeypatch.setattr(subsets, "SHARES", (0.5,))
    subsets.run(None, 1, images=40, architecture="lenet300", halvings=2)
    rows = _header(capsys.readouterr().out)
    assert [row[:3] for row in rows[2:]] == [["all or nothing", "0.50", rows[2][2]], ["subsets", "0.50", rows[2][2]]]


def test_least_share_is_found_or_reported_missing() -> None:
    assert subsets.least_share(lambda share: round(1000 * (1 - share / 2)), 750, 0.0) == 0.5
    assert subsets.least_share(lambda share: round(1000 * (1 - share / 2)), 750, 0.6) == 0.6
    assert subsets.least_share(lambda share: round(1000 * (1 - share / 2)), 400, 0.0) is None


def test_streams_benchmark_prints_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streams, "SETS", (("mnist-0", "mnist-1"),))
    streams.run(None, 1, images=40, architecture="lenet300")
    rows = _header(capsys.readouterr().out)
    assert [row[1:3] for row in rows[2:]] == [["1.0", "first"], ["1.0", "all"], ["0.5", "first"], ["0.5", "all"]]


def test_harm_benchmark_undoes_pairs_of_every_layer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harm, "PAIRS", 2)
    monkeypatch.setattr(harm, "UNSEEN", 50)
    harm.run(None, 1, sets=[("lenet300", "mnist-0", "fashion-0")], images=40)
    printed = capsys.readouterr().out
    rows = _header(printed)[2:4]
    assert [row[2:5:2] for row in rows] == [["fc1", "300"], ["fc2", "100"]]
    assert all(abs(float(row[k])) <= 1.0 for row in rows for k in (6, 8, 10, 12, 14, 16))
    assert len(re.findall(r"(?:halves|cost|estimate) [012] of 2, -?[01]\.", printed)) == 6


def test_trunk_benchmark_counts_down_from_two_networks_to_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trunk, "REPEATS", 1)
    trunk.run(None, 1, architectures=["lenet300"], images=40)
    rows = _header(capsys.readouterr().out)[2:]
    assert [row[1:3] for row in rows] == [["none", "2.00×"], ["fc1", "1.12×"], ["fc2", "1.00×"]]
    assert float(rows[0][5]) == 0.0


def test_kinds_benchmark_measures_every_task_by_its_own_errors(capsys: pytest.CaptureFixture[str]) -> None:
    pair = ("lstm-words-germanic-0", "lstm-words-romance-0")
    kinds.run(1, [pair], (0.0,), images=40)
    (row,) = _header(capsys.readouterr().out)[2:]
    assert row[:3] == [" + ".join(pair), "0", "100.0%"]
    assert row[3] == " / ".join(f"{parent_info(name).bundled_error:.2f}" for name in pair)
    assert [abs(float(cost)) for cost in row[4].split(" / ")] == [0.0, 0.0]


def test_landscape_benchmark_compares_plans_of_one_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(landscape, "SETS", (("mnist-0", "mnist-1"),))
    monkeypatch.setattr(landscape, "SECOND", (0.0, 0.5, 1.0))
    landscape.run(None, 1, images=40)
    rows = _header(capsys.readouterr().out)[2:]
    limits = [max(int(row[4].replace(",", "")) for row in rows if row[1] == share) for share in ("0.8", "0.5")]
    assert [row[2:4] for row in rows if row[1] == "0.5"] == [["53%", "0%"], ["50%", "50%"], ["47%", "100%"]]
    for share, limit in zip(("0.8", "0.5"), limits, strict=True):
        sizes = [int(row[4].replace(",", "")) for row in rows if row[1] == share]
        assert len(sizes) == 3
        assert min(sizes) > limit - 1000  # a neuron more of the first layer saves less than that


def test_steps_benchmark_prints_its_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(steps, "STEPS", (0, 2))
    monkeypatch.setattr(steps, "DEFAULTS", (RetrainSpec(steps=4),))
    steps.run(None, 1, architectures=["lenet300"], images=40)
    rows = _header(capsys.readouterr().out)
    assert rows[0] == ["network", "zip", "0 steps", "2 steps"]
    assert [row[1] for row in rows[2:4]] == ["ours", "paper"]
    assert rows[-1][:3] == ["lenet300", "layerwise", "4"]
    assert all(" → " in cell for cell in rows[-1][3:])


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
    rows = _header(capsys.readouterr().out)[-2:]
    assert [row[:2] for row in rows] == [["squeezenet1_1", "off"], ["squeezenet1_1", "on"]]
    assert all(0.1 < float(row[2]) < 16 for row in rows)
    assert all(float(row[4]) > 0 and float(row[5].rstrip("×")) > 0 for row in rows)


def test_benchmark_of_many_tasks_measures_in_processes_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    many.run((many.EIGHT,), images=60, width=8)
    rows = _header(capsys.readouterr().out)[-2:]
    assert [row[0] for row in rows] == ["all", "subsets"]
    assert [int(row[1]) > 1 for row in rows] == [False, True]
    assert all(0.1 < float(row[2]) < 16 for row in rows)
