"""What every weight layer of a zipped network answers, however it stores its numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Factors:
    """What every task multiplies shared weights with: `scales[t]` (n_t,) its rows, `gains[t]` (d_t,) its columns.

    `None` stands for one.
    """

    scales: Sequence[Tensor] | None = None
    gains: Sequence[Tensor] | None = None


NO_FACTORS = Factors()


class StoredLayer(nn.Module, ABC):
    """Weight matrices of T tasks, every shared number stored once."""

    masked: bool
    """Whether zeros of pruned parents are kept."""
    scaled: bool = False
    """Whether tasks multiply what they share with scales of their own, one for each row."""
    gained: bool = False
    """Whether they also do with gains of their own, one for each column."""

    @abstractmethod
    def matrix(self, task: int) -> Tensor:
        """Assembled (n_t, d_t) weights of a task, in the parent's own order of rows and columns."""

    @abstractmethod
    def mask(self, task: int) -> Tensor | None:
        """Entries of a task's matrix that may differ from zero, (n_t, d_t) bool; `None` for a dense layer."""

    @abstractmethod
    def remask(self, masks: Sequence[Tensor]) -> None:
        """Let other entries of the tasks' matrices, (n_t, d_t) bool, be those that may differ from zero."""

    @abstractmethod
    def means(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """What matrices (n_t, d_t) hold where every parameter stands, on average over the tasks that share it.

        In the order of `parameters()`. A scale or gain, which stands in no matrix, gets its own size.
        """

    @abstractmethod
    def counts(self) -> tuple[int, list[int]]:
        """Stored numbers shared by two or more tasks, and private ones per task; masked zeros are not stored."""

    def factors(self, tasks: int) -> Factors:
        """All tasks' factors."""
        scales, gains = ([each(t) for t in range(tasks)] for each in (self.scale, self.gain))
        known = [[f for f in found if f is not None] or None for found in (scales, gains)]
        return Factors(*known)

    def scale(self, task: int) -> Tensor | None:
        """Factors (n_t,) of what each of a task's rows shares; `None` if no task has any."""
        return None

    def gain(self, task: int) -> Tensor | None:
        """Factors (d_t,) of what each of a task's columns shares; `None` if no task has any."""
        return None
