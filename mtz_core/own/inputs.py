"""What a network reads, as far as it says so itself: a picture, or inputs of another shape, or whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mtz_core.data.reading import FLOAT, MOST, WHOLE, Preparation, Reading
from mtz_core.errors import DataError, SpecError
from mtz_core.spec import TransformSpec

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in WHOLE.items()}


class _LookUps(TorchFunctionMode):
    """Within, notes how many rows the tables have in which an input, as it came, is looked up."""

    def __init__(self, numbers: Tensor) -> None:
        super().__init__()
        self.numbers, self.rows = numbers, list[int]()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.embedding and isinstance(args[0], Tensor):
            read = args[0].detach().flatten()
            if read.numel() == self.numbers.numel() and bool((read == self.numbers.flatten()).all()):
                self.rows.append(int(args[1].shape[0]))
        return func(*args, **(kwargs or {}))


def rows_read(module: nn.Module, shape: tuple[int, ...], dtype: str) -> int | None:
    """Return the rows of the smallest table in which a network looks its input up as it came; `None`: not known."""
    numbers = torch.randint(0, 2, (3, *shape), generator=torch.Generator().manual_seed(0)).to(WHOLE[dtype])
    try:
        with torch.no_grad(), _LookUps(numbers) as seen:
            module(numbers)
    except Exception:  # whatever the network raises; its own check says so
        return None
    return min(seen.rows, default=None)


def random_inputs(how: Preparation, count: int) -> Tensor:
    """Return random inputs as a network reads them; whole numbers name rows that there are."""
    random = torch.Generator().manual_seed(0)
    if isinstance(how, Reading) and how.whole:
        return torch.randint(0, min(how.rows or 2, 127), (count, *how.shape), generator=random).to(WHOLE[how.dtype])
    return torch.randn(count, *how.shape, generator=random)


def declared(shape: tuple[int, ...], dtype: str, rows: int | None = None) -> Preparation:
    """Return how inputs of a shape are prepared: floating-point (C, H, W) are pictures, others are read as they are.

    Raises `DataError` if they are too large.
    """
    if len(shape) != 3 or dtype != FLOAT:
        return Reading(shape, dtype, rows)
    channels, height, width = shape
    size = height if height == width else (height, width)
    try:
        if channels == 3:
            return TransformSpec(size=size, channels=3, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return TransformSpec(size=size, channels=channels, values="unit" if channels == 1 else "any")
    except SpecError as error:
        raise DataError(
            f"the network reads inputs of shape {shape}, which are too large for a picture: {error}"
        ) from error


def shown_by(example: Tensor, module: nn.Module) -> Preparation:
    """Return what a network reads by an example of its inputs, (N, ...). Raises `DataError` if that is none."""
    shape, dtype = tuple(example.shape[1:]), NAMES.get(example.dtype, FLOAT)
    if not shape or not 0 < example[:1].numel() <= MOST or (dtype == FLOAT and not example.is_floating_point()):
        raise DataError(
            f"an example of inputs is a tensor (N, ...) of floating-point or whole numbers, got {example.dtype} of "
            f"shape {tuple(example.shape)}"
        )
    return declared(shape, dtype, None if dtype == FLOAT else rows_read(module, shape, dtype))
