"""What is brought takes no more memory than its share: sizes are checked before reading, and a process is watched."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mtz_core.data.arrays import read_arrays
from mtz_core.data.imageset import array_set
from mtz_core.data.label_table import read_label_table
from mtz_core.data.sources import list_images
from mtz_core.data.uploads import keep
from mtz_core.errors import CheckpointError, DataError, MTZError, SpecError
from mtz_core.own.ask import ask
from mtz_core.own.exported import read_exported
from mtz_core.own.files import file_kind
from mtz_core.spec import TransformSpec
from mtz_core.system import memory
from mtz_core.system.paths import child_environment

MIB = 2**20


class Sum(nn.Module):
    """A network with many parameters of one shape."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.rows = nn.ParameterList(torch.eye(size) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for row in self.rows:
            x = x @ row
        return x


class Wide(nn.Module):
    """A small network with large activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 256, 3, padding=1), nn.Linear(256, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).amax((2, 3)))  # type: ignore[no-any-return]


def exported(module: nn.Module, shape: tuple[int, ...]) -> bytes:
    buffer, batch = io.BytesIO(), torch.export.Dim("batch")
    torch.export.save(
        torch.export.export(module.eval(), (torch.rand(2, *shape),), dynamic_shapes=({0: batch},)), buffer
    )
    return buffer.getvalue()


def one_blob_for_all(data: bytes) -> bytes:
    """The same program, whose parameters all name the numbers of the first, which alone are in the file."""
    out, first = io.BytesIO(), ""
    with zipfile.ZipFile(io.BytesIO(data)) as read, zipfile.ZipFile(out, "w") as written:
        for name in read.namelist():
            content = read.read(name)
            if name.endswith("model_weights_config.json"):
                config = json.loads(content)
                first = next(iter(config["config"].values()))["path_name"]
                for entry in config["config"].values():
                    entry["path_name"] = first
                content = json.dumps(config).encode()
            if "/data/weights/weight_" not in name or name.endswith("/weight_0"):
                written.writestr(name, content)
    return out.getvalue()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """A process that may take 64 MiB: 16 for weights, 8 for data."""
    monkeypatch.setenv("MTZ_MEMORY", "64M")
    return 64 * MIB


def packed(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def png(size: tuple[int, int], mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def folder(path: Path, content: bytes) -> Path:
    for name in ("a", "b"):
        (path / name).mkdir(parents=True)
        (path / name / "x.png").write_bytes(content)
    return path


def images_of(path: Path, size: int = 8, count: int = 2) -> Tensor:
    return list_images(path).read(np.zeros(count, np.int64), TransformSpec(size=size))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


GROWING: dict[str, Callable[[Path], object]] = {
    "floats that zip well": lambda p: read_arrays(written(p, packed(images=np.zeros((2000, 28, 28))))),
    "labels that zip well": lambda p: read_arrays(
        written(p, packed(images=np.zeros((500, 28, 28), np.uint8), labels=np.zeros((500, 28, 28), np.uint8)))
    ),
    "one more array": lambda p: read_arrays(
        written(p, packed(**{n: np.zeros((5 * MIB // 784, 28, 28), np.uint8) for n in ("images", "x_test")}))
    ),
    "a large image in an array": lambda p: array_set(
        read_arrays(written(p, packed(images=np.zeros((2, 1600, 1600), np.uint8))))[0].images
    ).images(np.arange(2), TransformSpec()),
    "a palette": lambda p: images_of(folder(p, png((3000, 3000), "P"))),
    "transparency": lambda p: images_of(folder(p, png((1000, 1000), "RGBA"))),
    "many prepared images": lambda p: images_of(folder(p, png((8, 8))), 1024, 3),
    "a table of short cells": lambda p: read_label_table(written(p, b"file,a\n" + b"1,1\n" * 60_000)),
}  # fmt: skip


@pytest.mark.parametrize("name", GROWING)
def test_what_grows_in_memory_is_refused_before_it_is_read(tmp_path: Path, small: int, name: str) -> None:
    with pytest.raises(memory.RoomError, match=r"this takes .* of memory, and at most 8 MiB .*\$MTZ_MEMORY") as refused:
        GROWING[name](tmp_path / "brought")
    if "prepared" not in name and name[-5:] != "array":
        assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("name", GROWING)
def test_the_same_is_read_where_there_is_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MTZ_MEMORY", "16G")
    with pytest.raises(DataError, match="twice") if name == "a table of short cells" else nullcontext():
        GROWING[name](tmp_path / "brought")


@pytest.mark.parametrize("size", [(1, 70_000), (70_000, 1)])
def test_an_image_of_endless_rows_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="65,535 on a side"):
        images_of(folder(tmp_path, png(size)))


def test_one_blob_counts_as_often_as_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = exported(Sum(30, 256), (1, 16, 16))
    file = written(tmp_path / "net.pt2", one_blob_for_all(honest))
    assert file.stat().st_size < len(honest) / 8
    monkeypatch.setenv("MTZ_MEMORY", "1G")
    assert len(list(read_exported(file).module.parameters())) == 30
    monkeypatch.setenv("MTZ_MEMORY", "48M")
    read = []
    monkeypatch.setattr("mtz_core.own.archive.Archive._tensor", lambda *given: read.append(given))
    with pytest.raises(memory.RoomError, match=r"net\.pt2: its 30 tensors declare 1,966,080 numbers"):
        read_exported(file)
    assert not read


def test_an_archive_that_lists_entries_without_end_is_refused(tmp_path: Path) -> None:
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 4) + bytes(16) + b"name"
    count = 17 * MIB // len(entry)
    end = b"PK\x05\x06" + bytes(4) + struct.pack("<HHII", 65535, 65535, count * len(entry), 0) + bytes(2)
    file = written(tmp_path / "net.pt", entry * count + end)
    file.write_bytes(b"PK\x03\x04" + file.read_bytes()[4:])
    with pytest.raises(CheckpointError, match="its list of entries has 17,"):
        file_kind(file)


def test_a_process_that_takes_more_ends_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTZ_UPLOADS", str(tmp_path))
    name = keep(exported(Wide(), (1, 256, 256)))
    monkeypatch.setenv("MTZ_MEMORY", "320M")
    with pytest.raises(CheckpointError, match=r"took more than 0.3 GiB of memory.*\$MTZ_MEMORY"):
        ask({"do": "inspect", "upload": name})
    monkeypatch.setenv("MTZ_MEMORY", "4G")
    assert ask({"do": "inspect", "upload": name})["classes"] == 2


def test_a_command_of_the_dashboard_ends_likewise() -> None:
    script = (
        "from mtz_core.system import memory; memory.watch(memory.given(), memory.end_process);"
        "import time, numpy; kept = numpy.ones(2**25); time.sleep(20)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=child_environment(128 * MIB), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "took more than 0.1 GiB of memory" in ended.stderr


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 2**32), ("800M", 800 * MIB), ("1.5GiB", 3 * 2**29), ("123", 123), ("2 tb", 2**41)]
)
def test_the_limit_is_what_is_asked_for(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("MTZ_MEMORY", text)
    assert memory.reading_limit() == memory.run_limit() == size


@pytest.mark.parametrize("text", ["-1", "0", "1e9", "200%", "much", "4GG", "nan", "9" * 30])
def test_a_limit_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MTZ_MEMORY", text)
    with pytest.raises(SpecError, match="MTZ_MEMORY"):
        memory.reading_limit()


def test_by_default_nothing_takes_the_whole_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTZ_MEMORY", raising=False)
    for total, jobs in ((2**31, 1), (2**33, 4), (2**38, 32)):
        monkeypatch.setattr(memory, "machine", lambda total=total: total)
        monkeypatch.setattr(memory, "jobs_at_once", lambda jobs=jobs: jobs)
        assert memory.reading_limit() <= total // 2
        assert memory.reading_limit() <= memory.run_limit() <= total * 4 // 5
    assert issubclass(memory.RoomError, MTZError)
