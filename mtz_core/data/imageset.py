"""A set of images that is read when it is needed: only what a run looks at is decoded, resized and normalised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.data.sampling import stratified_sample
from mtz_core.data.transform import prepare_images
from mtz_core.spec import TransformSpec

Indices = NDArray[np.int64]
Reader = Callable[[Indices, TransformSpec], Tensor]
MaskReader = Callable[[Indices, TransformSpec], NDArray[np.int64]]


@dataclass(frozen=True)
class ImageSet:
    """Images with labels, or without. `read` gives the images of some indices as a network's input.

    Labels are classes, int64 (N,), or attributes or values, (N, K). Words count as images that need no preparation.
    Where labels are masks, `labels` is `None`, and `masks` reads those of some indices, int64 (n, size, size), cropped
    and resized as the images are.
    """

    count: int
    labels: NDArray[Any] | None
    read: Reader
    masks: MaskReader | None = None

    @property
    def has_labels(self) -> bool:
        """Whether there are labels, of any kind."""
        return self.labels is not None or self.masks is not None

    def __len__(self) -> int:
        return self.count

    def part(self, indices: Indices) -> ImageSet:
        """Return the images of some indices as a set of their own."""
        labels, masks = None if self.labels is None else self.labels[indices], self.masks
        return ImageSet(
            len(indices),
            labels,
            lambda chosen, transform: self.read(indices[chosen], transform),
            None if masks is None else lambda chosen, transform: masks(indices[chosen], transform),
        )

    def followed_by(self, other: ImageSet) -> ImageSet:
        """Return the images of both as one set, the other's indices after this one's; masks are left out."""

        def read(chosen: Indices, transform: TransformSpec) -> Tensor:
            mine = chosen < self.count
            found = torch.cat([self.read(chosen[mine], transform), other.read(chosen[~mine] - self.count, transform)])
            ordered = torch.empty_like(found)
            ordered[torch.from_numpy(np.argsort(~mine, kind="stable"))] = found
            return ordered

        both = None if self.labels is None or other.labels is None else np.concatenate([self.labels, other.labels])
        return ImageSet(self.count + other.count, both, read)

    def images(self, indices: Indices, transform: TransformSpec) -> Tensor:
        """Return images (n, C, H, W) as a network reads them."""
        return self.read(indices, transform)

    def labelled(self, indices: Indices, transform: TransformSpec) -> tuple[Tensor, Tensor]:
        """Return images and their labels, which must be there."""
        return self.read(indices, transform), self.targets(indices, transform)

    def targets(self, indices: Indices, transform: TransformSpec) -> Tensor:
        """Return labels, which must be there: (n, ...), masks as large as the images."""
        if self.masks is not None:
            return torch.from_numpy(self.masks(indices, transform))
        assert self.labels is not None
        return torch.from_numpy(self.labels[indices])

    def sample(self, count: int, seed: int) -> Indices:
        """Return shuffled indices of `count` images: every class with its share where labels are classes."""
        if self.labels is not None and self.labels.ndim == 1:
            return stratified_sample(self.labels, count, seed)
        return shuffled(self.count, seed)[:count]


def array_set(images: NDArray[Any] | Tensor, labels: Any = None) -> ImageSet:
    """Return a set of images that are in memory, (N, C, H, W) as bytes or numbers in [0, 1]."""
    array: NDArray[Any] = np.asarray(images)
    return ImageSet(len(array), _labels(labels), lambda chosen, transform: prepare_images(array[chosen], transform))


def word_set(words: NDArray[Any] | Tensor, labels: Any = None) -> ImageSet:
    """Return a set of words, whole numbers (N, L): a network reads them as int64, whatever the transform."""
    array: NDArray[np.int64] = np.asarray(words, np.int64)
    return ImageSet(len(array), _labels(labels), lambda chosen, transform: torch.from_numpy(array[chosen]))


def _labels(labels: Any) -> NDArray[Any] | None:
    """Classes and attributes as int64, values as float32."""
    if labels is None:
        return None
    known = np.asarray(labels)
    return known.astype(np.float32 if known.dtype.kind == "f" else np.int64)


def shuffled(count: int, seed: int) -> Indices:
    """Return a seeded permutation."""
    order: Indices = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
    return order
