"""CIFAR-10 from every form that it comes in, refused where it is another, and said where it lacks."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from mtz_core.cli import main
from mtz_core.data import batches, cifar
from mtz_core.data.cifar import read_cifar
from mtz_core.data.colour import TRANSFORM
from mtz_core.data.fullsets import absent
from mtz_core.data.loading import load_data
from mtz_core.data.tasks import read_task
from mtz_core.data.torchvision import import_torchvision
from mtz_core.data.transform import prepare_images
from mtz_core.errors import DataError
from mtz_core.figures.inputs import picture
from mtz_core.own.networks import build_network
from mtz_core.own.recognition import fitting_architectures
from mtz_core.own.registry import OwnNetwork, remember
from mtz_core.own.shown import shown_transform
from mtz_core.runs.inputs import gather
from mtz_core.spec import NetworkSpec, parse_run_spec
from mtz_core.structure.networks import NetworkStructure
from mtz_core.zoo.architectures import ARCHITECTURES, COLOUR, example_inputs
from mtz_core.zoo.catalog import catalog
from mtz_core.zoo.parents import load_parent
from scripts import train_parents
from tests.pages import Open, shown

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EACH = {"train": 6, "test": 2}
Images = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Images:
    """A small CIFAR-10: images (N, 32, 32, 3) of one colour each, so that JPEG keeps them, and labels in any order."""
    monkeypatch.setattr(cifar, "COUNTS", EACH)
    monkeypatch.setattr(cifar, "CALIBRATING", 10)
    monkeypatch.delenv("MTZ_DATA", raising=False)
    rng, made = np.random.default_rng(0), {}
    for split, each in EACH.items():
        colours = rng.integers(0, 256, (10 * each, 1, 1, 3), np.uint8)
        made[split] = np.tile(colours, (1, 32, 32, 1)), rng.permutation(np.repeat(np.arange(10), each))
    return made


def as_binary(images: Images, root: Path) -> None:
    folder = root / cifar.BINARY
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    for split, files in (("train", [f"data_batch_{k}.bin" for k in range(1, 6)]), ("test", ["test_batch.bin"])):
        pixels, labels = images[split]
        rows = [bytes([y]) + x.transpose(2, 0, 1).tobytes() for x, y in zip(pixels, labels, strict=True)]
        step = len(rows) // len(files)
        for k, file in enumerate(files):
            (folder / file).write_bytes(b"".join(rows[k * step : (k + 1) * step]))


def as_archive(images: Images, root: Path) -> None:
    (x, y), (u, v) = images["train"], images["test"]
    np.savez(root / cifar.ARCHIVE, x_train=x, y_train=y[:, None].astype(np.uint8), x_test=u, y_test=v)


def as_jpeg(images: Images, root: Path, **changed: Any) -> None:
    arrays: dict[str, Any] = {"classes": np.array(NAMES)}
    for split, (pixels, labels) in images.items():
        files = []
        for x in pixels:
            out = io.BytesIO()
            Image.fromarray(x).save(out, "JPEG", quality=100, subsampling=0)
            files.append(out.getvalue())
        arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{split}_sizes"] = np.array([len(file) for file in files], np.uint32)
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    np.savez(root / cifar.JPEG, **arrays | changed)


def as_pickles(images: Images, root: Path) -> None:
    folder = root / batches.BATCHES
    folder.mkdir()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(NAMES)}))
    for split, files in (("train", [f"data_batch_{k}" for k in range(1, 6)]), ("test", ["test_batch"])):
        pixels, labels = images[split]
        rows, step = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1), len(pixels) // len(files)
        for k, file in enumerate(files):
            part = slice(k * step, (k + 1) * step)
            (folder / file).write_bytes(pickle.dumps({"data": rows[part], "labels": labels[part].tolist()}))


def publish(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what lies in the folder be what is published, for this program and for torchvision."""
    digests = {f.name: hashlib.md5(f.read_bytes()).hexdigest() for f in (root / batches.BATCHES).iterdir()}
    known = import_torchvision().datasets.CIFAR10
    monkeypatch.setattr(batches, "DIGESTS", digests)
    monkeypatch.setattr(known, "train_list", [[f"data_batch_{k}", digests[f"data_batch_{k}"]] for k in range(1, 6)])
    monkeypatch.setattr(known, "test_list", [["test_batch", digests["test_batch"]]])
    monkeypatch.setattr(known, "meta", known.meta | {"md5": digests["batches.meta"]})


@pytest.mark.parametrize("write", [as_binary, as_archive, as_jpeg, as_pickles])
def test_every_form_gives_the_same_images_and_labels(
    images: Images, write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(images, tmp_path)
    if write is as_pickles:
        publish(tmp_path, monkeypatch)
    for task, first, count in (("cifar10", 0, 10), ("cifar10-0to4", 0, 5), ("cifar10-5to9", 5, 5)):
        for split, part in (("test", "test"), ("learned", "train")):
            found = read_cifar(task, split, tmp_path)
            assert found is not None
            pixels, labels = images[part]
            own = (labels >= first) & (labels < first + count)
            assert np.array_equal(found.labels, labels[own] - first)
            away = np.abs(found.all().transpose(0, 2, 3, 1).astype(int) - pixels[own])
            assert away.max() <= (2 if write is as_jpeg else 0)


def test_calibration_takes_every_classs_share_of_the_training_images_and_the_rest_remains(
    images: Images, tmp_path: Path
) -> None:
    as_archive(images, tmp_path)
    for task, count in (("cifar10", 10), ("cifar10-5to9", 5)):
        parts = {split: read_cifar(task, split, tmp_path) for split in ("calibration", "train", "learned")}
        assert np.bincount(parts["calibration"].labels).tolist() == [10 // count] * count
        rows = {split: sorted(zip(each.labels, map(bytes, each.all()), strict=True)) for split, each in parts.items()}
        assert sorted(rows["calibration"] + rows["train"]) == rows["learned"]
        again = read_cifar(task, "calibration", tmp_path)
        assert np.array_equal(again.labels, parts["calibration"].labels)


def test_networks_read_colour_images_normalised_by_the_training_sets_mean_and_deviation(
    images: Images, tmp_path: Path
) -> None:
    as_binary(images, tmp_path)
    x, y = load_data("cifar10-0to4", "test", tmp_path)
    pixels, labels = images["test"]
    own = pixels[labels < 5].astype(np.float64)
    expected = (own - [125.3, 123.0, 113.9]) / [63.0, 62.1, 66.7]
    assert (x.dtype, y.tolist()) == (torch.float32, labels[labels < 5].tolist())
    assert np.abs(x.numpy() - expected.transpose(0, 3, 1, 2)).max() < 1e-5
    data = read_task("cifar10-0to4", tmp_path)
    assert (data.classes, data.own, len(data.train or ())) == (NAMES[:5], False, 20)
    assert torch.equal(data.test.labelled(np.arange(10), TRANSFORM)[0], x)


def test_pickles_that_are_not_the_published_ones_are_never_opened(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    as_pickles(images, tmp_path)
    publish(tmp_path, monkeypatch)
    read_cifar("cifar10", "train", tmp_path)
    file = tmp_path / batches.BATCHES / "data_batch_3"
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"data_batch_3 is not the published file.*MD5.*could run a program"):
        read_cifar("cifar10", "test", tmp_path)  # though this part is in another file
    assert not (tmp_path / "sprung").exists()
    pickle.loads(file.read_bytes())
    assert (tmp_path / "sprung").exists()  # so it was a trap
    file.unlink()
    with pytest.raises(DataError, match=r"cannot read .*data_batch_3.*cifar-10-python.tar.gz"):
        read_cifar("cifar10", "test", tmp_path)


def test_a_download_puts_the_images_where_they_are_read_and_says_what_to_do_where_it_fails(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, root = import_torchvision().datasets.CIFAR10, tmp_path / "sets"
    as_pickles(images, tmp_path)
    publish(tmp_path, monkeypatch)
    root.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(known, "download", lambda self: (_ for _ in ()).throw(OSError("no route to host")))
        with pytest.raises(DataError, match=r"could not be downloaded .*no route to host.*unpack it into"):
            read_task("cifar10", root, download=True)
    monkeypatch.setattr(known, "download", lambda self: as_pickles(images, Path(self.root)))
    with pytest.raises(DataError, match="none of its forms"):
        read_task("cifar10", root)
    assert len(read_task("cifar10", root, download=True).calibration) == 10
    assert len(read_task("cifar10", root).calibration) == 10


def test_the_published_digests_are_those_that_torchvision_has() -> None:
    known = import_torchvision().datasets.CIFAR10
    listed = dict(known.train_list + known.test_list) | {known.meta["filename"]: known.meta["md5"]}
    assert listed == batches.DIGESTS
    assert (known.url, known.base_folder) == (batches.ADDRESS, batches.BATCHES)


def _wide(images: Images) -> dict[str, Any]:
    out = io.BytesIO()
    Image.new("RGB", (33, 32)).save(out, "JPEG")
    content = np.frombuffer(out.getvalue() * 20, np.uint8)
    return {"test_jpeg": content, "test_sizes": np.full(20, len(out.getvalue()))}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda images: {"test_sizes": np.full(20, 5)}, "do not add up"),
        (lambda images: {"test_sizes": np.array([-1, *[9] * 19])}, "do not add up"),
        (_wide, r"33 × 32 pixels, expected 32 × 32"),
        (lambda images: {"test_jpeg": np.zeros(20, np.uint8), "test_sizes": np.ones(20, int)}, "no JPEG"),
        (lambda images: {"test_labels": np.zeros(20, np.uint8)}, r"has 20, 0, 0.* CIFAR-10 has 2 of each"),
        (lambda images: {"test_labels": np.arange(20)}, "labels go from 0 to 19"),
        (lambda images: {"test_labels": np.array([None] * 20)}, "without pickles"),
        (lambda images: {"classes": np.array(NAMES[::-1])}, "classes are truck"),
    ],
)
def test_another_set_and_damaged_images_are_refused(
    images: Images, changed: Callable[[Images], dict[str, Any]], said: str, tmp_path: Path
) -> None:
    as_jpeg(images, tmp_path, **changed(images))
    with pytest.raises(DataError, match=said):
        load_data("cifar10", "test", tmp_path)


def test_sets_of_another_size_are_refused_in_every_form(images: Images, tmp_path: Path) -> None:
    fewer = {split: (x[:-2], y[:-2]) for split, (x, y) in images.items()}
    as_archive(fewer, tmp_path)
    with pytest.raises(DataError, match="CIFAR-10 has 2 of each"):
        load_data("cifar10", "test", tmp_path)
    as_binary(images, tmp_path)  # is read instead
    load_data("cifar10", "test", tmp_path)
    (tmp_path / cifar.BINARY / "test_batch.bin").write_bytes(b"\0" * 3072)
    with pytest.raises(DataError, match=r"test_batch.bin has 3,072 bytes, not a multiple of 3,073"):
        load_data("cifar10", "test", tmp_path)


def test_without_the_images_everything_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MTZ_DATA", raising=False)
    told = r"images of cifar10-5to9 are not bundled.*cifar-10-batches-py/.*cifar-10-batches-bin/.*cifar10.npz.*MTZ_DATA"
    with pytest.raises(DataError, match=told):
        load_data("cifar10-5to9", "calibration")
    with pytest.raises(DataError, match=told):
        read_task("cifar10-5to9", tmp_path)
    (tmp_path / "spec.json").write_text(json.dumps({"networks": [_own("w.safetensors"), _own("w.safetensors")]}))
    assert main(["zip", str(tmp_path / "spec.json"), "--store", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("cifar10.npz", "--data-root", "--download", "MTZ_DATA"))
    assert not list((tmp_path / "runs").glob("*/*"))  # no run was made
    (tmp_path / cifar.JPEG).touch()
    monkeypatch.setenv("MTZ_DATA", str(tmp_path))
    assert absent("cifar10-5to9") is None


def _own(weights: str | Path, task: str = "cifar10-5to9") -> dict[str, Any]:
    return {"architecture": "resnet20", "weights": str(weights), "data": task}


def test_weights_are_recognised_and_read_the_images_that_lie_below_the_data_root(
    images: Images, tmp_path: Path
) -> None:
    as_archive(images, tmp_path)
    torch.manual_seed(0)
    files = []
    for task in ("cifar10-0to4", "cifar10-5to9"):
        state = ARCHITECTURES["resnet20"](5).state_dict()
        assert fitting_architectures(state) == ["resnet20"]
        files.append(tmp_path / f"{task}.pt")
        torch.save(state, files[-1])
    own = [_own(file, file.stem) for file in files]
    spec = parse_run_spec(
        {"networks": own, "data_root": str(tmp_path), "calibration": {"images": 8}, "zip": {"retrain": {"steps": 1}}}
    )
    inputs = gather(spec, unseen=5)
    assert [tuple(x.shape) for x in inputs.calibration] == [(8, 3, 32, 32)] * 2
    assert [len(y) for _, y in inputs.evaluation or ()] == [10, 10]
    assert [len(x) for x in inputs.retraining or ()] == [20, 20]
    assert build_network(spec.networks[0]).preparation == TRANSFORM
    assert inputs.classes == [NAMES[:5], NAMES[5:]]


@pytest.mark.parametrize("name", COLOUR)
def test_every_network_for_colour_images_is_recognised_by_its_shapes_alone(name: str) -> None:
    state = ARCHITECTURES[name](classes=7).state_dict()
    assert fitting_architectures({f"module.{key}": tensor for key, tensor in state.items()}) == [name]


def test_images_are_shown_as_they_were() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)
    how = shown_transform(NetworkSpec(**_own("w.pt")))
    for before, x in zip(images, prepare_images(images, TRANSFORM).numpy(), strict=True):
        drawn = picture(x, "images", how)
        assert drawn is not None
        assert np.array_equal(drawn.pixels, before.transpose(1, 2, 0))


BUNDLED = [info for info in catalog().values() if info.architecture in COLOUR]


@pytest.mark.parametrize("info", BUNDLED, ids=lambda info: info.name)
def test_bundled_networks_for_colour_images_answer(info: Any) -> None:
    parent = load_parent(info.name)
    assert parent.module(example_inputs(info.architecture, 2)).shape == (2, len(info.classes))
    assert (info.bundled_error, info.test_images) == (None, 1000 * len(info.classes))
    assert 0 < info.test_error < 20
    assert shown_transform(NetworkSpec(parent=info.name)) == TRANSFORM
    assert build_network(NetworkSpec(parent=info.name)).preparation == TRANSFORM


def test_bundled_networks_for_colour_images_take_little_room() -> None:
    assert sum(info.weights.stat().st_size for info in BUNDLED) < 12e6


def test_weights_that_were_trained_elsewhere_are_measured_and_recorded(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_jpeg(images, tmp_path)
    home = tmp_path / "parents"
    monkeypatch.setattr(train_parents, "PARENTS", home)
    torch.manual_seed(0)
    module = ARCHITECTURES["mobilenet"](5).eval()
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in module.state_dict().items()}
    save_file(state, tmp_path / "given.safetensors")
    name = "mobilenet-cifar10-5to9-0"
    train_parents.take(name, tmp_path / "given.safetensors", [tmp_path], 0)
    entry = json.loads((home / "index.json").read_text())[name]
    module.load_state_dict(state)
    x, y = load_data("cifar10-5to9", "test", tmp_path)
    with torch.no_grad():
        wrong = [int(module(one[None]).argmax()) != int(label) for one, label in zip(x, y, strict=True)]
    assert entry["test_error"] == 100 * np.mean(wrong)
    assert (entry["task"], entry["seed"], entry["test_images"]) == ("cifar10-5to9", 20, 10)
    assert entry["test_set"].endswith("kept as JPEG files")
    assert "14 epochs" in entry["recipe"]
    assert "30 training images" in entry["recipe"]
    assert {path.name for path in home.iterdir()} == {"index.json", f"{name}.safetensors"}


def test_a_training_that_is_taken_up_again_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8), torch.randint(0, 3, (256,))
    recipe = train_parents.Recipe(2, 1e-2, 0.05, shift=4, flip=True, bfloat16=True)
    ends = []
    for broken in (False, True):
        torch.manual_seed(1)
        module = _small()
        kept = tmp_path / f"{broken}.checkpoint"
        for stop in (True, False) if broken else (False,):
            with pytest.MonkeyPatch.context() as patch:
                if stop:
                    patch.setattr(train_parents.Training, "keep", _then_stop)
                try:
                    train_parents.train(module, "multiclass", (x, y), recipe, 5, True, kept)
                except KeyboardInterrupt:
                    module = _small()  # with other weights
        ends.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*ends)


def _small() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3, 8), torch.nn.Flatten(), torch.nn.Linear(32, 3))


KEEP = train_parents.Training.keep


def _then_stop(training: train_parents.Training, path: Path) -> None:
    KEEP(training, path)
    raise KeyboardInterrupt


def test_augmented_images_are_shifted_with_zeros_behind_them_and_half_of_them_mirrored() -> None:
    x = torch.rand(20, 3, 6, 5)
    recipe = train_parents.Recipe(1, 1.0, 0.0, shift=2, flip=True)
    found = train_parents.augment(x, recipe, torch.Generator().manual_seed(3))
    same = torch.Generator().manual_seed(3)
    dy, dx = torch.randint(0, 5, (2, 20), generator=same)
    mirrored = torch.rand(20, generator=same) < 0.5
    assert 0 < mirrored.sum() < 20
    for k in range(20):
        expected = torch.zeros(3, 6, 5)
        for i in range(6):
            for j in range(5):
                a, b = i + int(dy[k]) - 2, j + int(dx[k]) - 2
                if 0 <= a < 6 and 0 <= b < 5:
                    expected[:, i, j] = x[k, :, a, b]
        assert torch.equal(found[k], expected.flip(2) if mirrored[k] else expected)


def test_pages_say_what_to_put_where_and_start_nothing(
    visit: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, structure: NetworkStructure
) -> None:
    monkeypatch.delenv("MTZ_DATA", raising=False)
    names = []
    for task in ("cifar10-0to4", "cifar10-5to9"):
        names.append(f"mine-{task}-12345678")
        spec = NetworkSpec(**_own("w.pt", task))
        remember(OwnNetwork(names[-1], f"Mine {task}", spec, structure, 5, (3, 32, 32), None, 0))
    for page in ("pages/1_Networks.py", "pages/2_Zip.py"):
        said = shown(visit(page, parents=names))
        assert all(word in said for word in ("cifar-10-batches-py/", "cifar10.npz", "MTZ_DATA=/path/to/folder mtz app"))
    app = visit("pages/2_Zip.py", parents=names)
    assert app.button(key="start").disabled
    assert app.button(key="plan").disabled
    (tmp_path / cifar.ARCHIVE).touch()
    monkeypatch.setenv("MTZ_DATA", str(tmp_path))
    app = visit("pages/2_Zip.py", parents=names)
    assert "MTZ_DATA" not in shown(app)
    assert not app.button(key="start").disabled
    monkeypatch.setenv("MTZ_DATA", str(tmp_path / "nowhere"))
    assert "what `MTZ_DATA` names is no folder" in shown(visit("pages/2_Zip.py", parents=names))


@pytest.fixture
def structure() -> NetworkStructure:
    from mtz_core.graph.propagation import channel_graph

    return channel_graph(ARCHITECTURES["resnet20"](5).eval(), example_inputs("resnet20")).structure()
