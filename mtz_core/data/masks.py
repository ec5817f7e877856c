"""Labels as masks: a folder of images beside a folder of masks with the same names, for networks that label pixels.

A mask is a PNG file with one channel, or with a palette, of the size of its image. Its numbers are classes, and 255
does not count. Coloured masks are refused: which colour is which of a network's outputs stands nowhere.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mtz_core.data.reading import Preparation
from mtz_core.data.sources import (
    MOST_IMAGES,
    SUFFIXES,
    UNREADABLE,
    ImageFiles,
    check_inside,
    check_pixels,
    upright_size,
)
from mtz_core.errors import DataError
from mtz_core.spec import TransformSpec

IMAGES = "images"
FOLDERS = ("masks", "labels", "annotations")
"""What the folder of masks may be called."""
IGNORED = 255
"""The number of a pixel that does not count."""
LOOKED_AT = 32
"""Masks that are read when a folder is listed, spread over all of them."""
REMEDY = "save it as a PNG with one channel of class numbers, Image.fromarray(classes.astype('uint8')).save(path)"


@dataclass(frozen=True)
class MaskedImages(ImageFiles):
    """Image files of a folder, each with a mask of classes; nothing is decoded yet."""

    masks: tuple[Path, ...]

    def read_masks(self, indices: NDArray[np.int64], how: Preparation) -> NDArray[np.int64]:
        """Decode some masks, (n, height, width): cropped as their images are, and resized to the nearest pixel.

        Raises `DataError` for a mask that is no PNG with one channel of 8 bits, or is not of its image's size.
        """
        self.fits(how)
        assert isinstance(how, TransformSpec)  # as `fits` has it
        _, height, width = how.shape
        found = np.empty((len(indices), height, width), np.int64)
        for k, index in enumerate(indices):
            mask = self.mask(int(index))
            bleed = (1.0 - how.crop) / 2
            found[k] = np.asarray(ImageOps.fit(mask, (width, height), Image.Resampling.NEAREST, bleed=bleed))
        return found

    def mask(self, index: int) -> Image.Image:
        """Decode one mask as it is stored, as a grey image. Raises `DataError` as `read_masks` does."""
        image, file = self.files[index], self.masks[index]
        check_inside(image, self.folder)
        check_inside(file, self.folder)
        mask, size = _decoded(file), upright_size(image)
        if mask.size != size:
            raise DataError(
                f"{file}: the mask has {mask.width} × {mask.height} pixels, its image {image.name} {size[0]} × "
                f"{size[1]}; make them alike (a mask without blending, to the nearest pixel)"
            )
        return mask


def mask_folder(folder: Path) -> Path | None:
    """The folder of masks beside a folder of images, if there is one: the first that holds PNG files."""
    if not (folder / IMAGES).is_dir():
        return None
    there = [folder / name for name in FOLDERS if (folder / name).is_dir()]
    return next((each for each in there if any(each.rglob("*.png"))), there[0] if there else None)


def list_by_masks(folder: Path, images: Path, masks: Path) -> MaskedImages:
    """List the images in `images` with the masks in `masks` that have the same names up to the ending.

    All lie within `folder`. Some masks are read at once, so that what is wrong with all of them is found here.
    Raises `DataError` for an image without a mask or the other way round, two images of one name, a link that leads
    outside, and masks that can't be read.
    """
    whole = folder.resolve()
    pictures, labels = (_by_stem(part, whole, endings) for part, endings in ((images, SUFFIXES), (masks, {".png"})))
    for found, other, what, where in ((pictures, labels, "mask", masks), (labels, pictures, "image", images)):
        if missing := sorted(set(found) - set(other)):
            more = f" (nor have {len(missing) - 1:,} others)" if len(missing) > 1 else ""
            ending = ".png" if what == "mask" else ""
            raise DataError(
                f"{found[missing[0]]} has no {what} {missing[0][:80]}{ending} in {where}{more}; put it there, or take "
                "away what has none"
            )
    stems = sorted(pictures)
    if len(stems) < 2:
        raise DataError(f"{images} holds {len(stems)} images ({', '.join(sorted(SUFFIXES))}); expected two at least")
    if len(stems) > MOST_IMAGES:
        raise DataError(f"{images} holds {len(stems):,} images; at most {MOST_IMAGES:,} fit, so keep fewer")
    listed = MaskedImages(whole, tuple(pictures[s] for s in stems), tuple(labels[s] for s in stems))
    _check_some(listed, masks)
    return listed


def _by_stem(part: Path, whole: Path, endings: set[str]) -> dict[str, Path]:
    """Files by their names up to the ending."""
    check_inside(part, whole)
    if not part.is_dir():
        raise DataError(f"{part} is no folder; images and masks need the same subfolders")
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for file in sorted(part.iterdir()):
        if file.suffix.lower() in endings and not file.name.startswith("."):
            found[file.stem].append(file)
    for files in found.values():
        if len(files) > 1:
            raise DataError(f"{part} holds {files[0].name} and {files[1].name}, which have one mask; keep one of both")
    return {stem: files[0] for stem, files in found.items()}


def _check_some(listed: MaskedImages, masks: Path) -> None:
    """Read some masks: all of them, if they are few."""
    some = np.unique(np.linspace(0, len(listed.files) - 1, LOOKED_AT).round().astype(int))
    values = set[int]()
    for index in some:
        values |= set(np.unique(np.asarray(listed.mask(int(index)))).tolist())
    if values <= {0, IGNORED} and IGNORED in values:
        raise DataError(
            f"{masks}: masks hold {' and '.join(map(str, sorted(values)))} only, and {IGNORED} does not count, which "
            "leaves nothing to tell apart; write the class of a pixel as its number, 0, 1, 2, …"
        )


def _decoded(file: Path) -> Image.Image:
    """The numbers of a mask as a grey image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning; the check below is stricter
            with Image.open(file, formats=("PNG",)) as image:
                check_pixels(image, file)
                if image.mode[0] == "I":
                    raise DataError(f"{file}: a mask of more than 8 bits ({image.mode}); {REMEDY}")
                if image.mode not in ("1", "L", "P"):
                    raise DataError(
                        f"{file}: a mask in colours ({image.mode}), and nothing says which colour is which class; "
                        + REMEDY
                    )
                return Image.fromarray(np.asarray(image).astype(np.uint8))
    except UNREADABLE as error:
        raise DataError(f"{file}: damaged, or no PNG image ({error}); replace or remove it") from error
