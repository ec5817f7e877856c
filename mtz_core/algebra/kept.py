"""What is worth keeping from one round to the next, within a limit of memory.

Eight tasks can share neurons in 247 ways, and every way has a matrix of its own to be factored. Rounds go through
them in the same order, so the first ones that fit are kept and found in every round. The others are made whenever they
are needed, and only the latest stay: the neurons of one set of tasks can come in several pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

BUDGET = 256 * 2**20
"""Bytes of what is kept of a layer."""


class Sized(Protocol):
    """What says how much memory it takes."""

    def bytes(self) -> int:
        """Memory that would be free without it."""


V = TypeVar("V", bound=Sized)


@dataclass
class Kept(Generic[V]):
    """Values by key, as many as fit into `budget` bytes (`BUDGET` if omitted); all belong to one `state`.

    >>> from types import SimpleNamespace
    >>> kept, big = Kept(budget=10), SimpleNamespace(bytes=lambda: 8)
    >>> [kept.get("now", key, lambda: big) is big for key in ("a", "b")], kept.held, sorted(kept.values)
    ([True, True], 8, ['a'])
    """

    budget: int | None = None
    recent: int = 1
    """How many values beside those, the latest, are kept in any case."""
    values: dict[Hashable, V] = field(default_factory=dict)
    held: int = 0
    """Bytes of `values`."""
    state: Hashable = None
    latest: dict[Hashable, V] = field(default_factory=dict)

    def get(self, state: Hashable, key: Hashable, make: Callable[[], V]) -> V:
        """Return the value of a key, made anew unless it is kept; what belongs to another state is let go."""
        if state != self.state:
            self.clear()
            self.state = state
        if key in self.values:
            return self.values[key]
        if key in self.latest:
            return self.latest[key]
        while len(self.latest) >= self.recent:
            del self.latest[next(iter(self.latest))]
        value = make()
        size = value.bytes()
        if self.held + size <= (BUDGET if self.budget is None else self.budget):
            self.values[key] = value
            self.held += size
        else:
            self.latest[key] = value
        return value

    def clear(self) -> None:
        """Let go of everything."""
        self.values.clear()
        self.latest.clear()
        self.held, self.state = 0, None
