"""One class of several: softmax, cross-entropy, errors in % of images or places, mean intersection over union."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mtz_core.outputs.kind import Output, Scores, Tally, mean_of
from mtz_core.outputs.likely import likely_changed


@dataclass(frozen=True)
class Multiclass(Output):
    """p = softmax(z); labels (N,) or (N, ...) are classes from 0 on."""

    def labels(self, labels: Tensor) -> Tensor:
        """Classes (N, P)."""
        return labels.reshape(len(labels), -1)

    def logits(self, outputs: Tensor) -> Tensor:
        """z, or log p, which differs from z by the same number for all classes."""
        z = self.places(outputs)
        return z.clamp(min=torch.finfo(z.dtype).tiny).log() if self.type.probabilities else z

    def predictions(self, outputs: Tensor) -> Tensor:
        """log p."""
        return self.logits(outputs).double().log_softmax(-1)

    def divergence(self, parent: Tensor, other: Tensor) -> Tensor:
        """Σ_k p_k (log p_k - log q_k), mean over places."""
        return (parent.exp() * (parent - other)).sum(-1).mean(1)

    def changed(self, parent: Tensor, other: Tensor) -> Tensor:
        """Part of the places whose most probable class is another."""
        return (parent.argmax(-1) != other.argmax(-1)).double().mean(1)

    def likely(self, parent: Tensor, other: Tensor, many: Tensor) -> float:
        """By margins between the most probable class and the next, and what the best of the others gained on it."""
        if parent.shape[-1] < 2:
            return 0.0
        best = parent.argmax(-1, keepdim=True)
        margins, left, known = _lead(parent, best), _lead(other, best), _lead(many, many.argmax(-1, keepdim=True))
        return likely_changed(margins, margins - left, known)

    def targets(self, outputs: Tensor, temperature: float) -> Tensor:
        """log softmax(z / τ)."""
        return F.log_softmax(self.logits(outputs) / temperature, -1)

    def distillation(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """τ² KL(parent ‖ outputs)."""
        softened = F.log_softmax(self.logits(outputs) / temperature, -1)
        return (F.kl_div(softened, targets, log_target=True, reduction="none").sum(-1) * temperature**2).mean(1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        z, classes, ignored = self.logits(outputs), self.labels(labels), self.type.ignore_index
        counts = torch.ones_like(classes, dtype=torch.bool) if ignored is None else classes != ignored
        wanted = torch.where(counts, classes, 0)
        each = F.cross_entropy(z.flatten(0, 1), wanted.flatten(), reduction="none").reshape(classes.shape)
        return mean_of(each, counts)

    def drawn(self, logits: Tensor, chances: list[torch.Generator], count: int, temperature: float) -> Tensor:
        """onehot(y) - p, y ~ p."""
        soft = (logits / temperature).softmax(-1)
        heights = torch.stack([torch.rand(count, *soft.shape[1:-1], 1, generator=each) for each in chances], dim=1)
        chosen = (soft.cumsum(-1) < heights.to(soft)).sum(-1, keepdim=True).clamp(max=soft.shape[-1] - 1)
        ones = soft.new_zeros(*chosen.shape[:-1], soft.shape[-1]).scatter_(-1, chosen, 1.0)
        return ones - soft

    def tally(self) -> Tally:
        """Wrong images or places in %; of places also the mean intersection over union of classes that occur."""
        return _Counts(self)


class _Counts(Tally):
    """Of wrong answers and of all, and of places a table by class and prediction, (K, K)."""

    def __init__(self, output: Multiclass) -> None:
        self.output, self.wrong, self.total, self.table = output, 0, 0, torch.zeros(0)

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        z, classes, kind = self.output.places(outputs), self.output.labels(labels), self.output.type
        predicted = z.argmax(-1).cpu()
        if kind.ignore_index is not None:
            counts = classes != kind.ignore_index
            predicted, classes = predicted[counts], classes[counts]
        self.wrong, self.total = self.wrong + int((predicted != classes).sum()), self.total + classes.numel()
        if kind.dense:
            k = z.shape[-1]
            found = torch.bincount((classes * k + predicted).flatten(), minlength=k * k).reshape(k, k)
            self.table = self.table + found if len(self.table) else found

    def scores(self) -> Scores:
        more = {"mean intersection over union, %": _mean_iou(self.table)} if self.output.type.dense else {}
        return Scores(100.0 * self.wrong / max(1, self.total), more)


def _lead(predictions: Tensor, chosen: Tensor) -> Tensor:
    """By how much the chosen class (N, P, 1) is ahead of the best of the others, of all N P answers."""
    others = predictions.scatter(-1, chosen, -torch.inf).amax(-1)
    return (predictions.gather(-1, chosen)[..., 0] - others).flatten()


def _mean_iou(table: Tensor) -> float:
    """Of a table of places by class and prediction, (K, K), in %."""
    both = table.diagonal().double()
    either = table.sum(0) + table.sum(1) - both
    occurs = either > 0
    return 100.0 * float((both[occurs] / either[occurs]).mean()) if occurs.any() else float("nan")
