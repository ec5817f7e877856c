"""Second moments of layer inputs, accumulated batch by batch on two halves of the calibration set.

An input row of a Linear layer is one input vector; of a convolution, one receptive field. Convolutions see many
positions per image, strongly alike, so a few are sampled. A constant one is appended for the bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core.errors import DataError
from mtz_core.graph.channels import WeightLayer
from mtz_core.graph.recurrent import Recurrence
from mtz_core.linalg import DenseGram, Gram, RowGram
from mtz_core.objective import Moment, mean_of

Source = Literal["half 0", "half 1", "calibration", "evaluation"]
SOURCES: tuple[Source, ...] = ("half 0", "half 1", "calibration", "evaluation")
CHUNK = 4096
"""Rows per product. Products of one chunk run in the rows' own precision or better, sums in double precision."""
BLOCK = 192
"""Columns of a symmetric matrix that are summed at once; those above the diagonal blocks are copied."""


def sample_places(
    layer: WeightLayer, module: nn.Module, x: Tensor, positions: int | None, generator: torch.Generator
) -> Tensor | None:
    """Choose output positions of a layer that reads `x`: (N, P) numbers, or `None` for all of a Linear layer.

    Args:
        layer: the weight layer, `module` its Linear or convolution (for stride, padding, dilation).
        x: the activation that it reads, (N, C, *space) for a convolution, (N, ..., d) for a Linear layer.
        positions: how many to sample per image, without replacement; `None` takes all.
        generator: source of the sample, on the CPU.
    """
    if isinstance(module, nn.Linear | Recurrence):
        total = x[0].numel() // x.shape[-1] if isinstance(module, nn.Linear) else math.prod(x.shape[1:-1])
        if positions is None or total <= positions:
            return None
        return _sample(len(x), total, positions, generator).to(x.device)
    total = math.prod(output_space(module, x))
    if positions is None or positions >= total:
        return torch.arange(total, device=x.device).expand(len(x), -1)
    return _sample(len(x), total, positions, generator).to(x.device)


def rows_at(
    layer: WeightLayer, module: nn.Module, x: Tensor, places: Tensor | None, matrix: Tensor | None = None
) -> Tensor:
    """Return the layer's input rows at `places`, (N, P, d), or (N, P, groups, d) for a grouped convolution.

    `matrix` are the weights of the recurrent part of an LSTM or GRU, which make its own inputs.
    """
    if isinstance(module, Recurrence):
        assert matrix is not None
        x = module.run(x, matrix, layer.bias)[1]
    if isinstance(module, nn.Linear | Recurrence):
        rows = x.reshape(len(x), -1, x.shape[-1])
        if places is not None:
            rows = rows.gather(1, places[:, :, None].expand(-1, -1, rows.shape[2]))
    else:
        assert places is not None
        rows = _receptive_fields(module, x, places)
    if layer.groups > 1:
        rows = rows.reshape(*rows.shape[:2], layer.groups, -1)
        return torch.cat([rows, rows.new_ones((*rows.shape[:3], 1))], dim=3) if layer.bias else rows
    return torch.cat([rows, rows.new_ones((*rows.shape[:2], 1))], dim=2) if layer.bias else rows


def input_rows(
    layer: WeightLayer,
    module: nn.Module,
    x: Tensor,
    positions: int | None,
    generator: torch.Generator,
    matrix: Tensor | None = None,
) -> Tensor:
    """`rows_at` for places chosen by `sample_places`."""
    return rows_at(layer, module, x, sample_places(layer, module, x, positions, generator), matrix)


def values_at(module: nn.Module, values: Tensor, places: Tensor | None) -> Tensor:
    """Return what has the shape of a layer's output, (N, n, *space) or (N, ..., n), at `places`: (N, P, n)."""
    if isinstance(module, nn.Linear | Recurrence):
        rows = values.reshape(len(values), -1, values.shape[-1])
    else:
        rows = values.flatten(2).mT
    return rows if places is None else rows.gather(1, places[:, :, None].expand(-1, -1, rows.shape[2]))


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


def _receptive_fields(module: nn.Module, x: Tensor, places: Tensor) -> Tensor:
    convolution = cast(Any, module)
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    padded = F.pad(x, convolution._reversed_padding_repeated_twice, mode=mode)
    kernel, stride, dilation = _window(module)
    across = output_space(module, x)[1]
    padded = padded[:, :, None, :] if padded.ndim == 3 else padded
    n = len(padded)
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

    Residuals (m, n) may come with the rows, always or never; then E[r xᵀ] and E[r²] are kept, too. Matrices are
    summed in double precision: thousands of nearly equal terms would otherwise lose the small directions that decide
    between similar neurons.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.count = 0
        self._rows: list[Tensor] | None = []
        self._residuals: list[Tensor] = []
        self._matrix: Tensor | None = None
        self._cross: Tensor | None = None
        self._power: Tensor | None = None

    def add(self, rows: Tensor, residuals: Tensor | None = None) -> None:
        """Add rows (m, d), and residuals (m, n). Raises `DataError` if one is NaN or infinite."""
        for values in (rows, residuals):
            if values is not None and not bool(torch.isfinite(values).all()):
                raise DataError("calibration data gives NaN or infinite activations; check the images and the network")
        self.count += len(rows)
        if residuals is not None:
            squares = residuals.to(_sum_dtype(rows.device)).square().sum(0)
            self._power = squares if self._power is None else self._power + squares
        if self._rows is not None:
            self._rows.append(rows)
            self._residuals += [] if residuals is None else [residuals]
            if self.count <= self.dimension:
                return
            pending, self._rows = self._rows, None
            kept, self._residuals = self._residuals, []
            dtype = _sum_dtype(rows.device)
            self._matrix = torch.zeros(self.dimension, self.dimension, dtype=dtype, device=rows.device)
            if residuals is not None:
                self._cross = torch.zeros(residuals.shape[1], self.dimension, dtype=dtype, device=rows.device)
        else:
            pending, kept = [rows], [] if residuals is None else [residuals]
        self._sum(pending, kept)

    def _sum(self, blocks: Sequence[Tensor], residuals: Sequence[Tensor]) -> None:
        assert self._matrix is not None
        for k, block in enumerate(blocks):
            parts = torch.split(residuals[k], CHUNK) if residuals else [None] * len(block)
            for chunk, part in zip(torch.split(block, CHUNK), parts, strict=False):
                exact = chunk.to(self._matrix.dtype)
                for first in range(0, self.dimension, BLOCK):  # the lower triangle; `moment` mirrors it
                    columns = exact[:, first : first + BLOCK]
                    self._matrix[first:, first : first + BLOCK].addmm_(exact[:, first:].mT, columns)
                if self._cross is not None and part is not None:
                    self._cross.addmm_(part.to(exact.dtype).mT, exact)

    def renewed(self) -> Accumulator:
        """An accumulator of the same rows whose residuals are still to come (`add_residuals`)."""
        twin = Accumulator(self.dimension)
        twin.count, twin._matrix = self.count, self._matrix
        twin._rows = None if self._rows is None else list(self._rows)
        return twin

    def add_residuals(self, rows: Tensor, residuals: Tensor) -> None:
        """Add residuals (m, n) of rows (m, d) that the Gram holds already."""
        squares = residuals.to(_sum_dtype(rows.device)).square().sum(0)
        self._power = squares if self._power is None else self._power + squares
        if self._matrix is None:
            self._residuals.append(residuals)
            return
        exact = self._matrix.dtype
        if self._cross is None:
            shape = (residuals.shape[1], self.dimension)
            self._cross = torch.zeros(shape, dtype=exact, device=rows.device)
        # Residuals are small beside outputs, so products in their own precision will do.
        for chunk, part in zip(torch.split(rows, CHUNK), torch.split(residuals, CHUNK), strict=True):
            self._cross.add_((part.mT @ chunk).to(exact))

    def gram(self) -> Gram:
        """The mean over all rows so far. Raises `DataError` if there are none."""
        return self.moment().gram

    def moment(self) -> Moment:
        """The means over all rows and residuals so far. Raises `DataError` if there are none."""
        if self.count == 0:
            raise DataError("a half of the calibration set is empty; give at least two images per task")
        power = None if self._power is None else self._power / self.count
        if self._matrix is not None:
            for first in range(0, self.dimension, BLOCK):
                last = first + BLOCK
                self._matrix[first:last, last:] = self._matrix[last:, first:last].mT
            cross = None if self._cross is None else self._cross / self.count
            return Moment(DenseGram(self._matrix, 1.0 / self.count), None, cross, power)
        assert self._rows is not None
        self._rows = [torch.cat(self._rows)]
        self._residuals = [torch.cat(self._residuals)] if self._residuals else []
        gram = RowGram(self._rows[0], 1.0 / self.count)
        return Moment(gram, self._residuals[0] if self._residuals else None, None, power)


def _sum_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


class Moments:
    """Moments of one layer in one task: of two halves of the calibration set, and of the evaluation images."""

    def __init__(self, dimension: int) -> None:
        self.parts = [Accumulator(dimension) for _ in range(3)]

    @property
    def rows(self) -> int:
        """Calibration rows so far."""
        return self.parts[0].count + self.parts[1].count

    def renewed(self) -> Moments:
        """Moments of the same rows whose residuals are still to come."""
        twin = Moments(self.parts[0].dimension)
        twin.parts = [part.renewed() for part in self.parts]
        return twin

    def mean(self, source: Source, gram: DenseGram | None = None) -> Moment | None:
        """Means over one part's rows; `None` for evaluation images if there are none. Their Gram may be known."""
        if gram is not None:
            every = {"half 0": self.parts[:1], "half 1": self.parts[1:2], "evaluation": self.parts[2:]}
            parts = every.get(source, self.parts[:2])
            total = sum(part.count for part in parts)
            return mean_of([(part.moment(), part.count / total) for part in parts], gram)
        if source == "evaluation":
            return self.parts[2].moment() if self.parts[2].count else None
        if source == "calibration":
            return mean_of([(part.moment(), part.count / self.rows) for part in self.parts[:2]])
        return self.parts[0 if source == "half 0" else 1].moment()


class BankMoments:
    """The same of a grouped convolution: Grams (B, d, d) of its banks, cross-moments (n, d), residual powers (n,)."""

    def __init__(self) -> None:
        self.counts = [0, 0, 0]
        self.sums: list[tuple[Tensor, ...] | None] = [None, None, None]

    def add(self, part: int, rows: Tensor, residuals: Tensor | None = None) -> None:
        """Add rows (m, B, d), and residuals (m, n). Raises `DataError` if one is NaN or infinite."""
        for values in (rows, residuals):
            if values is not None and not bool(torch.isfinite(values).all()):
                raise DataError("calibration data gives NaN or infinite activations; check the images and the network")
        exact = rows.permute(1, 0, 2).to(_sum_dtype(rows.device))
        sums: tuple[Tensor, ...] = (exact.mT @ exact,)
        if residuals is not None:
            sums = (*sums, *_crossed(exact, residuals))
        known = self.sums[part]
        self.sums[part] = sums if known is None else tuple(a + b for a, b in zip(known, sums, strict=True))
        self.counts[part] += len(rows)

    def renewed(self) -> BankMoments:
        """Moments of the same rows whose residuals are still to come."""
        twin = BankMoments()
        twin.counts, twin.sums = list(self.counts), [None if s is None else s[:1] for s in self.sums]
        return twin

    def add_residuals(self, part: int, rows: Tensor, residuals: Tensor) -> None:
        """Add residuals (m, n) of rows (m, B, d) that the Grams hold already."""
        known = self.sums[part]
        assert known is not None
        more = _crossed(rows.permute(1, 0, 2).to(known[0].dtype), residuals)
        rest = more if len(known) == 1 else tuple(a + b for a, b in zip(known[1:], more, strict=True))
        self.sums[part] = (known[0], *rest)

    @property
    def rows(self) -> int:
        """Calibration rows so far, of each bank."""
        return self.counts[0] + self.counts[1]

    def mean(self, source: Source) -> tuple[Tensor, ...] | None:
        """Gram, and cross-moment and power if there are residuals; `None` for evaluation images if there are none."""
        parts = {"half 0": (0,), "half 1": (1,), "calibration": (0, 1), "evaluation": (2,)}[source]
        sums = [s for k in parts if (s := self.sums[k]) is not None]
        if len(sums) == len(parts):
            count = sum(self.counts[k] for k in parts)
            return tuple(torch.stack(values).sum(0) / count for values in zip(*sums, strict=True))
        if source == "evaluation":
            return None
        raise DataError("a half of the calibration set is empty; give at least two images per task")


def _crossed(exact: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-moments (n, d) and powers (n,) of residuals (m, n) with a grouped convolution's rows (B, m, d)."""
    left = residuals.to(exact.dtype)
    by_bank = left.reshape(len(left), len(exact), -1).permute(1, 2, 0)
    return (by_bank @ exact).flatten(0, 1), left.square().sum(0)
