"""Pairing of two tasks and of more."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtz_core import pair_neurons
from mtz_core.algebra.gram import DenseGram
from mtz_core.errors import NumericalError, SpecError
from mtz_core.methods.pairing import optimal
from mtz_core.pairing.blocks import block_partners, pair_two, within_blocks
from mtz_core.pairing.folding import pair_tasks
from mtz_core.pairing.slots import by_members, complete, private_table, shared_rows, sharing_of, slot_of
from tests.oracles import greedy_pairs, least_assignment, minimum, random_gram


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_greedy_is_the_papers_rule(seed: int, rows: int, columns: int) -> None:
    costs = np.random.default_rng(seed).random((rows, columns))
    for k in {0, min(rows, columns) // 2, min(rows, columns)}:
        got = pair_neurons(costs, k, "greedy")
        assert [tuple(pair) for pair in got.tolist()] == greedy_pairs(costs, k)


def test_greedy_with_equal_costs_ends_with_disjoint_pairs() -> None:
    got = pair_neurons(np.ones((5, 7)), 5, "greedy")
    assert len(set(got[:, 0])) == len(set(got[:, 1])) == 5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100_000), rows=st.integers(1, 6))
def test_optimal_assignment_costs_the_least(seed: int, rows: int) -> None:
    costs = np.random.default_rng(seed).random((rows, 6))
    got = pair_neurons(torch.tensor(costs, requires_grad=True), rows, "optimal")
    assert costs[got[:, 0], got[:, 1]].sum() == pytest.approx(least_assignment(costs))
    assert (np.diff(costs[got[:, 0], got[:, 1]]) >= 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100_000), k=st.integers(0, 4), rows=st.integers(4, 5), columns=st.integers(4, 6))
def test_optimal_pairs_cost_the_least_of_all_choices_of_k(seed: int, k: int, rows: int, columns: int) -> None:
    costs = np.random.default_rng(seed).random((rows, columns))
    got = pair_neurons(costs, k, "optimal")
    least = min(
        least_assignment(costs[list(chosen)]) if chosen else 0.0 for chosen in itertools.combinations(range(rows), k)
    )
    assert len(got) == len(set(got[:, 0])) == len(set(got[:, 1])) == k
    assert costs[got[:, 0], got[:, 1]].sum() == pytest.approx(least)


def test_very_large_problems_are_never_dearer_than_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimal, "LARGEST_PADDED", 10)
    costs = np.random.default_rng(0).random((40, 40))
    for k in (5, 20, 35):
        cut, greedy = (pair_neurons(costs, k, method) for method in ("optimal", "greedy"))
        assert costs[cut[:, 0], cut[:, 1]].sum() <= costs[greedy[:, 0], greedy[:, 1]].sum()


def test_random_pairs_are_disjoint_and_seeded() -> None:
    costs = np.random.default_rng(0).random((30, 20))
    first, again, other = (pair_neurons(costs, 20, "random", seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert len(set(first[:, 0])) == len(set(first[:, 1])) == 20


def test_bad_requests_are_refused() -> None:
    costs = np.ones((3, 4))
    with pytest.raises(SpecError, match="at most"):
        pair_neurons(costs, 4)
    with pytest.raises(SpecError, match="greedy"):
        pair_neurons(costs, 2, "hungry")
    with pytest.raises(NumericalError):
        pair_neurons(costs * np.nan, 2)
    with pytest.raises(SpecError, match="matrix"):
        pair_neurons(np.ones(3), 1)


def tasks_of(seed: int, widths: tuple[int, ...], d: int = 5) -> tuple[list[torch.Tensor], list[DenseGram]]:
    rng = np.random.default_rng(seed)
    weights = [torch.tensor(rng.normal(size=(n, d))) for n in widths]
    return weights, [DenseGram(torch.tensor(random_gram(rng, d, 60)), 1 / len(widths)) for _ in widths]


def test_slots_of_three_tasks_cost_what_brute_force_says() -> None:
    weights, grams = tasks_of(0, (4, 5, 6))
    slots, costs = pair_tasks(weights, grams, 3)
    assert slots.shape == (3, 3)
    for slot, cost in zip(slots, costs, strict=True):
        members = [w[i].numpy() for w, i in zip(weights, slot, strict=True)]
        least, _ = minimum(members, [g.full().numpy() for g in grams])
        assert float(cost) == pytest.approx(least, rel=1e-6)
    for t in range(3):
        assert len(set(slots[:, t])) == 3


def test_two_tasks_by_folding_agree_with_pairing() -> None:
    weights, grams = tasks_of(1, (6, 8))
    from mtz_core.algebra.difference import pairwise_difference

    for method in ("optimal", "greedy"):
        slots, _ = pair_tasks(weights, grams, 4, method)
        direct = pair_neurons(pairwise_difference(*weights, *grams), 4, method)
        assert sorted(map(tuple, slots.tolist())) == sorted(map(tuple, direct.tolist()))


def test_a_third_copy_of_a_task_joins_the_slot_of_its_twin() -> None:
    """T = 3 with a repeated parent must pair the twin neurons and cost what T = 2 costs with the doubled weight."""
    weights, grams = tasks_of(2, (5, 5))
    three, costs3 = pair_tasks([*weights, weights[1]], [*grams, grams[1]], 5)
    assert (three[:, 1] == three[:, 2]).all()
    two, costs2 = pair_tasks(weights, [grams[0], grams[1].scaled(2.0)], 5)
    assert sorted(map(tuple, three[:, :2].tolist())) == sorted(map(tuple, two.tolist()))
    torch.testing.assert_close(costs3.sum(), costs2.sum())


def test_pairing_anew_finds_the_permutation_of_three_twins() -> None:
    weights, grams = tasks_of(3, (9,))
    rng = np.random.default_rng(4)
    orders = [rng.permutation(9) for _ in range(3)]
    slots, costs = pair_tasks([weights[0][o] for o in orders], grams * 3, 9)
    assert float(costs.sum()) < 1e-12
    original = np.stack([o[slots[:, t]] for t, o in enumerate(orders)], axis=1)
    assert (original == original[:, :1]).all()


SLOTS = np.array([[2, 0, -1], [0, -1, 1], [1, 2, 0], [-1, 1, -1], [3, -1, -1], [-1, -1, 2]])
"""Channels of three tasks with widths 4, 3 and 3: every one stands somewhere, once."""


def test_a_slot_table_says_who_shares_what() -> None:
    assert shared_rows(SLOTS).tolist() == SLOTS[:3].tolist()
    assert complete(SLOTS[:3], (4, 3, 3)).tolist() == [*SLOTS[:3].tolist(), [3, -1, -1], [-1, 1, -1], [-1, -1, 2]]
    assert private_table((2, 1)).tolist() == [[0, -1], [1, -1], [-1, 0]]
    for t, width in enumerate((4, 3, 3)):
        found = slot_of(SLOTS, t, width)
        assert [int(SLOTS[s, t]) for s in found] == list(range(width))
    assert slot_of(SLOTS[:1], 0, 4).tolist() == [-1, -1, 0, -1]
    grouped = {members: slots.tolist() for members, slots in by_members(SLOTS)}
    assert grouped == {(0, 1): [0], (0, 2): [1], (0, 1, 2): [2], (1,): [3], (0,): [4], (2,): [5]}
    assert sharing_of(np.concatenate([SLOTS, SLOTS[:2]])) == {(0, 1): 2.0, (0, 2): 2.0, (0, 1, 2): 1.0}


@pytest.mark.parametrize("seed", range(5))
def test_pairs_that_are_not_allowed_are_left_out_and_cost_nothing_to_avoid(seed: int) -> None:
    """As many allowed pairs as there can be, and of those the cheapest."""
    rng = np.random.default_rng(seed)
    costs = np.where(rng.random((4, 5)) < 0.6, rng.random((4, 5)) * 100, np.inf)
    for k in (1, 2, 3, 4, 9):
        found = pair_two(costs, k, "optimal", 0)
        best = (0, 0.0)
        for size in range(1, min(k, 4) + 1):
            for rows in itertools.combinations(range(4), size):
                for columns in itertools.permutations(range(5), size):
                    total = float(costs[list(rows), list(columns)].sum())
                    if np.isfinite(total) and (size > best[0] or total < best[1]):
                        best = (size, total)
        total = float(costs[found[:, 0], found[:, 1]].sum())
        assert (len(found), pytest.approx(total)) == best
        assert len(set(found[:, 0])) == len(set(found[:, 1])) == len(found)
    assert len(pair_two(np.full((2, 3), np.inf), 2, "optimal", 0)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_paired_at_the_least_cost_of_what_is_within(seed: int) -> None:
    """Blocks of two channels, in any order: all assignments of blocks and of channels are tried."""
    rng = np.random.default_rng(seed)
    rows, columns = np.array([4, 1, 4, 1]), np.array([0, 2, 2, 5, 0, 5])
    costs = rng.random((4, 6))
    costs[0, 1] = np.inf

    def within(r: int, c: int) -> float:
        block = costs[np.ix_(rows == r, columns == c)]
        both = (block[0, 0] + block[1, 1], block[0, 1] + block[1, 0])
        return float(min(both))

    found = block_partners(costs, rows, columns)
    least = min(within(1, a) + within(4, b) for a, b in itertools.permutations((0, 2, 5), 2))
    assert sorted(found) == [1, 4]
    assert within(1, found[1]) + within(4, found[4]) == pytest.approx(least)
    limited = within_blocks(costs, rows, columns, {1: 2})
    allowed = (rows[:, None] == 1) & (columns[None] == 2)
    np.testing.assert_array_equal(limited, np.where(allowed, costs, np.inf))
