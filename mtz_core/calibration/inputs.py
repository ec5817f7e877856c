"""Checked once, at the public boundary: calibration, evaluation and retraining data become plain tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtz_core.errors import DataError, SpecError
from mtz_core.graph.plain import read_type

Labels = Tensor | dict[str, Tensor]
"""Of one output, or of several by their names."""


def network_dtype(network: nn.Module) -> torch.dtype:
    """Floating type that a network is computed in: its parameters', at least single precision.

    Raises:
        SpecError: this is not a network with weights.
    """
    if not isinstance(network, nn.Module):
        raise SpecError(f"a network is a torch.nn.Module, got {type(network).__name__}; load the weights into one")
    found = read_type(network)
    if found is not None:
        return found
    raise SpecError(f"{type(network).__name__} has no floating-point parameters; there is nothing to zip")


def reads_tokens(network: nn.Module) -> bool:
    """Whether a network may read numbers of tokens: it has a table to look them up in, or says so (`reads_tokens`)."""
    return bool(getattr(network, "reads_tokens", False)) or any(
        isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in network.modules()
    )


def as_images(data: Any, where: str, dtype: torch.dtype, tokens: bool = False) -> Tensor:
    """Return inputs (N, ...) from a tensor or an iterable of batches; whole numbers only if they may be `tokens`.

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
    if tokens and images.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8):
        return images.detach().to("cpu", torch.int64)
    if not images.is_floating_point():
        raise DataError(
            f"{where} holds {images.dtype}; networks without an embedding read floating-point "
            "inputs. Convert and normalise as in training, e.g. (x.float() / 255 - mean) / std"
        )
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{where} holds NaN or infinity; clean the data")
    return images.detach().to("cpu", dtype)


def as_labelled(data: Any, where: str, dtype: torch.dtype, tokens: bool = False) -> tuple[Tensor, Labels]:
    """Return (images, labels (N, ...)): whole numbers as int64, others as `dtype`.

    Labels of a network with several outputs are a mapping from their names, or a list, if the network returns a tuple
    or a list (`None`: an output without labels). What labels must be beyond that depends on the task's type: see
    `mtz_core.outputs.labels`. Raises `DataError` unless there is one label, or one tensor of labels, per image.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise DataError(f"{where} must be a pair (images, labels), got {type(data).__name__}")
    images, labels = as_images(data[0], where, dtype, tokens), data[1]
    if isinstance(labels, Mapping):
        named = {str(name): given for name, given in labels.items()}
    elif isinstance(labels, list | tuple) and all(given is None or isinstance(given, Tensor) for given in labels):
        named = {str(k): given for k, given in enumerate(labels)}
    else:
        return images, _as_labels(labels, images, where, dtype)
    there = {name: given for name, given in named.items() if given is not None}
    return images, {name: _as_labels(given, images, f"{where}[{name!r}]", dtype) for name, given in there.items()}


def _as_labels(labels: Any, images: Tensor, where: str, dtype: torch.dtype) -> Tensor:
    if not isinstance(labels, Tensor) or labels.ndim < 1 or len(labels) != len(images):
        shape = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise DataError(f"{where} has {len(images)} images but labels of shape {shape}; give one class index per image")
    known: Tensor = labels.detach().cpu()
    return known.to(dtype) if known.is_floating_point() else known.long()


def check_shapes(images: Sequence[Tensor], others: Sequence[Tensor | None], where: str) -> None:
    """Raise `DataError` unless the inputs `others[t]` have the shape of task t's calibration inputs."""
    for t, (mine, other) in enumerate(zip(images, others, strict=True)):
        if other is not None and other.shape[1:] != mine.shape[1:]:
            raise DataError(
                f"{where}[{t}] has inputs of shape {tuple(other.shape[1:])}, calibration[{t}] of "
                f"{tuple(mine.shape[1:])}; prepare both as in training"
            )
