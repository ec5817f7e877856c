"""Which layers of several networks correspond, from plain data: the engine and the pages both ask here.

Layers correspond in order of execution, if they play one role: kind, kernel, stride, bias, how far the image has been
scaled down, and whether they write into a residual stream. Networks of different depths are aligned so that as many
layers as possible correspond, with a preference for equal names (block 3 of stage 2 with block 3 of stage 2). What
is left over stays private. Widths, names and the form of the code may differ freely.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

Members = dict[int, int]
"""Task → index of what stands at one position of the common order in this task's network."""
SAME_NAME = 0.01
"""What equal names add to the score of one corresponding layer."""


@dataclass(frozen=True)
class Candidate:
    """A weight layer, as far as it matters here: `role` is equal for layers that may correspond."""

    name: str
    role: Hashable
    group: int
    head: bool = False


@dataclass(frozen=True)
class Alignment:
    """The common order of layers and of channel groups: for each, the tasks that have it and where."""

    layers: tuple[Members, ...]
    groups: tuple[Members, ...]
    apart: tuple[int, ...]
    """Tasks of which no hidden layer corresponds to one of the tasks before."""

    def group_of(self, task: int, own: int) -> int:
        """Number in the common order of a task's own channel group."""
        return next(g for g, members in enumerate(self.groups) if members.get(task) == own)


def align(networks: Sequence[Sequence[Candidate]], groups: Sequence[int]) -> Alignment:
    """Align networks, given as their weight layers in order of execution and how many channel groups they have.

    >>> shallow = [Candidate("a", "dense", 0), Candidate("out", "dense", 1, head=True)]
    >>> deep = [Candidate("a", "dense", 0), Candidate("b", "dense", 1), Candidate("out", "dense", 2, head=True)]
    >>> align([shallow, deep], [2, 3]).layers
    ({0: 0, 1: 0}, {1: 1}, {0: 1, 1: 2})
    """
    layers: list[Members] = [{0: k} for k in range(len(networks[0]))]
    joint: list[Members] = [{0: g} for g in range(groups[0])]
    apart = []
    for t in range(1, len(networks)):
        layers = _fold(networks, layers, joint, t, groups[t])
        hidden = [members for members in layers if t in members and not networks[t][members[t]].head]
        if all(len(members) == 1 for members in hidden):
            apart.append(t)
    return Alignment(tuple(layers), tuple(joint), tuple(apart))


def _fold(
    networks: Sequence[Sequence[Candidate]], layers: list[Members], groups: list[Members], t: int, own_groups: int
) -> list[Members]:
    """Add task t's layers and groups to the common order; `groups` is extended in place."""
    mine = networks[t]
    known = [min(members.items()) for members in layers]

    def group_of(member: tuple[int, int]) -> int:
        u, k = member
        return next(g for g, members in enumerate(groups) if members.get(u) == networks[u][k].group)

    aligned = _longest([networks[u][k] for u, k in known], mine)
    votes = Counter(
        (group_of(known[j]), mine[k].group) for j, k in aligned if j is not None and k is not None
    )  # fmt: skip
    joined: dict[int, int] = {}
    for (group, own), _ in sorted(votes.items(), key=lambda item: (-item[1], item[0])):
        if own not in joined and group not in joined.values():
            joined[own] = group
    for own in range(own_groups):
        if own not in joined:
            joined[own] = len(groups)
            groups.append({})
        groups[joined[own]][t] = own
    order: list[Members] = []
    for j, k in aligned:
        if j is not None:
            order.append(layers[j])
        if k is None:
            continue
        if j is not None and group_of(known[j]) == joined[mine[k].group]:
            layers[j][t] = k
        else:
            order.append({t: k})
    return order


def _longest(a: Sequence[Candidate], b: Sequence[Candidate]) -> list[tuple[int | None, int | None]]:
    """The alignment of two sequences of layers with the most corresponding pairs, early ones first."""

    def gain(x: Candidate, y: Candidate) -> float:
        alike = x.head and y.head if x.head or y.head else x.role == y.role
        return (1.0 + SAME_NAME * (x.name == y.name)) if alike else -math.inf

    gains = np.array([[gain(x, y) for y in b] for x in a])
    best = np.zeros((len(a) + 1, len(b) + 1))
    for i in range(len(a) - 1, -1, -1):
        for j in range(len(b) - 1, -1, -1):
            best[i, j] = max(best[i + 1, j], best[i, j + 1], gains[i, j] + best[i + 1, j + 1])
    pairs: list[tuple[int | None, int | None]] = []
    i = j = 0
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and best[i, j] == gains[i, j] + best[i + 1, j + 1]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif j >= len(b) or (i < len(a) and best[i, j] == best[i + 1, j]):
            pairs.append((i, None))
            i += 1
        else:
            pairs.append((None, j))
            j += 1
    return pairs
