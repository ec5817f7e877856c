"""The preflight as a command: its text and its JSON tell the report, and its exit code says whether it is green."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from mtz_core import zip_networks
from mtz_core.checking.report import preflight
from mtz_core.checking.text import report_data, report_text
from mtz_core.cli import main
from mtz_core.errors import GraphError
from mtz_core.own.networks import BuiltNetwork, build_network
from mtz_core.spec import NetworkSpec
from mtz_core.structure.networks import structure_from_json
from mtz_core.zoo.structures import structures

LENETS = ["lenet5-mnist-0", "lenet300-mnist-0"]


def test_text_names_layers_groups_checks_and_why_layers_do_not_correspond(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", "--parents", *LENETS]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("Green: these networks can be zipped, and all 4 self-checks passed.")
    assert "Network 1: lenet300-mnist-0 (LeNet300)" in lines
    assert "input 1 × 28 × 28" in lines
    assert "conv2 conv2d 50 group conv2" in lines
    assert "fc2 10 frozen: task head" in lines
    assert "fc1 fc1 (linear, 500) fc1 (linear, 300) shared" in lines
    assert "conv1 conv1 (conv2d, 20) – not shared: no other network has layers that correspond" in lines
    assert sum(line.startswith("channels permuted passed") for line in lines) == 2


def test_json_is_the_report_of_the_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump({"networks": [{"parent": name} for name in LENETS]}))
    assert main(["preflight", str(spec), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["green"] is True
    assert [network["name"] for network in report["networks"]] == LENETS
    for name, network in zip(LENETS, report["networks"], strict=True):
        known = structures()[name]
        assert structure_from_json(network["structure"]).layers[0].width == known.layers[0].width
        assert network["parameters"] == known.parameters
        assert network["sharable"] + network["head"] + sum(network["private"].values()) == known.parameters
    assert [row["layers"] for row in report["correspondence"] if row["reason"] is None] == [["fc1", "fc1"]]


def test_networks_without_a_common_layer_exit_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", "--parents", "resnet14-mnist-0", "lenet300-mnist-0", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["green"]
    assert "no hidden layer of network 1 corresponds" in report["problems"][0]
    text = report_text(report)
    assert text.startswith("Not green: these networks cannot be zipped together.")
    assert "problem: no hidden layer" in text


def test_an_unknown_network_is_one_line_and_exit_code_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", "--parents", "lenet5-mnist-9", "lenet5-mnist-0"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "did you mean" in output.err
    assert main(["preflight", str(tmp_path / "missing.yaml")]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["preflight"])


def test_a_network_that_cannot_be_traced_is_said_and_exits_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x if x.sum() > 0 else -x

    def build(spec: NetworkSpec) -> BuiltNetwork:
        return replace(build_network(spec), module=Branching())

    monkeypatch.setattr("mtz_core.own.networks.build_network", build)
    assert main(["preflight", "--parents", *LENETS]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    assert output.err


def test_a_failed_check_is_not_green_and_a_deviation_that_is_no_number_survives_json() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    report = preflight(network, torch.randn(2, 4))
    broken = replace(
        report, checks=(replace(report.checks[0], passed=False, deviation=float("nan")), *report.checks[1:])
    )
    data = report_data(broken, ["net"])
    assert json.loads(json.dumps(data, allow_nan=False))["checks"][0]["deviation"] is None
    text = report_text(data)
    assert text.startswith("Not green: 1 of 2 self-checks failed.")
    assert "FAILED  not a number" in text


def test_a_part_that_no_file_can_name_is_told_before_the_zip(tmp_path: Path) -> None:
    class Gate(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.detach().abs().max()) > 1e9 else super().forward(x)

    networks = [nn.Sequential(nn.Linear(8, 12), nn.ReLU(), Gate(12, 12), nn.ReLU(), nn.Linear(12, 5)) for _ in range(2)]
    x = torch.randn(60, 8)
    report = preflight(networks, x)
    assert report.green
    assert all("torch.where" in (network.unsaved or "") for network in report.networks)
    assert report_text(report_data(report, ["a", "b"])).count("cannot be saved: 2 is a") == 2
    result = zip_networks(networks, [x, x])
    assert sum("cannot be saved" in warning for warning in result.warnings) == 2
    with pytest.raises(GraphError, match=r"torch\.export"):
        result.network.save(tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())
    with torch.no_grad():
        assert torch.allclose(result.network.extract(1)(x), result.network(x, task=1), atol=1e-6)
    plain = preflight([nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 5))] * 2, x)
    assert not any(network.unsaved for network in plain.networks)
