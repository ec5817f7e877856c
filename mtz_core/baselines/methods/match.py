"""Weight matching of Git Re-Basin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtz_core.baselines.features import with_private
from mtz_core.baselines.kinds import Slots, weight_baseline
from mtz_core.baselines.parents import Parents
from mtz_core.baselines.slots import channel_kinds, joined_kinds
from mtz_core.baselines.weights import Weights
from mtz_core.pairing.assignment import pair_neurons
from mtz_core.structure.sizes import shared_count

ROUNDS = 100
"""At most so many times is every group's permutation found anew, as in the authors' code."""

Kinds = dict[int, list[list[NDArray[np.int64]]]]
"""Channel group → its kinds, see `channel_kinds`."""
Partners = dict[int, NDArray[np.int64]]
"""As `weights.Partners`; with one row per network (networks, n) where several are paired."""


@weight_baseline(
    "match",
    text="permutations for which the weights of all layers agree most, found from the weights alone, group by group in "
    "turns until none changes; a third network is paired with the average of the first two, and so on",
    source="*Git Re-Basin*, Ainsworth et al., ICLR 2023, [arXiv 2209.04836](https://arxiv.org/abs/2209.04836)",
)
def match(parents: Parents, share: float) -> list[Slots]:
    """Weight matching of Git Re-Basin (Ainsworth, Hayase, Srinivasa; ICLR 2023; arXiv 2209.04836, §3.2).

    Σ_l ⟨W_l of the first, W_l of another with rows and columns permuted⟩ is made as large as it gets by one group of
    channels at a time, exactly (a linear assignment). Of two starts the better result is taken: from equal indices, as
    the authors do, which networks with a common beginning call for; and from nothing, where the first round goes from
    the input on and leaves out what is not paired yet, so that a permuted copy is found out in one round. Task heads
    have no rows in common and are left out. Below share 1 the pairs of largest inner products are kept in every group.
    """
    weights = Weights(parents)
    groups = _in_order(parents)
    kinds = {g: channel_kinds(parents.graphs, g) for g in groups}
    paired = {g: np.arange(parents.joint.groups[g].widths[0])[None] for g in groups}
    scores = {g: np.zeros(parents.joint.groups[g].widths[0]) for g in groups}
    for t in range(1, parents.joint.tasks):
        partners = _aligned(weights, t, kinds, paired)
        for g, own in partners.items():
            similar = weights.similarity(g, t, partners)
            found = np.flatnonzero(own >= 0)
            scores[g][found] += similar[found, own[found]]
            paired[g] = np.concatenate([paired[g], own[None]])
        weights.average(t, partners)
    slots = []
    for group in parents.joint.groups:
        known = group.number in paired
        kept = _kept(kinds[group.number], paired[group.number], scores[group.number], share) if known else []
        slots.append(joined_kinds(group.widths, kept))
    return slots


def _in_order(parents: Parents) -> list[int]:
    """Groups to be merged in the order in which they are first written."""
    written = [parents.joint.layers[index].group for index in parents.lockstep.order]
    return [g for g in dict.fromkeys(written) if g in parents.groups]


def _aligned(weights: Weights, t: int, kinds: Kinds, paired: Partners) -> Partners:
    """Partners in network t of the channels that have had one in every network before: the better of two starts."""
    found = [_descended(weights, t, kinds, paired, start) for start in ({}, _equal(t, kinds, paired))]
    return max(found, key=lambda partners: weights.agreement(t, partners))


def _equal(t: int, kinds: Kinds, paired: Partners) -> Partners:
    """Of every kind the first channels with the first."""
    start = {}
    for g, known in paired.items():
        start[g] = np.full(known.shape[1], -1, dtype=np.int64)
        for channels in kinds[g]:
            mine = _open(channels, known)
            count = min(len(mine), len(channels[t]))
            start[g][mine[:count]] = channels[t][:count]
    return start


def _descended(weights: Weights, t: int, kinds: Kinds, paired: Partners, start: Partners) -> Partners:
    """Pair group by group until none gains; without a `start`, first with what has been paired already."""
    partners = start or {g: np.full(known.shape[1], -1, dtype=np.int64) for g, known in paired.items()}
    for k in range(ROUNDS):
        changed = False
        for g, known in paired.items():
            similar = weights.similarity(g, t, partners)
            new = np.full_like(partners[g], -1)
            for channels in kinds[g]:
                mine = _open(channels, known)
                pairs = pair_neurons(-similar[np.ix_(mine, channels[t])], min(len(mine), len(channels[t])))
                new[mine[pairs[:, 0]]] = channels[t][pairs[:, 1]]
            better = {**partners, g: new}
            if (k == 0 and not start) or _gains(weights, g, t, partners, better):
                partners, changed = better, True
        if not changed:
            break
    return partners


def _open(channels: Sequence[NDArray[np.int64]], paired: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first network's channels of a kind that have partners in all networks so far."""
    return channels[0][(paired[:, channels[0]] >= 0).all(axis=0)]


def _gains(weights: Weights, group: int, t: int, old: Partners, new: Partners) -> bool:
    """Whether weights agree more, rounding aside."""
    before = weights.agreement(t, old, group)
    return weights.agreement(t, new, group) > before + 1e-12 * abs(before)


def _kept(
    kinds: Sequence[Sequence[NDArray[np.int64]]], paired: NDArray[np.int64], scores: NDArray[np.float64], share: float
) -> list[tuple[Sequence[NDArray[np.int64]], Slots]]:
    """Per kind of a group: its channels, and their features where only the best of the tuples `paired` are kept."""
    found = []
    for channels in kinds:
        mine = _open(channels, paired)
        k = shared_count(float(share), [len(own) for own in channels])
        best = np.sort(mine[np.argsort(-scores[mine], kind="stable")[:k]])
        chosen = [np.searchsorted(own, row[best]) for own, row in zip(channels, paired, strict=True)]
        found.append((channels, with_private(chosen, [len(own) for own in channels])))
    return found
