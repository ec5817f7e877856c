"""Labels as masks beside images: what is read is what was drawn, cropped and resized as the images are."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mtz_core.data.tasks import read_task
from mtz_core.errors import DataError, MTZError
from mtz_core.own.adding import add_network
from mtz_core.runs.inputs import gather, most_images
from mtz_core.spec import NetworkSpec, TransformSpec, TypeSpec, parse_run_spec

COUNT = 10
HEIGHT, WIDTH = 6, 10
PALETTE = [value for k in range(256) for value in (k * 37 % 256, k * 91 % 256, k * 13 % 256)]


def drawn(seed: int) -> np.ndarray:
    """Classes 0 to 3 and what does not count, (HEIGHT, WIDTH)."""
    return np.random.default_rng(seed).choice([0, 1, 2, 3, 255], (HEIGHT, WIDTH)).astype(np.uint8)


def write(images: Path, masks: Path, first: int = 0, count: int = COUNT, suffix: str = "png") -> None:
    """Images of brightness 20 k with the mask `drawn(k)`, every other one with a palette."""
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    for k in range(first, first + count):
        Image.new("L", (WIDTH, HEIGHT), 20 * k).save(images / f"shot.{k:02}.{suffix}")
        mask = Image.fromarray(drawn(k))
        if k % 2:
            mask.putpalette(PALETTE)
        mask.save(masks / f"shot.{k:02}.png")


def nearest(mask: np.ndarray, size: int, crop: float) -> np.ndarray:
    """The class under the centre of every pixel of the central square, by definition."""
    side = min(mask.shape) * crop
    top, left = (mask.shape[0] - side) / 2, (mask.shape[1] - side) / 2
    at = [[int(start + (k + 0.5) * side / size) for k in range(size)] for start in (top, left)]
    return mask[np.ix_(*at)]


def parts(path: Path, transform: TransformSpec) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the images, and their masks, for calibration and for evaluation."""
    task = read_task(str(path))
    assert task.test is not None
    assert task.classes is None
    found = []
    for part in (task.calibration, task.test):
        x, y = part.labelled(np.arange(len(part)), transform)
        assert y.dtype == torch.int64
        found.append(((x.mean((1, 2, 3)).numpy() * 255 / 20).round().astype(int), y.numpy()))
    return found


@pytest.mark.parametrize("name", ["masks", "labels", "annotations"])
@pytest.mark.parametrize(("size", "crop"), [(6, 1.0), (4, 1.0), (12, 1.0), (4, 0.6)])
def test_a_mask_is_cropped_and_resized_with_its_image(tmp_path: Path, name: str, size: int, crop: float) -> None:
    write(tmp_path / "images", tmp_path / name)
    (tmp_path / name / "README.txt").write_text("not a mask")
    (tmp_path / "images" / ".hidden.png").write_text("not an image")
    found = parts(tmp_path, TransformSpec(size=size, crop=crop))
    assert [len(numbers) for numbers, _ in found] == [8, 2]
    assert sorted(np.concatenate([numbers for numbers, _ in found])) == list(range(COUNT))
    for numbers, masks in found:
        for k, mask in zip(numbers, masks, strict=True):
            assert np.array_equal(mask, nearest(drawn(k), size, crop))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("first", "test"), [("train", "val"), ("train", "test"), ("calibration", "test")])
def test_halves_stay_apart(tmp_path: Path, inside: bool, first: str, test: str) -> None:
    for half, start, count in ((first, 0, 7), (test, 7, 3)):
        places = [tmp_path / kind / half if inside else tmp_path / half / kind for kind in ("images", "masks")]
        write(places[0], places[1], start, count)
    (one, masks), (other, _) = parts(tmp_path, TransformSpec(size=6))
    assert (one.tolist(), other.tolist()) == (list(range(7)), [7, 8, 9])
    assert all(np.array_equal(mask, nearest(drawn(k), 6, 1.0)) for k, mask in zip(one, masks, strict=True))


def test_class_folders_may_have_a_half_called_val(tmp_path: Path) -> None:
    for half in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / half / name).mkdir(parents=True)
            Image.new("L", (6, 6)).save(tmp_path / half / name / "1.png")
    task = read_task(str(tmp_path))
    assert task.test is not None
    assert (task.classes, len(task.calibration), len(task.test)) == (("cat", "dog"), 2, 2)


def test_a_mask_fits_the_picture_as_it_is_shown_not_as_the_camera_stored_it(tmp_path: Path) -> None:
    write(tmp_path / "images", tmp_path / "masks", suffix="jpg")
    for k in range(COUNT):
        picture, exif = Image.new("L", (HEIGHT, WIDTH), 20 * k), Image.Exif()
        exif[0x0112] = 6
        picture.save(tmp_path / "images" / f"shot.{k:02}.jpg", exif=exif, quality=100)
    for numbers, masks in parts(tmp_path, TransformSpec(size=6)):
        assert all(np.array_equal(mask, nearest(drawn(k), 6, 1.0)) for k, mask in zip(numbers, masks, strict=True))


def bomb(path: Path) -> None:
    """A PNG file of a few bytes that says it has 2³¹ pixels."""
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", 2**16, 2**15, 8, 0, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"\0" * 100)),
            (b"IEND", b""),
        )
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def all_masks(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for file in path.parent.iterdir():
        Image.fromarray(change(np.array(Image.open(file)))).save(file)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda mask: mask.unlink(), r"shot.04.png has no mask shot.04.png in .*masks; put it there"),
    "left over": (lambda mask: (mask.parents[1] / "images" / mask.name).unlink(), r"shot.04.png has no image shot.04"),
    "another size": (
        lambda mask: Image.new("L", (HEIGHT, WIDTH)).save(mask),
        "the mask has 6 × 10 pixels, its image shot.04.png 10 × 6",
    ),
    "coloured": (lambda mask: Image.new("RGB", (WIDTH, HEIGHT)).save(mask), r"in colours \(RGB\).* Image.fromarray"),
    "see-through": (lambda mask: Image.new("RGBA", (WIDTH, HEIGHT)).save(mask), r"in colours \(RGBA\)"),
    "16 bits": (lambda mask: Image.new("I;16", (WIDTH, HEIGHT)).save(mask), "more than 8 bits"),
    "no png": (lambda mask: Image.new("L", (WIDTH, HEIGHT)).save(mask, "JPEG"), "damaged, or no PNG image"),
    "cut off": (lambda mask: mask.write_bytes(mask.read_bytes()[:60]), "damaged, or no PNG image"),
    "a bomb": (bomb, "65536 × 32768 pixels are too many|exceeds limit"),
    "an image too large": (lambda mask: bomb(mask.parents[1] / "images" / mask.name), "too many|exceeds limit"),
    "only 0 and 255": (
        lambda mask: all_masks(mask, lambda classes: np.where(classes > 1, 255, 0).astype(np.uint8)),
        "hold 0 and 255 only, and 255 does not count",
    ),
    "two images": (
        lambda mask: Image.new("L", (WIDTH, HEIGHT)).save(mask.parents[1] / "images" / "shot.04.jpg"),
        "shot.04.jpg and shot.04.png, which have one mask",
    ),
    "no masks": (lambda mask: [file.unlink() for file in mask.parent.iterdir()], "nor have 9 others"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_what_is_wrong_with_masks_is_said(tmp_path: Path, name: str) -> None:
    write(tmp_path / "images", tmp_path / "masks")
    breaks, says = BROKEN[name]
    breaks(tmp_path / "masks" / "shot.04.png")
    with pytest.raises(DataError, match=says):
        read_task(str(tmp_path))


def test_a_mask_that_leads_elsewhere_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "data" / "images", tmp_path / "data" / "masks")
    mask = tmp_path / "data" / "masks" / "shot.04.png"
    mask.rename(tmp_path / "secret.png")
    mask.symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="is a link that leads outside"):
        read_task(str(tmp_path / "data"))
    mask.parent.rename(tmp_path / "elsewhere")
    mask.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link that leads outside"):
        read_task(str(tmp_path / "data"))


def test_what_is_said_of_a_type_keeps_what_the_masks_leave_out(tmp_path: Path) -> None:
    write(tmp_path / "images", tmp_path / "masks")
    data = read_task(str(tmp_path))
    assert data.asked(None, 4) == TypeSpec(kind="multiclass", ignore_index=255)
    assert data.asked(None, 1) == TypeSpec(kind="binary", ignore_index=255)
    assert data.asked(TypeSpec(kind="multiclass", axis=1), 4) == TypeSpec(kind="multiclass", axis=1, ignore_index=255)
    assert data.asked(TypeSpec(kind="multiclass", ignore_index=0), 4) == TypeSpec(kind="multiclass", ignore_index=0)
    assert data.asked(TypeSpec(kind="regression"), 1) == TypeSpec(kind="regression")


class Constant(nn.Module):
    """Answers every pixel with one class, whatever the image."""

    def __init__(self, classes: int, always: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, classes, 1)
        nn.init.zeros_(self.last.weight)
        with torch.no_grad():
            self.last.bias.copy_(torch.arange(classes).eq(always))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


def program(path: Path, classes: int, always: int, size: int) -> Path:
    shapes = ({0: torch.export.Dim("batch")},)
    example = (torch.zeros(2, 1, size, size),)
    torch.export.save(torch.export.export(Constant(classes, always).eval(), example, dynamic_shapes=shapes), path)
    return path


def test_a_network_is_judged_by_the_pixels_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTZ_UPLOADS", str(tmp_path / "uploads"))
    write(tmp_path / "data" / "images", tmp_path / "data" / "masks")
    spec = {"architecture": "exported", "weights": str(program(tmp_path / "net.pt2", 4, 2, 8))}
    network = NetworkSpec(**spec, data=str(tmp_path / "data"))
    (_, _), (numbers, _) = parts(tmp_path / "data", TransformSpec(size=8))
    masks = np.stack([nearest(drawn(k), 8, 1.0) for k in numbers])
    added = add_network(network)
    assert added.images == 2
    assert added.error == pytest.approx(100 * (masks[masks != 255] != 2).mean())
    few = program(tmp_path / "few.pt2", 3, 0, 8)
    with pytest.raises(DataError, match="labels from 0 to 3, but the network tells 3 classes apart"):
        add_network(NetworkSpec(**spec | {"weights": str(few)}, data=str(tmp_path / "data")))
    inputs = gather(parse_run_spec({"networks": [network.model_dump()] * 2, "calibration": {"images": 5}}))
    assert inputs.types == [TypeSpec(kind="multiclass", ignore_index=255)] * 2
    assert inputs.evaluation is not None
    pair = inputs.evaluation[0]
    assert pair is not None
    assert pair[1].shape == (2, 8, 8)


def test_masks_take_their_part_of_the_memory() -> None:
    transform = TransformSpec(size=64, channels=3)
    with_masks, without = (most_images(transform, masks) for masks in (True, False))
    assert with_masks * 64 * 64 * (3 * 4 + 8) <= without * 64 * 64 * 3 * 4 <= 4 * 2**30


def test_no_damage_is_answered_by_anything_but_a_message(tmp_path: Path) -> None:
    write(tmp_path / "images", tmp_path / "masks")
    mask, chance = tmp_path / "masks" / "shot.04.png", np.random.default_rng(0)
    whole = mask.read_bytes()
    said = []
    for _ in range(200):
        damaged = bytearray(whole)
        for at in chance.integers(0, len(whole), 3):
            damaged[at] = chance.integers(256)
        mask.write_bytes(bytes(damaged[: chance.integers(1, len(whole) + 1)]))
        try:
            read_task(str(tmp_path))
        except MTZError as error:
            said.append(str(error))
    assert len(said) > 150
    assert all("shot.04.png" in each for each in said)
