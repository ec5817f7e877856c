"""What every kind of task answers of its outputs: logits, divergence, losses, pulls, errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtz_core.outputs.types import TaskType

APART = 1_000_003
"""Between the seeds of two images."""
PLACES = 1024
"""Of an image (pixels, tokens) whose predictions are compared where images are many."""


@dataclass(frozen=True)
class Scores:
    """A task's error in % (see `TaskType.error`), and `more` measures by name, each with its unit."""

    error: float
    more: Mapping[str, float] = field(default_factory=dict)


class Tally(ABC):
    """Counts of errors, which grow with every batch while outputs are let go."""

    @abstractmethod
    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """Count a batch of outputs (N, ...) with labels (N, ...)."""

    @abstractmethod
    def scores(self) -> Scores:
        """The errors of all batches so far."""


@dataclass(frozen=True)
class Output(ABC):
    """One task's outputs as K numbers z at each of P places of N images: logits, or values.

    All losses and divergences are in nats, sums over the K numbers and means over places, one for each image.
    """

    type: TaskType

    def places(self, outputs: Tensor) -> Tensor:
        """Outputs (N, ...) as (N, P, K)."""
        axis, count = self.type.axis, len(outputs)
        if axis == 0:
            return outputs.reshape(count, -1, 1)
        return outputs.movedim(axis, -1).reshape(count, -1, outputs.shape[axis])

    @abstractmethod
    def labels(self, labels: Tensor) -> Tensor:
        """Labels as they belong to places: (N, P), or (N, P, K)."""

    @abstractmethod
    def logits(self, outputs: Tensor) -> Tensor:
        """z (N, P, K) of outputs (N, ...); of probabilities their logarithm or logit, through which gradients pass."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """What `divergence` and `changed` compare, (N, P, K), in double precision."""

    @abstractmethod
    def divergence(self, parent: Tensor, other: Tensor) -> Tensor:
        """Kullback-Leibler divergence of one network's predictions from the parent's, (N,)."""

    @abstractmethod
    def changed(self, parent: Tensor, other: Tensor) -> Tensor:
        """Part of each image's answers that differ between two networks' predictions, (N,), in [0, 1]."""

    def likely(self, parent: Tensor, other: Tensor, many: Tensor) -> float:
        """Part of the answers that is likely to change among `many` predictions of the parent (M, P, K).

        `parent` and `other` show what moves, on some inputs (see `outputs.likely`). Where `changed` is a matter of
        degree, it is its mean.
        """
        return float(self.changed(parent, other).mean())

    @abstractmethod
    def targets(self, outputs: Tensor, temperature: float) -> Tensor:
        """What is distilled of a parent's outputs, (N, P, K)."""

    @abstractmethod
    def distillation(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """τ² times the divergence of predictions softened by τ, (N,)."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """-log p(labels), (N,); labels that are ignored leave a mean over the others, or 0."""

    @abstractmethod
    def drawn(self, logits: Tensor, chances: list[torch.Generator], count: int, temperature: float) -> Tensor:
        """∂ log p(y) / ∂z for `count` answers y drawn from predictions softened by τ, (count, N, P, K), times τ."""

    @abstractmethod
    def tally(self) -> Tally:
        """An empty count of errors."""

    def scores(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Scores:
        """Errors of batches of (outputs, labels), of which one is held at a time."""
        tally = self.tally()
        for outputs, labels in batches:
            tally.add(outputs, labels)
        return tally.scores()

    def pulls(self, outputs: Tensor, seed: int, count: int, temperature: float) -> list[Tensor]:
        """Gradients of log p(y) with respect to the outputs, for `count` answers y drawn from what they say.

        They are divided by √P, so that the mean of g gᵀ belongs to one place, as divergences do. What is drawn for an
        image does not depend on the batch that it is in: image i has the seed `seed` + 1,000,003 i.
        """
        chances = [torch.Generator().manual_seed((seed + APART * i) % 2**63) for i in range(len(outputs))]
        with torch.enable_grad():
            given = outputs.detach().requires_grad_()
            logits = self.logits(given)
        drawn = self.drawn(logits.detach(), chances, count, temperature)
        if logits.shape[1] > 1:
            drawn = drawn / logits.shape[1] ** 0.5
        return [torch.autograd.grad(logits, given, each, retain_graph=True)[0] for each in drawn]


def some_places(predictions: Tensor) -> Tensor:
    """Predictions (N, P, K) at no more than `PLACES` places, drawn once for all."""
    places = predictions.shape[1]
    if places <= PLACES:
        return predictions
    order = torch.randperm(places, generator=torch.Generator().manual_seed(0))
    return predictions[:, order[:PLACES].to(predictions.device)]


def mean_of(losses: Tensor, counts: Tensor) -> Tensor:
    """Means (N,) of those losses (N, ...) that count; 0 where none does."""
    kept = counts.to(losses).flatten(1)
    return torch.where(counts, losses, 0.0).flatten(1).sum(1) / kept.sum(1).clamp(min=1.0)
