"""How much outputs matter, and merging by it: against gradients taken by hand and plain least squares."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtz_core import ZipSpec, zip_networks
from mtz_core import events as ev
from mtz_core.algebra import coupled as coupling
from mtz_core.algebra.coupled import Member, Tie, merge_coupled
from mtz_core.calibration import sensitivity as weighing
from mtz_core.calibration.sensitivity import DrawnPositions, Scatter, Sensitivity, sensitivities
from mtz_core.graph import channel_graph
from mtz_core.graph.execution import Program
from mtz_core.outputs.kinds import CLASSES
from mtz_core.outputs.multiclass import Multiclass
from mtz_core.zipping.zipper import Zipper
from tests.networks import Perceptron, images, randomised

CPU = torch.device("cpu")
PLENTY = 2**30


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weighed(network: nn.Module, x: Tensor, budget: int = PLENTY) -> tuple[dict[str, Sensitivity], list[float]]:
    """Sensitivities of a network's layers, and the parts that were reported on the way."""
    graph = channel_graph(network, x[:2])
    program = Program(graph.network.module, graph.layers)
    walk: Generator[float, None, dict[str, Sensitivity]]
    walk = sensitivities(program, x, graph.matrices(CPU), budget, 0, CPU)
    parts = []
    while True:
        try:
            parts.append(next(walk))
        except StopIteration as end:
            return end.value, parts


class InPlace(nn.Module):
    """A ReLU that overwrites what the convolution gave."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, 5, 3), nn.ReLU(inplace=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


def test_it_is_the_covariance_of_gradients_at_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the pull on the answer fixed, against gradients of a network written by hand."""
    monkeypatch.setattr(Multiclass, "pulls", lambda _, answer, seed, count, temperature: [answer.sin()] * (2 * count))
    monkeypatch.setattr(weighing, "LEAST", 0.0)
    network = randomised(InPlace(), 1)
    x = images(200)
    found, parts = weighed(network, x)
    with torch.enable_grad():
        convolved = network.conv(x).detach().requires_grad_()
        answer = network.head(F.relu(convolved).mean((2, 3)))
        (gradient,) = torch.autograd.grad(answer, convolved, answer.detach().sin())
    rows = gradient.flatten(2).mT
    each = rows.mT @ rows
    mean = each.mean(0)
    unit = float(mean.diagonal().mean())
    mean, each = mean / unit, each / unit
    noise = float((each - mean).square().sum((1, 2)).mean()) / (2 * len(x))  # every image counts twice
    part = noise / float((mean - torch.eye(5)).square().sum())
    assert found["conv"].unit == pytest.approx(unit, rel=1e-9)
    assert 0.0 < part < 1.0
    torch.testing.assert_close(found["conv"].matrix, mean.lerp(torch.eye(5, dtype=mean.dtype), part))
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


def test_answers_are_drawn_from_softened_predictions() -> None:
    """At the answer itself F is diag(p) - p pᵀ."""
    network = randomised(nn.Sequential(nn.Flatten(), nn.Linear(16, 6)), 2)
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.arange(6.0))
    answers = 40_000
    x = draws(1000, 1, 4, 4)
    p = (torch.arange(6.0, dtype=torch.float64) / weighing.TEMPERATURE).softmax(0)
    expected = p.diag() - p[:, None] * p
    total = Scatter(torch.zeros(6, 6, dtype=torch.float64))
    answer = network(x).detach()
    for seed in range(answers // (2 * len(x))):
        for pull in CLASSES.pulls(answer, seed, 2, weighing.TEMPERATURE):
            total.add(pull[:, None])
    torch.testing.assert_close(total.total / total.count, expected, atol=0.01, rtol=0.0)
    for pull in CLASSES.pulls(draws(5, 3, 4, 4), 0, 2, weighing.TEMPERATURE):
        assert pull.shape == (5, 3, 4, 4)
        assert pull.sum(1).abs().max() < 1e-12


def test_what_is_drawn_for_an_image_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighing, "POSITIONS", 7)
    for network in (randomised(Perceptron(), 1), randomised(InPlace(), 1)):
        whole, pieces = weighed(network, images(30))[0], weighed(network, images(30), budget=30_000)[0]
        for name, found in whole.items():
            torch.testing.assert_close(found.matrix, pieces[name].matrix)


def test_some_positions_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly where all are alike; on average where they are not."""
    monkeypatch.setattr(weighing, "POSITIONS", 9)
    alike = draws(40, 1, 3).expand(40, 36, 3)
    torch.testing.assert_close(squares(DrawnPositions(0, 40).some_of(alike)), squares(alike))
    rows = draws(1, 36, 3, seed=1).expand(4000, 36, 3)
    torch.testing.assert_close(squares(DrawnPositions(0, 4000).some_of(rows)), squares(rows), rtol=0.03, atol=0.3)
    few = draws(40, 9, 3)
    assert DrawnPositions(0, 40).some_of(few) is few


def squares(rows: Tensor) -> Tensor:
    """Mean over images of the sum over positions of g gᵀ."""
    flat = rows.flatten(0, 1)
    return flat.mT @ flat / len(rows)


def test_more_answers_are_drawn_where_every_layer_answers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def pulls(_: Multiclass, answer: Tensor, seed: int, count: int, temperature: float) -> list[Tensor]:
        drawn.append(count)
        return [answer.sin()] * count

    monkeypatch.setattr(Multiclass, "pulls", pulls)
    weighed(randomised(Perceptron(), 1), images(1))
    weighed(randomised(InPlace(), 1), images(1))
    assert drawn == [weighing.SAMPLES, 1]


def test_some_images_drawn_at_random_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighing, "IMAGES", 30)
    looked: list[int] = []
    original = weighing._forward

    def forward(program: Program, some: Tensor, *rest: object) -> object:
        looked.extend(int(value) for value in some[:, 0, 0, 0])
        return original(program, some, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(weighing, "_forward", forward)
    x = images(60)
    x[:, 0, 0, 0] = torch.arange(60.0)
    _, parts = weighed(randomised(Perceptron(), 1), x)
    assert len(set(looked)) == len(looked) == 30
    assert max(looked) >= 30  # not the first ones
    assert parts[-1] == 1.0


def test_images_that_agree_keep_all_but_the_least_part() -> None:
    alike, nothing = (Scatter(torch.zeros(4, 4, dtype=torch.float64)) for _ in range(2))
    gradient = draws(1, 3, 4)
    alike.add(gradient.expand(50, 3, 4))
    nothing.add(torch.zeros(2, 3, 4))
    mean = gradient[0].mT @ gradient[0]
    mean /= mean.diagonal().mean()
    found = alike.shrunk()
    assert found is not None
    torch.testing.assert_close(found.matrix, mean.lerp(torch.eye(4, dtype=mean.dtype), weighing.LEAST))
    assert nothing.shrunk() is None


def test_scatter_is_shrunk_by_its_noise() -> None:
    """Half of the images pull one way, half another: the estimate of a mean of that spread keeps a part 1 - noise."""
    a, b = draws(1, 1, 4), draws(1, 1, 4, seed=1)
    each = [x[0].mT @ x[0] for x in (a, b)]
    for count in (1, 40):
        scatter = Scatter(torch.zeros(4, 4, dtype=torch.float64))
        scatter.add(torch.cat([a, b]).repeat(count, 1, 1))
        mean = (each[0] + each[1]) / 2
        unit = float(mean.diagonal().mean())
        noise = float(((each[0] - mean) / unit).square().sum()) / (2 * count)
        distance = float((mean / unit - torch.eye(4)).square().sum())
        part = min(1.0, max(weighing.LEAST, noise / distance))
        shrunk = scatter.shrunk()
        assert shrunk is not None
        torch.testing.assert_close(shrunk.matrix, (mean / unit).lerp(torch.eye(4, dtype=mean.dtype), part))


def test_wide_layers_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    network = randomised(InPlace(), 3)
    found, _ = weighed(network, images(20))
    assert found
    widening = randomised(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 7)), 0)
    every = weighed(widening, images(20))[0]
    monkeypatch.setattr(weighing, "WIDEST", 4)
    (name, only), *others = weighed(widening, images(20))[0].items()  # the way to the answer leads through a wide one
    assert not others
    torch.testing.assert_close(only.matrix, every[name].matrix)
    assert only.unit == pytest.approx(every[name].unit)
    monkeypatch.setattr(weighing, "WIDEST", 1)
    assert weighed(network, images(20))[0] == {}


def test_a_small_budget_takes_one_image_at_a_time() -> None:
    _, parts = weighed(randomised(Perceptron(), 1), images(10), budget=1)
    assert len(parts) == 10


def loss(values: dict[int, Tensor], wanted: dict[int, Tensor], grams: dict[int, Tensor], f: dict[int, Tensor]) -> float:
    total = 0.0
    for t, v in values.items():
        delta = v - wanted[t]
        total += 0.5 * float((f[t] @ delta @ grams[t] * delta).sum())
    return total


def spread(*shape: int, seed: int) -> Tensor:
    x = draws(3 * shape[-1], shape[-1], seed=seed)
    return x.mT @ x / len(x)


def problem(case: str) -> tuple[dict[int, Tensor], dict[int, Tensor], dict[int, Tensor], list[Tie]]:
    """Wanted weights, Grams, output weights and ties of tasks with 4 neurons each."""
    ones = torch.ones(2, dtype=torch.float64)
    if case == "subsets":
        wanted = {t: draws(4, 6, seed=t) for t in range(3)}
        # Neurons 0 and 1 are shared by all, input 5 by the first two tasks only; neuron 2 by the last two.
        first = {
            t: Member(torch.tensor([0, 1]), torch.arange(6 if t < 2 else 5), torch.arange(6 if t < 2 else 5), ones)
            for t in range(3)
        }
        second = {t: Member(torch.tensor([2]), torch.arange(4), torch.arange(4), ones[:1]) for t in (1, 2)}
        rest = [
            Tie({2: Member(torch.tensor([0, 1]), torch.tensor([5]), torch.tensor([0]), ones)}, 1),
            *(Tie({t: Member(torch.tensor([2]), torch.tensor([4, 5]), torch.arange(2), ones[:1])}, 2) for t in (1, 2)),
            Tie({0: Member(torch.tensor([2, 3]), torch.arange(6), torch.arange(6), ones)}, 6),
            *(Tie({t: Member(torch.tensor([3]), torch.arange(6), torch.arange(6), ones[:1])}, 6) for t in (1, 2)),
        ]
        ties = [Tie(first, 6), Tie(second, 4), *rest]
    else:
        wanted = {t: draws(4, 5, seed=t) for t in range(2)}
        every, four = torch.arange(4), torch.ones(4, dtype=torch.float64)
        scales = (four, torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64))
        columns = torch.arange(5) if case == "whole" else torch.tensor([0, 2, 3])
        size = len(columns)
        ties = [Tie({t: Member(every, columns, torch.arange(size), scales[t]) for t in range(2)}, size)]
        if case == "private inputs":
            free = torch.tensor([1, 4])
            ties += [Tie({t: Member(every, free, torch.arange(2), four)}, 2) for t in range(2)]
    grams = {t: spread(w.shape[1], seed=10 + t) for t, w in wanted.items()}
    f = {t: spread(4, seed=20 + t) for t in wanted}
    return wanted, grams, f, ties


@pytest.mark.parametrize("case", ["whole", "private inputs", "subsets"])
def test_coupled_merging_is_least_squares(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Against the normal equations of all unknowns at once, built column by column."""
    wanted, grams, f, ties = problem(case)
    unknowns = [torch.zeros(len(next(iter(tie.members.values())).rows), tie.size).double() for tie in ties]

    def assembled(flat: Tensor) -> dict[int, Tensor]:
        matrices = {t: torch.zeros_like(w) for t, w in wanted.items()}
        for tie, part in zip(ties, flat.split([u.numel() for u in unknowns]), strict=True):
            tie.scatter(part.reshape(-1, tie.size), matrices)
        return matrices

    size = sum(u.numel() for u in unknowns)
    roots = {t: (torch.linalg.cholesky(f[t]).mT, torch.linalg.cholesky(grams[t])) for t in wanted}

    def tall(matrices: dict[int, Tensor]) -> Tensor:
        return torch.cat([(roots[t][0] @ m @ roots[t][1]).flatten() for t, m in matrices.items()])

    design = torch.stack([tall(assembled(row)) for row in torch.eye(size, dtype=torch.float64)], dim=1)
    best = assembled(torch.linalg.lstsq(design, tall(wanted)[:, None]).solution[:, 0])
    start = assembled(draws(size, seed=5))
    monkeypatch.setattr(coupling, "STEPS", 200)
    monkeypatch.setattr(coupling, "WORTHWHILE", 0.0)
    found = merge_coupled(start, wanted, grams, f, ties)
    for t in wanted:
        torch.testing.assert_close(found[t], best[t], rtol=1e-3, atol=1e-4)
    monkeypatch.undo()
    few = merge_coupled(start, wanted, grams, f, ties)
    losses = [loss(values, wanted, grams, f) for values in (start, few, best)]
    assert losses[2] <= losses[1] < 0.2 * losses[0]
    for tie in ties:
        (t, m), *others = tie.members.items()
        for u, other in others:
            both = torch.tensor([int(p) for p in m.indices if p in other.indices])
            mine = few[t][m.rows][:, m.columns[torch.isin(m.indices, both)]] / m.scales[:, None]
            theirs = few[u][other.rows][:, other.columns[torch.isin(other.indices, both)]] / other.scales[:, None]
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("tasks", [2, 3])
def test_weighed_outputs_bring_the_answers_closer(share: float, tasks: int) -> None:
    """Divergence from the parents' softened predictions falls, and the parents stay as they are."""
    parents = [randomised(Perceptron(), t) for t in range(tasks)]
    before = [{k: v.clone() for k, v in parent.state_dict().items()} for parent in parents]
    data = [draws(300, 1, 8, 8, seed=t) for t in range(tasks)]
    fresh = [draws(300, 1, 8, 8, seed=t + 10) for t in range(tasks)]
    found = {}
    for weighting in ("equal", "fisher"):
        network = zip_networks(parents, data, ZipSpec(share=share, weighting=weighting)).network
        divergence = 0.0
        for t, parent in enumerate(parents):
            with torch.no_grad():
                answers = parent(fresh[t]), network(fresh[t], task=t)
            p, q = ((z / 4.0).log_softmax(1) for z in answers)
            divergence += float((p.exp() * (p - q)).sum(1).mean())
        found[weighting] = divergence
    assert found["fisher"] < found["equal"]
    for parent, state in zip(parents, before, strict=True):
        assert all(torch.equal(state[k], v) for k, v in parent.state_dict().items())


def test_it_is_heard_and_can_be_left_out() -> None:
    parents = [randomised(Perceptron(), t) for t in range(2)]
    data = [draws(40, 1, 8, 8, seed=t) for t in range(2)]

    def heard(**fields: Any) -> list[ev.OutputsWeighed]:
        events = list(Zipper(parents, data, ZipSpec(**fields)).run())
        fractions = [event.fraction for event in events]
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0
        return [event for event in events if isinstance(event, ev.OutputsWeighed)]

    found = heard()
    assert {event.task for event in found} == {0, 1}
    assert found[-1].part == 1.0
    assert not heard(weighting="equal")
    assert not heard(compensate=False)


def test_all_columns_may_go_without_saying() -> None:
    wanted, grams, f, ties = problem("whole")
    start = {t: w.clone() for t, w in wanted.items()}
    short = [Tie({t: Member(m.rows, None, None, m.scales) for t, m in tie.members.items()}, tie.size) for tie in ties]
    mean = torch.stack([w / ties[0].members[t].scales[:, None] for t, w in wanted.items()]).mean(0)
    ties[0].scatter(mean, start)
    again = {t: torch.zeros_like(w) for t, w in wanted.items()}
    short[0].scatter(mean, again)
    torch.testing.assert_close(again, start)
    both = [merge_coupled(start, wanted, grams, f, each) for each in (ties, short)]
    torch.testing.assert_close(both[0], both[1])
    assert loss(both[0], wanted, grams, f) < loss(start, wanted, grams, f)


def test_nothing_is_weighed_where_nothing_is_left_to_merge() -> None:
    parents = [randomised(Perceptron(), seed) for seed in range(2)]
    for share, weighed_tasks in ((0.0, []), (1.0, [0, 1])):
        heard: list[ev.Event] = []
        zip_networks(parents, [images(), images()], ZipSpec(share=share), on_event=heard.append)
        tasks = [event.task for event in heard if isinstance(event, ev.OutputsWeighed)]
        assert sorted(set(tasks)) == weighed_tasks
    zipper = Zipper(parents, [images(), images()])
    walk, finished = zipper.run(), 0
    for event in walk:
        finished += isinstance(event, ev.LayerFinished)
        if finished == len(zipper.hidden):
            break
    again = Zipper(parents, [images(), images()])
    heard = list(again.run(resume=zipper.checkpoint()))
    assert not any(isinstance(event, ev.OutputsWeighed) for event in heard)
    assert isinstance(heard[-1], ev.Finished)
