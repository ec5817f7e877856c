"""Checked once, at the public boundary: calibration, evaluation and retraining data become plain tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtz_core.errors import DataError, SpecError


def network_dtype(network: nn.Module) -> torch.dtype:
    """Floating type of a network's parameters. Raises `SpecError` for something that is not a network with weights."""
    if not isinstance(network, nn.Module):
        raise SpecError(f"a network is a torch.nn.Module, got {type(network).__name__}; load the weights into one")
    for parameter in network.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    raise SpecError(f"{type(network).__name__} has no floating-point parameters; there is nothing to zip")


def as_images(data: Any, where: str, dtype: torch.dtype) -> Tensor:
    """Return inputs (N, ...) from a tensor or an iterable of batches.

    Raises:
        DataError: fewer than two inputs, unequal shapes, NaN, or not tensors at all.
    """
    if isinstance(data, Tensor):
        images = data
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes | dict):
        batches = [batch[0] if isinstance(batch, tuple | list) else batch for batch in data]
        if not batches or not all(isinstance(batch, Tensor) for batch in batches):
            raise DataError(
                f"{where} must yield tensors (N, ...) or tuples that begin with one; it gave something else"
            )
        shapes = {tuple(batch.shape[1:]) for batch in batches}
        if len(shapes) > 1:
            raise DataError(f"{where} yields inputs of different shapes: {sorted(shapes)}; resize them to one")
        images = torch.cat([batch.detach().cpu() for batch in batches])
    else:
        raise DataError(f"{where} must be a tensor (N, ...) or an iterable of batches, got {type(data).__name__}")
    if images.ndim < 2 or len(images) < 2:
        raise DataError(f"{where} has shape {tuple(images.shape)}; give two or more inputs along the first axis")
    if not images.is_floating_point():
        raise DataError(
            f"{where} holds {images.dtype}; networks read floating-point inputs. Convert and normalise as in training, "
            "e.g. (x.float() / 255 - mean) / std"
        )
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{where} holds NaN or infinity; clean the data")
    return images.detach().to("cpu", dtype)


def as_labelled(data: Any, where: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return (images, labels). Raises `DataError` unless there is one integer label per image."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise DataError(f"{where} must be a pair (images, labels), got {type(data).__name__}")
    images, labels = as_images(data[0], where, dtype), data[1]
    if not isinstance(labels, Tensor) or labels.is_floating_point() or tuple(labels.shape) != (len(images),):
        shape = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise DataError(f"{where} has {len(images)} images but labels of shape {shape}; give one class index per image")
    return images, labels.detach().cpu().long()


def check_shapes(images: Sequence[Tensor], others: Sequence[Tensor | None], where: str) -> None:
    """Raise `DataError` unless the inputs `others[t]` have the shape of task t's calibration inputs."""
    for t, (mine, other) in enumerate(zip(images, others, strict=True)):
        if other is not None and other.shape[1:] != mine.shape[1:]:
            raise DataError(
                f"{where}[{t}] has inputs of shape {tuple(other.shape[1:])}, calibration[{t}] of "
                f"{tuple(mine.shape[1:])}; prepare both as in training"
            )
