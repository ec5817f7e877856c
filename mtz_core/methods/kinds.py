"""What a pairing method and a metric are, and the registries in which they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtz_core.system.registry import Entry, Registry

if TYPE_CHECKING:
    from torch import Tensor

Pairs = NDArray[np.int64]
"""Row of A and column of B of every pair, (k, 2)."""
PairingRule = Callable[[NDArray[Any], int, int], Pairs]
"""(costs (n_a, n_b), k, seed) → k or more disjoint pairs, of which the k cheapest count. All costs are finite."""
Comparison = Callable[["Tensor"], "Tensor"]
"""Incoming weights, one neuron a row (n, d) → what is compared instead, (n, d)."""


@dataclass(frozen=True)
class PairingMethod(Entry):
    """A rule for two tasks, and what is made of it where more take part.

    Tasks are folded one after the other into slots by the rule. Where subsets of the tasks may share, the dearest
    memberships are then ended until no more is saved than asked for. `improves`: afterwards tasks are paired anew,
    optimally given the others, and memberships are moved, as long as that is cheaper. `joins`: subsets are joined
    from single neurons instead, the cheapest neuron and slot first. `random`: the rule looks at no cost, and neither
    does anything else.
    """

    rule: PairingRule
    improves: bool = False
    joins: bool = False
    random: bool = False


@dataclass(frozen=True)
class Metric(Entry):
    """What pairing compares: ½ (a - b)ᵀ M (a - b) for the neurons `of` weights, see `algebra.difference`.

    `of_outputs`: M is made of both tasks' Grams, and neurons count as far as they matter; otherwise it is a multiple
    of the identity.
    """

    of: Comparison
    of_outputs: bool = False


PAIRING: Registry[PairingMethod] = Registry("pairing method")
METRICS: Registry[Metric] = Registry("metric")


def pairing_method(
    name: str, *, text: str, source: str, improves: bool = False, joins: bool = False, random: bool = False
) -> Callable[[PairingRule], PairingRule]:
    """Register the decorated `PairingRule`; see `PairingMethod`."""
    return PAIRING.adding(lambda rule: PairingMethod(name, text, source, rule, improves, joins, random))


def metric(name: str, *, text: str, source: str, of_outputs: bool = False) -> Callable[[Comparison], Comparison]:
    """Register the decorated `Comparison`; see `Metric`."""
    return METRICS.adding(lambda of: Metric(name, text, source, of, of_outputs))
