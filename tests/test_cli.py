"""The command line says what it did, or one line per thing that is wrong; a killed worker's run just goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mtz_core.cli import main
from mtz_core.errors import RunError
from mtz_core.events import RetrainEnded, RetrainStep
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.own.exported import read_exported
from mtz_core.runs.alive import is_alive
from mtz_core.runs.asked import absolute_paths
from mtz_core.runs.example import PARENTS
from mtz_core.runs.launch import exported, start_worker
from mtz_core.runs.progress import ProgressLine, remaining
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.spec import RunSpec, load_run_spec, parse_run_spec
from mtz_core.zoo.architectures import LeNet300
from mtz_core.zoo.parents import load_parent
from tests.synthetic import Layer, synthetic_run, synthetic_spec

ROOT = Path(__file__).resolve().parents[1]
SMALL = (Layer("fc1", 12), Layer("fc2", 6))
TINY: dict[str, Any] = {
    "title": "tiny",
    "networks": [{"parent": "lenet300-mnist-0"}, {"parent": "lenet300-mnist-1"}],
    "calibration": {"images": 100},
    "evaluation": {"images": 100, "live_images": 20},
    "zip": {"share": 0.5, "ridge": 0.01, "retrain": {"steps": 12, "batch_size": 8}},
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of workers; two threads would only wait for each other here
    monkeypatch.setenv("MTZ_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MTZ_DATA", raising=False)
    return RunStore()


def write(path: Path, data: Any) -> str:
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return str(path)


def test_a_killed_worker_is_noticed_and_resumed_to_the_result_of_an_uninterrupted_run(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # the worker finds the program from anywhere
    killed = store.create(parse_run_spec(TINY))
    process = start_worker(store, killed.id)
    with pytest.raises(RunError, match="cannot be started"):
        start_worker(store, killed.id)
    assert store.get(killed.id).message == "starting…"
    _wait(lambda: store.last_event(killed.id, "LayerFinished") is not None and store.load_checkpoint(killed.id))
    assert is_alive(store.get(killed.id))
    os.kill(process.pid, signal.SIGKILL)
    _wait(lambda: store.get(killed.id).status is RunStatus.LOST)  # although nobody has waited for the process
    process.wait()
    assert not (store.get(killed.id).path / "zipped.safetensors").exists()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main(["resume", killed.id, "--quiet"]) == 0
    assert main(["zip", write(tmp_path / "tiny.yaml", TINY)]) == 0
    torch.set_num_threads(threads)
    output = capsys.readouterr()
    assert output.out.splitlines()[0] == killed.id
    assert "lenet300-mnist-1  mnist" in output.out
    assert "fc1: 150 neurons shared" in output.err
    assert "\r" not in output.err, "no terminal, no control characters"

    whole, resumed = store.list()
    assert (resumed.id, resumed.attempt, whole.attempt) == (killed.id, 2, 1)
    assert resumed.summary["errors"] == whole.summary["errors"]
    for name in ("zipped", "extracted-0", "extracted-1"):
        expected = load_file(whole.path / f"{name}.safetensors")
        for key, value in load_file(resumed.path / f"{name}.safetensors").items():
            torch.testing.assert_close(value, expected[key])
    for layer in ("fc1", "fc2"):
        np.testing.assert_array_equal(
            store.layer_arrays(killed.id, layer)["pairs"], store.layer_arrays(whole.id, layer)["pairs"]
        )
    kinds = [[e.kind for e in store.events(r.id) if e.kind != "RetrainStep"] for r in (resumed, whole)]
    assert kinds[0] == kinds[1]

    out = tmp_path / "one.safetensors"
    assert main(["extract", whole.id, "--task", "1", "--out", str(out)]) == 0
    module = LeNet300(10)
    module.load_state_dict(load_file(out))
    images = torch.rand(20, 1, 28, 28)
    assert not torch.equal(module(images), load_parent("lenet300-mnist-1").module(images))

    for form, task in (("program", ["--task", "1"]), ("zipped", [])):
        assert main(["extract", whole.id, *task, "--form", form, "--out", str(tmp_path / form)]) == 0
    read = ZippedNetwork.load(tmp_path / "zipped")
    program = read_exported(tmp_path / "program").module
    torch.testing.assert_close(read(images, task=1), module(images))
    torch.testing.assert_close(program(images), module(images))
    assert main(["extract", whole.id, "--form", "program", "--out", str(out)]) == 2
    (tmp_path / "page").write_bytes(exported(store, whole.id, "program", 0))
    again = read_exported(tmp_path / "page").module
    torch.testing.assert_close(again(images), read(images, task=0))


def test_a_worker_is_cancelled_even_while_it_imports_torch(store: RunStore) -> None:
    run = store.create(parse_run_spec(TINY))
    process = start_worker(store, run.id)
    _wait(lambda: store.get(run.id).status is RunStatus.RUNNING)
    assert main(["cancel", run.id]) == 0
    assert process.wait(timeout=20) == 130
    assert store.get(run.id).status is RunStatus.CANCELLED
    assert (run.path / "worker.log").read_bytes() == b""


def test_a_worker_that_dies_at_once_is_noticed(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run = store.create(parse_run_spec(TINY))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    process = start_worker(store, run.id)
    _wait(lambda: store.get(run.id).status is RunStatus.LOST)
    assert process.wait() == 1
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RunError, match="cannot start a worker"):
        start_worker(store, run.id, resume=True)
    assert store.get(run.id).status is RunStatus.FAILED


def test_a_failed_run_exits_with_one(store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.safetensors").write_text("nonsense")
    own = {"architecture": "lenet300", "weights": "bad.safetensors", "data": "mnist"}
    spec = write(tmp_path / "spec.yaml", {"networks": [{"parent": "lenet300-mnist-0"}, own]})
    assert main(["zip", spec, "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "bad.safetensors is not a checkpoint: neither" in error
    assert "Traceback" not in error
    assert store.list()[0].status is RunStatus.FAILED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"networks": [{"parent": "lenet300-mnist-0"}]}, "networks: "),
        (TINY | {"zip": {"share": 1.5}}, "zip.share"),
        (TINY | {"zip": {"retrain": {"steps": 0}}, "calibration": {"images": "many"}}, "calibration.images: "),
        (TINY | {"zip": {"pairng": "greedy"}}, "zip.pairng: "),
        (TINY | {"networks": [{"parent": "nobody"}] * 2}, "networks.0.parent: parent 'nobody' is unknown"),
        ("networks: [", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("[" * 100_000, "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: 2024-13-45", "not valid YAML"),
        ("- 1\n- 2", "a mapping of fields"),
        ("x" * 300_000, "larger than 256 KiB"),
    ],
)
def test_bad_specifications_name_the_field_and_exit_with_two(
    content: Any, message: str, store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["zip", write(tmp_path / "spec.yaml", content)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert store.list() == []


@pytest.mark.parametrize("command", ["show", "cancel", "resume", "worker"])
@pytest.mark.parametrize("run", ["../../etc", "20260101-000000-abcdef"])
def test_runs_that_do_not_exist_exit_with_two(
    command: str, run: str, store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, run]) == 2
    captured = capsys.readouterr()
    assert "no run" in captured.err or "not a run identifier" in captured.err
    assert captured.out == ""


def test_list_show_and_extract(store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = synthetic_run(store, layers=SMALL, title="My run")
    assert main(["list"]) == 0
    assert run.id in capsys.readouterr().out
    assert main(["show", run.id]) == 0
    shown = capsys.readouterr().out
    assert "My run" in shown
    assert f"{run.summary['counts']['total']:,} numbers" in shown
    for task, message in (("2", "'2' is not one task"), ("letters", "has 0 (mnist), 1 (fashion)"), ("1", "no network")):
        assert main(["extract", run.id, "--task", task, "--out", str(tmp_path / "x")]) == 2
        assert message in capsys.readouterr().err
    assert main(["cancel", run.id]) == 2


def test_the_example_is_a_valid_specification_and_all_of_it_is_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["example-spec"]) == 0
    spec = load_run_spec(Path(write(tmp_path / "spec.yaml", capsys.readouterr().out)))
    assert spec == RunSpec(networks=[{"parent": name} for name in PARENTS])


def test_paths_are_relative_to_the_specification(tmp_path: Path) -> None:
    own = {"architecture": "lenet300", "weights": "w/a.safetensors", "data": "photos"}
    spec = parse_run_spec({"networks": [own, own | {"data": "mnist"}], "data_root": "sets"})
    found = absolute_paths(spec, tmp_path)
    assert found.networks[0].weights == str(tmp_path / "w" / "a.safetensors")
    assert [network.data for network in found.networks] == [str(tmp_path / "photos"), "mnist"]
    assert found.data_root == tmp_path / "sets"
    assert absolute_paths(synthetic_spec(), tmp_path) == synthetic_spec()


def test_remaining_time_follows_the_pace() -> None:
    assert remaining(0.25, 10.0) == pytest.approx(30.0)
    assert remaining(0.75, 10.0, began_at=0.5) == pytest.approx(10.0)
    assert remaining(0.0, 10.0) is None


def test_a_terminal_gets_one_line_that_is_written_over() -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    line = ProgressLine(stream)
    line(RetrainStep(fraction=0.5, seconds=1.0, layer="fc1", step=3, losses=(0.25, 0.5)))
    line.close()
    text = stream.getvalue()
    assert " 50%  fc1: retraining, step 3, loss 0.750" in text
    assert "\n" not in text
    assert text.endswith("\r\x1b[K")


@pytest.mark.parametrize("live", [False, True])
def test_what_retraining_came_to_stays_on_the_screen(live: bool) -> None:
    import io

    stream = io.StringIO()
    stream.isatty = lambda: live  # type: ignore[method-assign]
    line = ProgressLine(stream)
    told = {"wanted": 30, "taken": 15, "kept": 5, "before": 0.2, "after": 0.1, "returns": 3, "images": (9, 9)}
    line(RetrainEnded(fraction=0.5, seconds=1.0, layer="fc1", **told, text="Retraining after fc1 stopped"))
    assert stream.getvalue().endswith("Retraining after fc1 stopped\n")


def test_the_command_line_and_the_store_import_neither_torch_nor_streamlit_nor_plotly() -> None:
    code = (
        "import sys, json, mtz_core.cli, mtz_core.runs.store, mtz_core.runs.launch, mtz_core.runs.worker\n"
        "from mtz_core.cli import main\n"
        "main(['parents']); main(['list', '--store', 'nowhere'])\n"
        "print(json.dumps([name for name in ('torch', 'streamlit', 'plotly') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert "lenet300-mnist-0" in done.stdout


def _wait(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)
