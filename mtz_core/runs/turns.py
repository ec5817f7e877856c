"""Whose turn it is: places are given in rounds, over kinds of jobs and over owners. Numbers in, numbers out.

Jobs of seconds (checks, inspections) and long ones (runs, plans) take turns, and within each the owners do: whoever was
served longest ago is next, and of one owner's jobs the oldest. So of two owners who both wait, neither is served twice
more than the other, however many jobs one of them has.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

SHORT = ("check", "inspect")
EVERYONE = ""
"""The owner of what belongs to everyone."""


@dataclass(frozen=True)
class Ticket:
    """A job in the queue: `started` is when it got its place (`None`: it waits), `beat` its last sign of life.

    `paused`: it had a place, gave no sign of life, and the place was given on.
    """

    id: str
    kind: str
    owner: str
    asked: float
    started: float | None = None
    beat: float | None = None
    host: str | None = None
    pid: int | None = None
    pid_created: float | None = None
    tries: int = 0
    memory: int = 0
    paused: bool = False

    @property
    def lane(self) -> str:
        """Whether it is a matter of seconds, or long."""
        return "short" if self.kind in SHORT else "long"

    @property
    def turns(self) -> tuple[str, str]:
        """The names under which its turns are counted: its lane's, and its owner's in it."""
        return self.lane, f"{self.lane} {self.owner}"


@dataclass(frozen=True)
class Standing:
    """Where a job stands: how many are served before it, and in about how many seconds it starts.

    `short_of` is what it needs and what is free, in bytes, where it is next and memory is all that it waits for.
    `paused`: it had a place and was silent for too long.
    """

    before: int
    seconds: float
    short_of: tuple[int, int] | None = None
    paused: bool = False


def next_in_line(waiting: Iterable[Ticket], turns: Mapping[str, int]) -> Ticket | None:
    """Return who is served next: `turns` says in which turn each name was served last, those it lacks never were."""

    def standing(ticket: Ticket) -> tuple[int, int, float, str]:
        lane, owner = ticket.turns
        return turns.get(lane, 0), turns.get(owner, 0), ticket.asked, ticket.id

    return min(waiting, key=standing, default=None)


def serve(ticket: Ticket, turns: MutableMapping[str, int]) -> None:
    """Note that a ticket was served."""
    now = max(turns.values(), default=0) + 1
    turns.update(dict.fromkeys(ticket.turns, now))


def in_order(waiting: Iterable[Ticket], turns: Mapping[str, int]) -> list[Ticket]:
    """Return tickets in the order in which they are served if nobody else comes."""
    left, counted, order = list(waiting), dict(turns), []
    while (ticket := next_in_line(left, counted)) is not None:
        left.remove(ticket)
        serve(ticket, counted)
        order.append(ticket)
    return order


def waits(remaining: Sequence[float], ahead: Sequence[float], places: int) -> float:
    """Return the seconds until the next ticket starts.

    Args:
        remaining: seconds that the jobs at work still take.
        ahead: seconds that those before it in the line take, in order.
        places: jobs at once.

    >>> waits([30.0, 10.0], [20.0], 2)
    30.0
    """
    free = sorted(remaining)[-places:]
    free = [0.0] * (places - len(free)) + free
    heapq.heapify(free)
    for seconds in ahead:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return free[0]
