"""Second moments of layer inputs, accumulated batch by batch on two halves of the calibration set.

An input row of a Linear layer is one input vector; of a convolution, one receptive field. Convolutions see many
positions per image, strongly alike, so a few are sampled. A constant one is appended for the bias.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core.errors import DataError
from mtz_core.graph.channels import WeightLayer
from mtz_core.graph.recurrent import Recurrence
from mtz_core.linalg import DenseGram, Gram, RowGram, add

CHUNK = 4096
"""Rows per product. Products of one chunk run in the rows' own precision or better, sums in double precision."""


def input_rows(
    layer: WeightLayer,
    module: nn.Module,
    x: Tensor,
    positions: int | None,
    generator: torch.Generator,
    matrix: Tensor | None = None,
) -> Tensor:
    """Return the layer's input rows for a batch, (N, P, d), or (N, P, groups, d) for a grouped convolution.

    Args:
        layer: the weight layer, `module` its Linear or convolution (for stride, padding, dilation).
        x: the activation that it reads, (N, C, *space) for a convolution, (N, ..., d) for a Linear layer.
        positions: how many output positions to sample per image, without replacement; `None` takes all.
        generator: source of the sample, on the CPU.
        matrix: weights of the recurrent part of an LSTM or GRU, which make its own inputs.
    """
    if isinstance(module, Recurrence):
        assert matrix is not None
        x = module.run(x, matrix, layer.bias)[1]
    flat = isinstance(module, nn.Linear | Recurrence)
    rows = x.reshape(len(x), -1, x.shape[-1]) if flat else x
    if flat:
        if positions is not None and rows.shape[1] > positions:
            chosen = _sample(len(x), rows.shape[1], positions, generator).to(x.device)
            rows = rows.gather(1, chosen[:, :, None].expand(-1, -1, rows.shape[2]))
    else:
        rows = _receptive_fields(module, x, positions, generator)
    if layer.groups > 1:
        rows = rows.reshape(*rows.shape[:2], layer.groups, -1)
        return torch.cat([rows, rows.new_ones((*rows.shape[:3], 1))], dim=3) if layer.bias else rows
    return torch.cat([rows, rows.new_ones((*rows.shape[:2], 1))], dim=2) if layer.bias else rows


def _sample(images: int, total: int, count: int, generator: torch.Generator) -> Tensor:
    """For every image `count` distinct positions out of `total`, (images, count)."""
    return torch.rand(images, total, generator=generator).topk(count, dim=1).indices


def _receptive_fields(module: nn.Module, x: Tensor, positions: int | None, generator: torch.Generator) -> Tensor:
    convolution = cast(Any, module)
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    padded = F.pad(x, convolution._reversed_padding_repeated_twice, mode=mode)
    kernel, stride, dilation = (tuple(v) for v in (convolution.kernel_size, convolution.stride, convolution.dilation))
    if padded.ndim == 3:
        padded = padded[:, :, None, :]
        kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
    n, _, height, width = padded.shape
    down = (height - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    across = (width - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    if positions is None or positions >= down * across:
        places = torch.arange(down * across).expand(n, -1)
    else:
        places = _sample(n, down * across, positions, generator)
    places = places.to(x.device)
    y = (places // across * stride[0])[:, :, None, None] + (torch.arange(kernel[0], device=x.device) * dilation[0])[
        :, None
    ]
    z = (places % across * stride[1])[:, :, None, None] + (torch.arange(kernel[1], device=x.device) * dilation[1])[
        None, :
    ]
    image = torch.arange(n, device=x.device)[:, None, None, None]
    fields = padded.permute(0, 2, 3, 1)[image, y, z]
    return fields.permute(0, 1, 4, 2, 3).reshape(n, places.shape[1], -1)


class Accumulator:
    """Streaming E[x xᵀ] of rows (m, d): the rows themselves while they are fewer than d, a d×d matrix after that.

    The matrix is summed in double precision: thousands of nearly equal terms would otherwise lose the small
    directions that decide between similar neurons.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.count = 0
        self._rows: list[Tensor] | None = []
        self._matrix: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Add rows (m, d). Raises `DataError` if one is NaN or infinite."""
        if not bool(torch.isfinite(rows).all()):
            raise DataError("calibration data gives NaN or infinite activations; check the images and the network")
        self.count += len(rows)
        if self._rows is not None:
            self._rows.append(rows)
            if self.count <= self.dimension:
                return
            pending, self._rows = self._rows, None
            self._matrix = torch.zeros(
                self.dimension, self.dimension, dtype=_sum_dtype(rows.device), device=rows.device
            )
        else:
            pending = [rows]
        assert self._matrix is not None
        for block in pending:
            for chunk in torch.split(block, CHUNK):
                exact = chunk.to(self._matrix.dtype)
                self._matrix.addmm_(exact.mT, exact)

    def gram(self) -> Gram:
        """The mean over all rows so far. Raises `DataError` if there are none."""
        if self.count == 0:
            raise DataError("a half of the calibration set is empty; give at least two images per task")
        if self._matrix is not None:
            return DenseGram(self._matrix, 1.0 / self.count)
        assert self._rows is not None
        self._rows = [torch.cat(self._rows)]
        return RowGram(self._rows[0], 1.0 / self.count)


def _sum_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


class Moments:
    """Grams of one layer's inputs in one task: two halves of the calibration set, and the evaluation images."""

    def __init__(self, dimension: int) -> None:
        self.parts = [Accumulator(dimension) for _ in range(3)]

    @property
    def rows(self) -> int:
        """Calibration rows so far."""
        return self.parts[0].count + self.parts[1].count

    def half(self, index: int) -> Gram:
        """Gram of half 0 or 1."""
        return self.parts[index].gram()

    def calibration(self) -> Gram:
        """Gram of both halves."""
        return add([part.gram().scaled(part.count / self.rows) for part in self.parts[:2]])

    def evaluation(self) -> Gram | None:
        """Gram of the evaluation images, `None` without any."""
        return self.parts[2].gram() if self.parts[2].count else None
