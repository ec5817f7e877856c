"""The planner: the solver against brute force, budgets to the number, and plans that a zip keeps to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtz_core import Zipper, ZipSpec, zip_networks
from mtz_core import events as ev
from mtz_core.budget.choice import Choice, Curve
from mtz_core.budget.curves import MEASURED, curve
from mtz_core.budget.plan import Plan, choice_data, multiplications_text, plan_text, read_choice
from mtz_core.budget.search import CLEAR, frontier, resolve, smallest_error, smallest_size
from mtz_core.calibration.samples import Goals, LayerSamples
from mtz_core.calibration.stream import Stream
from mtz_core.errors import SpecError
from mtz_core.graph.execution import Matrices, execute
from mtz_core.layerwise.walk import LayerWalk
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.spec import BudgetSpec
from mtz_core.structure.joint import joined
from mtz_core.structure.networks import GroupSummary, LayerSummary, NetworkStructure
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import plan_counts
from mtz_core.structure.trunks import trunks
from mtz_core.zipping import forecast as forecast_module
from mtz_core.zipping.damage import Bench
from mtz_core.zipping.forecast import Forecast, plan
from mtz_core.zipping.rehearsal import rehearsed, with_images
from tests.networks import FAMILIES, images, randomised


def _structure(widths: tuple[int, ...], inputs: int = 20, classes: int = 4) -> NetworkStructure:
    """A perceptron."""
    names = [f"fc{k}" for k in range(len(widths))]
    layers, reads = [], inputs
    for k, (name, width) in enumerate(zip(names, widths, strict=True)):
        layers.append(LayerSummary(name, "Linear", width, reads + 1, name, {names[k - 1]: 1} if k else {}))
        reads = width
    layers.append(LayerSummary("head", "Linear", classes, reads + 1, None, {names[-1]: 1}))
    groups = [GroupSummary(name, width, (name,)) for name, width in zip(names, widths, strict=True)]
    return NetworkStructure(tuple(layers), tuple(groups))


def _choice(widths: tuple[int, ...], seed: int, own_bias: bool = False) -> Choice:
    """Random rising curves with a point for every channel."""
    rng = np.random.default_rng(seed)
    curves = []
    for k, width in enumerate(widths):
        rising = np.concatenate([[0.0], np.cumsum(rng.random(width) ** 3)])
        gate = {"gate": f"fc{k - 1}", "power": float(rng.random() * 2)} if k and seed % 2 else {}
        curves.append(Curve(f"fc{k}", tuple(range(width + 1)), tuple(float(v) for v in rising), **gate))
    return Choice(joined([_structure(widths)] * 2), tuple(curves), own_bias, rate=10.0)


def _every(choice: Choice) -> list[tuple[int, float]]:
    """Size and divergence of every possible choice."""
    found = []
    for counts in product(*(range(c.width + 1) for c in choice.curves)):
        shares = {c.group: n for c, n in zip(choice.curves, counts, strict=True)}
        divergence = 0.0
        for k, (c, n) in enumerate(zip(choice.curves, counts, strict=True)):
            gate = 1.0 if c.gate is None else (counts[k - 1] / choice.curves[k - 1].width) ** c.power
            divergence += c.divergences[n] * gate
        found.append((plan_counts(choice.joint, shares, Keeping(choice.own_bias)).total, divergence))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("own_bias", [False, True])
def test_a_plan_has_the_least_error_of_all_choices_within_the_budget(seed: int, own_bias: bool) -> None:
    choice = _choice((7, 5, 6), seed, own_bias)
    every = _every(choice)
    least, most = min(size for size, _ in every), max(size for size, _ in every)
    for part in (0.1, 0.45, 0.8):
        limit = round(least + part * (most - least))
        found = smallest_error(choice, limit)
        assert found.parameters <= limit
        assert found.parameters == plan_counts(choice.joint, found.shares, Keeping(own_bias)).total
        assert found.divergence == pytest.approx(min(d for size, d in every if size <= limit), rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_has_the_least_size_of_all_choices_within_an_error(seed: int) -> None:
    choice = _choice((7, 5, 6), seed)
    every = _every(choice)
    for part in (0.1, 0.5, 0.9):
        error = choice.error(part * max(d for _, d in every))
        found = smallest_size(choice, error)
        limit = (error / choice.rate) ** 2
        assert choice.error(found.divergence) <= error * (1 + 1e-9)
        best = min(size for size, d in every if d <= limit * (1 + 1e-9))
        assert best <= found.parameters <= best * 1.002


def _pair(first: float, second: float) -> Choice:
    """Two groups whose divergence rises with the square of the share, to `first` and `second`."""
    curves = [
        Curve(f"fc{k}", tuple(range(41)), tuple(top * (n / 40) ** 2 for n in range(41)))
        for k, top in enumerate((first, second))
    ]
    return Choice(joined([_structure((40, 40), inputs=40)] * 2), tuple(curves), rate=10.0)


@pytest.mark.parametrize("size", [1.3, 1.6])
def test_all_groups_get_the_same_share_unless_a_plan_is_clearly_better(size: float) -> None:
    alike, unlike = resolve(_pair(2.0, 1.0), BudgetSpec(size=size)), resolve(_pair(1e-3, 1.0), BudgetSpec(size=size))
    assert alike.even
    assert len(set(alike.shares.values())) == 1
    smallest = _structure((40, 40), inputs=40).parameters
    fewer = {group: count - 1 for group, count in alike.shares.items()}
    assert alike.parameters <= size * smallest < _pair(2.0, 1.0).parameters(fewer)
    assert not unlike.even
    assert unlike.shares["fc0"] > alike.shares["fc0"] > unlike.shares["fc1"]
    assert unlike.divergence < CLEAR * _pair(1e-3, 1.0).divergence(alike.shares)


def test_extremes_of_the_budget() -> None:
    choice = _choice((7, 5, 6), 0)
    everything, nothing = choice.uniform(1.0), choice.uniform(0.0)
    assert resolve(choice, BudgetSpec(size=2.0)).shares == nothing
    assert resolve(choice, BudgetSpec(error=100.0)).shares == everything
    assert resolve(choice, BudgetSpec(error=0.0)).divergence == 0.0
    assert resolve(choice, BudgetSpec(parameters=choice.parameters(everything))).shares == everything
    with pytest.raises(SpecError, match=r"budget: .* too few .*size 1\.\d+"):
        resolve(choice, BudgetSpec(parameters=choice.parameters(everything) - 1))


def test_the_frontier_falls_and_contains_nothing_that_is_dominated() -> None:
    choice = _choice((7, 5, 6), 1)
    points = frontier(choice)
    sizes, divergences = [p.parameters for p in points], [p.divergence for p in points]
    assert sizes == sorted(sizes)
    assert divergences == sorted(divergences, reverse=True)
    assert len(points) > 6
    for size, divergence in zip(sizes, divergences, strict=True):
        assert divergence <= min(d for s, d in _every(choice) if s <= size) * 1.001 + 1e-12


def test_a_corrected_size_keeps_the_budget() -> None:
    choice = _choice((7, 5, 6), 2)
    limit = round(1.4 * choice.smallest)

    def count(shares: object) -> int:
        return choice.parameters(shares) + 13  # type: ignore[arg-type]

    found = resolve(choice, BudgetSpec(parameters=limit), count)
    assert found.parameters <= limit
    assert found.divergence == pytest.approx(min(d for size, d in _every(choice) if size <= limit - 13), rel=1e-3)


def test_room_that_the_true_size_leaves_is_used() -> None:
    choice = _pair(1e-3, 1.0)
    limit = round(1.5 * choice.smallest)

    def count(shares: Mapping[str, int]) -> int:
        """Smaller than expected where the groups' shares are alike, so that expected sizes never agree."""
        return round(choice.parameters(shares) * (0.8 + 0.2 * abs(shares["fc0"] - shares["fc1"]) / 40))

    found = resolve(choice, BudgetSpec(parameters=limit), count)
    assert found.parameters == count(found.shares) <= limit
    for group, shared in found.shares.items():
        fewer = {**found.shares, group: shared - 1}
        assert shared == 0 or count(fewer) > limit or choice.divergence(fewer) >= found.divergence


def test_a_curve_goes_through_what_was_measured_and_never_falls() -> None:
    costs = np.linspace(0.0, 1.0, 21) ** 2
    made = curve("a", 40, costs, [0.01, 0.16])
    assert [made.divergence(round(s * 40)) for s in MEASURED] == pytest.approx([0.01, 0.16])
    assert made.divergences[0] == 0.0
    assert list(made.divergences) == sorted(made.divergences)
    assert made.divergence(30) == pytest.approx(0.01 * (0.75**2 / 0.5**2) ** 2)  # four times the cost, 16 × the change
    falling = curve("a", 40, costs, [0.2, 0.1])
    assert list(falling.divergences) == sorted(falling.divergences)
    assert not any(curve("a", 40, np.zeros(21), [0.0, 0.0]).divergences)


def _planned(family: str, tasks: int, spec: ZipSpec) -> tuple[list[nn.Module], Plan]:
    parents = [randomised(FAMILIES[family](), seed) for seed in range(tasks)]
    *progress, found = plan(parents, [images(80, seed) for seed in range(tasks)], spec)
    assert isinstance(found, Plan)
    assert progress
    return parents, found


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("compensate", [True, False])
def test_a_zip_of_two_has_the_planned_size_to_the_number(family: str, compensate: bool) -> None:
    spec = ZipSpec(share="auto", budget={"size": 1.6}, compensate=compensate, positions=4)
    parents, found = _planned(family, 2, spec)
    fixed = spec.model_copy(update={"share": dict(found.point.shares), "budget": None})
    made = zip_networks(parents, [images(80, seed) for seed in range(2)], fixed)
    assert made.counts.total == found.point.parameters
    assert made.counts.versus_smallest <= 1.6


def test_a_plan_for_three_tasks_keeps_its_budget_where_neurons_are_shared_by_all_or_none() -> None:
    spec = ZipSpec(share="auto", budget={"size": 1.8}, sharing="all", positions=4)
    parents, found = _planned("convolutional", 3, spec)
    fixed = spec.model_copy(update={"share": dict(found.point.shares), "budget": None})
    made = zip_networks(parents, [images(80, seed) for seed in range(3)], fixed)
    assert made.counts.total == found.point.parameters
    assert made.counts.versus_smallest <= 1.8


def test_a_choice_is_read_back_unchanged() -> None:
    for tasks in (2, 3):
        _, found = _planned("perceptron", tasks, ZipSpec(share="auto", budget={"size": 1.8}))
        data = json.loads(json.dumps(choice_data(found.choice)))
        assert read_choice(data, found.choice.joint) == found.choice


@pytest.mark.parametrize("family", ["perceptron", "convolutional"])
@pytest.mark.parametrize("tasks", [2, 3])
def test_multiplications_are_a_budget_of_their_own_and_go_with_another(family: str, tasks: int) -> None:
    parents = [randomised(FAMILIES[family](), seed) for seed in range(tasks)]
    data = [images(80, seed) for seed in range(tasks)]
    structures = Zipper(parents, data, ZipSpec()).job.joint.structure.networks
    within = trunks(joined(structures))[0].multiplications / structures[0].multiplications
    spec = {"share": "auto", "positions": 4, "sharing": "all"}
    alone = ZipSpec(**spec, budget=BudgetSpec(macs=within + 0.001))
    *_, few = plan(parents, data, alone)
    assert isinstance(few, Plan)
    other = ZipSpec(**spec, budget=BudgetSpec(macs=within + 0.001, parameters=few.point.parameters - 30))
    *_, both = plan(parents, data, other)
    assert isinstance(both, Plan)
    trunk = few.choice.trunk
    assert trunk == both.choice.trunk == trunks(joined(structures))[0]
    assert trunk is not None
    assert few.choice.base > 0
    assert {g: n for g, n in few.point.shares.items() if n} == dict(trunk.groups)
    assert few.point.divergence == few.choice.base
    assert few.point.parameters > both.point.parameters
    assert all(both.point.shares[g] == n for g, n in trunk.groups.items())
    assert multiplications_text(trunk, structures) in plan_text(few)
    data_of = json.loads(json.dumps(choice_data(both.choice)))
    assert read_choice(data_of, both.choice.joint) == both.choice
    for spec, found in ((alone, few), (other, both)):
        result = zip_networks(parents, data, spec)
        assert result.counts.total == found.point.parameters
        assert result.network.trunk == len(trunk.layers)


def test_what_a_trunk_is_predicted_to_change_counts_against_a_limit_of_the_error() -> None:
    parents = [randomised(FAMILIES["perceptron"](), seed) for seed in (0, 1)]
    data = [images(80, seed) for seed in (0, 1)]
    spec = ZipSpec(share="auto", budget={"macs": 1.3, "error": 99.0})
    *_, found = plan(parents, data, spec)
    assert isinstance(found, Plan)
    least = found.choice.error(found.choice.base)
    assert 0.1 < least < found.choice.error(found.choice.divergence(found.choice.uniform(1.0)))
    with pytest.raises(SpecError, match=rf"what all tasks have in common is predicted to change {least:.2f} %"):
        resolve(found.choice, BudgetSpec(macs=1.3, error=least / 2))
    middle = resolve(found.choice, BudgetSpec(macs=1.3, error=1.2 * least))
    assert middle.error <= 1.2 * least
    assert middle.shares["fc1"] == 12


@pytest.mark.parametrize("family", ["perceptron", "residual"])
def test_curves_are_those_of_trials_that_remember_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parents, data = [randomised(FAMILIES[family](), seed) for seed in range(3)], [images(90, seed) for seed in range(3)]
    spec = ZipSpec(share="auto", budget={"size": 1.8}, positions=4, batch_size=32)

    def found() -> Choice:
        job = Zipper(parents, data, spec).job
        *_, choice = Forecast.of(job, job.sample).choice()
        assert isinstance(choice, Choice)
        return choice

    quick, calibrate = found(), LayerSamples.calibrate

    def from_the_images(stream: Stream, node: str, before: Matrices, now: Matrices) -> Iterator[tuple[slice, Tensor]]:
        for first in stream.starts:
            where = slice(first, first + stream.batch_size)
            with torch.no_grad():
                yield where, execute(stream.program, stream.images[where], now)

    monkeypatch.setattr(Stream, "answers", from_the_images)
    monkeypatch.setattr(Goals, "keep", lambda goals, key, found: None)
    monkeypatch.setattr(LayerSamples, "calibrate", lambda samples, peaks, known=None: calibrate(samples, peaks))
    slow = found()
    assert quick.rate == pytest.approx(slow.rate, rel=1e-9)
    assert np.allclose(quick.together, slow.together, rtol=1e-9, atol=0)
    for mine, theirs in zip(quick.curves, slow.curves, strict=True):
        assert (mine.group, mine.counts, mine.gate) == (theirs.group, theirs.counts, theirs.gate)
        assert mine.divergences == pytest.approx(theirs.divergences, rel=1e-9)
        assert mine.power == pytest.approx(theirs.power, rel=1e-9)


def test_planning_changes_no_weight() -> None:
    parents = [randomised(FAMILIES["residual"](), seed) for seed in (0, 1)]
    spec = ZipSpec(share="auto", budget={"size": 1.5}, positions=4)
    joint = Zipper(parents, [images(), images(60, 1)], ZipSpec()).job.joint
    network = ZippedNetwork(parents, joint, own_bias=True)
    before = [network(images(9, 5), task=t).detach() for t in range(2)]
    list(Forecast(network, spec, (0.5, 0.5), [images(), images(60, 1)], torch.device("cpu")).choice())
    for t in range(2):
        torch.testing.assert_close(network(images(9, 5), task=t), before[t], rtol=1e-12, atol=1e-12)
    assert network.counts().shared == 0
    assert not any(network.merged)


def test_what_was_zipped_for_trial_is_predicted_as_it_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[tuple[dict[str, int], float]] = []

    def trial(walk: LayerWalk, bench: Bench, shares: dict[str, int], *rest: Any) -> float:
        tried.append((shares, rehearsed(walk, bench, shares, *rest)))
        return tried[-1][1]

    monkeypatch.setattr(forecast_module, "rehearsed", trial)
    spec = ZipSpec(share="auto", budget={"size": 1.5}, positions=4)
    parents = [randomised(FAMILIES["convolutional"](), seed) for seed in (0, 1)]
    job = Zipper(parents, [images(), images(60, 1)], spec).job
    forecast = Forecast.of(job, job.sample)
    *_, choice = forecast.choice()
    assert isinstance(choice, Choice)
    assert [shares for shares, _ in tried] == [choice.uniform(0.5), choice.uniform(1.0)]
    sums = [choice.divergence(shares) for shares, _ in tried]
    assert [choice.expected(total) for total in sums] == pytest.approx([found for _, found in tried])
    assert choice.inputs == sum(map(len, job.sample.images))


@pytest.mark.parametrize("family", ["perceptron", "residual"])
@pytest.mark.parametrize("compensate", [True, False])
def test_a_zip_for_trial_is_the_zip_and_leaves_the_networks_as_they_were(family: str, compensate: bool) -> None:
    parents = [randomised(FAMILIES[family](), seed) for seed in (0, 1)]
    data = [images(80, seed) for seed in (0, 1)]
    real, trial = (Zipper(parents, data, ZipSpec(share=0.6, positions=4, compensate=compensate)) for _ in range(2))
    list(real.run())
    before = {name: value.clone() for name, value in trial.network.state_dict().items()}
    list(trial._weigh_outputs() if trial.spec.weighs_outputs else ())
    walk, shares = trial._walk, trial._walk.ledger.shares
    x, job = images(50, 9), trial.job
    bench = Bench(walk, job.alphas, [x] * 2, job.outputs, job.device)
    told = rehearsed(walk, bench, shares, trial._streams(), data, 1.0)
    judged = 0.0
    for t, (parent, output) in enumerate(zip(parents, job.outputs, strict=True)):
        says = [output.predictions(each.detach()) for each in (parent(x), real.network(x, task=t))]
        judged += job.alphas[t] * float(output.divergence(*says).mean())
    assert told == pytest.approx(judged, rel=1e-4)
    after = trial.network.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_what_more_images_bring_is_what_least_squares_make_of_noise() -> None:
    rng, d, n = np.random.default_rng(0), 15, 150

    def errors(count: int) -> tuple[float, float]:
        """Mean squared error of a least-squares fit to pure noise: expected on other images, and seen on its own."""
        x, y = rng.normal(size=(count, d)), rng.normal(size=count)
        w = np.linalg.lstsq(x, y, rcond=None)[0]
        return 1.0 + float(w @ w), float(((y - x @ w) ** 2).mean())

    few, many = (np.mean([errors(count) for _ in range(400)], axis=0) for count in (n, 2 * n))
    assert with_images(float(few[0]), float(few[1]), 0.5) == pytest.approx(float(many[0]), rel=0.015)
    assert with_images(0.3, 0.1, 1.0) == pytest.approx(0.3)
    assert with_images(0.1, 0.3, 0.5) == 0.1  # nothing was fitted to noise


def test_networks_that_are_equal_cost_nothing_to_share() -> None:
    parents = [randomised(FAMILIES["perceptron"](), 0) for _ in range(2)]
    spec = ZipSpec(share="auto", budget={"error": 0.01}, ridge=0.0)
    *_, found = plan(parents, [images(80, seed) for seed in range(2)], spec)
    assert isinstance(found, Plan)
    assert found.point.shares == {"fc1": 12, "fc2": 10}


@pytest.mark.parametrize("family", ["perceptron", "residual"])
def test_a_planned_run_says_so_keeps_to_it_and_resumes_without_planning_again(family: str) -> None:
    parents = [randomised(FAMILIES[family](), seed) for seed in (0, 1)]
    calibration = [images(80, seed) for seed in (0, 1)]
    spec = ZipSpec(share="auto", budget={"size": 1.5}, positions=4)
    zipper = Zipper(parents, calibration, spec)
    events, checkpoint = [], None
    for event in zipper.run():
        events.append(event)
        if isinstance(event, ev.LayerFinished) and checkpoint is None:
            checkpoint = zipper.checkpoint()
    names = [type(event).__name__ for event in events]
    assert names.index("Planning") < names.index("Planned") < names.index("Started")
    planned = next(event for event in events if isinstance(event, ev.Planned))
    started = next(event for event in events if isinstance(event, ev.Started))
    assert dict(started.shared) == dict(planned.shares)
    assert isinstance(events[-1], ev.Finished)
    assert events[-1].counts.total == planned.parameters
    assert events[-1].counts.versus_smallest <= 1.5
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0

    again = Zipper(parents, calibration, spec)
    rest = list(again.run(resume=checkpoint))
    assert not any(isinstance(event, ev.Planning | ev.Planned) for event in rest)
    for key, value in zipper.network.state_dict().items():
        torch.testing.assert_close(again.network.state_dict()[key], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": "auto"}, r"share 'auto' needs a budget"),
        ({"share": 0.5, "budget": {"size": 1.5}}, r"a budget needs share: auto"),
        ({"budget": {"size": 1.5}}, r"a budget needs share: auto"),
        ({"share": "auto", "budget": {}}, r"budget: .*exactly one .*got none"),
        ({"share": "auto", "budget": {"size": 1.5, "error": 1}}, r"budget: .*got size and error"),
        ({"share": "auto", "budget": {"size": 0}}, r"budget.size"),
        ({"share": "auto", "budget": {"macs": 1.5, "size": 1.5, "error": 1}}, r"budget: .*got size and error"),
        ({"share": "auto", "budget": {"macs": 1.5}, "trunk": "fc1"}, r"macs chooses the trunk"),
        ({"share": "auto", "budget": {"flops": 3}}, r"budget.flops"),
        ({"share": "most"}, r"share"),
    ],
)
def test_bad_budgets_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ZipSpec(**fields)


def test_an_impossible_budget_says_what_is_possible() -> None:
    parents = [randomised(FAMILIES["perceptron"](), seed) for seed in (0, 1)]
    spec = ZipSpec(share="auto", budget={"parameters": 100})
    with pytest.raises(SpecError, match=r"budget: 100 parameters are too few.*fully shared they take 1,"):
        list(Zipper(parents, [images(), images(60, 1)], spec).run())
