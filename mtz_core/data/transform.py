"""From stored images to a network's input: crop to a square, resize, make grey or RGB, normalise.

One definition for every source of images. What a user may change stands in `TransformSpec`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.errors import DataError
from mtz_core.spec import TransformSpec

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R 601)."""
CHUNK = 64


def prepare_images(images: NDArray[Any], transform: TransformSpec) -> Tensor:
    """Return images (N, C, H, W), bytes or floating point numbers in [0, 1], as a network reads them.

    The central square of `crop` times the shorter side is resized to size × size; grey becomes RGB by repetition and
    RGB grey by `GREY`; then (x - mean) / std, channel by channel.

    >>> prepare_images(np.full((2, 1, 28, 28), 255, np.uint8), TransformSpec()).shape
    torch.Size([2, 1, 28, 28])
    """
    parts = [_prepared(images[k : k + CHUNK], transform) for k in range(0, len(images), CHUNK)]
    if not parts:
        return torch.empty(0, transform.channels, transform.size, transform.size)
    return torch.cat(parts)


def _prepared(images: NDArray[Any], transform: TransformSpec) -> Tensor:
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(f"images have shape {images.shape}; expected (N, 1 or 3, height, width)")
    x = torch.from_numpy(np.ascontiguousarray(images).astype(np.float32))
    if images.dtype == np.uint8:
        x = x / 255.0
    side = max(1, round(min(x.shape[2:]) * transform.crop))
    top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
    x = x[:, :, top : top + side, left : left + side]
    if side != transform.size:
        x = F.interpolate(x, (transform.size, transform.size), mode="bilinear", antialias=True, align_corners=False)
    if transform.channels == 1 and x.shape[1] == 3:
        x = (x * torch.tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    elif transform.channels == 3 and x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    return normalised(x, transform)


def normalised(x: Tensor, transform: TransformSpec) -> Tensor:
    """Return (x - mean) / std for images in [0, 1]; one number of mean or std serves all channels."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (transform.mean, transform.std))
    return x.contiguous() if transform.plain else (x - mean) / std
