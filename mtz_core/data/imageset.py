"""A set of inputs that is read when it is needed: only what a run looks at is decoded, resized and normalised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.data.cifar import StoredImages
from mtz_core.data.reading import Preparation, Reading, check, prepare
from mtz_core.data.sampling import stratified_sample
from mtz_core.data.transform import maps_like, pictures
from mtz_core.errors import DataError
from mtz_core.spec import TransformSpec

Indices = NDArray[np.int64]
Reader = Callable[[Indices, Preparation], Tensor]
MaskReader = Callable[[Indices, Preparation], NDArray[Any]]


@dataclass(frozen=True)
class ImageSet:
    """Images, or other inputs, with labels or without. `read` gives those of some indices as a network's input.

    Labels are classes, int64 (N,), or attributes or values, (N, K). Where labels are masks, `masks` reads those of some
    indices, (n, height, width), cropped and resized as the images are; `labels` is `None` if they lie in files. Of a
    network with several outputs, `named` has labels by names instead of `labels`, and `named_masks` reads those of one
    name that are masks. `fits` raises `DataError` where a network reads something else.
    """

    count: int
    labels: NDArray[Any] | None
    read: Reader
    masks: MaskReader | None = None
    named: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    named_masks: Mapping[str, MaskReader] = field(default_factory=dict)
    fits: Callable[[Preparation], None] = lambda how: None

    @property
    def has_labels(self) -> bool:
        """Whether there are labels, of any kind."""
        return self.labels is not None or self.masks is not None or bool(self.named)

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
            {name: each[indices] for name, each in self.named.items()},
            {name: _behind(each, indices) for name, each in self.named_masks.items()},
            self.fits,
        )

    def followed_by(self, other: ImageSet) -> ImageSet:
        """Return the images of both as one set, the other's indices after this one's; masks are left out."""

        def read(chosen: Indices, transform: Preparation) -> Tensor:
            mine = chosen < self.count
            found = torch.cat([self.read(chosen[mine], transform), other.read(chosen[~mine] - self.count, transform)])
            ordered = torch.empty_like(found)
            ordered[torch.from_numpy(np.argsort(~mine, kind="stable"))] = found
            return ordered

        both = None if self.labels is None or other.labels is None else np.concatenate([self.labels, other.labels])
        named = {n: np.concatenate([y, other.named[n]]) for n, y in self.named.items() if n in other.named}
        return ImageSet(self.count + other.count, both, read, named=named)

    def images(self, indices: Indices, transform: Preparation) -> Tensor:
        """Return inputs, e.g. images (n, C, H, W), as a network reads them."""
        return self.read(indices, transform)

    def labelled(self, indices: Indices, transform: Preparation) -> tuple[Tensor, Tensor | dict[str, Tensor]]:
        """Return inputs and their labels, which must be there."""
        return self.read(indices, transform), self.targets(indices, transform)

    def targets(self, indices: Indices, transform: Preparation) -> Tensor | dict[str, Tensor]:
        """Return labels, which must be there: (n, ...), masks as large as the images; by names if they have any."""
        if self.named:
            return {
                name: torch.from_numpy(
                    self.named_masks[name](indices, transform) if name in self.named_masks else labels[indices]
                )
                for name, labels in self.named.items()
            }
        if self.masks is not None:
            return torch.from_numpy(self.masks(indices, transform))
        assert self.labels is not None
        return torch.from_numpy(self.labels[indices])

    def sample(self, count: int, seed: int) -> Indices:
        """Return shuffled indices of `count` images: every class with its share where labels are classes."""
        if self.labels is not None and self.labels.ndim == 1:
            return stratified_sample(self.labels, count, seed)
        return shuffled(self.count, seed)[:count]


def _behind(masks: MaskReader, indices: Indices) -> MaskReader:
    return lambda chosen, how: masks(indices[chosen], how)


def array_set(
    images: NDArray[Any] | Tensor,
    labels: Any = None,
    where: str = "the data",
    named: Mapping[str, NDArray[Any]] | None = None,
) -> ImageSet:
    """Return a set of inputs that are in memory, e.g. images (N, C, H, W) as bytes or numbers in [0, 1].

    `where` says in messages what they are. Labels that are maps as large as the images follow their crop and size;
    `named` are those of several outputs.
    """
    array: NDArray[Any] = np.asarray(images)
    known, several = _labels(labels), dict(named or {})

    def following(maps: NDArray[Any]) -> MaskReader:
        return lambda chosen, how: _maps(array, maps, chosen, how, where)

    def fits(how: Preparation) -> None:
        for each in (known, *several.values()):
            _check(array, each, how, where)

    return ImageSet(
        len(array),
        known,
        lambda chosen, how: prepare(array[chosen], how, where),
        None if known is None or known.ndim < 3 else following(known),
        several,
        {name: following(each) for name, each in several.items() if each.ndim > 2},
        fits,
    )


def _check(array: NDArray[Any], labels: NDArray[Any] | None, how: Preparation, where: str) -> None:
    check(array, how, where)
    if labels is not None and labels.ndim > 2:
        _maps(array, labels, np.arange(1), how, where)


def _maps(array: NDArray[Any], labels: NDArray[Any], chosen: Indices, how: Preparation, where: str) -> NDArray[Any]:
    """Labels of some images, at the places that are left of these where they are maps of the images' size.

    Values of another size belong to no places of the images, and stay as they are.
    """
    maps = labels[chosen]
    if isinstance(how, Reading):
        return maps
    stored = pictures(array[:1], how, where).shape[2:]
    if labels.shape[-2:] == stored:
        return maps_like(maps, how)
    if labels.dtype.kind != "f" and (how.crop < 1.0 or stored != how.shape[1:]):
        raise DataError(
            f"{where}: labels are maps of shape {labels.shape[1:]}, images are {stored[0]} × {stored[1]}, and the "
            f"transform makes them {how.shape[1]} × {how.shape[2]}: maps can follow only if they are as large as their "
            "images; store both alike"
        )
    return maps


def stored_set(stored: StoredImages, where: str) -> ImageSet:
    """Return a set of images that are decoded when they are read; `where` says in messages what they are."""
    one = stored.read(np.zeros(1, np.int64))
    return ImageSet(
        len(stored.labels),
        stored.labels,
        lambda chosen, how: prepare(stored.read(chosen), how, where),
        fits=lambda how: check(one, how, where),
    )


def word_set(words: NDArray[Any] | Tensor, labels: Any = None) -> ImageSet:
    """Return a set of words, whole numbers (N, L): a network reads them as int64, whatever the transform."""
    array: NDArray[np.int64] = np.asarray(words, np.int64)

    def fits(how: Preparation) -> None:
        if isinstance(how, TransformSpec):
            raise DataError(
                f"the data are words, numbers of letters of shape {array.shape}; the network reads {how.shape} of "
                "float32. Choose the data that it was trained on"
            )
        check(array, how, "the words")

    def read(chosen: Indices, how: Preparation) -> Tensor:
        plain = isinstance(how, TransformSpec)
        return torch.from_numpy(array[chosen]) if plain else prepare(array[chosen], how, "the words")

    return ImageSet(len(array), _labels(labels), read, fits=fits)


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
