"""Labels beside images: classes, attributes and values from a CSV file, and from NumPy files of any shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtz_core.data.label_table import read_label_table
from mtz_core.data.tasks import read_task
from mtz_core.errors import DataError
from mtz_core.spec import TransformSpec

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
