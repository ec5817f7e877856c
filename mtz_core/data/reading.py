"""What a network reads where that is no picture: vectors, sequences, tokens, waveforms, volumes.

Shape and type of its input decide what an array is. Nothing is resized, cut or scaled unasked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtz_core.data.transform import pictures, prepare_images
from mtz_core.errors import DataError, SpecError
from mtz_core.spec import PICTURES, TransformSpec

FLOAT = "float32"
WHOLE: Mapping[str, torch.dtype] = {name: getattr(torch, name) for name in ("uint8", "int8", "int16", "int32", "int64")}
"""Whole numbers that a network may read, by name."""
MOST = 2**24
"""Numbers of one input."""


@dataclass(frozen=True)
class Reading:
    """One input of a network: its `shape`, and its `dtype`, float32 or whole numbers.

    `rows` is the number of rows of the table in which whole numbers are looked up, if it is known. `mean` is subtracted
    from floating-point inputs, `std` divides them: one number, or one for each feature (see `axis`).
    """

    shape: tuple[int, ...]
    dtype: str = FLOAT
    rows: int | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def whole(self) -> bool:
        """Whether whole numbers are read, which are no quantities but names of rows."""
        return self.dtype != FLOAT

    @property
    def told(self) -> str:
        """Shape and type in words.

        >>> Reading((16,), "int64", 53).told
        '(16,) of int64 from 0 to 52'
        """
        return f"{self.shape} of {self.dtype}" + ("" if self.rows is None else f" from 0 to {self.rows - 1}")

    def with_transform(self, asked: TransformSpec) -> Reading:
        """Return this with the mean and standard deviation of a transform.

        Raises `SpecError` for what only pictures have, for whole numbers, and if the numbers fit no axis.
        """
        if said := sorted(asked.model_fields_set & PICTURES):
            raise SpecError(
                f"transform: {' and '.join(said)}: the network reads inputs of shape {self.told}, which are no "
                "pictures and are not cropped, resized or repeated; leave it out (mean and std may stay), and store "
                "inputs in this shape"
            )
        if self.whole and not asked.plain:
            raise SpecError(
                f"transform: mean and std: the network reads {self.told}, and whole numbers are looked up, not "
                "normalised; leave them out"
            )
        made = replace(self, mean=asked.mean, std=asked.std)
        for values in (made.mean, made.std):
            made.axis(len(values))
        return made

    def axis(self, count: int) -> int | None:
        """Return the axis of an input that `count` numbers of a mean stand for; `None` for one number for all.

        That is the one axis of a vector, the first (channels) or the last (features) of others.
        """
        if count == 1:
            return None
        fitting = sorted({k for k in (0, len(self.shape) - 1) if self.shape[k] == count})
        if len(fitting) == 1:
            return fitting[0]
        why = "both its first and its last axis are as long" if fitting else "neither its first nor its last axis is"
        raise SpecError(
            f"transform: mean or std has {count} numbers for inputs of shape {self.shape}: {why}; give one number, or "
            "normalise the inputs before they are stored"
        )


Preparation = TransformSpec | Reading
"""How stored inputs become what a network reads: pictures by a transform, others as they are."""


def prepare(array: NDArray[Any], how: Preparation, where: str) -> Tensor:
    """Return inputs of an array (N, ...) as a network reads them. Raises `DataError` as `check` does."""
    if isinstance(how, TransformSpec):
        return prepare_images(pictures(array, how, where), how)
    fitted = _fitted(array, how, where)
    if how.whole:
        return torch.from_numpy(fitted.astype(np.int64)).to(WHOLE[how.dtype])
    x = torch.from_numpy(np.array(fitted, np.float32))
    mean, std = (_spread(values, how) for values in (how.mean, how.std))
    return x if not any(how.mean) and set(how.std) == {1.0} else (x - mean) / std


def check(array: NDArray[Any], how: Preparation, where: str) -> None:
    """Raise `DataError` if an array (N, ...) is not what a network reads.

    The message says shapes and types of both, and the way out.
    """
    if isinstance(how, TransformSpec):
        pictures(array, how, where)
    else:
        _fitted(array, how, where)


def _fitted(array: NDArray[Any], how: Reading, where: str) -> NDArray[Any]:
    """The array in the network's shape, with values that it can read."""
    came = f"{where}: inputs are {array.dtype} of shape {array.shape}, the network reads {how.told} each"
    if how.whole and array.dtype.kind not in "ui":
        raise DataError(f"{came}; store whole numbers, e.g. array.astype('int64')")
    if array.shape[1:] != how.shape:
        found = tuple(n for n in array.shape[1:] if n != 1)
        if found != tuple(n for n in how.shape if n != 1) or array.ndim > len(how.shape) + 2:
            raise DataError(f"{came}; {_way_out(array.shape[1:], how)}")
        array = array.reshape(len(array), *how.shape)  # axes of length one say nothing
    if not array.size:
        return array
    if how.whole:
        low, high = int(array.min()), int(array.max())
        bounds = torch.iinfo(WHOLE[how.dtype])
        first, last = (bounds.min, bounds.max) if how.rows is None else (0, how.rows - 1)
        if low < first or high > last:
            table = "" if how.rows is None else f", the rows of the table in which they are looked up ({how.rows})"
            raise DataError(
                f"{came}; numbers go from {low} to {high}, but must go from {first} to {last}{table}. Number tokens as "
                "in training, with the same vocabulary"
            )
    elif array.dtype.kind == "f" and array.dtype.itemsize > 4 and max(-array.min(), array.max()) > np.finfo("f4").max:
        raise DataError(f"{came}; values go up to {max(-array.min(), array.max()):.3g}, beyond float32; rescale them")
    return array


def _way_out(found: tuple[int, ...], how: Reading) -> str:
    """What to do about a shape."""
    if sorted(found) == sorted(how.shape):
        return "the axes are in another order: store them as the network has them, e.g. by numpy.moveaxis"
    if np.prod(found) == np.prod(how.shape):
        return f"if these are the same numbers, store array.reshape(-1, {', '.join(map(str, how.shape))})"
    if len(found) == len(how.shape):
        return "pad or cut every input to this shape, as in training, or export the network with an input of theirs"
    return "store inputs in this shape, or choose the data that the network was trained on"


def _spread(values: tuple[float, ...], how: Reading) -> Tensor:
    axis = how.axis(len(values))
    shape = [1] * (1 + len(how.shape))
    if axis is not None:
        shape[axis + 1] = -1
    return torch.tensor(values).view(shape)
