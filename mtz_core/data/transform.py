"""From stored images to a network's input: crop, resize, make grey or RGB, normalise.

One definition for every source of images. What a user may change stands in `TransformSpec`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.errors import DataError
from mtz_core.spec import TransformSpec
from mtz_core.system.memory import check_room

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R 601)."""
CHUNK = 64
MOST_AT_ONCE = 2**28
"""Bytes that large images take while they are prepared; a single one may take more."""


def prepare_images(images: NDArray[Any], transform: TransformSpec) -> Tensor:
    """Return images (N, C, H, W), bytes or floating point numbers, as a network reads them.

    The central part (see `window`) is resized; grey becomes RGB by repetition and RGB grey by `GREY`; then
    (x - mean) / std, channel by channel. Bytes are divided by 255 before.

    >>> prepare_images(np.full((2, 1, 28, 28), 255, np.uint8), TransformSpec()).shape
    torch.Size([2, 1, 28, 28])
    """
    check_prepared(len(images), transform)
    one = 8 * images[0].size if len(images) else 0
    check_room(one, f"preparing an image of shape {images.shape[1:]}", "bring smaller images")
    chunk = max(1, min(CHUNK, MOST_AT_ONCE // max(1, one)))
    parts = [_prepared(images[k : k + chunk], transform) for k in range(0, len(images), chunk)]
    return torch.cat(parts) if parts else torch.empty(0, *transform.shape)


def check_prepared(count: int, transform: TransformSpec) -> None:
    """Raise `RoomError` if so many prepared images would take too much memory."""
    channels, height, width = transform.shape
    check_room(
        4.0 * count * channels * height * width,
        f"{count:,} images of {channels} × {height} × {width} numbers",
        "take fewer images, or a smaller size",
    )


def _prepared(images: NDArray[Any], transform: TransformSpec) -> Tensor:
    channels, *size = transform.shape
    if images.ndim != 4 or not _convertible(images.shape[1], channels):
        raise DataError(f"images have shape {images.shape}; expected (N, {_expected(channels)}, height, width)")
    x = torch.from_numpy(np.ascontiguousarray(images).astype(np.float32))
    if images.dtype == np.uint8:
        x = x / 255.0
    rows, columns = window((x.shape[2], x.shape[3]), transform)
    x = x[:, :, rows, columns]
    if list(x.shape[2:]) != size:
        x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    if channels == 1 and x.shape[1] == 3:
        x = (x * torch.tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    elif channels == 3 and x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    return normalised(x, transform)


def window(stored: tuple[int, int], transform: TransformSpec) -> tuple[slice, slice]:
    """Return the rows and columns of a picture, `stored` pixels high and wide, that are kept.

    They are the middle: `crop` times the largest part that has the form of the prepared picture.

    >>> window((20, 30), TransformSpec(size=8, crop=0.5))
    (slice(5, 15, None), slice(10, 20, None))
    """
    _, height, width = transform.shape
    largest = min(stored[0] * width, stored[1] * height)  # whole numbers, so that a square's side is exact
    kept = [max(1, round(largest / other * transform.crop)) for other in (width, height)]
    first = [(n - k) // 2 for n, k in zip(stored, kept, strict=True)]
    return slice(first[0], first[0] + kept[0]), slice(first[1], first[1] + kept[1])


def maps_like(maps: NDArray[Any], transform: TransformSpec) -> NDArray[Any]:
    """Return maps (N, ..., H, W) cropped and resized as their pictures, by the value under the centre of each pixel."""
    rows, columns = window((maps.shape[-2], maps.shape[-1]), transform)
    _, height, width = transform.shape
    at = [
        part.start + ((2 * np.arange(size) + 1) * (part.stop - part.start)) // (2 * size)
        for part, size in ((rows, height), (columns, width))
    ]
    return maps[..., at[0][:, None], at[1]]


def normalised(x: Tensor, transform: TransformSpec) -> Tensor:
    """Return (x - mean) / std for images; one number of mean or std serves all channels."""
    if any(len(values) not in (1, x.shape[1]) for values in (transform.mean, transform.std)):
        raise DataError(f"transform: mean and std need one number, or one for each of {x.shape[1]} channels")
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (transform.mean, transform.std))
    return x.contiguous() if transform.plain else (x - mean) / std


def pictures(array: NDArray[Any], transform: TransformSpec, where: str) -> NDArray[Any]:
    """Return an array of pictures as (N, C, H, W), with `C` channels that the transform can take.

    Which axis has the channels is decided by how many the network reads. Raises `DataError` if none fits, and for
    numbers that are neither bytes nor, unless the transform says so, between 0 and 1.
    """
    channels = transform.channels
    came = f"{where}: images are {array.dtype} of shape {array.shape}, the network reads {transform.shape} of float32"
    found = _channels_first(array, transform.shape)
    if found is None or min(found.shape[1:]) < 1:
        plain = "(N, H, W), " if channels in (1, 3) else ""
        raise DataError(
            f"{came}; expected {plain}(N, C, H, W) or (N, H, W, C) with {_expected(channels)} channels. Store them so, "
            "or choose the data that the network was trained on"
        )
    if array.dtype == np.uint8 or not array.size:
        return found
    if array.dtype.kind != "f":
        raise DataError(f"{came}; store them as uint8 (0 to 255) or float32 (0 to 1)")
    if transform.values == "unit":
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)) or low < 0.0 or high > 1.0:
            raise DataError(
                f"{came}; the images go from {low:.3g} to {high:.3g}: store them from 0 to 1 (or as uint8), and give "
                "mean and std in the transform; or write values: any there if the network reads such numbers"
            )
    return found


def _channels_first(array: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any] | None:
    """An array as (N, C, H, W); `None` if no axis has as many channels as can be made those of a `shape`."""
    if array.ndim == 3:
        return array[:, None] if _convertible(1, shape[0]) else None
    if array.ndim != 4:
        return None
    last = array.transpose(0, 3, 1, 2)
    fitting = [found for found in (array, last) if _convertible(found.shape[1], shape[0])]
    return next((found for found in fitting if found.shape[1:] == shape), fitting[0] if fitting else None)


def _convertible(stored: int, channels: int) -> bool:
    return stored == channels or (stored in (1, 3) and channels in (1, 3))


def _expected(channels: int) -> str:
    return "1 or 3" if channels in (1, 3) else str(channels)
