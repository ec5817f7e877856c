"""Images of your own: torchvision's data sets, and folders with one subfolder per class.

Both give images float32 (N, channels, height, width) in [0, 1], labels int64 (N,), and the classes' names.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from mtz_core.data.fullsets import without_bundled
from mtz_core.data.label_table import read_label_table
from mtz_core.data.reading import Preparation, Reading
from mtz_core.data.records import RECORDS, read_records
from mtz_core.data.torchvision import import_torchvision
from mtz_core.data.transform import check_prepared, normalised
from mtz_core.errors import DataError, SpecError
from mtz_core.spec import TransformSpec
from mtz_core.system.memory import check_room

Labelled = tuple[Tensor, Tensor, tuple[str, ...]]

MOST_IMAGES = 200_000
MOST_PIXELS = 50_000_000  # of one image, checked in its header before anything is decoded
MOST_SIDE = 65_535
"""Pixels of width or height: every row takes memory of its own, however short it is."""
OPAQUE, PIXEL = ("1", "L", "RGB"), 20
"""Modes of images without transparency, and the bytes that a pixel of any other takes while it is laid on black."""
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError, OverflowError, struct.error),
    Image.DecompressionBombError,
)
"""Whatever Pillow raises at a damaged file."""
ORIENTATION = 0x0112
"""The tag of an image's header that says how a camera was held; 5 to 8 are sideways."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}

_IDX = "raw/{train,t10k}-images-idx3-ubyte and raw/{train,t10k}-labels-idx1-ubyte"
_FILES = {
    "MNIST": f"MNIST/{_IDX}",
    "FashionMNIST": f"FashionMNIST/{_IDX}",
    "KMNIST": f"KMNIST/{_IDX}",
    "EMNIST": "EMNIST/raw/emnist-SPLIT-{train,test}-{images-idx3,labels-idx1}-ubyte",
}
TORCHVISION_SETS = (
    *("MNIST", "FashionMNIST", "KMNIST", "EMNIST-letters", "EMNIST-digits", "EMNIST-balanced", "EMNIST-byclass"),
    *RECORDS,
)
"""Data sets of torchvision that are stored without pickles."""
_REFUSED = {
    "SVHN": "it is a MATLAB file",
    "EMNIST": "it has several parts; name one, e.g. EMNIST-letters",
    "ImageNet": "its index is a pickle",
    "Omniglot": "its classes are not the subfolders of one folder",
    "PCAM": "it is an HDF5 file",
    "Caltech101": "its annotations are MATLAB files",
    "Flowers102": "its labels are a MATLAB file",
    "StanfordCars": "its labels are a MATLAB file",
}
_TASKS = {"MNIST": "mnist", "FashionMNIST": "fashion"}


def torchvision_dataset(name: str, root: Path, split: str, download: bool = False) -> Labelled:
    """One part, "train" or "test", of a data set that torchvision knows, in its own image size.

    Only sets kept as plain arrays are supported: no pickle is ever loaded. Training parts leave out the images that
    are bundled for calibration and test. Raises SpecError for an unknown name or split; DataError if files are
    missing, damaged, or cannot be downloaded.
    """
    if name not in TORCHVISION_SETS:
        reason = _REFUSED.get(name, "it is not known to be stored without pickles")
        raise SpecError(
            f"data set {name[:60]!r} is not supported: {reason}. Give a folder with one subfolder of images per class "
            f"instead; supported: {', '.join(TORCHVISION_SETS)}"
        )
    if split not in ("train", "test"):
        raise SpecError(f"split {split!r} is unknown; known: train, test")
    if name in RECORDS:
        pixels, numbers, names = read_records(name, root, split)
        return _scaled(pixels), torch.from_numpy(numbers), names
    datasets = import_torchvision().datasets
    base, _, part = name.partition("-")
    options = {"split": part} if part else {}
    try:
        found = getattr(datasets, base)(str(root), train=split == "train", download=download, **options)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(
            f"{name} is not usable below {root} ({error}); put {root}/{_FILES[base]} there, "
            "or ask for a download where there is a network"
        ) from error
    images: NDArray[np.uint8] = np.asarray(found.data)
    labels = np.asarray(found.targets, np.int64)
    if split == "train" and name in _TASKS:
        images, labels = without_bundled(_TASKS[name], (images, labels))
    shaped = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return _scaled(shaped), torch.from_numpy(labels), tuple(found.classes)


@dataclass(frozen=True)
class ImageFiles:
    """Image files of a folder, not yet decoded."""

    folder: Path
    files: tuple[Path, ...]

    def fits(self, how: Preparation) -> None:
        """Raise `DataError` unless a network reads grey or coloured pictures."""
        if isinstance(how, Reading) or how.channels not in (1, 3):
            told = how.told if isinstance(how, Reading) else f"{how.shape} of float32"
            raise DataError(
                f"{self.folder} holds image files, pictures with 1 or 3 channels; the network reads {told} each. Store "
                "inputs in this shape in an .npz file, numpy.savez(path, inputs=…, labels=…)"
            )

    def read(self, indices: NDArray[np.int64], how: Preparation) -> Tensor:
        """Decode some images, crop and resize each, and normalise it."""
        self.fits(how)
        assert isinstance(how, TransformSpec)  # as `fits` has it
        check_prepared(len(indices), how)
        images = np.empty((len(indices), *how.shape), np.uint8)
        for k, index in enumerate(indices):
            check_inside(self.files[index], self.folder)
            images[k] = _read_image(self.files[index], how)
        return normalised(_scaled(images), how)


@dataclass(frozen=True)
class FolderImages(ImageFiles):
    """Image files of a folder with one subfolder per class, or with a table of labels."""

    labels: NDArray[Any] | None
    """Classes (N,), attributes (N, K) or values (N, K), of which `classes` has the names."""
    classes: tuple[str, ...] | None
    named: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Labels of several outputs by their names, instead."""


def list_images(path: Path) -> FolderImages:
    """List the images in `path`/<class>/.

    Classes are the subfolders in alphabetical order; names that begin with a dot, and files that are not
    images by their suffix, are skipped. Raises DataError for an empty class, or a link that leads outside.
    """
    if not path.is_dir():
        raise DataError(f"{path} is no folder; expected one with a subfolder of images for each class")
    folder = path.resolve()
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise DataError(f"{path} holds {len(classes)} subfolders; expected one for each class, two at least")
    files: list[tuple[Path, int]] = []
    for label, subfolder in enumerate(classes):
        check_inside(subfolder, folder)
        members = sorted(f for f in subfolder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
        if not members:
            raise DataError(f"{subfolder} holds no images ({', '.join(sorted(SUFFIXES))}); fill or remove it")
        files += [(file, label) for file in members]
    if len(files) > MOST_IMAGES:
        raise DataError(f"{path} holds {len(files):,} images; at most {MOST_IMAGES:,} fit, so keep fewer")
    labels = np.array([label for _, label in files], np.int64)
    return FolderImages(folder, tuple(f for f, _ in files), labels, tuple(entry.name for entry in classes))


def list_by_table(path: Path, table: Path, outputs: Sequence[str] = ()) -> FolderImages:
    """List the images in `path` that a table of labels, or of labels of several outputs, names, in its order.

    Names are paths within the folder, or within its subfolder `images`. Raises DataError for a name that leads outside
    or to nothing.
    """
    found, folder = read_label_table(table, outputs), path.resolve()
    homes = [home for home in (folder, folder / "images") if home.is_dir()]
    files = []
    for name in found.files:
        for home in homes:
            check_inside(home / name, folder)
        file = next((home / name for home in homes if (home / name).is_file()), None)
        if file is None:
            raise DataError(f"{table} names {name[:80]!r}, but {path} has no such image; put it there or drop the row")
        files.append(file)
    if len(files) > MOST_IMAGES:
        raise DataError(f"{path} holds {len(files):,} images; at most {MOST_IMAGES:,} fit, so keep fewer")
    return FolderImages(folder, tuple(files), found.labels, found.names, found.named)


def check_inside(entry: Path, folder: Path) -> None:
    """Raise `DataError` for a file or folder that lies outside the resolved `folder`, by a link or by its name."""
    if not entry.resolve().is_relative_to(folder):
        what = "is a link that leads" if entry.is_symlink() else "leads"
        raise DataError(f"{entry} {what} outside {folder}; copy the file into the folder instead")


def check_pixels(image: Image.Image, file: Path) -> None:
    """Raise `DataError` for an opened image that would take too much memory; its header tells, nothing is decoded."""
    what = f"{file}: {image.width:,} × {image.height:,} pixels"
    if image.width * image.height > MOST_PIXELS or max(image.size) > MOST_SIDE:
        raise DataError(
            f"{what} are too many, at most {MOST_PIXELS:,} in all and {MOST_SIDE:,} on a side are read; make it smaller"
        )
    check_room((PIXEL // 2 if image.mode in OPAQUE else PIXEL) * image.width * image.height, what, "make it smaller")


def upright_size(file: Path) -> tuple[int, int]:
    """Width and height of an image as it is shown, by its header. Raises `DataError` if it can't be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                check_pixels(image, file)
                if image.format == "PNG" and "exif" not in image.info:
                    return image.size  # Pillow would decode all of it to look for the tag behind the pixels
                sideways = image.getexif().get(ORIENTATION, 1) in range(5, 9)
                return (image.height, image.width) if sideways else image.size
    except UNREADABLE as error:
        raise DataError(f"{file}: damaged, or no image ({error}); replace or remove it") from error


def _read_image(file: Path, transform: TransformSpec) -> NDArray[np.uint8]:
    channels, height, width = transform.shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning; the check below is stricter
            with Image.open(file, formats=FORMATS) as image:
                check_pixels(image, file)
                if image.mode[0] in "IF":
                    raise DataError(f"{file}: pixels of more than 8 bits ({image.mode}); convert it to 8 bits")
                ImageOps.exif_transpose(image, in_place=True)
                shown = _on_black(image).convert("L" if channels == 1 else "RGB")
    except UNREADABLE as error:
        raise DataError(f"{file}: damaged, or no image ({error}); replace or remove it") from error
    fitted = ImageOps.fit(shown, (width, height), Image.Resampling.BILINEAR, bleed=(1.0 - transform.crop) / 2)
    pixels: NDArray[np.uint8] = np.asarray(fitted)
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _on_black(image: Image.Image) -> Image.Image:
    """An image without transparency: what shows through is black."""
    if image.mode in OPAQUE and "transparency" not in image.info:
        return image
    solid = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", solid.size, "black"), solid)


def _scaled(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.astype(np.float32)) / 255.0
