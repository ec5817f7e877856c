"""Labels beside images: classes, attributes and values from a CSV file, and from NumPy files of any shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtz_core.data.label_table import read_label_table
from mtz_core.data.tasks import read_task
from mtz_core.errors import DataError, SpecError
from mtz_core.runs.asked import absolute_paths
from mtz_core.runs.inputs import gather
from mtz_core.spec import NetworkSpec, TransformSpec, load_run_spec

ROWS = 20


def folder(path: Path, header: str, row: str, count: int = ROWS, within: str = "") -> Path:
    """Grey images of brightness k, and a table with `row` formatted for each."""
    (path / within).mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.fromarray(np.full((6, 6), 10 * k, np.uint8)).save(path / within / f"{k}.png")
    lines = [row.format(k=k, even=int(k % 2 == 0), low=int(k < 5), sign=1 if k % 2 else -1) for k in range(count)]
    (path / "labels.csv").write_text("\n".join([header, *lines]) + "\n")
    return path


def labelled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Brightness and labels of all images of a folder, calibration and test together."""
    task = read_task(str(path))
    assert task.test is not None
    parts = [part.labelled(np.arange(len(part)), TransformSpec(size=6)) for part in (task.calibration, task.test)]
    assert len(parts[0][0]) == 16
    assert len(parts[1][0]) == 4
    values = np.concatenate([x.mean((1, 2, 3)).numpy() for x, _ in parts]) * 255 / 10
    return values.round().astype(int), np.concatenate([y.numpy() for _, y in parts])


@pytest.mark.parametrize("within", ["", "images"])
def test_columns_of_yes_and_no_are_attributes(tmp_path: Path, within: str) -> None:
    path = folder(tmp_path, "image_id;even;low", "{k}.png;{even};{low}", within=within)
    numbers, labels = labelled(path)
    assert labels.tolist() == [[int(k % 2 == 0), int(k < 5)] for k in numbers]
    task = read_task(str(path))
    assert (task.classes, task.type) == (("even", "low"), "multilabel")


def test_minus_one_and_one_are_no_and_yes(tmp_path: Path) -> None:
    _, labels = labelled(folder(tmp_path, "file,odd,again", "{k}.png,{sign},{sign}"))
    assert set(labels.flatten().tolist()) == {0, 1}


def test_one_column_of_words_or_numbers_is_a_class(tmp_path: Path) -> None:
    path = folder(tmp_path / "words", "kind,name", "parity {even},{k}.png")
    numbers, labels = labelled(path)
    assert labels.tolist() == [int(k % 2 == 0) for k in numbers]
    assert read_task(str(path)).classes == ("parity 0", "parity 1")
    numbers, labels = labelled(folder(tmp_path / "numbers", "name,label", "{k}.png,{low}"))
    assert labels.tolist() == [int(k < 5) for k in numbers]


def test_other_numbers_are_values(tmp_path: Path) -> None:
    path = folder(tmp_path, "file,angle,height", "{k}.png,{k}.5,{k}")
    numbers, labels = labelled(path)
    np.testing.assert_allclose(labels, [[k + 0.5, k] for k in numbers])
    assert read_task(str(path)).type == "regression"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file\na.png\nb.png\n", "one column"),
        ("file,x\n0.png,1\n", "a header and two images at least"),
        ("file,x\n0.png,1\n1.png\n", "row 3 has 1 cells, the header 2"),
        ("file,x\n0.png,1\n0.png,0\n", "names '0.png' twice"),
        ("file,x,y\n0.png,1,2\n1.png,1,?\n", "column 'y' has '\\?' in row 3"),
        ("file,x\n../secret.png,1\n1.png,0\n", "leads outside"),
        ("file,x\n/etc/hosts,1\n1.png,0\n", "leads outside"),
        ("file,x\nmissing.png,1\n1.png,0\n", "no such image"),
        ("file,x\n\xff\xfe,1\n", "no table of comma-separated values"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, text: str, says: str) -> None:
    folder(tmp_path / "data", "file,x", "{k}.png,{even}", 3)
    (tmp_path / "secret.png").write_bytes((tmp_path / "data" / "0.png").read_bytes())
    (tmp_path / "data" / "labels.csv").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=says):
        read_task(str(tmp_path / "data"))


def test_a_table_may_be_in_any_order_and_named_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "list_attr.csv"
    path.write_text("\ufeffbald\tfile\n1\tb.png\n0\ta.png\n", encoding="utf-8")
    table = read_label_table(path)
    assert (table.files, table.labels.tolist()) == (("b.png", "a.png"), [1, 0])


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        (np.arange(20) % 3, "multiclass", 3),
        ((np.arange(60) % 3 == 0).astype(np.uint8).reshape(20, 3), "multilabel", 3),
        (np.linspace(0, 1, 40).reshape(20, 2), "regression", 2),
        (np.linspace(0, 1, 20), "regression", 1),
        (np.where(np.arange(20 * 36) % 7 == 0, 255, np.arange(20 * 36) % 4).reshape(20, 6, 6), None, 4),
    ],
)
def test_labels_of_any_shape_come_from_numpy_files(tmp_path: Path, labels: np.ndarray, kind: str, names: int) -> None:
    images = (np.arange(20)[:, None, None] * np.ones((1, 6, 6))).astype(np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    task = read_task(str(tmp_path / "set.npz"))
    assert task.test is not None
    assert (task.type, len(task.classes or ())) == (kind, names)
    for part in (task.calibration, task.test):
        x, y = part.labelled(np.arange(len(part)), TransformSpec(size=6))
        numbers = (x.mean((1, 2, 3)) * 255).round().long().numpy()
        np.testing.assert_allclose(y.numpy(), labels[numbers].astype(y.numpy().dtype))


def apart(path: Path, text: str, test: int = 0, **arrays: np.ndarray) -> Path:
    """An archive of images of brightness k, some of them for tests, and a table beside it."""
    images = (10 * np.arange(ROWS)[:, None, None] * np.ones((1, 6, 6))).astype(np.uint8)
    if test:
        arrays |= {"test_images": images[-test:]}
    np.savez(path / "set.npz", images=images[: ROWS - test], **arrays)
    (path / "mine.csv").write_text(text)
    return path / "mine.csv"


def rows(header: str, row: str, order: list[int] | None = None) -> str:
    return "\n".join([header, *(row.format(k=k, low=int(k < 5), odd=k % 2) for k in order or range(ROWS))]) + "\n"


@pytest.mark.parametrize("test", [0, 4])
@pytest.mark.parametrize(
    ("header", "row", "kind", "names", "label"),
    [
        ("label", "{odd}", "multiclass", ("0", "1"), lambda k: k % 2),
        (",kind", "{k},parity {odd}", "multiclass", ("parity 0", "parity 1"), lambda k: k % 2),
        ("low,file,odd", "{low},{k}.png,{odd}", "multilabel", ("low", "odd"), lambda k: [int(k < 5), k % 2]),
        ("angle", "{k}.5", "regression", ("angle",), lambda k: [k + 0.5]),
        ("id;x;y", "{k};{k}.25;-1", "regression", ("x", "y"), lambda k: [k + 0.25, -1]),
    ],
)
def test_rows_belong_to_the_images_of_a_file_in_order(
    tmp_path: Path, test: int, header: str, row: str, kind: str, names: tuple[str, ...], label: Callable[[int], Any]
) -> None:
    table = apart(tmp_path, rows(header, row), test)
    task = read_task(str(tmp_path / "set.npz"), labels=str(table))
    assert task.test is not None
    assert (task.type, task.classes) == (kind, names)
    seen = []
    for part in (task.calibration, task.test):
        x, y = part.labelled(np.arange(len(part)), TransformSpec(size=6))
        numbers = (x.mean((1, 2, 3)) * 25.5).round().int().tolist()
        assert y.tolist() == [label(k) for k in numbers]
        seen += numbers
    assert sorted(seen) == list(range(ROWS))
    assert test == 0 or seen[-test:] == list(range(ROWS - test, ROWS))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (rows("label", "{odd}")[:-2], "has 19 rows below its header, for 20 images"),
        (rows("id,label", "{k},{odd}", [*range(1, 20), 0]), "'id' does not count the rows from 0 or 1; sort them"),
        (rows("file,id", "{k}.png,{k}"), "no column of labels, only 'file, id'"),
        (rows("x,y", "{k},{k}").replace("\n7,7", "\n7,"), "column 'y' has '' in row 9"),
        (rows("kind,file", "parity {odd},x").replace("parity 1", "", 1), "column 'kind' is empty in row 3"),
        (rows("label", "99999999999{k}"), "goes up to 9999999999919; expected classes"),
    ],
)
def test_rows_that_do_not_fit_the_images_are_refused(tmp_path: Path, text: str, says: str) -> None:
    table = apart(tmp_path, text)
    with pytest.raises(DataError, match=says):
        read_task(str(tmp_path / "set.npz"), labels=str(table))


def test_labels_are_given_once(tmp_path: Path) -> None:
    table = apart(tmp_path, rows("label", "{odd}"), labels=np.arange(ROWS))
    with pytest.raises(DataError, match=r"labels of its own, and .*mine.csv has others"):
        read_task(str(tmp_path / "set.npz"), labels=str(table))
    with pytest.raises(SpecError, match="mnist has labels of its own"):
        read_task("mnist", labels=str(table))
    with pytest.raises(DataError, match="is no file"):
        read_task(str(tmp_path / "set.npz"), labels=str(tmp_path))
    with pytest.raises(SpecError, match="labels: an upload is named"):
        NetworkSpec(parent="lenet5-mnist-0", data="x", labels="upload:../x")


def test_a_table_elsewhere_labels_a_folder(tmp_path: Path) -> None:
    path = folder(tmp_path / "data", "file,wrong", "{k}.png,{low}")
    table = tmp_path / "right.csv"
    table.write_text(rows("file,kind", "{k}.png,{odd}", [*range(9, ROWS), *range(9)]))
    task = read_task(str(path), labels=str(table))
    x, y = task.calibration.labelled(np.arange(16), TransformSpec(size=6))
    assert y.tolist() == ((x.mean((1, 2, 3)) * 25.5).round().int() % 2).tolist()


def test_a_run_takes_labels_beside_its_data(tmp_path: Path) -> None:
    table = apart(tmp_path, rows("label", "{odd}"))
    (tmp_path / "run.yaml").write_text(
        "networks:\n"
        "- {parent: lenet5-mnist-0, data: set.npz, labels: mine.csv}\n"
        "- {parent: lenet5-mnist-0, data: set.npz}\n"
        "calibration: {images: 8}\n"
    )
    spec = absolute_paths(load_run_spec(tmp_path / "run.yaml"), tmp_path)
    assert spec.networks[0].labels == str(table)
    one, other = gather(spec).evaluation or (None, None)
    assert one is not None
    assert other is None
    assert one[1].tolist() == ((one[0].mean((1, 2, 3)) * 25.5).round().int() % 2).tolist()
