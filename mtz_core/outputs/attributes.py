"""Yes or no, once or for K attributes: sigmoid, binary cross-entropy, errors in % of attributes, average precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mtz_core.outputs.kind import Output, Scores, Tally, mean_of
from mtz_core.outputs.likely import likely_changed


@dataclass(frozen=True)
class Attributes(Output):
    """p = σ(z) for each attribute on its own; labels are 0 or 1, one for each of the outputs."""

    def labels(self, labels: Tensor) -> Tensor:
        """Labels (N, P, K); those of one attribute need not have its axis."""
        return labels.reshape(len(labels), -1, 1) if self.type.kind == "binary" else self.places(labels)

    def logits(self, outputs: Tensor) -> Tensor:
        """z, or log p - log(1 - p)."""
        z = self.places(outputs)
        if not self.type.probabilities:
            return z
        z = z.clamp(torch.finfo(z.dtype).tiny, 1.0 - torch.finfo(z.dtype).eps / 2)
        return z.log() - (-z).log1p()

    def predictions(self, outputs: Tensor) -> Tensor:
        """z."""
        return self.logits(outputs).double()

    def divergence(self, parent: Tensor, other: Tensor) -> Tensor:
        """Σ_k p_k (log p_k - log q_k) + (1 - p_k) (log(1 - p_k) - log(1 - q_k)), mean over places."""
        return _bernoulli(parent, other).sum(-1).mean(1)

    def changed(self, parent: Tensor, other: Tensor) -> Tensor:
        """Part of the attributes that are answered otherwise."""
        return ((parent > 0) != (other > 0)).double().mean((1, 2))

    def likely(self, parent: Tensor, other: Tensor, many: Tensor) -> float:
        """By |z|, and how far z moved towards 0 and beyond; mean of the attributes."""
        margins, moved, known = parent.abs(), torch.where(parent > 0, parent - other, other - parent), many.abs()
        found = [
            likely_changed(margins[..., k].flatten(), moved[..., k].flatten(), known[..., k].flatten())
            for k in range(parent.shape[-1])
        ]
        return sum(found) / len(found)

    def targets(self, outputs: Tensor, temperature: float) -> Tensor:
        """z / τ."""
        return self.logits(outputs) / temperature

    def distillation(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """τ² times the sum of the attributes' KL(parent ‖ outputs)."""
        each = _bernoulli(targets, self.logits(outputs) / temperature)
        return each.sum(-1).mean(1) * temperature**2

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, K times the mean over attributes that count."""
        z, wanted = self.logits(outputs), self.labels(labels)
        counts = self.counting(wanted)
        each = F.binary_cross_entropy_with_logits(z, torch.where(counts, wanted, 0).to(z), reduction="none")
        return mean_of(each, counts) * z.shape[-1]

    def counting(self, labels: Tensor) -> Tensor:
        ignored = self.type.ignore_index
        return torch.ones_like(labels, dtype=torch.bool) if ignored is None else labels != ignored

    def drawn(self, logits: Tensor, chances: list[torch.Generator], count: int, temperature: float) -> Tensor:
        """y - p, y ~ Bernoulli(p) for each."""
        p = (logits / temperature).sigmoid()
        heights = torch.stack([torch.rand(count, *p.shape[1:], generator=each) for each in chances], dim=1)
        return (heights.to(p) < p).to(p) - p

    def tally(self) -> Tally:
        """Wrong attributes in %, mean over attributes; of several also the mean average precision."""
        return _Counts(self)


class _Counts(Tally):
    """Of wrong answers and of all, by attribute; for the average precision of one place, its logits and labels."""

    def __init__(self, output: Attributes) -> None:
        self.output, self.wrong, self.total = output, torch.zeros(0), torch.zeros(0)
        self.ranked = output.type.kind == "multilabel" and not output.type.dense
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        z, wanted = self.output.logits(outputs).cpu(), self.output.labels(labels)
        counts = self.output.counting(wanted)
        missed = (((z > 0) != (wanted > 0.5)) & counts).sum((0, 1)).double()
        there = counts.sum((0, 1))
        first = not len(self.wrong)
        self.wrong, self.total = (missed, there) if first else (self.wrong + missed, self.total + there)
        if self.ranked:
            self.kept.append((z[:, 0].clone(), wanted[:, 0].clone(), counts[:, 0].clone()))

    def scores(self) -> Scores:
        occurs = self.total > 0
        error = 100.0 * float((self.wrong[occurs] / self.total[occurs]).mean()) if occurs.any() else 0.0
        if not self.kept:
            return Scores(error)
        columns = [torch.cat(part) for part in zip(*self.kept, strict=True)]
        return Scores(error, {"mean average precision, %": 100.0 * _mean_average_precision(*columns)})


def _bernoulli(a: Tensor, b: Tensor) -> Tensor:
    """KL of σ(b) from σ(a), of each number."""
    yes = a.sigmoid() * (F.logsigmoid(a) - F.logsigmoid(b))
    return yes + (-a).sigmoid() * (F.logsigmoid(-a) - F.logsigmoid(-b))


def _mean_average_precision(scores: Tensor, labels: Tensor, counts: Tensor) -> float:
    """Mean over the attributes that occur of Σ_n (R_n - R_{n-1}) P_n, equal scores taken together; (N, K) each."""
    found = []
    for k in range(scores.shape[1]):
        kept = counts[:, k]
        score, order = scores[kept, k].sort(descending=True)
        hits = (labels[kept, k][order] > 0.5).double().cumsum(0)
        if not len(hits) or hits[-1] == 0:
            continue
        last = torch.ones_like(score, dtype=torch.bool)
        last[:-1] = score[1:] != score[:-1]
        ranks = torch.arange(1, len(hits) + 1, dtype=torch.float64)[last]
        hits = hits[last]
        gained = torch.diff(hits, prepend=hits.new_zeros(1))
        found.append(float((gained * hits / ranks).sum() / hits[-1]))
    return sum(found) / len(found) if found else float("nan")
