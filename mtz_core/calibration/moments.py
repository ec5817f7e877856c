"""Second moments of layer inputs, accumulated batch by batch on two halves of the calibration set.

An input row of a Linear layer is one input vector; of a convolution, one receptive field. Convolutions see many
positions per image, strongly alike, so a few are sampled. A constant one is appended for the bias.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mtz_core.algebra.gram import DenseGram, Gram, RowGram, add, precise, to_dense
from mtz_core.errors import DataError

Source = Literal["half 0", "half 1", "calibration", "evaluation"]
SOURCES: tuple[Source, ...] = ("half 0", "half 1", "calibration", "evaluation")
CHUNK = 4096
"""Rows per product. Products of one chunk run in the rows' own precision or better, sums in double precision."""
STRIPE = 192
"""Columns of a symmetric matrix that are summed at once; those above the diagonal are copied."""


class Accumulator:
    """Streaming E[x xᵀ] of rows (m, d): the rows themselves while they are fewer than d, a d×d matrix after that.

    Residuals (m, n) may come with the rows, always or never; then E[r xᵀ] and E[r²] are kept, too. Matrices are
    summed in double precision: thousands of nearly equal terms would otherwise lose the small directions that decide
    between similar neurons. Where no neurons are compared, and unless it is `exact`, the rows' own precision will do.
    """

    def __init__(self, dimension: int, exact: bool = True) -> None:
        self.dimension, self.exact = dimension, exact
        self.count = 0
        self._rows: list[Tensor] | None = []
        self._residuals: list[Tensor] = []
        self._matrix: Tensor | None = None
        self._cross: Tensor | None = None
        self._power: Tensor | None = None

    def add(self, rows: Tensor, residuals: Tensor | None = None) -> None:
        """Add rows (m, d), and residuals (m, n). Raises `DataError` if one is NaN or infinite."""
        _require_finite(rows, residuals)
        self.count += len(rows)
        if residuals is not None:
            squares = residuals.to(precise(rows.device)).square().sum(0)
            self._power = squares if self._power is None else self._power + squares
        if self._rows is not None:
            self._rows.append(rows)
            self._residuals += [] if residuals is None else [residuals]
            if self.count <= self.dimension:
                return
            pending, self._rows = self._rows, None
            kept, self._residuals = self._residuals, []
            dtype = precise(rows.device) if self.exact else rows.dtype
            self._matrix = torch.zeros(self.dimension, self.dimension, dtype=dtype, device=rows.device)
            if residuals is not None:
                self._cross = torch.zeros(residuals.shape[1], self.dimension, dtype=dtype, device=rows.device)
        else:
            pending, kept = [rows], [] if residuals is None else [residuals]
        self._sum(pending, kept)

    def _sum(self, batches: Sequence[Tensor], residuals: Sequence[Tensor]) -> None:
        assert self._matrix is not None
        for k, batch in enumerate(batches):
            parts = torch.split(residuals[k], CHUNK) if residuals else [None] * len(batch)
            for chunk, part in zip(torch.split(batch, CHUNK), parts, strict=False):
                exact = chunk.to(self._matrix.dtype)
                for first in range(0, self.dimension, STRIPE):  # the lower triangle; `moment` mirrors it
                    columns = exact[:, first : first + STRIPE]
                    self._matrix[first:, first : first + STRIPE].addmm_(exact[:, first:].mT, columns)
                if self._cross is not None and part is not None:
                    self._cross.addmm_(part.to(exact.dtype).mT, exact)

    def renewed(self) -> Accumulator:
        """An accumulator of the same rows whose residuals are still to come (`add_residuals`)."""
        twin = Accumulator(self.dimension, self.exact)
        twin.count, twin._matrix = self.count, self._matrix
        twin._rows = None if self._rows is None else list(self._rows)
        return twin

    def add_residuals(self, rows: Tensor, residuals: Tensor) -> None:
        """Add residuals (m, n) of rows (m, d) that the Gram holds already."""
        squares = residuals.to(precise(rows.device)).square().sum(0)
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
            for first in range(0, self.dimension, STRIPE):
                last = first + STRIPE
                self._matrix[first:last, last:] = self._matrix[last:, first:last].mT
            cross = None if self._cross is None else self._cross / self.count
            return Moment(DenseGram(self._matrix, 1.0 / self.count), None, cross, power)
        assert self._rows is not None
        self._rows = [torch.cat(self._rows)]
        self._residuals = [torch.cat(self._residuals)] if self._residuals else []
        gram = RowGram(self._rows[0], 1.0 / self.count)
        return Moment(gram, self._residuals[0] if self._residuals else None, None, power)


def _require_finite(*given: Tensor | None) -> None:
    """Raise `DataError` if a number is NaN or infinite. A finite sum shows that none is."""
    for values in given:
        if values is not None and not bool(values.sum().isfinite()) and not bool(torch.isfinite(values).all()):
            raise DataError("calibration data gives NaN or infinite activations; check the images and the network")


class LayerMoments(ABC):
    """Moments of one layer in one task: of two halves of the calibration set, and of the evaluation images.

    Parts are numbered 0 and 1 (the halves) and 2 (evaluation).
    """

    @property
    @abstractmethod
    def rows(self) -> int:
        """Calibration rows so far."""

    @abstractmethod
    def add(self, part: int, rows: Tensor, residuals: Tensor | None = None) -> None:
        """Add rows, and residuals (m, n). Raises `DataError` if one is NaN or infinite."""

    @abstractmethod
    def renewed(self) -> LayerMoments:
        """Moments of the same rows whose residuals are still to come."""

    @abstractmethod
    def add_residuals(self, part: int, rows: Tensor, residuals: Tensor) -> None:
        """Add residuals (m, n) of rows that the Grams hold already."""


class Moments(LayerMoments):
    """Of a layer whose neurons all read the same inputs: rows are (m, d)."""

    def __init__(self, dimension: int, exact: bool = True) -> None:
        self.parts = [Accumulator(dimension, exact) for _ in range(3)]

    @property
    def rows(self) -> int:
        return self.parts[0].count + self.parts[1].count

    def add(self, part: int, rows: Tensor, residuals: Tensor | None = None) -> None:
        self.parts[part].add(rows, residuals)

    def add_residuals(self, part: int, rows: Tensor, residuals: Tensor) -> None:
        self.parts[part].add_residuals(rows, residuals)

    def renewed(self) -> Moments:
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


class GroupedMoments(LayerMoments):
    """Of a grouped convolution, with rows (m, B, d): Grams (B, d, d) of its banks, cross-moments (n, d), powers."""

    def __init__(self) -> None:
        self.counts = [0, 0, 0]
        self.sums: list[tuple[Tensor, ...] | None] = [None, None, None]

    def add(self, part: int, rows: Tensor, residuals: Tensor | None = None) -> None:
        _require_finite(rows, residuals)
        exact = rows.permute(1, 0, 2).to(precise(rows.device))
        sums: tuple[Tensor, ...] = (exact.mT @ exact,)
        if residuals is not None:
            sums = (*sums, *_crossed(exact, residuals))
        known = self.sums[part]
        self.sums[part] = sums if known is None else tuple(a + b for a, b in zip(known, sums, strict=True))
        self.counts[part] += len(rows)

    def renewed(self) -> GroupedMoments:
        twin = GroupedMoments()
        twin.counts, twin.sums = list(self.counts), [None if s is None else s[:1] for s in self.sums]
        return twin

    def add_residuals(self, part: int, rows: Tensor, residuals: Tensor) -> None:
        known = self.sums[part]
        assert known is not None
        more = _crossed(rows.permute(1, 0, 2).to(known[0].dtype), residuals)
        rest = more if len(known) == 1 else tuple(a + b for a, b in zip(known[1:], more, strict=True))
        self.sums[part] = (known[0], *rest)

    @property
    def rows(self) -> int:
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


@dataclass(frozen=True)
class Moment:
    """Means over input rows x (d,) and residuals r (n,) of one layer in one task.

    A Gram that is kept as rows has the residuals of these rows beside it, (m, n), weighted alike; a matrix has the
    cross-moment E[r xᵀ], (n, d). Both are `None` where all residuals are zero.
    """

    gram: Gram
    residuals: Tensor | None = None
    cross: Tensor | None = None
    power: Tensor | None = None
    """E[r²], (n,)."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Moment:
        """The same moments on another device, in another precision."""
        cast = [None if x is None else x.to(device, dtype) for x in (self.residuals, self.cross, self.power)]
        return Moment(self.gram.to(device, dtype), *cast)

    def crossed(self) -> Tensor | None:
        """E[r xᵀ], (n, d)."""
        if isinstance(self.gram, RowGram) and self.residuals is not None:
            return (self.residuals.mT @ self.gram.rows).mul_(self.gram.scale)
        return self.cross

    def dense(self) -> Moment:
        """The same moments with matrices built."""
        return Moment(to_dense(self.gram), None, self.crossed(), self.power)


def mean_of(parts: Sequence[tuple[Moment, float]], gram: Gram | None = None) -> Moment:
    """Weighted mean of moments; weights sum to one. Their mean Gram, as a matrix, may be known already."""
    if len(parts) == 1 and gram is None:
        return parts[0][0]
    known = gram is not None
    gram = add([moment.gram.scaled(weight) for moment, weight in parts]) if gram is None else gram
    powers = [(moment.power, weight) for moment, weight in parts]
    if any(power is None for power, _ in powers):
        return Moment(gram)
    power = torch.stack([p * weight for p, weight in powers if p is not None]).sum(0)
    if isinstance(gram, RowGram) and not known:
        weighted = [
            moment.residuals * (moment.gram.scale * weight) ** 0.5
            for moment, weight in parts
            if moment.residuals is not None and isinstance(moment.gram, RowGram)
        ]
        return Moment(gram, torch.cat(weighted), None, power)
    crosses = [(moment.crossed(), weight) for moment, weight in parts]
    return Moment(gram, None, torch.stack([c * weight for c, weight in crosses if c is not None]).sum(0), power)
