"""Values: a Gaussian with each output's own spread over the calibration images, squared and absolute errors."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtz_core.outputs.kind import Output, Scores, Tally, mean_of

TOLERANCE = 0.5
"""Of an output's spread. A value counts as changed in part, as far as it has moved in tolerances, and fully from one
on: that is the chance that it falls into another one of bins of this width, wherever these begin. So what counts grows
with the root of the divergence from the first, as it does for classes that change."""
ABSOLUTE = "mean absolute error"


@dataclass(frozen=True)
class Values(Output):
    """y ~ N(z, s²) for each output on its own; `spread` s (K,) is what the parent's own outputs have."""

    spread: Tensor = field(default_factory=lambda: torch.ones(1))

    def labels(self, labels: Tensor) -> Tensor:
        """Labels (N, P, K); those of one value need not have its axis."""
        return labels.reshape(len(labels), -1, 1) if len(self.spread) == 1 else self.places(labels)

    def logits(self, outputs: Tensor) -> Tensor:
        """The values themselves."""
        return self.places(outputs)

    def predictions(self, outputs: Tensor) -> Tensor:
        """The values themselves."""
        return self.places(outputs).double()

    def divergence(self, parent: Tensor, other: Tensor) -> Tensor:
        """Σ_k ½ (f_k - g_k)² / s_k², mean over places."""
        return self._squares(parent, other).sum(-1).mean(1)

    def changed(self, parent: Tensor, other: Tensor) -> Tensor:
        """Mean of |f_k - g_k| / (`TOLERANCE` s_k), at most 1 each."""
        distances = (parent - other).abs() / (TOLERANCE * self.spread.to(parent))
        return distances.clamp(max=1.0).mean((1, 2))

    def targets(self, outputs: Tensor, temperature: float) -> Tensor:
        """The values themselves: nothing is softened."""
        return self.places(outputs)

    def distillation(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Σ_k ½ (f_k - g_k)² / s_k²."""
        return self._squares(targets, self.places(outputs)).sum(-1).mean(1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Σ_k ½ (y_k - f_k)² / s_k²: -log p(y) but for a constant; K times the mean over values that count."""
        z, wanted = self.places(outputs), self.labels(labels)
        counts = self.counting(wanted)
        return mean_of(self._squares(torch.where(counts, wanted, 0).to(z), z), counts) * z.shape[-1]

    def _squares(self, a: Tensor, b: Tensor) -> Tensor:
        return 0.5 * ((a - b) / self.spread.to(a)).square()

    def counting(self, labels: Tensor) -> Tensor:
        ignored = self.type.ignore_index
        return torch.ones_like(labels, dtype=torch.bool) if ignored is None else labels != ignored

    def drawn(self, logits: Tensor, chances: list[torch.Generator], count: int, temperature: float) -> Tensor:
        """(y - z) / s², y ~ N(z, s²)."""
        noise = torch.stack([torch.randn(count, *logits.shape[1:], generator=each) for each in chances], dim=1)
        return noise.to(logits) / self.spread.to(logits)

    def tally(self) -> Tally:
        """Mean absolute error of every value over the spread of its labels, in %, mean over the K values; and as it is.

        A value whose labels are all the same is measured by the spread of the parent's outputs.
        """
        return _Sums(self)


class _Sums(Tally):
    """Of every value's absolute errors, of its labels, and of their squares, (K,) each."""

    def __init__(self, output: Values) -> None:
        self.output, k = output, len(output.spread)
        self.off, self.total, self.sums, self.squares = (torch.zeros(k, dtype=torch.float64) for _ in range(4))

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        z, wanted = self.output.places(outputs).cpu().double(), self.output.labels(labels).double()
        counts = self.output.counting(wanted)
        wanted = torch.where(counts, wanted, 0.0)
        self.off += torch.where(counts, (z - wanted).abs(), 0.0).sum((0, 1))
        self.total += counts.sum((0, 1))
        self.sums += wanted.sum((0, 1))
        self.squares += wanted.square().sum((0, 1))

    def scores(self) -> Scores:
        seen = self.total.clamp(min=1.0)
        variance = self.squares / seen - (self.sums / seen).square()
        known = variance > 1e-12 * (self.squares / seen)
        spread = torch.where(known, variance.clamp(min=0.0).sqrt(), self.output.spread.cpu().double())
        absolute = self.off / seen
        return Scores(100.0 * float((absolute / spread).mean()), {ABSOLUTE: float(absolute.mean())})


def spread_of(values: Tensor) -> Tensor:
    """Standard deviation (K,) of values (N, P, K) over images and places; 1 where a value never changes."""
    spread = values.double().flatten(0, 1).std(0, correction=0)
    return torch.where(spread > 1e-12 * values.abs().amax((0, 1)).double(), spread, 1.0)
