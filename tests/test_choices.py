"""What the planner computes, by hand: curves, sizes, single choices, and the way back from data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

from mtz_core.budget.choice import Choice, Curve, Point
from mtz_core.budget.curves import COARSE, GRID, changed_per_root, curve, halving_power, rising
from mtz_core.budget.plan import EVEN, Plan, choice_data, multiplications_text, plan_data, plan_text, read_choice
from mtz_core.budget.search import (
    even_share,
    frontier,
    resolve,
    smallest_error,
    smallest_size,
    undominated,
)
from mtz_core.budget.spread import likely_range
from mtz_core.errors import SpecError
from mtz_core.spec import BudgetSpec
from mtz_core.structure.savings import Keeping
from tests.test_guards import CLASSES, INPUTS, WIDTHS, random_choice, stored_size


def _expected(width: int, costs: Sequence[float], damage: tuple[float, float], grid: Sequence[float]) -> Curve:
    """A power of the cost through both measured changes, between 1 and 3 below the first; never falling."""
    costs, half = list(np.maximum.accumulate(costs)), list(grid).index(0.5)
    first = max(damage[0], 1e-12)
    last = max(first, damage[1])
    low, high = costs[half], costs[-1]
    power = math.log(last / first) / math.log(high / low) if high > low > 0 else 1.0
    counts, errors = [0], [0.0]
    for k, (share, cost) in enumerate(zip(grid, costs, strict=True)):
        error = 0.0
        if 0 < k < half and cost > 0:
            error = first * (cost / low) ** min(max(power, 1.0), 3.0)
        elif k >= half and cost > 0:
            error = last * (cost / high) ** power
        error = max(error, errors[-1]) if k else 0.0
        if k and round(share * width) > counts[-1]:
            counts.append(round(share * width))
            errors.append(error)
    measured = tuple(sorted({round(0.5 * width), width}))
    return Curve("a", tuple(counts), tuple(errors), measured)


@pytest.mark.parametrize("damage", [(0.01, 0.04), (0.01, 0.5), (0.01, 0.011), (0.2, 0.1), (0.0, 0.3), (0.0, 0.0)])
@pytest.mark.parametrize("shape", ["square", "late", "flat", "uneven"])
def test_a_curve_is_a_power_of_the_cost_between_what_was_measured(damage: tuple[float, float], shape: str) -> None:
    for grid, width in product((GRID, COARSE), (1, 3, 7, 40)):
        shares = np.array(grid)
        costs = {
            "square": shares**2,
            "late": np.maximum(shares - 0.6, 0.0),  # nothing until after the first measured share
            "flat": np.minimum(shares, 0.5),
            "uneven": shares + 0.3 * np.sin(9 * shares),
        }[shape]
        found, expected = curve("a", width, costs, damage, grid), _expected(width, costs, damage, grid)
        assert (found.group, found.counts, found.measured) == (expected.group, expected.counts, expected.measured)
        np.testing.assert_allclose(found.divergences, expected.divergences, rtol=1e-9, atol=1e-15)
        assert (found.gate, found.power, found.least, found.width) == (None, 0.0, 0, width)


def test_a_divergence_that_halves_with_its_gate_has_the_power_one() -> None:
    assert halving_power(4.0, 2.0) == pytest.approx(1.0)
    assert halving_power(1.0, 2**-0.25) == pytest.approx(0.25)
    assert halving_power(5.0, 1.0) == 1.0  # no steeper than that
    assert halving_power(1.0, 2.0) == 0.0
    assert halving_power(0.0, 0.0) == 0.0
    assert halving_power(3e-12, 0.0) == 1.0
    assert halving_power(0.0, 5e-13) == 0.0


def test_changed_answers_grow_with_the_root_by_least_squares() -> None:
    seen = [(0.04, 3.0), (0.25, 4.0), (1.0, 11.0)]
    roots, changed = np.sqrt([d for d, _ in seen]), np.array([c for _, c in seen])
    assert changed_per_root(seen) == pytest.approx(np.linalg.lstsq(roots[:, None], changed, rcond=None)[0][0])
    assert changed_per_root([(0.0, 3.0)]) == 0.0
    assert changed_per_root([]) == 0.0


def _gated() -> Choice:
    choice = random_choice(2, 0, False)
    curves = (choice.curves[0], replace(choice.curves[1], gate="fc0", power=0.5), choice.curves[2])
    return replace(choice, curves=curves, base=0.25)


def test_a_point_says_size_divergence_and_error_of_its_shares() -> None:
    choice, shares = _gated(), {"fc0": 3, "fc1": 2, "fc2": 4}
    a, b, c = (curve.divergences for curve in choice.curves)
    point = choice.point(shares)
    expected = 0.25 + a[3] + b[2] * math.sqrt(3 / 6) + c[4]
    assert point.divergence == pytest.approx(expected)
    assert point.error == pytest.approx(min(100.0, 10.0 * math.sqrt(expected)))
    assert point.parameters == choice.parameters(shares) == stored_size(choice, (3, 2, 4))
    assert (dict(point.shares), point.even) == (shares, False)
    assert choice.divergence({}) == pytest.approx(0.25)
    assert choice.error(1e9) == 100.0
    sizes = [width * (reads + 1) for width, reads in zip((*WIDTHS, CLASSES), (INPUTS, *WIDTHS), strict=True)]
    assert (choice.tasks, choice.smallest) == (2, sum(sizes))
    assert choice.uniform(0.5) == {"fc0": 3, "fc1": 2, "fc2": 2}
    fixed = replace(choice, curves=(Curve("fc0", (6,), (0.0,)), *choice.curves[1:]))
    assert fixed.uniform(0.0) == {"fc0": 6, "fc1": 0, "fc2": 0}
    assert choice.keeping.bias
    assert not choice.keeping.scale
    assert not choice.keeping.once


def test_nothing_else_is_assumed_of_a_choice_than_what_is_said() -> None:
    choice = Choice(random_choice(2, 0, False).joint, ())
    assert choice.keeping == Keeping()
    assert (choice.rate, choice.trunk, choice.base) == (1.0, None, 0.0)
    assert (choice.together, choice.inputs) == ((), 0)
    assert Point(1, 0.0, 0.0, {}).even is False
    line = Curve("a", (0, 2, 6), (0.0, 1.0, 5.0))
    assert (line.measured, line.gate, line.power) == ((), None, 0.0)
    assert [line.divergence(n) for n in (0, 1, 3, 6)] == [0.0, 0.5, 2.0, 5.0]


@pytest.mark.parametrize(("trunk", "own_scale"), [(0, False), (2, True)])
def test_a_choice_comes_back_from_its_data(trunk: int, own_scale: bool) -> None:
    choice = random_choice(2, trunk, own_scale, step=2)
    choice = replace(choice, curves=(replace(choice.curves[0], measured=(3, 6)), *choice.curves[1:]), rate=7.0)
    choice = replace(choice, curves=(*choice.curves[:2], replace(choice.curves[2], gate="fc1", power=0.3)))
    data = choice_data(choice)
    assert set(data) == {"curves", "own_bias", "own_scale", "own_inputs", "rate", "trunk", "base", "together", "inputs"}
    assert read_choice(json.loads(json.dumps(data)), choice.joint) == choice
    seen = replace(choice, together=((0.5, 0.25), (2.0, 1.5)), inputs=2000)
    assert read_choice(json.loads(json.dumps(choice_data(seen))), choice.joint) == seen
    del data["together"], data["inputs"]  # as plans were stored before
    assert read_choice(json.loads(json.dumps(data)), choice.joint) == choice


@pytest.mark.parametrize(
    "together", [((0.5, 0.1),), ((0.1, 0.02), (0.8, 0.9)), ((0.01, 0.01), (0.1, 0.02), (3.0, 1.0))]
)
def test_what_groups_do_together_goes_through_what_was_seen_and_rises(
    together: tuple[tuple[float, float], ...],
) -> None:
    choice = replace(random_choice(2, 0, False), together=together, rate=2.0)
    for added, seen in together:
        assert choice.expected(added) == pytest.approx(seen)
        assert choice.error(added) == pytest.approx(2.0 * math.sqrt(seen))
    (first, low), (last, high) = together[0], together[-1]
    assert choice.expected(first / 3) == pytest.approx(low / 3)
    assert choice.expected(last * 3) == pytest.approx(high * 3)
    for (a, b), (c, d) in pairwise(together):
        assert choice.expected(math.sqrt(a * c)) == pytest.approx(math.sqrt(b * d))  # a power law in between
    many = np.geomspace(first / 10, last * 10, 50)
    found = [choice.expected(float(x)) for x in many]
    assert found == sorted(found)
    assert [choice.allowed(choice.error(float(x))) for x in many] == pytest.approx(list(many))
    assert choice.expected(0.0) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_shares_within_a_size_are_those_that_add_up_to_least_and_an_error_is_met_as_it_is_told(seed: int) -> None:
    added = replace(random_choice(2, 0, False, seed=seed), rate=0.01)
    most = added.divergence(added.uniform(1.0))
    choice = replace(added, together=((most / 5, most / 30), (most, most / 2)))
    for size in (1.3, 1.6):
        found, same = resolve(choice, BudgetSpec(size=size)), resolve(added, BudgetSpec(size=size))
        assert (found.shares, found.even, found.divergence) == (same.shares, same.even, same.divergence)
        assert found.error == pytest.approx(choice.rate * math.sqrt(choice.expected(found.divergence)))
    error = 0.6 * choice.error(most)
    small, smaller = resolve(added, BudgetSpec(error=error)), resolve(choice, BudgetSpec(error=error))
    assert smaller.error <= error
    assert smaller.parameters <= small.parameters


def test_only_what_rises_is_kept_of_what_was_seen() -> None:
    assert rising([(2.0, 1.0), (1.0, 0.5)]) == ((1.0, 0.5), (2.0, 1.0))
    assert rising([(1.0, 0.5), (2.0, 0.4)]) == ((1.0, 0.5),)
    assert rising([(0.0, 0.3), (1.0, 0.0)]) == rising([]) == ()


def test_the_data_of_a_plan_are_its_shares_its_curves_and_its_frontier() -> None:
    choice = _gated()
    choice = replace(choice, curves=(replace(choice.curves[0], measured=(3, 6)), *choice.curves[1:]))
    point, other = choice.point(choice.uniform(0.5)), choice.point(choice.uniform(1.0))
    data = plan_data(Plan(choice, point, (other, point)))
    assert data == {
        "shares": {"fc0": 3, "fc1": 2, "fc2": 2},
        "parameters": point.parameters,
        "error": point.error,
        "changed": "answers",
        "inputs": 0,
        "curves": {
            c.group: {"counts": c.counts, "errors": tuple(map(choice.error, c.divergences)), "measured": c.measured}
            for c in choice.curves
        },
        "frontier": ((float(other.parameters), other.error), (float(point.parameters), point.error)),
    }
    assert all(isinstance(size, float) for size, _ in data["frontier"])


def test_a_plan_in_words_names_what_is_shared_alone_and_in_common() -> None:
    choice = random_choice(2, 2, False)
    assert choice.trunk is not None
    point = replace(choice.point(choice.uniform(0.5)), even=True)
    lines = plan_text(Plan(choice, point, (point,))).splitlines()
    each = INPUTS * WIDTHS[0] + WIDTHS[0] * WIDTHS[1] + WIDTHS[1] * WIDTHS[2] + WIDTHS[2] * CLASSES
    common = INPUTS * WIDTHS[0] + WIDTHS[0] * WIDTHS[1]
    once = (2 * each - common) / each
    trunk = (
        f"computed once for inputs that all tasks see: the layers up to {choice.trunk.name}; all answers to one take"
    )
    assert lines == [
        f"{point.parameters:,} parameters, {point.error:.1f} % of the answers predicted to change",
        EVEN,
        f"{trunk} {once:.2f} times the multiplications of one network instead of 2.00",
        *(
            f"  {c.group}: {n} of {c.width} shared; alone {choice.error(c.divergence(n)):.1f} %"
            for c, n in zip(choice.curves, point.shares.values(), strict=True)
        ),
        "best at other sizes (parameters, answers that change)",
        f"  {point.parameters:,}: {point.error:.1f} %",
    ]
    few = plan_text(Plan(replace(choice, inputs=400), point, (point,))).splitlines()
    assert few[0] == lines[0].replace(" %", f" % ({_between(point.error, 400)} %)", 1)
    assert few[-1] == lines[-1] + f" ({_between(point.error, 400)} %)"
    assert few[1:-1] == lines[1:-1]
    assert multiplications_text(None, choice.joint.networks) == (
        "all answers to one input take 2.00 times the multiplications of one network"
    )


def _between(error: float, inputs: int) -> str:
    """The two roots of (√n - √m)² = (1.645 / 2)² (1 + (0.2 √m)²) for the predicted count m."""
    m = error * inputs / 100
    steps = math.sqrt(1.645**2 / 4 * (1 + 0.04 * m))
    return " to ".join(f"{100 * (math.sqrt(m) + sign * steps) ** 2 / inputs:.1f}" for sign in (-1, 1))


@pytest.mark.parametrize("expected", [6, 20, 100, 1000])
def test_nine_of_ten_counts_lie_in_the_range_of_a_prediction(expected: int) -> None:
    """Counts whose mean is off by a factor with a standard deviation of a fifth."""
    rng, inputs = np.random.default_rng(expected), 10_000
    counts = rng.poisson(expected * np.exp(0.2 * rng.standard_normal(40_000)))
    low, high = likely_range(100 * expected / inputs, inputs)
    inside = float(np.mean((counts >= low * inputs / 100) & (counts <= high * inputs / 100)))
    assert 0.85 < inside < 0.94


def test_the_range_of_a_prediction_contains_it_and_is_none_where_nothing_is_known() -> None:
    assert likely_range(0.0, 500) == (0.0, 0.0)
    assert likely_range(3.0, 0) == (3.0, 3.0)
    assert likely_range(99.0, 50)[1] == 100.0
    for error in (0.001, 0.02, 1.0, 30.0):
        few, many = likely_range(error, 200), likely_range(error, 20_000)
        assert 0.0 <= few[0] <= many[0] < error < many[1] < few[1]
    assert replace(random_choice(2, 0, False), inputs=200).likely(1.0) == likely_range(1.0, 200)


def test_a_single_group_that_can_be_chosen_is_never_said_to_be_even() -> None:
    choice = random_choice(2, 2, False)  # the trunk's two groups are fixed
    limit = round((choice.parameters(choice.uniform(0.0)) + choice.parameters(choice.uniform(1.0))) / 2)
    point = resolve(choice, BudgetSpec(parameters=limit))
    assert not point.even
    assert point.parameters <= limit
    assert dict(point.shares) == {**point.shares, "fc0": 6, "fc1": 5}


def test_a_budget_is_a_number_of_parameters_a_multiple_of_the_smallest_network_or_an_error() -> None:
    choice = random_choice(2, 0, False)
    small, large = choice.parameters(choice.uniform(1.0)), choice.parameters(choice.uniform(0.0))
    limit = (small + large) // 2
    wanted = resolve(choice, BudgetSpec(parameters=limit))
    assert wanted == resolve(choice, BudgetSpec(size=limit / choice.smallest))
    assert resolve(choice, BudgetSpec(parameters=small)).parameters == small
    assert dict(resolve(choice, BudgetSpec(parameters=10 * large)).shares) == choice.uniform(0.0)
    assert dict(resolve(choice, BudgetSpec(macs=2.0)).shares) == choice.uniform(0.0)
    error = choice.point(choice.uniform(0.6)).error
    found = resolve(choice, BudgetSpec(error=error))
    assert found == smallest_size(choice, error)
    assert resolve(choice, BudgetSpec(error=error), lambda shares: 77).parameters == 77
    with pytest.raises(SpecError, match=rf"{small - 1:,} parameters are too few .*they take {small:,} \(size"):
        resolve(choice, BudgetSpec(parameters=small - 1))
    size = math.ceil(1000 * small / choice.smallest) / 1000
    with pytest.raises(SpecError, match=rf"\(size {size}\)"):
        resolve(choice, BudgetSpec(size=0.9 * small / choice.smallest))
    resolve(choice, BudgetSpec(size=size))


def test_the_least_equal_share_that_is_small_enough_is_found() -> None:
    choice = random_choice(2, 0, False)
    for limit in range(choice.parameters(choice.uniform(1.0)), choice.parameters(choice.uniform(0.0)) + 1, 7):
        shares = [k / 12 for k in range(13)]  # half a channel of six
        least = next(s for s in shares if choice.parameters(choice.uniform(s)) <= limit)
        found = even_share(choice, limit, choice.parameters)
        assert dict(found.shares) == choice.uniform(least)
        assert found.parameters == choice.parameters(choice.uniform(least))
    doubled = even_share(choice, 0, lambda shares: 2 * choice.parameters(shares))
    assert doubled.parameters == 2 * choice.parameters(choice.uniform(1.0))


def test_what_fits_in_any_case_and_what_never_fits_are_the_ends() -> None:
    choice = random_choice(2, 0, False)
    nothing, everything = (choice.point(choice.uniform(share)) for share in (0.0, 1.0))
    assert smallest_error(choice, nothing.parameters) == nothing
    assert smallest_error(choice, nothing.parameters + 5) == nothing
    assert dict(smallest_error(choice, nothing.parameters - 1).shares) != dict(nothing.shares)
    assert smallest_error(choice, everything.parameters - 1) == everything
    assert smallest_size(choice, everything.error) == everything
    assert smallest_size(replace(choice, rate=0.0), 0.0).parameters == everything.parameters
    with pytest.raises(SpecError, match=r"1 % of changed answers are too few.*change 5\.00 %"):
        smallest_size(replace(choice, base=0.25), 1.0)


def test_a_point_is_kept_unless_another_is_as_small_and_as_good() -> None:
    def point(size: int, divergence: float) -> Point:
        return Point(size, divergence, 0.0, {})

    points = [point(5, 1.0), point(3, 2.0), point(4, 2.0), point(5, 0.5), point(9, 0.5), point(1, 7.0)]
    assert undominated(points) == [point(1, 7.0), point(3, 2.0), point(5, 0.5)]


def test_a_frontier_goes_from_everything_shared_to_nothing() -> None:
    choice = random_choice(2, 0, False)
    found = frontier(choice, points=6)
    assert dict(found[0].shares) == choice.uniform(1.0)
    assert dict(found[-1].shares) == choice.uniform(0.0)
    assert 4 <= len(found) <= 6
    assert [p.parameters for p in frontier(choice, lambda shares: 1000 - sum(shares.values()))] == sorted(
        {1000 - sum(p.shares.values()) for p in frontier(choice)}
    )


@pytest.mark.parametrize("unit", [4, 15])
def test_room_is_filled_with_what_gains_most_for_each_number(unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true size goes in large steps; of several channels that fit, the one is given back that gains most a step."""
    monkeypatch.setattr("mtz_core.budget.search.CLEAR", math.inf)
    choice = _wide()

    def size(shares: Mapping[str, int]) -> int:
        return -(-choice.parameters(shares) // unit)

    low, high = size(choice.uniform(1.0)), size(choice.uniform(0.0))
    for limit in range(low, min(high, choice.parameters(choice.uniform(1.0)) - 1)):
        shares = choice.uniform(1.0)
        for step in (32, 16, 8, 4, 2, 1):
            while True:
                trials = [{**shares, g: n - step} for g, n in shares.items() if n >= step]
                gains = [choice.divergence(shares) - choice.divergence(trial) for trial in trials]
                fitting = [
                    (gain / max(1, size(trial) - size(shares)), -k)
                    for k, (trial, gain) in enumerate(zip(trials, gains, strict=True))
                    if gain > 0 and size(trial) <= limit
                ]
                if not fitting:
                    break
                shares = trials[-max(fitting)[1]]
        found = resolve(choice, BudgetSpec(parameters=limit), size)
        assert dict(found.shares) == shares
        assert found.parameters == size(shares) <= limit


def _wide() -> Choice:
    """Curves that rise with every channel."""
    choice, rng = random_choice(2, 0, False), np.random.default_rng(3)
    curves = []
    for c in choice.curves:
        steps = np.cumsum(rng.random(c.width) + 0.1)
        curves.append(replace(c, divergences=(0.0, *map(float, steps))))
    return replace(choice, curves=tuple(curves))


@pytest.mark.parametrize("seed", range(3))
def test_no_exchange_of_channels_between_two_groups_betters_a_plan(seed: int) -> None:
    """Curves with few points are where the solver looks; single channels then move from one group to another."""
    choice = random_choice(2, 0, False, step=3, seed=seed)
    widths = {c.group: c.width for c in choice.curves}
    everything, nothing = (choice.point(choice.uniform(share)) for share in (1.0, 0.0))
    for part in (0.2, 0.4, 0.6, 0.8):
        limit = round(everything.parameters + part * (nothing.parameters - everything.parameters))
        best, error = smallest_error(choice, limit), choice.error(part * everything.divergence)
        small = smallest_size(choice, error)
        for down, up, a, b in product(widths, widths, (1, 2, 4), (1, 2, 4)):
            for found in (best, small):
                shares = {**found.shares, down: found.shares[down] - a}
                shares[up] += b
                if down == up or not all(0 <= n <= widths[g] for g, n in shares.items()):
                    continue
                trial = choice.point(shares)
                if found is best:
                    assert trial.parameters > limit or trial.divergence >= best.divergence * (1 - 1e-6)
                else:
                    assert choice.error(trial.divergence) > error or trial.parameters >= small.parameters
