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
    if isinstance(module, nn.Linear | Recurrence):
        total = x[0].numel() // x.shape[-1] if isinstance(module, nn.Linear) else math.prod(x.shape[1:-1])
        if count is None or total <= count:
            return None
        return _sample(len(x), total, count, generator).to(x.device)
    total = math.prod(output_space(module, x))
    if count is None or count >= total:
        return torch.arange(total, device=x.device).expand(len(x), -1)
    return _sample(len(x), total, count, generator).to(x.device)


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


def _sample(images: int, total: int, count: int, generator: torch.Generator) -> Tensor:
    """For every image `count` distinct positions out of `total`, (images, count)."""
    return torch.rand(images, total, generator=generator).topk(count, dim=1).indices


def _window(module: nn.Module) -> list[tuple[int, ...]]:
    """Kernel, stride and dilation of a convolution in two dimensions."""
    convolution = cast(Any, module)
    found = [tuple(v) for v in (convolution.kernel_size, convolution.stride, convolution.dilation)]
    return [(1, *v) if len(v) == 1 else v for v in found]


def output_space(module: nn.Module, x: Tensor) -> tuple[int, int]:
    """Height and width of a convolution's output for an input `x` (N, C, *space)."""
    kernel, stride, dilation = _window(module)
    pads = list(cast(Any, module)._reversed_padding_repeated_twice)
    height, width = (1, x.shape[2]) if x.ndim == 3 else x.shape[2:]
    width += pads[0] + pads[1]
    height += pads[2] + pads[3] if x.ndim == 4 else 0
    down = (height - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    return down, (width - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1


def _receptive_fields(module: nn.Module, x: Tensor, positions: Tensor) -> Tensor:
    convolution = cast(Any, module)
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    padded = F.pad(x, convolution._reversed_padding_repeated_twice, mode=mode)
    kernel, stride, dilation = _window(module)
    across = output_space(module, x)[1]
    padded = padded[:, :, None, :] if padded.ndim == 3 else padded
    n = len(padded)
    y = (positions // across * stride[0])[:, :, None, None] + (torch.arange(kernel[0], device=x.device) * dilation[0])[
        :, None
    ]
    z = (positions % across * stride[1])[:, :, None, None] + (torch.arange(kernel[1], device=x.device) * dilation[1])[
        None, :
    ]
    image = torch.arange(n, device=x.device)[:, None, None, None]
    fields = padded.permute(0, 2, 3, 1)[image, y, z]
    return fields.permute(0, 1, 4, 2, 3).reshape(n, positions.shape[1], -1)
