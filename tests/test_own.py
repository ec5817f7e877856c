"""Networks that users bring: recognised, read back exactly, and prepared as they were trained."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mtz_core.data.torchvision import import_torchvision
from mtz_core.data.uploads import keep, keep_path, shown_name, upload_path
from mtz_core.errors import CheckpointError, DataError, SpecError
from mtz_core.graph.propagation import channel_graph
from mtz_core.own import pretrained, registered
from mtz_core.own.adding import add_network
from mtz_core.own.architectures import build_empty
from mtz_core.own.ask import ask
from mtz_core.own.exported import read_exported
from mtz_core.own.files import safetensors_shapes
from mtz_core.own.inspection import inspect_file
from mtz_core.own.networks import build_network
from mtz_core.own.recognition import architectures, expected_shapes, fitting_architectures
from mtz_core.own.registry import forget, own_networks
from mtz_core.own.states import load_state, read_state
from mtz_core.runs.inputs import prepare
from mtz_core.runs.records import RunStatus
from mtz_core.runs.store import RunStore
from mtz_core.runs.worker import execute
from mtz_core.spec import NetworkSpec, TransformSpec, parse_run_spec
from mtz_core.zoo.architectures import LeNet5, LeNet300, ResNet14
from mtz_core.zoo.catalog import parent_info
from mtz_core.zoo.parents import load_parent
from scripts.build_architectures import describe

LENET5 = parent_info("lenet5-mnist-0").weights


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MTZ_UPLOADS", str(tmp_path / "uploads"))
    monkeypatch.delenv("MTZ_DATA", raising=False)
    return tmp_path / "uploads"


# Recognising


@pytest.mark.parametrize("name", architectures())
def test_an_architecture_is_recognised_with_its_number_of_classes(name: str) -> None:
    shapes = expected_shapes(architectures()[name], 37)
    assert name in fitting_architectures(shapes)
    assert name in fitting_architectures({f"module.{key}": shape for key, shape in shapes.items()})


@pytest.mark.parametrize("name", ["lenet5", "resnet14", "torchvision:resnet18", "torchvision:googlenet"])
def test_the_list_of_shapes_is_that_of_the_architectures(name: str) -> None:
    known, built = architectures()[name], describe(name)
    assert {key: list(shape) for key, shape in known.tensors.items()} == built["tensors"]
    assert dict(known.transform) == built["transform"]


def test_recognising_a_file_is_quick_and_reads_its_header_only() -> None:
    code = (
        "import sys; from pathlib import Path; from mtz_core.own.inspection import inspect_file\n"
        f"found = inspect_file(Path({str(LENET5)!r}))\n"
        "assert (found.architectures, found.classes, found.input_shape) == (('lenet5',), 10, (1, 28, 28)), found\n"
        "assert not {'torch', 'torchvision', 'streamlit', 'plotly'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    fitting_architectures({})
    began = time.perf_counter()
    assert fitting_architectures(safetensors_shapes(LENET5)) == ["lenet5"]
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize("change", ["missing", "shape", "extra"])
def test_one_tensor_that_does_not_fit_is_enough(change: str) -> None:
    shapes: dict[str, Any] = dict(expected_shapes(architectures()["torchvision:resnet18"], 10))
    if change == "missing":
        del shapes["layer3.0.bn1.running_var"]
    elif change == "shape":
        shapes["layer3.0.conv1.weight"] = (256, 128, 3, 1)
    else:
        shapes["fc2.weight"] = (10, 10)
    assert fitting_architectures(shapes) == []


def test_a_checkpoint_of_a_larger_program_is_understood(tmp_path: Path) -> None:
    expected = LeNet5(7).state_dict()
    for k, wrapped in enumerate(
        [
            {"state_dict": {f"model.{key}": value for key, value in expected.items()}, "epoch": 3},
            {"model": {f"module._orig_mod.{key}": value for key, value in expected.items()}},
            {"model_state_dict": expected, "optimizer": {"lr": 0.1}},
            {"params": expected, "step": 7},
            {"weights": {f"backbone.{key}": value for key, value in expected.items()}},
            {"ema_state_dict": expected},
            {"state_dict": {f"encoder.{k}" if k < "fc" else k: v for k, v in expected.items()}},
            {"state_dict": {**{f"model.net.{k}": v for k, v in expected.items()}, "loss.weight": torch.ones(7)}},
        ]
    ):
        path = tmp_path / f"{k}.th"
        torch.save(wrapped, path)
        assert inspect_file(path).architectures == ("lenet5",)
        module = load_state(read_state(path), "lenet5", path)
        assert all(torch.equal(value, expected[key]) for key, value in module.state_dict().items())


def test_of_two_sets_of_weights_one_has_to_be_named(tmp_path: Path) -> None:
    expected, path = LeNet5(7).state_dict(), tmp_path / "both.pt"
    averaged = {key: value + 1.0 for key, value in expected.items()}
    torch.save({"model": expected, "ema": averaged, "epoch": 3}, path)
    found = inspect_file(path)
    assert found.parts == ("model", "ema")
    assert found.architectures == inspect_file(path, "ema").architectures == ("lenet5",)
    with pytest.raises(CheckpointError, match=r"2 sets of weights: model, ema\. Say which.*part: model.*average"):
        read_state(path)
    assert torch.equal(read_state(path, "ema")["conv1.weight"], averaged["conv1.weight"])
    assert torch.equal(read_state(path, "model")["conv1.weight"], expected["conv1.weight"])
    with pytest.raises(CheckpointError, match="no weights called 'best'"):
        read_state(path, "best")
    spec = {"architecture": "lenet5", "weights": str(path), "data": "mnist"}
    module = build_network(NetworkSpec(**spec, part="ema")).module
    assert torch.equal(module.state_dict()["conv1.weight"], averaged["conv1.weight"])


def test_what_stands_beside_the_network_is_left_out_and_said(tmp_path: Path) -> None:
    expected, path = LeNet5(7).state_dict(), tmp_path / "more.safetensors"
    save_file({**{f"backbone.{k}": v for k, v in expected.items()}, "loss.centre": torch.ones(7)}, path)
    found = inspect_file(path)
    assert (found.architectures, found.left) == (("lenet5",), 1)


def test_a_counter_may_be_a_list_of_one_number(tmp_path: Path) -> None:
    expected, path = ResNet14(7).state_dict(), tmp_path / "listed.pt"
    torch.save({k: v.reshape(1) if k.endswith("num_batches_tracked") else v for k, v in expected.items()}, path)
    assert inspect_file(path).architectures == ("resnet14",)
    loaded = load_state(read_state(path), "resnet14", path).state_dict()
    assert all(value.shape == expected[key].shape for key, value in loaded.items())


def test_a_git_lfs_pointer_is_named_as_one(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 4096\n")
    with pytest.raises(CheckpointError, match=r"Git LFS pointer.*git lfs pull"):
        inspect_file(path)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:googlenet", "torchvision:regnet_y_400mf"])
@pytest.mark.parametrize("auxiliary", [True, False])
def test_weights_of_torchvisions_architectures_load(tmp_path: Path, name: str, auxiliary: bool) -> None:
    models = import_torchvision().models
    options = {"init_weights": False} if "googlenet" in name else {}
    original = models.get_model(name.partition(":")[2], weights=None, num_classes=5, **options).eval()
    state = {key: value for key, value in original.state_dict().items() if auxiliary or not key.startswith("aux")}
    torch.save(state, tmp_path / "net.pt")
    built = build_network(NetworkSpec(architecture=name, weights=str(tmp_path / "net.pt"), data="mnist"))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(built.module(images), original(images))
    assert built.transform == TransformSpec(
        size=224, channels=3, crop=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )


def test_an_empty_network_takes_no_memory() -> None:
    assert all(p.device.type == "meta" for p in build_empty("torchvision:vgg16", 10).parameters())
    with pytest.raises(SpecError, match="unknown"):
        build_empty("torchvision:../x", 10)


def test_each_problem_has_its_own_message(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    good = LeNet300(10).state_dict()
    for state, architecture, message in (
        ({k: v for k, v in good.items() if k != "fc1.bias"}, "lenet300", r"lacks fc1.bias"),
        (good, "lenet5", r"does not fit lenet5.* It fits lenet300: choose that"),
        ({**good, "fc1.bias": torch.full((300,), torch.nan)}, "lenet300", r"fc1.bias holds NaN.*before its training"),
        ({"a.weight": torch.ones(3)}, "lenet300", r"lacks fc1.weight.* and 2 more; has a.weight.*torch.export.save"),
    ):
        save_file(state, path)
        with pytest.raises(CheckpointError, match=message):
            load_state(read_state(path), architecture, path)
    save_file(good, path)
    with pytest.raises(SpecError, match="torchvision:NAME"):
        load_state(read_state(path), "vgg", path)
    with pytest.raises(CheckpointError, match="larger than 0 MiB"):
        keep(b"12345", most=4)


# Exported programs


def export(
    module: nn.Module, path: Path, shape: tuple[int, ...] = (1, 28, 28), dynamic: bool = True, n: int = 2
) -> Path:
    sizes = ({0: torch.export.Dim("batch")},) if dynamic else None
    torch.export.save(torch.export.export(module.eval(), (torch.rand(n, *shape),), dynamic_shapes=sizes), path)
    return path


def groups(module: nn.Module, images: torch.Tensor) -> list[tuple[int, int, bool]]:
    found = channel_graph(module, images).structure().groups
    return [(group.width, len(group.producers), group.frozen is None) for group in found]


class Reshaping(nn.Module):
    """A network whose export fixes the number of images in a `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.Linear(6 * 24 * 24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu_(self.bn(self.conv(x)))
        x += 1.0
        return self.fc(x.view(x.shape[0], -1))


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("name", ["lenet5-mnist-0", "resnet14-mnist-0", "resnet18", "reshaping", "shufflenet_v2_x0_5"])
def test_an_exported_program_answers_and_zips_as_the_original(tmp_path: Path, name: str, dynamic: bool) -> None:
    shape = (1, 28, 28)
    if name.startswith(("lenet", "resnet14")):
        original = load_parent(name).module
    elif name == "reshaping":
        original = Reshaping()
    else:
        original, shape = import_torchvision().models.get_model(name, weights=None, num_classes=7), (3, 64, 64)
    original.eval()
    program = read_exported(export(original, tmp_path / "net.pt2", shape, dynamic))
    images = torch.rand(5, *shape)
    with torch.no_grad():
        torch.testing.assert_close(program.module(images), original(images))
        assert program.classes == original(images).shape[1]
    assert program.input_shape == shape
    assert groups(program.module, images[:2]) == groups(original, images[:2])
    assert set(program.module.state_dict()) <= set(original.state_dict())


class Entangled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(dim=0, keepdim=True)).flatten(1)


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(x.flatten(1), 1)


@pytest.mark.parametrize(
    ("module", "message"),
    [(Entangled(), r"images.*dynamic_shapes=\("), (Constant(), "operation 'cumsum'.*--models")],
)
def test_a_program_that_cannot_be_used_says_why(tmp_path: Path, module: nn.Module, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_exported(export(module, tmp_path / "net.pt2"))


def test_a_program_in_training_mode_says_what_to_call(tmp_path: Path) -> None:
    program = torch.export.export(Reshaping().train(), (torch.rand(2, 1, 28, 28),))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(CheckpointError, match=r"training mode.*model.eval\(\)"):
        read_exported(tmp_path / "net.pt2")


# Uploads


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/abs/olute.pt", "a\0b.pt", "x" * 5000, "", "é\u202e.pt", "..\\..\\x"]
)
def test_a_files_name_is_only_shown(uploads: Path, name: str) -> None:
    shown = shown_name(name)
    assert 0 < len(shown) <= 60
    assert not set(shown) & set("/\\\0\u202e")
    assert shown_name(shown) == shown


def test_content_has_one_name_and_one_path(uploads: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"abc").hexdigest()
    assert keep(b"abc") == keep([b"a", b"bc"]) == f"upload:{digest}"
    assert [path.name for path in uploads.iterdir()] == [digest]
    assert upload_path(f"upload:{digest}").read_bytes() == b"abc"
    assert oct((uploads / digest).stat().st_mode & 0o777) == "0o600"
    (tmp_path / "net").write_bytes(b"abc")
    assert keep_path(str(tmp_path / "net")) == f"upload:{digest}"
    for text in (str(tmp_path), str(tmp_path / "none"), "/dev/zero", "a\0b", "~nobody-there/x"):
        with pytest.raises(CheckpointError):
            keep_path(text)


@pytest.mark.parametrize("name", ["upload:../../etc/passwd", "upload:" + "a" * 63, "upload:" + "A" * 64, "upload:"])
def test_an_uploads_name_leads_nowhere_else(name: str) -> None:
    with pytest.raises(SpecError, match="64 hexadecimal"):
        upload_path(name)
    with pytest.raises(SpecError, match="64 hexadecimal"):
        NetworkSpec(architecture="lenet5", weights=name, data="mnist")
    with pytest.raises(SpecError, match="64 hexadecimal"):
        NetworkSpec(parent="lenet5-mnist-0", data=name)


def test_a_link_among_the_uploads_is_not_followed(uploads: Path, tmp_path: Path) -> None:
    uploads.mkdir()
    (tmp_path / "secret").write_text("x")
    (uploads / ("a" * 64)).symlink_to(tmp_path / "secret")
    with pytest.raises(SpecError, match="upload the file again"):
        upload_path("upload:" + "a" * 64)


def test_a_network_that_was_added_is_known_until_it_is_forgotten() -> None:
    spec = NetworkSpec(architecture="lenet5", weights=keep(LENET5.read_bytes()), data="mnist")
    said: list[str] = []
    added = add_network(spec, "My <b>Digits</b> ../x", said.append)
    assert said
    assert own_networks() == {added.name: added}
    assert set(added.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert (added.classes, added.input_shape, added.structure.parameters) == (10, (1, 28, 28), 431_080)
    assert added.error is not None
    assert added.error < 3.0
    assert added.spec.transform == TransformSpec()
    forget(added.name)
    assert own_networks() == {}
    with pytest.raises(SpecError, match="no name"):
        forget("../x")


def test_a_network_that_is_normalised_twice_is_told() -> None:
    twice = TransformSpec(mean=(0.7,), std=(0.1,))
    for transform, told in ((twice, True), (TransformSpec(), False), (TransformSpec(mean=(0.01,)), False)):
        spec = NetworkSpec(architecture="lenet5", weights=keep(LENET5.read_bytes()), data="mnist", transform=transform)
        added = add_network(spec, "Digits")
        assert ("seems to normalise its inputs itself" in added.note) is told
        assert own_networks()[added.name].note == added.note
        forget(added.name)


def test_a_process_of_its_own_answers_or_says_why() -> None:
    upload = keep(LENET5.read_bytes())
    assert ask({"do": "inspect", "upload": upload})["architectures"] == ["lenet5"]
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        ask({"do": "inspect", "upload": keep(b"hello")})
    with pytest.raises(CheckpointError, match="request is not known"):
        ask({"do": "harm"})
    with pytest.raises(CheckpointError, match="more than 0 seconds"):
        ask({"do": "inspect", "upload": upload}, patience=0.01)


# A run


def test_a_run_zips_what_was_brought(tmp_path: Path) -> None:
    exported = export(load_parent("lenet5-mnist-1").module, tmp_path / "net.pt2")
    images = np.random.default_rng(0).integers(0, 256, (40, 30, 30, 3), np.uint8)
    np.savez(tmp_path / "mine.npz", images=images)
    networks = [
        {"architecture": "lenet5", "weights": keep(LENET5.read_bytes()), "data": "mnist"},
        {
            "architecture": "exported",
            "weights": keep_path(str(exported)),
            "data": keep_path(str(tmp_path / "mine.npz")),
        },
    ]
    store = RunStore(tmp_path / "runs")
    run = store.create(
        parse_run_spec({"networks": networks, "calibration": {"images": 30}, "evaluation": {"images": 50}})
    )
    assert execute(store, run.id) is RunStatus.FINISHED, store.get(run.id).message
    record = store.get(run.id)
    assert record.summary["errors"][0] is not None
    assert record.summary["errors"][1] is None  # no labels, no errors
    assert record.summary["parents"] == [network.title for network in record.spec.networks]


def test_own_data_is_sampled_by_class_and_prepared_as_asked(tmp_path: Path) -> None:
    labels = np.repeat([0, 1], [90, 10])
    images = np.broadcast_to(np.where(labels == 0, 50, 200)[:, None, None], (100, 20, 40)).astype(np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    network = {
        "parent": "lenet5-mnist-0", "data": str(tmp_path / "mine.npz"),
        "transform": {"size": 28, "mean": [0.5], "std": [0.25]},
    }  # fmt: skip
    store = RunStore(tmp_path / "runs")
    run = store.create(parse_run_spec({"networks": [network, network], "calibration": {"images": 40}}))
    inputs = prepare(run)
    values = inputs.calibration[0].mean(dim=(1, 2, 3)) * 0.25 + 0.5
    assert inputs.calibration[0].shape == (40, 1, 28, 28)
    assert int((values > 0.5).sum()) == 4
    torch.testing.assert_close(values.unique(), torch.tensor([50 / 255, 200 / 255]))
    with pytest.raises(DataError, match=r"network 1: .*channels"):
        prepare(store.create(parse_run_spec({"networks": [network | {"transform": {"channels": 3}}, network]})))


# Registered modules


@pytest.fixture
def module_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "my_models.py").write_text(
        "from mtz_core.zoo.parents import load_parent\n"
        "def trained():\n"
        "    one, two = (load_parent(f'lenet300-mnist-{k}').module for k in range(2))\n"
        "    return {'one': (one, 'mnist'), 'two': two}\n"
        "def nothing(): return [1]\n"
        "def broken(): raise RuntimeError('no weights')\n"
        "def wrong(): return {'a': 3}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_models"
    sys.modules.pop("my_models", None)
    registered._called.cache_clear()


def test_registered_modules_can_be_chosen_by_name(module_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTZ_MODELS", f"{module_name}:trained")
    one, two = (build_network(NetworkSpec(model=name, data=data)) for name, data in (("one", None), ("two", "mnist")))
    assert (one.name, one.architecture, one.data) == ("one", "LeNet300", "mnist")
    assert not two.module.training
    with pytest.raises(SpecError, match="needs 'data'"):
        build_network(NetworkSpec(model="two"))
    with pytest.raises(SpecError, match="registered: one, two"):
        build_network(NetworkSpec(model="os"))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere:trained", "no module 'nowhere'"),
        ("my_models:absent", "has no function 'absent'"),
        ("my_models:nothing", "returned a list of 1; expected"),
        ("my_models:broken", "RuntimeError: no weights"),
        ("my_models:wrong", "'a' is a int; expected a torch.nn.Module"),
        ("my_models", "malformed; write --models"),
        ("os;x:y", "malformed"),
    ],
)
def test_a_wrong_registration_says_what_is_wrong(
    module_name: str, monkeypatch: pytest.MonkeyPatch, where: str, message: str
) -> None:
    monkeypatch.setenv("MTZ_MODELS", where)
    with pytest.raises(SpecError, match=message):
        registered.registered_models()


def test_no_specification_registers_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTZ_MODELS", raising=False)
    with pytest.raises(SpecError, match="none is registered; write --models"):
        build_network(NetworkSpec(model="my_models:trained", data="mnist"))
    with pytest.raises(SpecError, match="models: Extra inputs"):
        parse_run_spec({"networks": [{"model": "a"}] * 2, "models": "os:getcwd"})


def test_the_command_line_registers_modules(module_name: str, tmp_path: Path) -> None:
    networks = "[{model: one}, {model: two, data: mnist}]"
    (tmp_path / "spec.yaml").write_text(
        f"networks: {networks}\ncalibration: {{images: 20}}\nevaluation: {{images: 20}}"
    )
    root = Path(registered.__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "mtz_core", "zip", "spec.yaml", "--models", f"{module_name}:trained", "--quiet"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# Published weights


class Answer(io.BytesIO):
    headers = {"Content-Length": "12"}  # noqa: RUF012  # as urllib's answers have it


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_a_download_that_fails_names_the_file_and_its_path(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, timeout: float) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr(pretrained.urllib.request, "urlopen", fail)
    with pytest.raises(CheckpointError, match=rf"resnet18-f37072fd.pth .*no route.*https://.*put the file into {hub}"):
        build_network(NetworkSpec(architecture="torchvision:resnet18", weights="DEFAULT", data="mnist"))
    assert list(hub.iterdir()) == []


def test_a_download_is_announced_and_checked(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, said = b"twelve bytes", []
    digest = hashlib.sha256(content).hexdigest()[:8]
    address = f"https://example.org/net-{digest}.pth"
    monkeypatch.setattr(pretrained, "_address", lambda *_: address)
    monkeypatch.setattr(pretrained.urllib.request, "urlopen", lambda url, timeout: Answer(content))
    path = pretrained.published_weights("torchvision:resnet18", "DEFAULT", said.append)
    assert path.read_bytes() == content
    assert said == [f"downloading net-{digest}.pth: 100% of 0 MB"]
    path.unlink()
    monkeypatch.setattr(pretrained.urllib.request, "urlopen", lambda url, timeout: Answer(b"other bytes!"))
    with pytest.raises(CheckpointError, match="came damaged"):
        pretrained.published_weights("torchvision:resnet18", "DEFAULT")
    assert list(hub.iterdir()) == []


def test_a_file_at_its_path_is_used_if_its_content_is_right(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = import_torchvision().models.resnet18(weights=None).state_dict()
    hub.mkdir(parents=True)
    torch.save(state, hub / "net.pth")
    digest = hashlib.sha256((hub / "net.pth").read_bytes()).hexdigest()[:8]
    (hub / "net.pth").rename(hub / f"net-{digest}.pth")
    monkeypatch.setattr(pretrained, "_address", lambda *_: f"https://example.org/net-{digest}.pth")
    built = build_network(NetworkSpec(architecture="torchvision:resnet18", weights="IMAGENET1K_V1", data="mnist"))
    assert torch.equal(built.module.state_dict()["fc.bias"], state["fc.bias"])
    (hub / f"net-{digest}.pth").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="another content"):
        build_network(NetworkSpec(architecture="torchvision:resnet18", weights="IMAGENET1K_V1", data="mnist"))


def test_unknown_published_weights_list_the_known_ones() -> None:
    with pytest.raises(SpecError, match="published: IMAGENET1K_V1"):
        build_network(NetworkSpec(architecture="torchvision:resnet18", weights="IMAGENET22K", data="mnist"))
