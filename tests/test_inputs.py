"""Data files for networks that read no square pictures: what is zipped is what Python's interface zips."""

from __future__ import annotations

import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mtz_core.api import zip_networks
from mtz_core.data import zipped_folder
from mtz_core.data.arrays import read_arrays
from mtz_core.data.tasks import read_task
from mtz_core.errors import CheckpointError, DataError, MTZError, SpecError
from mtz_core.figures.inputs import picture, sketch
from mtz_core.own import registered
from mtz_core.own.adding import add_network
from mtz_core.own.exported import read_exported
from mtz_core.own.inspection import inspect_file
from mtz_core.own.job import answer
from mtz_core.own.networks import build_network
from mtz_core.own.registry import own_networks
from mtz_core.runs.inputs import gather
from mtz_core.spec import NetworkSpec, TransformSpec, ZipSpec, dump_run_spec, parse_run_spec

COUNT, TESTED, CLASSES, ROWS = 40, 24, 3, 11


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MTZ_UPLOADS", str(tmp_path / "uploads"))
    return tmp_path / "uploads"


class Pooled(nn.Module):
    """Sequences of vectors (N, L, F), or of tokens (N, L) if it has a table."""

    def __init__(self, features: int, table: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, features) if table else nn.Identity()
        self.first, self.last = nn.Linear(features, 12), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(self.table(x)).relu().mean(1))


def convolved(first: nn.Module, places: int) -> nn.Module:
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(6 * places, CLASSES))


FORMS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "vectors": ((7,), lambda: nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, CLASSES))),
    "sequences": ((5, 4), lambda: Pooled(4)),
    "tokens": ((6,), lambda: Pooled(8, table=True)),
    "waveforms": ((1, 50), lambda: convolved(nn.Conv1d(1, 6, 9, stride=4), 11)),
    "flat waveforms": (
        (50,),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 50)), convolved(nn.Conv1d(1, 6, 9, stride=4), 11)),
    ),
    "volumes": ((1, 4, 5, 6), lambda: convolved(nn.Conv3d(1, 6, 3), 2 * 3 * 4)),
    "images": ((5, 6, 9), lambda: convolved(nn.Conv2d(5, 6, 3), 4 * 7)),
}
"""What is read, its shape, and a network for it."""


def drawn(form: str, count: int, seed: int) -> np.ndarray:
    shape, rng = FORMS[form][0], np.random.default_rng(seed)
    if form == "tokens":
        return rng.integers(0, ROWS, (count, *shape))
    return rng.normal(2.0, 3.0, (count, *shape)).astype(np.float32)


def export(module: nn.Module, path: Path, example: Tensor) -> str:
    sizes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(module.eval(), (example,), dynamic_shapes=sizes), path)
    return str(path)


def stored(form: str, where: Path, **more: Any) -> tuple[list[nn.Module], list[dict[str, np.ndarray]], dict[str, Any]]:
    """Two networks, their data, and the specification of a zip that reads both from files."""
    torch.manual_seed(0)
    modules = [FORMS[form][1]().eval() for _ in range(2)]
    data, networks = [], []
    for k, module in enumerate(modules):
        rng, parts = np.random.default_rng(9 + k), dict[str, np.ndarray]()
        for t, (part, count) in enumerate((("train", COUNT), ("test", TESTED))):
            parts |= {f"x_{part}": drawn(form, count, 2 * k + t), f"y_{part}": rng.integers(0, CLASSES, count)}
        np.savez(where / f"{k}.npz", **parts)
        data.append(parts)
        weights = export(module, where / f"{k}.pt2", torch.from_numpy(parts["x_train"][:2]))
        networks.append({"architecture": "exported", "weights": weights, "data": str(where / f"{k}.npz"), **more})
    spec = {"networks": networks, "calibration": {"images": COUNT}, "zip": {"share": 0.5}}
    return modules, data, spec


@pytest.mark.parametrize("form", FORMS)
def test_a_zip_from_files_is_the_zip_of_the_same_tensors(tmp_path: Path, form: str) -> None:
    modules, data, spec = stored(form, tmp_path)
    inputs = gather(parse_run_spec(spec))
    assert inputs.kinds == [form if form != "flat waveforms" else "vectors"] * 2
    by_file = zip_networks(inputs.networks, inputs.calibration, ZipSpec(share=0.5), evaluation=inputs.evaluation)
    calibration = [torch.from_numpy(parts["x_train"]) for parts in data]
    for given, found in zip(calibration, inputs.calibration, strict=True):
        order = [int((given.flatten(1) == x.flatten()).all(1).nonzero()[0, 0]) for x in found]
        assert sorted(order) == list(range(COUNT))  # each of them once, as it was stored
    in_order = [x.clone() for x in inputs.calibration]
    evaluation = [(torch.from_numpy(parts["x_test"]), torch.from_numpy(parts["y_test"])) for parts in data]
    by_hand = zip_networks(modules, in_order, ZipSpec(share=0.5), evaluation=evaluation)
    assert by_file.errors == by_hand.errors
    with torch.no_grad():
        wrong = [m(x).argmax(1) != y for m, (x, y) in zip(modules, evaluation, strict=True)]
        expected = [100 * each.float().mean().item() for each in wrong]
    assert by_file.parent_errors == by_hand.parent_errors == pytest.approx(expected)
    assert by_file.counts == by_hand.counts


@pytest.mark.parametrize(("form", "axis"), [("vectors", -1), ("sequences", -1), ("images", 1)])
def test_every_feature_has_a_mean_and_a_deviation_of_its_own(tmp_path: Path, form: str, axis: int) -> None:
    shape = FORMS[form][0]
    count = shape[axis] if axis < 0 else shape[0]
    mean, std = [0.5 * k for k in range(count)], [1.0 + k for k in range(count)]
    more = {"size": [6, 9], "channels": 5, "values": "any"} if form == "images" else {}
    _, data, spec = stored(form, tmp_path, transform={"mean": mean, "std": std, **more})
    wanted = parse_run_spec(spec)
    assert parse_run_spec(wanted.model_dump(mode="json")) == wanted
    assert gather(parse_run_spec(wanted.model_dump(mode="json"))).kinds == [form] * 2
    inputs = gather(wanted)
    broadcast = [-1 if k == axis % (1 + len(shape)) else 1 for k in range(1 + len(shape))]
    for parts, found in zip(data, inputs.calibration, strict=True):
        expected = (parts["x_train"] - np.reshape(mean, broadcast)) / np.reshape(std, broadcast)
        torch.testing.assert_close(found.sum(0), torch.from_numpy(expected).float().sum(0), rtol=1e-4, atol=1e-3)


def program(form: str, where: Path) -> NetworkSpec:
    torch.manual_seed(0)
    weights = export(FORMS[form][1](), where / "net.pt2", torch.from_numpy(drawn(form, 2, 0)))
    return NetworkSpec(architecture="exported", weights=weights, data=str(where / "data.npz"))


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("form", "inputs", "message"),
    [
        ("vectors", RNG.normal(size=(9, 8)), r"float64 of shape \(9, 8\), .* reads \(7,\) of float32.*pad or cut"),
        ("vectors", RNG.normal(size=(9, 7, 2)), r"\(9, 7, 2\).*store inputs in this shape"),
        ("vectors", RNG.integers(0, 9, (9, 28, 28)).astype("u1"), r"uint8 of shape \(9, 28, 28\)"),
        ("vectors", np.full((9, 7), 1e300), r"beyond float32"),
        ("sequences", RNG.normal(size=(9, 4, 5)), r"numpy.moveaxis"),
        ("sequences", RNG.normal(size=(9, 20)), r"reshape\(-1, 5, 4\)"),
        ("tokens", RNG.normal(size=(9, 6)), r"float64 .*\(6,\) of int64 from 0 to 10 each; store whole numbers"),
        ("tokens", np.full((9, 6), ROWS), r"from 11 to 11, but must go from 0 to 10, the rows .*\(11\).*vocabulary"),
        ("tokens", np.full((9, 6), -1), r"from -1 to -1, but must go from 0"),
        ("tokens", np.ones((9, 7), int), r"\(9, 7\).*pad or cut every input"),
        ("waveforms", RNG.normal(size=(9, 2, 50)), r"\(9, 2, 50\), the network reads \(1, 50\)"),
        ("volumes", RNG.normal(size=(9, 4, 5, 7)), r"\(1, 4, 5, 6\) of float32 each; store inputs"),
        ("images", RNG.normal(size=(9, 4, 6, 9)), r"\(9, 4, 6, 9\).*\(5, 6, 9\).*with 5 channels"),
        ("images", RNG.integers(0, 9, (9, 5, 6, 9)), r"store them as uint8"),
    ],
)  # fmt: skip
def test_what_a_network_cannot_read_is_said_with_both_shapes(
    tmp_path: Path, form: str, inputs: np.ndarray, message: str
) -> None:
    np.savez(tmp_path / "data.npz", inputs=inputs, labels=np.arange(len(inputs)) % CLASSES)
    spec = program(form, tmp_path)
    with pytest.raises(DataError, match=message):
        add_network(spec)
    with pytest.raises(DataError, match=message):
        gather(parse_run_spec({"networks": [spec.model_dump()] * 2, "calibration": {"images": 4}}))
    assert own_networks() == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(tmp_path: Path, value: float) -> None:
    x = np.zeros((9, 7))
    x[3, 2] = value
    np.savez(tmp_path / "data.npz", inputs=x)
    with pytest.raises(DataError, match="NaN or infinity"):
        read_arrays(tmp_path / "data.npz")


@pytest.mark.parametrize(
    ("form", "transform", "message"),
    [
        ("vectors", {"size": 28}, r"transform: size: .*\(7,\) of float32, which are no pictures"),
        ("waveforms", {"crop": 0.5, "mean": [0.1]}, "transform: crop: "),
        ("vectors", {"mean": [0.1, 0.2]}, "2 numbers for inputs of shape.*neither"),
        ("tokens", {"std": [2.0]}, "looked up, not normalised"),
        ("images", {"size": [6, 9], "channels": 5, "mean": [1.0, 2.0]}, "one for each of 5"),
    ],
)
def test_what_has_no_meaning_for_inputs_is_refused(
    tmp_path: Path, form: str, transform: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        build_network(program(form, tmp_path).model_copy(update={"transform": TransformSpec(**transform)}))


def test_a_square_of_features_needs_to_be_told_apart(tmp_path: Path) -> None:
    weights = export(Pooled(5), tmp_path / "net.pt2", torch.zeros(2, 5, 5))
    spec = NetworkSpec(architecture="exported", weights=weights, data="x.npz", transform=TransformSpec(mean=(1.0,) * 5))
    with pytest.raises(SpecError, match="both its first and its last axis"):
        build_network(spec)


def test_axes_of_length_one_and_whole_numbers_are_values(tmp_path: Path) -> None:
    audio = RNG.integers(-999, 999, (8, 50)).astype(np.int16)
    np.savez(tmp_path / "data.npz", x=audio, y=np.arange(8) % CLASSES)
    added = add_network(program("waveforms", tmp_path))
    assert (added.inputs, added.input_shape, added.images) == ("waveforms", (1, 50), 1)
    assert own_networks()[added.name] == added
    built = build_network(added.spec)
    data = read_task(str(tmp_path / "data.npz"))
    found = data.calibration.images(np.arange(len(data.calibration)), built.preparation)
    assert set(map(tuple, found[:, 0].numpy())) <= set(map(tuple, audio.astype(np.float32)))


def test_a_table_of_labels_serves_inputs_of_any_form(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", drawn("vectors", 10, 0))
    (tmp_path / "labels.csv").write_text("\n".join(["kind", *"abc" * 3, "a"]))
    spec = program("vectors", tmp_path)
    fields = {"data": str(tmp_path / "data.npy"), "labels": str(tmp_path / "labels.csv")}
    assert add_network(spec.model_copy(update=fields)).images == 2


@pytest.mark.parametrize(("form", "dtype", "rows"), [("tokens", "int64", ROWS), ("vectors", "float32", None)])
def test_a_program_says_what_it_reads(tmp_path: Path, form: str, dtype: str, rows: int | None) -> None:
    path = Path(str(program(form, tmp_path).weights))
    found = read_exported(path)
    assert (found.input_shape, found.dtype, found.rows, found.classes) == (FORMS[form][0], dtype, rows, CLASSES)
    assert (inspect_file(path).dtype, inspect_file(path).transform) == (dtype, None)


def test_the_smallest_table_that_reads_the_input_counts(tmp_path: Path) -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large, self.places = nn.Embedding(9, 8), nn.Embedding(20, 8), nn.Embedding(6, 8)
            self.fc = nn.Linear(8, CLASSES)
            self.register_buffer("order", torch.arange(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc((self.small(x) + self.large(x) + self.places(self.order)).mean(1))

    export(Placed(), tmp_path / "net.pt2", torch.zeros(2, 6, dtype=torch.int64))
    assert read_exported(tmp_path / "net.pt2").rows == 9


def test_a_registered_module_shows_by_an_example_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "data.npz", inputs=drawn("tokens", 10, 0), labels=np.arange(10) % CLASSES)
    (tmp_path / "brought_tokens.py").write_text(
        "import torch\nfrom tests.test_inputs import Pooled\n"
        "def trained():\n    return {'one': (Pooled(8, table=True), "
        f"{str(tmp_path / 'data.npz')!r}, torch.zeros(1, 6, dtype=torch.int64))}}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(registered.VARIABLE, "brought_tokens:trained")
    assert answer({"do": "models"}) == {"one": {"data": str(tmp_path / "data.npz"), "transform": None, "whole": True}}
    added = add_network(NetworkSpec(model="one"))
    assert (added.inputs, added.input_shape) == ("tokens", (6,))
    assert "brought_tokens" in sys.modules


# Pictures of any form, and maps that follow them


def under_centres(values: np.ndarray, size: tuple[int, int], crop: float) -> np.ndarray:
    """The value under the centre of every pixel of the central part with the form of `size`, by definition."""
    height, width = values.shape[-2:]
    scale = min(height / size[0], width / size[1]) * crop
    sides = [n * scale for n in size]
    starts = [(whole - side) / 2 for whole, side in zip((height, width), sides, strict=True)]
    at = [
        [int(start + (k + 0.5) * side / n) for k in range(n)]
        for start, side, n in zip(starts, sides, size, strict=True)
    ]
    return values[..., at[0], :][..., at[1]]


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize(
    ("size", "crop"), [((8, 12), 1.0), ((4, 6), 1.0), ((16, 24), 1.0), ((4, 4), 1.0), ((4, 6), 0.5)]
)
def test_maps_of_a_file_follow_their_pictures(
    tmp_path: Path, channels: int, size: tuple[int, int], crop: float
) -> None:
    maps = RNG.choice([0, 1, 2, 255], (10, 8, 12)).astype(np.uint8)
    images = np.repeat(maps[:, None], channels, 1)  # a picture of the map, so that both can be held together
    depth = maps.astype(np.float32) + 0.25
    transform = TransformSpec(size=size, channels=channels, crop=crop)
    for labels in (maps, depth):
        np.savez(tmp_path / "data.npz", images=images, labels=labels)
        task = read_task(str(tmp_path / "data.npz"))
        assert task.test is not None
        task.check(transform)
        found = []
        for part in (task.calibration, task.test):
            x, y = part.labelled(np.arange(len(part)), transform)
            assert tuple(y.shape[1:]) == size == tuple(x.shape[2:])
            found.append(y.numpy())
        expected = {row.tobytes() for row in under_centres(labels, size, crop).astype(found[0].dtype)}
        assert {row.tobytes() for row in np.concatenate(found)} == expected


def test_maps_of_another_size_are_refused_where_they_cannot_follow(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=np.zeros((10, 8, 8), np.uint8), labels=np.zeros((10, 4, 4), int))
    task = read_task(str(tmp_path / "data.npz"))
    task.check(TransformSpec(size=8))  # a network that answers at every other pixel
    assert task.calibration.targets(np.arange(2), TransformSpec(size=8)).shape == (2, 4, 4)
    for transform in (TransformSpec(size=6), TransformSpec(size=8, crop=0.5)):
        with pytest.raises(DataError, match="maps can follow only if they are as large"):
            task.check(transform)


def test_files_of_images_fill_rectangles_and_nothing_else(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12)).save(tmp_path / name / "1.png")
    images = read_task(str(tmp_path)).calibration
    found = images.images(np.arange(1), TransformSpec(size=(8, 12)))
    assert (found[0, 0].numpy() * 255).round().astype(int).tolist() == np.arange(96).reshape(8, 12).tolist()
    for how in (TransformSpec(channels=5), build_network(program("vectors", tmp_path)).preparation):
        with pytest.raises(DataError, match="holds image files, pictures with 1 or 3 channels"):
            images.fits(how)


# Folders in one file


def zipped(path: Path, members: dict[str, bytes], top: str = "", links: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            about = zipfile.ZipInfo(top + name)
            about.compress_type = zipfile.ZIP_DEFLATED
            about.external_attr = ((stat.S_IFLNK if name in links else stat.S_IFREG) | 0o644) << 16
            archive.writestr(about, content)
    return path


def folder_of_classes(where: Path) -> dict[str, bytes]:
    members = {}
    for k in range(12):
        file = where / "picture.png"
        Image.fromarray(np.full((6, 6), 20 * k, np.uint8)).save(file)
        members[f"{'cat' if k % 2 else 'dog'}/{k}.png"] = file.read_bytes()
    return members


@pytest.mark.parametrize("top", ["", "photos/"])
def test_a_zipped_folder_is_the_folder(tmp_path: Path, top: str) -> None:
    members = folder_of_classes(tmp_path)
    for name, content in members.items():
        (tmp_path / "plain" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "plain" / name).write_bytes(content)
    extra = {"notes.txt": b"x", "__MACOSX/cat/._0.png": b"x", ".DS_Store": b"x"}
    one = read_task(str(tmp_path / "plain"))
    for _ in range(2):  # the second time it is there already
        other = read_task(str(zipped(tmp_path / "photos.zip", members | extra, top)))
        assert (one.classes, one.test is None) == (other.classes, other.test is None) == (("cat", "dog"), False)
        for part, same in ((one.calibration, other.calibration), (one.test, other.test)):
            pair = [each.labelled(np.arange(len(each)), TransformSpec(size=6)) for each in (part, same)]
            assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


def test_a_zipped_folder_may_have_masks(tmp_path: Path) -> None:
    members = {}
    for k in range(6):
        file = tmp_path / "picture.png"
        Image.fromarray(np.full((6, 6), k, np.uint8)).save(file)
        members |= {f"images/{k}.png": file.read_bytes(), f"masks/{k}.png": file.read_bytes()}
    task = read_task(str(zipped(tmp_path / "streets.zip", members)))
    x, y = task.calibration.labelled(np.arange(len(task.calibration)), TransformSpec(size=6))
    assert torch.equal((x[:, 0] * 255).round().long(), y)


@pytest.mark.parametrize(
    ("name", "message"),
    [("../../x.png", "leads outside"), ("/etc/x.png", "leads outside"), ("cat\\..\\x.png", "leads outside"),
     ("C:/x.png", "leads outside"), ("a/" * 9 + "x.png", "too deep"), ("cat/" + "x" * 300 + ".png", "too long"),
     ("cat/link.png", "is a link"), ("more.zip", "archives in archives"), ("cat/1.png.gz", "archives in archives"),
     ("CAT/1.PNG", "twice")],
)  # fmt: skip
def test_a_hostile_archive_leaves_nothing_behind(tmp_path: Path, uploads: Path, name: str, message: str) -> None:
    path = zipped(tmp_path / "photos.zip", folder_of_classes(tmp_path) | {name: b"x"}, links=("cat/link.png",))
    before = {each for each in tmp_path.rglob("*") if uploads not in each.parents}
    with pytest.raises(DataError, match=message):
        read_task(str(path))
    assert {each for each in tmp_path.rglob("*") if uploads not in each.parents} - {uploads} <= before
    assert not list(uploads.rglob("*.png"))


def test_sizes_are_checked_before_anything_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "photos.zip", folder_of_classes(tmp_path) | {"cat/bomb.png": b"\0" * 2**20})
    for name, most, message in (
        ("MOST_MEMBER", 2**19, "unpacks to 1 MiB"),
        ("MOST_BYTES", 2**19, "GiB are unpacked"),
        ("MOST_MEMBERS", 12, "13 members"),
        ("MOST_DIRECTORY", 500, "lists members in"),
    ):
        with monkeypatch.context() as change:
            change.setattr(zipped_folder, name, most)
            with pytest.raises(DataError, match=message):
                read_task(str(path))
    data = path.read_bytes()
    at = data.rindex(b"PK\x01\x02") + 24
    path.write_bytes(data[:at] + (1000).to_bytes(4, "little") + data[at + 4 :])  # says that it is small
    with pytest.raises(DataError, match=r"damaged|larger than it says"):
        read_task(str(path))


# Drawn as what it is


@pytest.mark.parametrize(
    ("kind", "shape", "drawn_as", "said"),
    [
        ("vectors", (7,), "curve", ""), ("waveforms", (1, 900), "curve", ""), ("tokens", (6,), "row", ""),
        ("sequences", (5, 4), (5, 4), "5 rows of 4 values"), ("volumes", (1, 4, 5, 6), (5, 6), "slice 3 of 4"),
        ("volumes", (2, 4, 5, 6), (5, 6), "slice 3 of 4, channel 1 of 2"), ("images", (1, 6, 9), (6, 9), ""),
        ("images", (3, 6, 9), (6, 9, 3), ""), ("images", (2, 6, 9), (6, 9), "channel 1 of 2"),
        ("images", (5, 6, 9), (6, 9, 3), "channels 1, 2, 3 of 5 as red, green, blue"),
    ],
)  # fmt: skip
def test_an_input_is_drawn_as_what_it_is(kind: str, shape: tuple[int, ...], drawn_as: Any, said: str) -> None:
    sample = RNG.integers(0, 9, shape).astype(np.float32)  # whole, as tokens are
    found = picture(sample, kind)
    if found is not None:
        assert (found.pixels.shape, found.part) == (drawn_as, said)
        assert (int(found.pixels.min()), int(found.pixels.max())) == (0, 255)
    else:
        assert (f"alt='{shape[-1]} values from" in sketch(sample, None, kind)) == (drawn_as == "curve")


def test_a_specification_with_other_inputs_survives_its_file(tmp_path: Path) -> None:
    _, _, spec = stored("vectors", tmp_path, transform={"mean": [1.0] * 7})
    text = dump_run_spec(parse_run_spec(spec))
    assert "\n    size:" not in text
    assert "mean:" in text
    with pytest.raises(MTZError):
        parse_run_spec({"networks": [{**spec["networks"][0], "transform": {"channels": 3, "mean": [1.0] * 7}}] * 2})


@pytest.mark.parametrize("shape", [(2**13, 2**13), (2, 2**12, 2**12)])
def test_a_program_whose_inputs_take_too_much_memory_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] * 2.0

    with torch.device("meta"):
        example = torch.empty(2, *shape)
    export(Sum(), tmp_path / "net.pt2", example)
    with pytest.raises(CheckpointError, match="numbers, more than"):
        read_exported(tmp_path / "net.pt2")
