"""Bundled images, full sets, samples, folders: what is read equals what was written, and no split leaks."""

from __future__ import annotations

import gzip
import importlib.util
import struct
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from torch import Tensor

from mtz_core.data.bundled import BUNDLED, DATA, SETS, bundled_inputs, bundled_set, class_names
from mtz_core.data.idx import read_idx
from mtz_core.data.imageset import array_set
from mtz_core.data.loading import load_data
from mtz_core.data.sampling import stratified_sample
from mtz_core.data.sources import list_images, torchvision_dataset
from mtz_core.data.tasks import read_task
from mtz_core.data.transform import prepare_images
from mtz_core.data.words import ALPHABET, LENGTH, as_tokens, as_word
from mtz_core.errors import DataError, SpecError
from mtz_core.spec import TransformSpec, TypeSpec
from scripts.letter_attributes import ATTRIBUTE_PACKAGES
from scripts.letter_fonts import PACKAGES, placed

CLASSIFIED = [task for task in BUNDLED if (SETS[task].type, SETS[task].inputs) == ("multiclass", "images")]
DRAWN = ["letter-attributes", "letter-pose"]
WORDS = ["words-germanic", "words-romance"]
IDX_NAMES = {"mnist": ["mnist", "MNIST/raw"], "fashion": ["fashion-mnist", "FashionMNIST/raw"]}


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTZ_DATA", raising=False)


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def fake_full_set(task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training part: 30 new images among 100 bundled ones; test part: 20 new images."""
    rng = np.random.default_rng(7)
    bundled = [bundled_inputs(task, split)[0][:50] for split in ("calibration", "test")]
    x = np.concatenate([*bundled, rng.integers(0, 256, (30, 28, 28), np.uint8)])
    y = np.concatenate([np.zeros(100, np.uint8), np.arange(30, dtype=np.uint8) % 10])
    order = rng.permutation(130)
    x_test = rng.integers(0, 256, (20, 28, 28), np.uint8)
    return x[order], y[order], x_test, np.arange(20, dtype=np.uint8) % 10


def write_idx(folder: Path, task: str, zipped: bool = False) -> None:
    folder.mkdir(parents=True)
    x_train, y_train, x_test, y_test = fake_full_set(task)
    for name, array in (
        ("train-images-idx3-ubyte", x_train),
        ("train-labels-idx1-ubyte", y_train),
        ("t10k-images-idx3-ubyte", x_test),
        ("t10k-labels-idx1-ubyte", y_test),
    ):
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (folder / name).write_bytes(idx_bytes(array))


@pytest.mark.parametrize("task", CLASSIFIED)
def test_bundled_splits_are_disjoint_and_balanced(task: str) -> None:
    seen: set[bytes] = set()
    for split in ("calibration", "test"):
        images, labels = bundled_inputs(task, split)
        assert images.dtype == np.uint8
        assert images.shape == (len(labels), 28, 28)
        counts = np.bincount(labels, minlength=10)
        assert counts.tolist() == [len(labels) // 10] * len(class_names(task))
        content = {image.tobytes() for image in images}
        assert len(content) >= len(images) - 2  # Fashion-MNIST repeats an item now and then
        assert not content & seen
        seen |= content


def test_bundled_images_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        bundled_inputs("mnist", "test")[0][0] = 0


@pytest.mark.parametrize("task", CLASSIFIED + DRAWN)
@pytest.mark.parametrize("split", ["calibration", "test"])
def test_one_preprocessing_serves_all_tasks(task: str, split: str) -> None:
    x, y = load_data(task, split)
    images, labels = bundled_inputs(task, split)
    values = torch.float32 if bundled_set(task).type == "regression" else torch.int64
    assert (x.dtype, y.dtype, x.shape[1:]) == (torch.float32, values, (1, 28, 28))
    assert np.array_equal(np.rint(x.numpy()[:, 0].astype(np.float64) * 255), images)
    assert np.array_equal(y.numpy(), labels)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("task", "name"), [(task, name) for task, names in IDX_NAMES.items() for name in names])
def test_training_images_exclude_exactly_the_bundled_ones(tmp_path: Path, task: str, name: str, zipped: bool) -> None:
    write_idx(tmp_path / name, task, zipped)
    x_train, y_train, x_test, y_test = fake_full_set(task)
    new = [i for i in range(len(x_train)) if not any((x_train[i] == b).all() for b in bundled_halves(task))]
    assert len(new) == 30
    x, y = load_data(task, "train", tmp_path)
    assert np.array_equal(np.rint(x[:, 0].numpy() * 255), x_train[new])
    assert np.array_equal(y.numpy(), y_train[new])
    x, y = load_data(task, "test", tmp_path)
    assert np.array_equal(np.rint(x[:, 0].numpy() * 255), x_test)
    assert np.array_equal(y.numpy(), y_test)


def bundled_halves(task: str) -> np.ndarray:
    return np.concatenate([bundled_inputs(task, split)[0][:50] for split in ("calibration", "test")])


def test_keras_archive_reads_like_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "idx" / "mnist", "mnist")
    (tmp_path / "keras").mkdir()
    keys = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "keras" / "mnist.npz", **dict(zip(keys, fake_full_set("mnist"), strict=True)))
    for split in ("train", "test", "calibration"):
        expected = load_data("mnist", split, tmp_path / "idx")
        monkeypatch.setenv("MTZ_DATA", str(tmp_path / "keras"))
        found = load_data("mnist", split)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_root_without_the_full_set_leaves_the_bundled_test_images(tmp_path: Path) -> None:
    assert torch.equal(load_data("letters", "test", tmp_path)[0], load_data("letters", "test")[0])


def test_missing_training_images_name_the_files_to_put(tmp_path: Path) -> None:
    for root in (None, tmp_path):
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte.*MTZ_DATA"):
            load_data("mnist", "train", root)
    with pytest.raises(DataError, match="no folder"):
        load_data("mnist", "test", tmp_path / "nowhere")


def test_unknown_names_are_refused() -> None:
    for task, split in (("digits", "test"), ("mnist", "validation")):
        with pytest.raises(SpecError, match=r"unknown; known: .*(mnist|calibration)"):
            load_data(task, split)
    with pytest.raises(SpecError, match="not bundled"):
        bundled_inputs("mnist", "train")


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "mnist", "mnist")
    (tmp_path / "mnist" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="side by side"):
        load_data("mnist", "train", tmp_path)


GOOD = idx_bytes(np.zeros((2, 3), np.uint8))


def test_idx_reads_what_was_written(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
    (tmp_path / "file").write_bytes(idx_bytes(array))
    assert np.array_equal(read_idx(tmp_path / "file"), array)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not an IDX file"),
        (b"<html>not found</html>", "not an IDX file"),
        (b"\0\0\x0d" + GOOD[3:], "not an IDX file"),  # floats
        (GOOD[:7], "truncated"),
        (GOOD[:-1], "needs 6 bytes, 5 found"),
        (GOOD + b"\0", "more found"),
        (struct.pack(">HBB3I", 0, 8, 3, 1 << 31, 1 << 31, 1 << 31), "at most"),
        (gzip.compress(GOOD, mtime=0)[:-9], "unreadable"),
        (b"\x1f\x8b" + b"\0" * 30, "unreadable"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read_idx(tmp_path / "file")


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    x, y = np.zeros((4, 28, 28), np.uint8), np.zeros(4, np.uint8)
    path = tmp_path / "mnist.npz"
    for arrays, complaint in (
        ({"x_train": x}, "lacks y_train"),
        ({"x_train": x.astype(np.float32), "y_train": y}, "expected uint8"),
        ({"x_train": x[:, :14], "y_train": y}, "expected uint8"),
        ({"x_train": x, "y_train": y[:3]}, "expected integers"),
        ({"x_train": x, "y_train": y + 10}, "labels from 0 to 9"),
        ({"x_train": x[:0], "y_train": y[:0]}, "at least one image"),
        ({"x_train": np.array([{}] * 4, object), "y_train": y}, "without pickles"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=complaint):
            load_data("mnist", "train", tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="not a readable"):
        load_data("mnist", "train", tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_stratified_sample_keeps_every_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 7, 500) ** 2
    for count in (0, 1, 13, 250, 500):
        chosen = stratified_sample(labels, count, seed)
        assert len(set(chosen.tolist())) == len(chosen) == count
        assert np.array_equal(chosen, stratified_sample(labels, count, seed))
        for label in np.unique(labels):
            exact = count * np.mean(labels == label)
            assert abs(np.sum(labels[chosen] == label) - exact) < 1


def test_stratified_sample_refuses_what_is_not_there() -> None:
    with pytest.raises(DataError, match="cannot draw 3 of 2"):
        stratified_sample([0, 1], 3, seed=0)
    with pytest.raises(DataError, match="expected \\(N,\\)"):
        stratified_sample([[0, 1]], 1, seed=0)


@pytest.mark.parametrize("task", DRAWN)
def test_drawn_letters_have_labels_in_their_range_and_splits_share_no_font(task: str) -> None:
    seen: set[str] = set()
    for split in ("calibration", "test"):
        images, labels = bundled_inputs(task, split)
        assert (images.dtype, images.shape) == (np.uint8, (2500, 28, 28))
        assert labels.shape == (2500, len(class_names(task)))
        if task == "letter-attributes":
            assert set(np.unique(labels).tolist()) == {0, 1}
            assert 0.15 < labels.mean(0).min() <= labels.mean(0).max() < 0.6  # nobody can guess much
        else:
            assert -1 <= labels.min() < -0.99 < 0.99 < labels.max() <= 1
            assert np.abs(np.corrcoef(labels.T) - np.eye(3)).max() < 0.1
        families = set(stored(task, split)["families"].tolist())
        assert len(families) >= 7
        assert not families & seen
        seen |= families


def stored(task: str, split: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{task}-{split}.npz", allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.parametrize(
    ("split", "face", "attributes"),
    [
        ("test", "Lato-Regular", set()),
        ("test", "Lato-BoldItalic", {"bold", "italic"}),
        ("test", "Lato-LightItalic", {"light", "italic"}),
        ("test", "Caladea-Bold", {"serif", "bold"}),
        ("test", "Go-Mono-Italic", {"serif", "italic"}),
        ("calibration", "EBGaramond12-Italic", {"serif", "italic"}),
        ("calibration", "FantasqueSansMono-Bold", {"bold"}),
        ("calibration", "Yrsa-Light", {"serif", "light"}),
    ],
)
def test_attributes_are_those_of_well_known_faces(split: str, face: str, attributes: set[str]) -> None:
    archive = stored("letter-attributes", split)
    of_face = archive["faces"] == face
    assert of_face.any()
    for label, letter in zip(archive["labels"][of_face], archive["letters"][of_face], strict=True):
        has = {name for name, yes in zip(class_names("letter-attributes"), label, strict=True) if yes}
        assert has - {"closed"} == attributes | ({"upper case"} if letter.isupper() else set())
        assert ("closed" in has) == (letter in "ABDabdeg")


def test_a_placed_letter_is_where_and_how_its_label_says() -> None:
    font = ImageFont.load_default(72)
    assert isinstance(font, ImageFont.FreeTypeFont)
    y, x = np.mgrid[:28, :28]
    straight = placed("F", font, 56, 0, (0, 0))
    moved = placed("F", font, 56, 0, (8, -12))
    for axis, pixels in ((x, 2), (y, -3)):
        assert (axis * moved).sum() / moved.sum() - (axis * straight).sum() / straight.sum() == pytest.approx(pixels)
    assert np.abs(placed("F", font, 56, 90, (0, 0)) - np.rot90(straight, -1)).max() < 1e-9


@pytest.mark.parametrize("task", WORDS)
def test_words_are_padded_in_front_and_each_is_there_once(task: str) -> None:
    (other_task,) = set(WORDS) - {task}
    other = {as_word(row) for split in ("calibration", "test") for row in bundled_inputs(other_task, split)[0]}
    seen: set[str] = set()
    for split in ("calibration", "test"):
        x, y = load_data(task, split)
        assert (x.dtype, y.dtype, x.shape) == (torch.int64, torch.int64, (2500, LENGTH))
        assert np.bincount(y).tolist() == [625] * 4
        assert 0 <= x.min() <= x.max() == len(ALPHABET)
        letters = (x > 0).long()
        assert (letters.diff(dim=1) >= 0).all()  # no padding after a letter
        assert (letters.sum(1) >= 4).all()
        words = [as_word(row) for row in x.tolist()]
        assert np.array_equal(as_tokens(words), x.numpy())
        assert len(set(words)) == 2500
        assert not (seen | other) & set(words)
        seen |= set(words)


def test_letters_of_one_language_stay_in_it() -> None:
    for task, letter, language in (("words-germanic", "ß", "German"), ("words-romance", "ã", "Portuguese")):
        x, y = load_data(task, "test")
        having = (x == ALPHABET.index(letter) + 1).any(1)
        assert having.sum() > 5
        assert {class_names(task)[label] for label in y[having]} == {language}


@pytest.mark.parametrize("task", [*DRAWN, *WORDS])
def test_bundled_tasks_of_every_type_are_read_by_name(task: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs, labels = (array[:30] for array in bundled_inputs(task, "calibration"))
    new = rng.integers(0, 50, (4, *inputs.shape[1:]), np.uint8)
    arrays = {"x_train": np.concatenate([inputs, new]), "y_train": np.concatenate([labels, labels[:4]])}
    np.savez(tmp_path / f"{task}.npz", **arrays, x_test=new, y_test=labels[:4])
    data = read_task(task, tmp_path, training=True)
    assert (data.type, data.classes, data.own) == (bundled_set(task).type, class_names(task), False)
    asked = None if bundled_set(task).type == "multiclass" else bundled_set(task).type
    assert data.asked(None, 4) == (asked and TypeSpec(kind=asked))
    assert data.train is not None
    assert data.test is not None
    order = np.arange(4)
    for part in (data.train, data.test):
        x, y = part.labelled(order, TransformSpec())
        expected = torch.from_numpy(new[:, None] / np.float32(255) if task in DRAWN else new.astype(np.int64))
        assert x.dtype == expected.dtype
        assert torch.allclose(x, expected)
        assert np.array_equal(y.numpy(), labels[:4])
    assert len(data.train) == len(data.test) == 4
    assert len(data.calibration.sample(7, 0)) == 7


@pytest.mark.parametrize(
    ("task", "spoilt", "complaint"),
    [
        ("letter-attributes", {"y": np.full((4, 6), 2)}, "labels from 0 to 1"),
        ("letter-attributes", {"y": np.zeros(4, int)}, r"expected integers \(4, 6\)"),
        ("letter-pose", {"y": np.zeros((4, 3), int)}, "numbers with a point"),
        ("letter-pose", {"y": np.full((4, 3), np.nan)}, "finite"),
        ("words-romance", {"x": np.full((4, 16), 53, np.uint8)}, "letters up to number 53"),
        ("words-romance", {"x": np.zeros((4, 12), np.uint8)}, r"expected uint8 \(N, 16\)"),
        ("words-romance", {"y": np.full(4, 4)}, "labels from 0 to 3"),
    ],
)
def test_damaged_sets_of_every_type_are_refused(
    tmp_path: Path, task: str, spoilt: dict[str, np.ndarray], complaint: str
) -> None:
    inputs, labels = (array[:4] for array in bundled_inputs(task, "test"))
    arrays = {"x": inputs, "y": labels} | spoilt
    np.savez(tmp_path / f"{task}.npz", **{f"{k}_{s}": v for k, v in arrays.items() for s in ("train", "test")})
    with pytest.raises(DataError, match=complaint):
        load_data(task, "train", tmp_path)


def test_training_data_that_is_drawn_is_asked_for_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"put words-romance.npz, which .*build_data --only words-romance"):
        load_data("words-romance", "train", tmp_path)


def test_no_font_serves_two_splits() -> None:
    for splits in (PACKAGES, ATTRIBUTE_PACKAGES):
        packages = [name for split in splits.values() for name in split]
        assert len(packages) == len(set(packages))
    families = {}
    for split in ("calibration", "test"):
        with np.load(DATA / f"letters-{split}.npz", allow_pickle=False) as archive:
            families[split] = set(archive["families"].tolist())
    assert not families["calibration"] & families["test"]
    assert min(len(found) for found in families.values()) >= 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Bundled letters written as PNG files, class by class."""
    images, labels = bundled_inputs("letters", "test")
    for i in range(60):
        folder = tmp_path / "letters" / class_names("letters")[labels[i]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(folder / f"{i:03}.png")
    (tmp_path / "letters" / ".hidden").mkdir()
    (tmp_path / "letters" / "A" / "notes.txt").write_text("no image")
    return tmp_path / "letters"


def image_folder(path: Path, size: int = 28, channels: Literal[1, 3] = 1) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    found = list_images(path)
    images = found.read(np.arange(len(found.files)), TransformSpec(size=size, channels=channels))
    return images, torch.from_numpy(found.labels), found.classes


def test_image_folder_reads_what_was_written(folder: Path) -> None:
    x, y = load_data("letters", "test")
    order = sorted(range(60), key=lambda i: (int(y[i]), i))
    images, labels, names = image_folder(folder)
    assert names == class_names("letters")
    assert torch.equal(images, x[order])
    assert torch.equal(labels, y[order])
    grey = image_folder(folder, size=28, channels=3)[0]
    assert all(torch.equal(grey[:, c], x[order, 0]) for c in range(3))


def test_image_folder_keeps_brightness_when_it_resizes(tmp_path: Path) -> None:
    for name, grey in (("dark", 51), ("light", 204)):
        (tmp_path / name).mkdir()
        Image.new("L", (90, 50), grey).save(tmp_path / name / "a.png")
        Image.new("LA", (50, 90), (255, grey)).save(tmp_path / name / "b.png")  # see-through white over black
    images, _, _ = image_folder(tmp_path, size=16)
    expected = torch.tensor([0.2, 0.2, 0.8, 0.8])[:, None, None, None].expand(4, 1, 16, 16)
    assert torch.allclose(images, expected)


def test_image_folder_names_the_offending_file(folder: Path, tmp_path: Path) -> None:
    offender = folder / "B" / "offender.png"

    offender.write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish" * 5)
    with pytest.raises(DataError, match=r"offender.png: damaged"):
        image_folder(folder)

    offender.write_bytes((folder / "B" / next(folder.joinpath("B").iterdir()).name).read_bytes()[:60])
    with pytest.raises(DataError, match=r"offender.png: damaged"):
        image_folder(folder)

    Image.new("I;16", (28, 28)).save(offender)
    with pytest.raises(DataError, match=r"offender.png: pixels of more than 8 bits"):
        image_folder(folder)

    Image.new("1", (20_000, 20_000)).save(offender)
    with pytest.raises(DataError, match=r"offender.png: .*(too many|exceeds limit)"):
        image_folder(folder)

    offender.unlink()
    Image.new("L", (28, 28)).save(tmp_path / "secret.png")
    offender.symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"offender.png is a link that leads outside"):
        image_folder(folder)


def test_image_folder_refuses_what_is_no_set_of_classes(folder: Path, tmp_path: Path) -> None:
    (folder / "Z").mkdir()
    with pytest.raises(DataError, match="Z holds no images"):
        image_folder(folder)
    with pytest.raises(DataError, match="0 subfolders"):
        image_folder(folder / "A")
    with pytest.raises(DataError, match="no folder"):
        image_folder(tmp_path / "nowhere")
    (tmp_path / "elsewhere").mkdir()
    (folder / "Z").rmdir()
    (folder / "Z").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads outside"):
        image_folder(folder)


needs_torchvision = pytest.mark.skipif(not importlib.util.find_spec("torchvision"), reason="no torchvision")


@needs_torchvision
def test_torchvision_imports_in_a_fresh_interpreter() -> None:
    code = (
        "from mtz_core.data.torchvision import import_torchvision as f\n"
        "import sys\n"
        "assert f() is f() is sys.modules['torchvision']\n"
        "import gc, torch; gc.collect()\n"
        "from torchvision import datasets, transforms\n"
        "assert torch.ops.torchvision.nms\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@needs_torchvision
def test_torchvision_reads_the_same_images_without_the_bundled_ones(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw", "mnist")
    for split in ("train", "test"):
        images, labels, names = torchvision_dataset("MNIST", tmp_path, split, download=False)
        x, y = load_data("mnist", split, tmp_path)
        assert torch.equal(images, x)
        assert torch.equal(labels, y)
        assert len(names) == 10


@needs_torchvision
@pytest.mark.parametrize("name", ["MNIST", "KMNIST"])
def test_missing_torchvision_data_says_where_files_belong(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"is not usable below .*; put .*idx3"):
        torchvision_dataset(name, tmp_path, "train", download=False)


def test_torchvision_names_are_checked() -> None:
    for name, split in (("ImageNet", "train"), ("MNIST", "calibration")):
        with pytest.raises(SpecError, match=r"supported: MNIST|known: train"):
            torchvision_dataset(name, Path(), split, download=False)


def test_pages_can_list_data_and_parents_without_torch() -> None:
    code = (
        "import sys\n"
        "from mtz_core.data.bundled import bundled_inputs\n"
        "from mtz_core.zoo.catalog import catalog, predictions\n"
        "bundled_inputs('mnist', 'test'), [predictions(n) for n, info in catalog().items() if info.bundled_images]\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_assets_stay_small() -> None:
    sizes = [path.stat().st_size for path in DATA.parent.rglob("*") if path.is_file()]
    assert sum(sizes) < 31e6  # of which networks for colour images are 9e6
    assert max(sizes) < 3e6


def test_the_default_transform_is_the_bundled_preprocessing() -> None:
    images, _ = bundled_inputs("fashion", "test")
    assert torch.equal(prepare_images(images[:99, None], TransformSpec()), load_data("fashion", "test")[0][:99])


@pytest.mark.parametrize("size", [16, 28, 56])
def test_a_transform_crops_resizes_and_normalises(size: int) -> None:
    rng = np.random.default_rng(size)
    images = rng.integers(0, 256, (5, 3, 40, 60), np.uint8)
    spec = TransformSpec(size=size, channels=3, crop=0.7, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    found = prepare_images(images, spec)
    for image, tensor in zip(images, found, strict=True):
        square = Image.fromarray(image.transpose(1, 2, 0)[6:34, 16:44]).resize((size, size), Image.Resampling.BILINEAR)
        expected = (np.asarray(square) / 255.0 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
        # Pillow rounds to whole grey values after each of its two passes
        assert np.abs(tensor.numpy().transpose(1, 2, 0) - expected).max() < 1.01 / 255 / 0.5


def test_grey_becomes_rgb_and_rgb_becomes_grey() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 1, 9, 9), np.uint8)
    rgb = prepare_images(grey, TransformSpec(size=9, channels=3))
    assert all(torch.equal(rgb[:, c], rgb[:, 0]) for c in range(3))
    back = prepare_images(rgb.numpy(), TransformSpec(size=9))
    torch.testing.assert_close(back, prepare_images(grey, TransformSpec(size=9)))


@pytest.mark.parametrize("layout", ["NHW", "NCHW", "NHWC"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_numpy_files_are_read_in_every_layout(tmp_path: Path, layout: str, kind: type, ending: str) -> None:
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (20, 1 if layout == "NHW" else 3, 12, 14), np.uint8)
    stored = {"NHW": planes[:, 0], "NCHW": planes, "NHWC": planes.transpose(0, 2, 3, 1)}[layout]
    stored = stored if kind is np.uint8 else (stored / 255).astype(kind)
    path = tmp_path / f"images.{ending}"
    np.save(path, np.asfortranarray(stored)) if ending == "npy" else np.savez_compressed(path, images=stored)
    data = read_task(str(path))
    assert (data.classes, data.test) == (None, None)
    spec = TransformSpec(size=12, channels=3)
    everything = np.arange(20)
    torch.testing.assert_close(data.calibration.images(everything, spec), prepare_images(planes, spec))


def test_a_numpy_file_may_have_a_test_part(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
    y = np.arange(30) % 3
    np.savez(tmp_path / "both.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    np.savez(tmp_path / "one.npz", images=x, labels=y)
    both, one = (read_task(str(tmp_path / name)) for name in ("both.npz", "one.npz"))
    assert both.classes == one.classes == ("0", "1", "2")
    assert both.test is not None
    assert one.test is not None
    assert (len(both.calibration), len(both.test), len(one.calibration), len(one.test)) == (20, 10, 24, 6)
    assert one.test.labels is not None
    assert np.bincount(one.test.labels).tolist() == [2, 2, 2]


def test_binary_records_are_read_and_pickles_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (12, 3, 32, 32), np.uint8), rng.integers(0, 10, 12).astype(np.uint8)
    with pytest.raises(DataError, match=r"binary version.*pickle.*cifar-10-binary.tar.gz"):
        read_task("torchvision:CIFAR10", tmp_path)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rows = np.concatenate([y[:, None], x.reshape(12, -1)], 1)
    for k in range(5):
        (folder / f"data_batch_{k + 1}.bin").write_bytes(rows[2 * k : 2 * k + 2].tobytes())
    (folder / "test_batch.bin").write_bytes(rows[10:].tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"class {k}" for k in range(10)) + "\n\n")
    data = read_task("torchvision:CIFAR10", tmp_path)
    spec = TransformSpec(size=32, channels=3)
    assert data.classes == tuple(f"class {k}" for k in range(10))
    assert torch.equal(data.calibration.images(np.arange(10), spec), prepare_images(x[:10], spec))
    assert data.test is not None
    assert data.test.labels is not None
    assert data.test.labels.tolist() == y[10:].tolist()
    (folder / "test_batch.bin").write_bytes(rows[10:].tobytes()[:-1])
    with pytest.raises(DataError, match="not a multiple of 3,073"):
        read_task("torchvision:CIFAR10", tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("SVHN", "MATLAB"), ("ImageNet", "pickle"), ("EMNIST", "EMNIST-letters"), ("../x", "not known")],
)
def test_data_sets_that_are_not_read_say_why(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(SpecError, match=f"{reason}.*folder with one subfolder"):
        read_task(f"torchvision:{name}", tmp_path)


def test_sets_of_images_are_joined_and_parted_without_mixing_them_up() -> None:
    images = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3)
    spec, chosen = TransformSpec(size=8), np.array([7, 0, 3, 9])
    whole = array_set(images, np.arange(10))
    joined = whole.part(np.arange(4)).followed_by(whole.part(np.arange(4, 10)))
    assert joined.labels is not None
    assert torch.equal(joined.images(chosen, spec), whole.images(chosen, spec))
    assert joined.labels[chosen].tolist() == chosen.tolist()
