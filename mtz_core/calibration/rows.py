"""Input rows of a layer: one input vector of a Linear layer, one receptive field of a convolution."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core.graph.channels import WeightLayer
from mtz_core.graph.recurrent import Recurrence


def sample_positions(
    layer: WeightLayer, module: nn.Module, x: Tensor, count: int | None, generator: torch.Generator
) -> Tensor | None:
    """Choose output positions of a layer that reads `x`: (N, P) numbers, or `None` for all of a Linear layer.

    Args:
        layer: the weight layer, `module` its Linear or convolution (for stride, padding, dilation).
        x: the activation that it reads, (N, C, *space) for a convolution, (N, ..., d) for a Linear layer.
        count: how many to sample per image, without replacement; `None` takes all.
        generator: source of the sample, on the CPU.
    """
    total = place_count(module, x)
    if isinstance(module, nn.Linear | Recurrence):
        if count is None or total <= count:
            return None
        return _sample(len(x), total, count, generator).to(x.device)
    if count is None or count >= total:
        return torch.arange(total, device=x.device).expand(len(x), -1)
    return _sample(len(x), total, count, generator).to(x.device)


def place_count(module: nn.Module, x: Tensor) -> int:
    """How many places the output of a layer that reads `x` has in each of `x`'s windows (see `sample_positions`)."""
    if isinstance(module, nn.Linear):
        return x[0].numel() // x.shape[-1]
    return math.prod(x.shape[1:-1]) if isinstance(module, Recurrence) else math.prod(output_space(module, x))


def rows_at(
    layer: WeightLayer, module: nn.Module, x: Tensor, positions: Tensor | None, matrix: Tensor | None = None
) -> Tensor:
    """Return the layer's input rows at `positions`, (N, P, d), or (N, P, groups, d) for a grouped convolution.

    `matrix` are the weights of the recurrent part of an LSTM or GRU, which make its own inputs.
    """
    if isinstance(module, Recurrence):
        assert matrix is not None
        x = module.run(x, matrix, layer.bias)[1]
    if isinstance(module, nn.Linear | Recurrence):
        rows = x.reshape(len(x), -1, x.shape[-1])
        if positions is not None:
            rows = rows.gather(1, positions[:, :, None].expand(-1, -1, rows.shape[2]))
    else:
        assert positions is not None
        rows = _receptive_fields(module, x, positions)
    if layer.banks > 1:
        rows = rows.reshape(*rows.shape[:2], layer.banks, -1)
        return torch.cat([rows, rows.new_ones((*rows.shape[:3], 1))], dim=3) if layer.bias else rows
    return torch.cat([rows, rows.new_ones((*rows.shape[:2], 1))], dim=2) if layer.bias else rows


def values_at(module: nn.Module, values: Tensor, positions: Tensor | None) -> Tensor:
    """Return what has the shape of a layer's output, (N, n, *space) or (N, ..., n), at `positions`: (N, P, n)."""
    if isinstance(module, nn.Linear | Recurrence):
        rows = values.reshape(len(values), -1, values.shape[-1])
    else:
        rows = values.flatten(2).mT
    return rows if positions is None else rows.gather(1, positions[:, :, None].expand(-1, -1, rows.shape[2]))


def by_image(rows: Tensor, images: int) -> Tensor:
    """Rows (N · k, P, ...) of k windows per image as rows (N, k · P, ...) of N `images`.

    Where a layer does not read images one after the other, rows are divided among them evenly; a rest is left out.
    """
    if len(rows) == images:
        return rows
    flat = rows.flatten(0, 1)
    per = len(flat) // images
    return flat[: per * images].reshape(images, per, *flat.shape[1:])


def _sample(images: int, total: int, count: int, generator: torch.Generator) -> Tensor:
    """For every image `count` distinct positions out of `total`, (images, count)."""
    return torch.rand(images, total, generator=generator).topk(count, dim=1).indices


def output_space(module: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Lengths of the axes of a convolution's output, behind channels, for an input `x` (N, C, *space)."""
    convolution = cast(Any, module)
    pads = convolution._reversed_padding_repeated_twice[::-1]  # from the first axis on, both sides of each
    lengths = [n + sum(pads[2 * k : 2 * k + 2]) for k, n in enumerate(x.shape[2:])]
    windows = zip(lengths, convolution.kernel_size, convolution.stride, convolution.dilation, strict=True)
    return tuple((n - dilation * (kernel - 1) - 1) // stride + 1 for n, kernel, stride, dilation in windows)


def _receptive_fields(module: nn.Module, x: Tensor, positions: Tensor) -> Tensor:
    convolution = cast(Any, module)
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    padded = F.pad(x, convolution._reversed_padding_repeated_twice, mode=mode)
    n, axes, index, rest = len(padded), x.ndim - 2, list[Tensor](), positions
    for k, length in reversed(list(enumerate(output_space(module, x)))):
        reach = torch.arange(convolution.kernel_size[k], device=x.device) * convolution.dilation[k]
        first = (rest % length * convolution.stride[k]).reshape(*positions.shape, *[1] * axes)
        index.insert(0, first + reach.reshape(-1, *[1] * (axes - 1 - k)))
        rest = rest // length
    image = torch.arange(n, device=x.device).reshape(n, *[1] * (axes + 1))
    fields = padded.movedim(1, -1)[(image, *index)]
    return fields.movedim(-1, 2).reshape(n, positions.shape[1], -1)
