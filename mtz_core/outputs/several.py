"""Several outputs of one network: each answers for itself; what is asked of all is the sum or the mean of theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtz_core.errors import DataError
from mtz_core.outputs.kind import PLACES, Output, Scores, Tally, some_places
from mtz_core.outputs.labels import label_shapes
from mtz_core.outputs.types import SEVERAL, TaskType

APART = 7_368_787
"""Between the seeds of two outputs."""


@dataclass(frozen=True)
class Several(Output):
    """Heads side by side, outputs (N, Σ numbers); `parts` say of each what it is, `shapes` are those for one input.

    Given an input, heads are independent: divergences and losses are sums. `changed` is the mean over heads, and so is
    the error, over those that have labels.
    """

    parts: tuple[Output, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, names: Sequence[str], parts: Sequence[Output], shapes: Sequence[tuple[int, ...]]) -> Several:
        """From names, outputs, and shapes of each for one input."""
        kind = TaskType(SEVERAL, heads=tuple(zip(names, (part.type for part in parts), strict=True)))
        return cls(kind, tuple(parts), tuple(shapes))

    @property
    def names(self) -> tuple[str, ...]:
        """Of every head."""
        return tuple(name for name, _ in self.type.heads)

    def split(self, outputs: Tensor) -> list[Tensor]:
        """Outputs (N, Σ numbers) head by head, (N, ...) each."""
        pieces = torch.split(outputs, [math.prod(shape) for shape in self.shapes], 1)
        return [piece.reshape(len(piece), *shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def joined_labels(self, labels: Mapping[str, Tensor], where: str) -> Tensor:
        """Labels by the names of heads as one tensor (N, ·) of floating-point numbers; NaN where a head has none.

        Raises `DataError` for a head that is not there.
        """
        strangers = [name for name in labels if name not in self.names]
        if strangers or not labels:
            raise DataError(
                f"{where} has labels for {', '.join(map(repr, strangers)) or 'no output'}; the network's outputs are "
                f"{', '.join(map(repr, self.names))}"
            )
        count = len(next(iter(labels.values())))
        dtype = torch.float64 if any(given.dtype == torch.float64 for given in labels.values()) else torch.float32
        columns = []
        for name, numbers in zip(self.names, self._label_numbers(), strict=True):
            given = labels.get(name)
            nothing = torch.full((count, numbers), math.nan, dtype=dtype)
            columns.append(nothing if given is None else given.to(dtype).reshape(count, numbers))
        return torch.cat(columns, 1)

    def _label_shapes(self) -> list[tuple[int, ...]]:
        return [label_shapes(part.type, shape)[0] for part, shape in zip(self.parts, self.shapes, strict=True)]

    def _label_numbers(self) -> list[int]:
        return [math.prod(shape) for shape in self._label_shapes()]

    def split_labels(self, labels: Tensor) -> list[Tensor | None]:
        """Labels (N, ·) of `joined_labels` head by head; `None` for one without."""
        found: list[Tensor | None] = []
        pieces = torch.split(labels, self._label_numbers(), 1)
        for part, piece, shape in zip(self.parts, pieces, self._label_shapes(), strict=True):
            if bool(piece.isnan().all()):
                found.append(None)
                continue
            given = piece.reshape(len(piece), *shape)
            found.append(given if part.type.kind == "regression" else given.long())
        return found

    def labels(self, labels: Tensor) -> Tensor:
        """Labels (N, 1, ·) as they are."""
        return labels[:, None]

    def logits(self, outputs: Tensor) -> Tensor:
        """All heads' z, (N, 1, Σ P·K)."""
        return self._flat(outputs, lambda part, own: part.logits(own))

    def predictions(self, outputs: Tensor) -> Tensor:
        """All heads' predictions, (N, 1, Σ P·K), each at no more than `mtz_core.outputs.kind.PLACES` places."""
        return self._flat(outputs, lambda part, own: some_places(part.predictions(own)))

    def targets(self, outputs: Tensor, temperature: float) -> Tensor:
        """All heads' targets, (N, 1, Σ P·K)."""
        return self._flat(outputs, lambda part, own: part.targets(own, temperature))

    def _flat(self, outputs: Tensor, of: Callable[[Output, Tensor], Tensor]) -> Tensor:
        found = [of(part, own).flatten(1) for part, own in zip(self.parts, self.split(outputs), strict=True)]
        return torch.cat(found, 1)[:, None]

    def _unflat(self, values: Tensor, most: int | None = None) -> list[Tensor]:
        """Values (N, 1, Σ P·K) at no more than `most` places head by head, (N, P, K) each."""
        found, first = [], 0
        for part, shape in zip(self.parts, self.shapes, strict=True):
            _, places, numbers = part.places(torch.empty(1, *shape, device="meta")).shape
            places = places if most is None else min(places, most)
            found.append(values[:, 0, first : first + places * numbers].reshape(len(values), places, numbers))
            first += places * numbers
        return found

    def divergence(self, parent: Tensor, other: Tensor) -> Tensor:
        """Σ over heads."""
        return torch.stack(self._each("divergence", parent, other)).sum(0)

    def changed(self, parent: Tensor, other: Tensor) -> Tensor:
        """Mean over heads."""
        return torch.stack(self._each("changed", parent, other)).mean(0)

    def likely(self, parent: Tensor, other: Tensor, many: Tensor) -> float:
        """Mean over heads."""
        heads = zip(*(self._unflat(values, PLACES) for values in (parent, other, many)), strict=True)
        found = [part.likely(*values) for part, values in zip(self.parts, heads, strict=True)]
        return sum(found) / len(found)

    def _each(self, what: str, parent: Tensor, other: Tensor) -> list[Tensor]:
        pairs = zip(self.parts, self._unflat(parent, PLACES), self._unflat(other, PLACES), strict=True)
        return [getattr(part, what)(mine, theirs) for part, mine, theirs in pairs]

    def distillation(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Σ over heads."""
        pairs = zip(self.parts, self.split(outputs), self._unflat(targets), strict=True)
        return torch.stack([part.distillation(own, wanted, temperature) for part, own, wanted in pairs]).sum(0)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Σ over the heads that have labels."""
        pairs = zip(self.parts, self.split(outputs), self.split_labels(labels), strict=True)
        found = [part.loss(own, wanted) for part, own, wanted in pairs if wanted is not None]
        return torch.stack(found).sum(0) if found else outputs.new_zeros(len(outputs))

    def drawn(self, logits: Tensor, chances: list[torch.Generator], count: int, temperature: float) -> Tensor:
        """Of all heads, (count, N, 1, Σ P·K)."""
        found = [
            part.drawn(own, chances, count, temperature).flatten(2)
            for part, own in zip(self.parts, self._unflat(logits), strict=True)
        ]
        return torch.cat(found, 2)[:, :, None]

    def pulls(self, outputs: Tensor, seed: int, count: int, temperature: float) -> list[Tensor]:
        """Heads' pulls side by side: their answers are drawn on their own."""
        pairs = enumerate(zip(self.parts, self.split(outputs), strict=True))
        each = [part.pulls(own, seed + APART * k, count, temperature) for k, (part, own) in pairs]
        return [torch.cat([pull.flatten(1) for pull in drawn], 1) for drawn in zip(*each, strict=True)]

    def tally(self) -> Tally:
        """Mean error of the heads that have labels; every head's own error and measures by its name."""
        return _Tallies(self)


class _Tallies(Tally):
    """One for every head that has labels."""

    def __init__(self, output: Several) -> None:
        self.output = output
        self.heads: dict[str, Tally] = {}

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        own = self.output
        heads = zip(own.names, own.parts, own.split(outputs), own.split_labels(labels), strict=True)
        for name, part, given, wanted in heads:
            if wanted is not None:
                self.heads.setdefault(name, part.tally()).add(given, wanted)

    def scores(self) -> Scores:
        more: dict[str, float] = {}
        errors = []
        for name, part in zip(self.output.names, self.output.parts, strict=True):
            if name in self.heads:
                found = self.heads[name].scores()
                errors.append(found.error)
                more[f"{name}: {part.type.error}, %"] = found.error
                more |= {f"{name}: {measure}": value for measure, value in found.more.items()}
        return Scores(sum(errors) / len(errors) if errors else math.nan, more)
