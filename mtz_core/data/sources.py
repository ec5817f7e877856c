"""Images of your own: torchvision's data sets, and folders with one subfolder per class.

Both give images float32 (N, channels, height, width) in [0, 1], labels int64 (N,), and the classes' names.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mtz_core.data.fullsets import without_bundled
from mtz_core.errors import DataError, SpecError
from mtz_core.torchvision_compat import import_torchvision

Labelled = tuple[Tensor, Tensor, tuple[str, ...]]

MOST_IMAGES = 200_000
MOST_PIXELS = 50_000_000  # of one image, checked in its header before anything is decoded
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}

_IDX = "raw/{train,t10k}-images-idx3-ubyte and raw/{train,t10k}-labels-idx1-ubyte"
_FILES = {
    "MNIST": f"MNIST/{_IDX}",
    "FashionMNIST": f"FashionMNIST/{_IDX}",
    "KMNIST": f"KMNIST/{_IDX}",
}
_TASKS = {"MNIST": "mnist", "FashionMNIST": "fashion"}


def torchvision_dataset(name: str, root: Path, split: str, download: bool = False) -> Labelled:
    """One part, "train" or "test", of a data set that torchvision knows, in its own image size.

    Only sets kept as plain arrays are supported: others, such as CIFAR, are pickles, and no pickle is ever loaded.
    Training parts leave out the images that are bundled for calibration and test. Raises SpecError for an
    unknown name or split; DataError if files are missing, damaged, or cannot be downloaded.
    """
    if name not in _FILES:
        raise SpecError(f"data set {name!r} is not supported; supported: {', '.join(_FILES)}")
    if split not in ("train", "test"):
        raise SpecError(f"split {split!r} is unknown; known: train, test")
    datasets = import_torchvision().datasets
    try:
        found = getattr(datasets, name)(str(root), train=split == "train", download=download)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(
            f"{name} is not usable below {root} ({error}); put {root}/{_FILES[name]} there, "
            "or ask for a download where there is a network"
        ) from error
    images: NDArray[np.uint8] = np.asarray(found.data)
    labels = np.asarray(found.targets, np.int64)
    if split == "train" and name in _TASKS:
        images, labels = without_bundled(_TASKS[name], (images, labels))
    shaped = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return _scaled(shaped), torch.from_numpy(labels), tuple(found.classes)


def image_folder(path: Path, size: int = 28, channels: int = 1) -> Labelled:
    """All images in `path`/<class>/, cropped centrally to squares and resized to size × size.

    Classes are the subfolders in alphabetical order; names that begin with a dot, and files that are not
    images by their suffix, are skipped. Transparent parts become black. `channels` is 1 (grey) or 3 (RGB).
    Raises DataError for a damaged, oversized or 16-bit image, an empty class, or a link that leads outside.
    """
    if channels not in (1, 3) or not 1 <= size <= 1024:
        raise SpecError(f"channels={channels}, size={size}: expected 1 or 3 channels and a size from 1 to 1024")
    if not path.is_dir():
        raise DataError(f"{path} is no folder; expected one with a subfolder of images for each class")
    folder = path.resolve()
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise DataError(f"{path} holds {len(classes)} subfolders; expected one for each class, two at least")
    files: list[tuple[Path, int]] = []
    for label, subfolder in enumerate(classes):
        _inside(subfolder, folder)
        members = sorted(f for f in subfolder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
        if not members:
            raise DataError(f"{subfolder} holds no images ({', '.join(sorted(SUFFIXES))}); fill or remove it")
        files += [(file, label) for file in members]
    if len(files) > MOST_IMAGES:
        raise DataError(f"{path} holds {len(files):,} images; at most {MOST_IMAGES:,} fit, so keep fewer")
    images = np.empty((len(files), channels, size, size), np.uint8)
    for i, (file, _) in enumerate(files):
        _inside(file, folder)
        images[i] = _read_image(file, size, channels)
    labels = torch.tensor([label for _, label in files])
    return _scaled(images), labels, tuple(subfolder.name for subfolder in classes)


def _inside(entry: Path, folder: Path) -> None:
    if not entry.resolve().is_relative_to(folder):
        raise DataError(f"{entry} is a link that leads outside {folder}; copy the file into the folder instead")


def _read_image(file: Path, size: int, channels: int) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning; the check below is stricter
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise DataError(f"{file}: {image.width} × {image.height} pixels are too many; make it smaller")
                if image.mode[0] in "IF":
                    raise DataError(f"{file}: pixels of more than 8 bits ({image.mode}); convert it to 8 bits")
                upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, UnidentifiedImageError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: damaged, or no image ({error}); replace or remove it") from error
    flat = Image.alpha_composite(Image.new("RGBA", upright.size, "black"), upright)
    fitted = ImageOps.fit(flat.convert("L" if channels == 1 else "RGB"), (size, size), Image.Resampling.BILINEAR)
    pixels: NDArray[np.uint8] = np.asarray(fitted)
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)


def _scaled(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.astype(np.float32)) / 255.0
