"""Labels in a CSV file: one row per image, a column with its file name, and one or more of labels.

The file lies beside images, or is given apart from an array of them; its rows are then in the order of the array.

One column of words or whole numbers is a class; columns of 0 and 1 (or -1 and 1, as CelebA has them) are attributes,
each yes or no; any other numbers are values.

Where several outputs of a network have labels, each has columns of its own, read in the same way: the one that is
called as the output, or those whose names are the output's, a point and more (`box.left`, `box.top`).
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.errors import DataError
from mtz_core.system.memory import check_room

NAMES = ("labels.csv", "list_attr.csv", "attributes.csv", "targets.csv")
"""File names that are looked for beside images."""
FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_id", "path", "name")
"""What the column with file names may be called; else it is the first."""
ROW_COLUMNS = ("", "index", "row", "number", "id", "unnamed: 0")
"""What a column that counts the rows may be called; where rows are in order it must count them, and is no label."""
MOST_BYTES = 256 * 2**20
CELL = 100
"""Bytes that a cell takes, as text and as a number."""
MOST_COLUMNS = 1000
MOST_CLASSES = 100_000
ENCODING = "utf-8-sig"


@dataclass(frozen=True)
class LabelTable:
    """Labels by file name: classes int64 (N,), attributes int64 (N, K) of 0 and 1, or values float32 (N, K).

    `names` are those of classes, attributes or values, by number of the output. Where labels of several outputs were
    asked for, `named` has those of each, and `labels` is `None`.
    """

    files: tuple[str, ...]
    labels: NDArray[Any] | None
    names: tuple[str, ...] | None
    named: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def label_file(folder: Path) -> Path | None:
    """The table of labels in a folder of images, if there is one."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read_label_table(path: Path, outputs: Sequence[str] = ()) -> LabelTable:
    """Read a table of labels, or of labels of several `outputs`.

    Raises:
        DataError: it is too large, no CSV, has no labels, a cell that is empty or no number, or one file twice; the
            message names the row.
    """
    header, rows = _cells(path)
    column = next((k for k, name in enumerate(header) if name.strip().lower() in FILE_COLUMNS), 0)
    files = tuple(row[column].strip() for row in rows)
    if len(header) == 1:
        raise DataError(f"{path} has one column; expected a column of file names and one or more of labels")
    if len(set(files)) < len(files):
        twice = next(name for name, count in Counter(files).items() if count > 1)
        raise DataError(f"{path} names {twice[:80]!r} twice; keep one row for each image")
    return _table(path, files, header, rows, [column], outputs)


def read_label_rows(path: Path, count: int, outputs: Sequence[str] = ()) -> LabelTable:
    """Read a table whose rows are in the order of `count` images, with or without a column of names or row numbers.

    Raises:
        DataError: as `read_label_table`; there is another number of rows, or row numbers do not count up.
    """
    header, rows = _cells(path)
    if len(rows) != count:
        raise DataError(f"{path} has {len(rows):,} rows below its header, for {count:,} images; give one row for each")
    names = [k for k, name in enumerate(header) if name.strip().lower() in FILE_COLUMNS]
    counts = [k for k, name in enumerate(header) if name.strip().lower() in ROW_COLUMNS]
    for k in counts:
        numbers = [_number(row[k]) for row in rows]
        if numbers not in (list(range(count)), list(range(1, count + 1))):
            raise DataError(
                f"{path}: column {header[k][:40]!r} does not count the rows from 0 or 1; sort them as the images are, "
                "or rename the column if it is a label"
            )
    if len(names) + len(counts) == len(header):
        raise DataError(f"{path} has no column of labels, only {', '.join(header)[:80]!r}; add one or more")
    files = tuple(row[names[0]].strip() for row in rows) if names else ()
    return _table(path, files, header, rows, [*names, *counts], outputs)


def _table(
    path: Path,
    files: tuple[str, ...],
    header: list[str],
    rows: list[list[str]],
    others: Collection[int],
    outputs: Sequence[str],
) -> LabelTable:
    """Labels in all columns but the `others`; of each of the outputs in its own columns."""
    if not outputs:
        return LabelTable(files, *_labels(path, header, rows, others))
    owners = [None if k in others else _owner(name.strip(), outputs) for k, name in enumerate(header)]
    for output in outputs:
        if output not in owners:
            listed = ", ".join(name.strip() for k, name in enumerate(header) if k not in others)
            raise DataError(
                f"{path} has no labels for {output[:80]!r}: its columns are {listed[:400]}. Call the column "
                f"{output[:80]!r}, or several {output[:80]}.1, {output[:80]}.2 …"
            )
    every = range(len(header))
    named = {o: _labels(path, header, rows, [k for k in every if owners[k] != o])[0] for o in outputs}
    return LabelTable(files, None, None, named)


def _owner(column: str, outputs: Sequence[str]) -> str | None:
    """The output that a column belongs to: of those whose name it has or begins with, the longest."""
    fitting = [output for output in outputs if column == output or column.startswith(f"{output}.")]
    return max(fitting, key=len, default=None)


def _labels(
    path: Path, header: list[str], rows: list[list[str]], others: Collection[int]
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Labels in all columns but the `others`, and the names of classes, attributes or values."""
    chosen = [k for k in range(len(header)) if k not in others]
    names, columns = tuple(header[k].strip() for k in chosen), [[row[k].strip() for row in rows] for k in chosen]
    if len(columns) == 1 and not all(_number(cell) is not None for cell in columns[0]):
        if "" in columns[0]:
            raise DataError(
                f"{path}: column {names[0][:40]!r} is empty in row {columns[0].index('') + 2}; give every image a label"
            )
        classes = tuple(sorted(set(columns[0])))
        if len(classes) > MOST_CLASSES:
            raise DataError(f"{path}: column {names[0][:40]!r} has {len(classes):,} classes; is it a file name?")
        number = {name: k for k, name in enumerate(classes)}
        return np.array([number[cell] for cell in columns[0]], np.int64), classes
    numbers = np.array([_numbers(path, name, column) for name, column in zip(names, columns, strict=True)]).T
    found = set(np.unique(numbers).tolist()) if numbers.size < 10**8 else set()
    if len(columns) > 1 and (found <= {0.0, 1.0} or found <= {-1.0, 1.0}):
        return (numbers > 0).astype(np.int64), names
    if len(columns) == 1 and bool((numbers == np.round(numbers)).all()) and numbers.min() >= 0:
        if numbers.max() >= MOST_CLASSES:
            raise DataError(
                f"{path}: column {names[0][:40]!r} goes up to {numbers.max():.0f}; expected classes 0, 1, 2, …"
            )
        classes = tuple(str(k) for k in range(int(numbers.max()) + 1))
        return numbers[:, 0].astype(np.int64), classes
    return numbers.astype(np.float32), names


def _cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows, all of one length."""
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{path} has more than {MOST_BYTES // 2**20} MiB; keep the columns that are needed")
    try:
        with path.open(encoding=ENCODING, newline="") as stream:
            start = stream.read(4096)
            stream.seek(0)
            first = start.partition("\n")[0]
            lines = csv.reader(stream, delimiter=max(",;\t", key=first.count))
            rows = list(_counted(path, lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no table of comma-separated values ({error}); save it as CSV in UTF-8") from error
    if len(rows) < 3 or not 1 <= len(rows[0]) <= MOST_COLUMNS:
        raise DataError(f"{path} has {max(0, len(rows) - 1)} rows; expected a header and two images at least")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise DataError(f"{path}: row {number} has {len(row)} cells, the header {len(rows[0])}; complete it")
    return rows[0], rows[1:]


def _counted(path: Path, lines: Iterable[list[str]]) -> Iterator[list[str]]:
    """Rows that are not empty, as long as there is memory for all of them."""
    cells = 0
    for row in lines:
        if any(cell.strip() for cell in row):
            cells += len(row)
            check_room(CELL * cells, f"{path}: {cells:,} cells or more", "keep the columns that are needed")
            yield row


def _number(cell: str) -> float | None:
    try:
        found = float(cell)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _numbers(path: Path, name: str, column: list[str]) -> list[float]:
    found = [_number(cell) for cell in column]
    if None in found:
        at = found.index(None)
        raise DataError(
            f"{path}: column {name[:40]!r} has {column[at][:40]!r} in row {at + 2}; expected a number in every row"
        )
    return [value for value in found if value is not None]
