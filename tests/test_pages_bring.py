"""Bring your own, on the page: a file is recognised, added, zipped; what is wrong is said, and nothing leaks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mtz_core.data.bundled import bundled_inputs
from mtz_core.data.uploads import keep
from mtz_core.own.registry import OwnNetwork, own_networks, remember
from mtz_core.runs.store import RunStore
from mtz_core.spec import NetworkSpec, TransformSpec
from mtz_core.zoo.catalog import parent_info
from mtz_core.zoo.structures import structures
from pages.ui.query import query_of
from tests.pages import Open, shown

LENET5 = parent_info("lenet5-mnist-0").weights


@pytest.fixture
def brought(store: RunStore) -> OwnNetwork:
    spec = NetworkSpec(
        architecture="lenet5", weights=keep(LENET5.read_bytes()), data="mnist", transform=TransformSpec()
    )
    network = OwnNetwork(
        "my-digits-12345678", "My *digits*", spec, structures()["lenet5-mnist-0"], 10, (1, 28, 28), 0.5, 9
    )
    remember(network)
    return network


def test_a_file_is_recognised_added_and_chosen(visit: Open, tmp_path: Path) -> None:
    file = tmp_path / "my_net.safetensors"
    file.write_bytes(LENET5.read_bytes())
    app = visit("pages/1_Networks.py", bring="file")
    app.text_input(key="weights-path").set_value(str(file)).run()
    assert "10 classes, reads images of 1 × 28 × 28" in shown(app)
    assert "Its tensors fit lenet5." in shown(app)
    assert len(app.query_params["file"]) == 64
    app.button(key="own-add").click().run()
    (name,) = own_networks()
    assert not app.exception
    assert app.multiselect(key="parents").value == [name]  # the bundled ones do not zip with it
    assert "1.64" not in shown(app)


def test_of_several_sets_of_weights_one_is_chosen(visit: Open, tmp_path: Path) -> None:
    weights, file = load_file(LENET5), tmp_path / "both.pt"
    torch.save({"model": {k: torch.zeros_like(v) for k, v in weights.items()}, "ema": weights, "step": 7}, file)
    app = visit("pages/1_Networks.py", bring="file")
    app.text_input(key="weights-path").set_value(str(file)).run()
    (choice,) = [group for group in app.get("button_group") if group.key.startswith("part-")]
    assert choice.value == "model"
    choice.set_value("ema").run()
    app.button(key="own-add").click().run()
    (added,) = own_networks().values()
    assert added.spec.part == "ema"
    assert added.error is not None
    assert added.error < 5.0


def test_labels_come_in_a_table_of_their_own(visit: Open, tmp_path: Path) -> None:
    images, labels = (array[:40] for array in bundled_inputs("mnist", "test"))
    np.savez(tmp_path / "images.npz", images=images)
    (tmp_path / "labels.csv").write_text("\n".join(["digit", *map(str, labels)]))
    (tmp_path / "net.safetensors").write_bytes(LENET5.read_bytes())
    app = visit("pages/1_Networks.py", bring="file")
    app.text_input(key="weights-path").set_value(str(tmp_path / "net.safetensors")).run()
    app.selectbox(key="own-data").set_value("upload").run()
    app.text_input(key="images-path").set_value(str(tmp_path / "images.npz")).run()
    app.text_input(key="labels-path").set_value(str(LENET5)).run()
    app.button(key="own-add").click().run()
    assert r"safetensors is no table of comma\-separated values" in shown(app)
    app.text_input(key="labels-path").set_value("").run()
    assert "labels-file" not in app.query_params
    app.text_input(key="labels-path").set_value(str(tmp_path / "labels.csv")).run()
    assert len(app.query_params["labels-file"]) == 64
    app.button(key="own-add").click().run()
    (added,) = own_networks().values()
    assert added.images == 8
    assert added.error == 0.0
    assert not {"file", "images-file", "labels-file"} & set(app.query_params)
    app.text_input(key="weights-1-path").set_value(str(tmp_path / "net.safetensors")).run()
    app.selectbox(key="own-data").set_value("upload").run()
    assert app.button(key="own-add").disabled, "the next network would get the data of the one before"


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.digit, self.size = nn.Linear(784, 8), nn.Linear(8, 10), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x.flatten(1)).relu()
        return {"digit": self.digit(features), "size": self.size(features)}


def test_labels_of_several_outputs_come_by_their_names(visit: Open, tmp_path: Path) -> None:
    network, images = Two().eval(), bundled_inputs("mnist", "test")[0][:40]
    example, batch = torch.randn(3, 1, 28, 28), torch.export.Dim("batch")
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=({0: batch},)), tmp_path / "two.pt2")
    digits = np.arange(40) % 10
    sizes = np.random.default_rng(0).random((40, 2), dtype=np.float32)
    np.savez(tmp_path / "set.npz", images=images, **{"labels.digit": digits, "labels.size": sizes})
    app = visit("pages/1_Networks.py", bring="file")
    app.text_input(key="weights-path").set_value(str(tmp_path / "two.pt2")).run()
    assert app.multiselect(key="own-labels-for").value == ["digit"]
    app.multiselect(key="own-labels-for").set_value(["digit", "size"]).run()
    app.button(key="own-add").click().run()  # of MNIST, whose labels are digits alone
    assert "labels without names" in shown(app)
    app.selectbox(key="own-data").set_value("upload").run()
    app.text_input(key="images-path").set_value(str(tmp_path / "set.npz")).run()
    app.button(key="own-add").click().run()
    (added,) = own_networks().values()
    assert added.spec.label_names == {"digit": "digit", "size": "size"}
    assert added.images == 8
    assert added.error is not None


def test_an_added_network_zips_like_a_bundled_one(
    visit: Open, store: RunStore, brought: OwnNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = SimpleNamespace(poll=lambda: 0)
    monkeypatch.setattr("mtz_core.runs.launch.start_worker", lambda store, run_id, resume=False: ended)
    parents = [brought.name, "lenet5-fashion-0"]
    app = visit("pages/1_Networks.py", parents=parents)
    assert "can be zipped together" in app.success[0].value
    app = visit("pages/2_Zip.py", parents=parents)
    app.button(key="start").click().run()
    (record,) = store.list()
    assert record.spec.networks == (brought.spec, NetworkSpec(parent="lenet5-fashion-0"))
    query = query_of(record.spec)
    assert query is not None
    assert query["parents"] == parents


def few(count: int | None) -> list[str]:
    """Two networks that were brought, one of them with so many inputs to calibrate on."""
    spec = NetworkSpec(architecture="lenet5", weights=keep(LENET5.read_bytes()), data="few.npz")
    names = []
    for name, number in (("some", count), ("more", 3000)):
        structure = structures()["lenet5-mnist-0"]
        named = spec.model_copy(update={"data": f"{name}.npz"})
        remember(OwnNetwork(f"{name}-12345678", name, named, structure, 10, (1, 28, 28), None, 0, "", number))
        names.append(f"{name}-12345678")
    return names


@pytest.mark.parametrize("asked", [None, "40", "97", "500", "100000"])
@pytest.mark.parametrize("count", [97, 20, 2])
def test_no_more_calibration_images_can_be_asked_for_than_there_are(
    visit: Open, store: RunStore, monkeypatch: pytest.MonkeyPatch, count: int, asked: str | None
) -> None:
    ended = SimpleNamespace(poll=lambda: 0)
    monkeypatch.setattr("mtz_core.runs.launch.start_worker", lambda store, run_id, resume=False: ended)
    names = few(count)
    app = visit("pages/2_Zip.py", parents=names, **({"images": asked} if asked else {}))
    chosen = min(int(asked or 500), count)
    assert app.select_slider(key="images").value == chosen
    assert max(map(int, app.select_slider(key="images").options)) == count
    assert f"has {count} images to calibrate on." in shown(app)
    assert any(f"and some.npz has {count}" in warning.value for warning in app.warning) == (
        asked is not None and int(asked) > count
    )
    app.button(key="start").click().run()
    assert store.list()[0].spec.calibration.images == chosen


def test_fewer_inputs_of_other_networks_move_the_number(visit: Open) -> None:
    names = few(97)
    app = visit("pages/2_Zip.py", images="1500")
    assert "to calibrate on" not in shown(app)
    app.multiselect(key="parents").set_value(names).run()
    assert not app.exception
    assert app.select_slider(key="images").value == 97
    app.multiselect(key="parents").set_value(["lenet300-mnist-0", "lenet300-mnist-1"]).run()
    assert not app.exception
    assert app.select_slider(key="images").value == 500
    few(None)
    app = visit("pages/2_Zip.py", parents=names, images="2500")
    assert app.select_slider(key="images").value == 2500


def test_a_network_can_be_removed(visit: Open, brought: OwnNetwork) -> None:
    app = visit("pages/1_Networks.py", parents=[brought.name])
    assert r"My \*digits\*" in shown(app)
    app.button(key=f"remove-{brought.name}").click().run()
    assert own_networks() == {}
    assert not app.exception


@pytest.mark.parametrize("asked", ["../../etc/passwd", "a" * 63, "A" * 64, "f" * 64, "<script>", ""])
def test_a_link_to_a_file_that_is_not_there_is_an_answer(visit: Open, asked: str) -> None:
    app = visit("pages/1_Networks.py", file=asked)
    assert len(app.error) == 1 or asked == ""
    assert "<script>" not in shown(app)


def test_what_is_wrong_with_a_file_is_said_with_its_own_name(visit: Open, tmp_path: Path) -> None:
    file = tmp_path / "a <b>*bold*.pt"
    file.write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    app = visit("pages/1_Networks.py", bring="file")
    app.text_input(key="weights-path").set_value(str(file)).run()
    (error,) = app.error
    assert error.value.startswith(r"a \<b\>\*bold\*.pt holds more than tensors")
    assert str(tmp_path) not in error.value
    app.text_input(key="weights-path").set_value("/dev/zero").run()
    assert "no regular file" in app.error[0].value


def test_paths_are_taken_on_ones_own_computer_only(visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTZ_PATHS")
    app = visit("pages/1_Networks.py", bring="file")
    assert "weights-path" not in [field.key for field in app.text_input]


def test_published_weights_and_modules_are_explained(visit: Open) -> None:
    app = visit("pages/1_Networks.py", bring="torchvision")
    assert app.number_input(key="size-torchvisiontorchvision:resnet18").value == 224
    app.text_input(key="mean-torchvisiontorchvision:resnet18").set_value("a, b").run()
    assert "are no numbers" in app.error[0].value
    app = visit("pages/1_Networks.py", bring="registered")
    assert "--models my_models:trained" in app.info[0].value


def test_the_server_registers_modules_from_its_command_line(visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import sys

    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("MTZ_MODELS", "")
    monkeypatch.setattr(sys, "argv", ["streamlit", "--models", "no_such_module:trained"])
    app = visit("pages/1_Networks.py", bring="registered")
    assert "no module 'no\\_such\\_module'" in app.error[0].value


def test_a_network_that_reads_vectors_is_asked_for_no_size(visit: Open, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3)).eval()
    sizes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(module, (torch.zeros(2, 7),), dynamic_shapes=sizes), tmp_path / "net.pt2")
    inputs = np.random.default_rng(0).normal(size=(10, 7))
    np.savez(tmp_path / "data.npz", inputs=inputs, labels=np.arange(10) % 3)
    app = visit("pages/1_Networks.py", bring="file")
    app.text_input(key="weights-path").set_value(str(tmp_path / "net.pt2")).run()
    assert "3 classes, reads vectors of 7." in shown(app)
    assert app.selectbox(key="own-data").value == "upload"
    assert "size-fileexported" not in [field.key for field in app.number_input]
    app.text_input(key="images-path").set_value(str(tmp_path / "data.npz")).run()
    app.text_input(key="mean-fileexported").set_value("1, 2").run()
    app.button(key="own-add").click().run()
    assert "2 numbers for inputs of shape" in shown(app)
    app.text_input(key="mean-fileexported").set_value("1, 2, 3, 4, 5, 6, 7").run()
    app.button(key="own-add").click().run()
    (added,) = own_networks().values()
    assert (added.inputs, added.input_shape, added.images) == ("vectors", (7,), 2)
    assert added.spec.transform == TransformSpec(mean=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0))
    assert "2 vectors" in shown(app)
