"""Types of task: errors, losses, pulls and inference of each against hand computations in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtz_core import RetrainSpec, TaskType, TypeSpec, ZipResult, ZipSpec, zip_networks
from mtz_core.budget.choice import Choice
from mtz_core.budget.curves import changed_per_root
from mtz_core.errors import DataError, SpecError
from mtz_core.events import Finished, RetrainEnded
from mtz_core.outputs.attributes import Attributes
from mtz_core.outputs.kind import Output
from mtz_core.outputs.kinds import output_of
from mtz_core.outputs.multiclass import Multiclass
from mtz_core.outputs.types import changed_things
from mtz_core.outputs.values import TOLERANCE, Values
from mtz_core.zipping.forecast import Forecast
from mtz_core.zipping.inference import Ending, Seen, inferred
from mtz_core.zipping.zipper import Zipper

Array = NDArray[np.float64]


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def softmax(z: Array, axis: int = -1) -> Array:
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


class Body(nn.Module):
    """Two dense layers and a head, with an ending of its own; one answer, or one for each of 6 tokens or 16 pixels."""

    def __init__(
        self, outputs: int, ending: nn.Module | None = None, places: str = "", seed: int = 0, width: int = 12
    ) -> None:
        super().__init__()
        self.places = places
        if places == "pixels":
            self.a, self.b = nn.Conv2d(5, width, 3, padding=1), nn.Conv2d(width, width - 2, 3, padding=1)
            self.head: nn.Module = nn.Conv2d(width - 2, outputs, 1)
        else:
            self.a, self.b = nn.Linear(5, width), nn.Linear(width, width - 2)
            self.head = nn.Linear(width - 2, outputs)
        self.ending = nn.Identity() if ending is None else ending
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                size = parameter[0].numel() if parameter.ndim > 1 else 4
                parameter.copy_(torch.randn(parameter.shape, generator=chance) * 1.5 / size**0.5)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.ending(self.head(torch.relu(self.b(torch.relu(self.a(x))))))

    def inputs(self, count: int, seed: int = 0) -> Tensor:
        return draws(count, *{"": (5,), "tokens": (6, 5), "pixels": (5, 4, 4)}[self.places], seed=seed)


def two(outputs: int, places: str = "", ending: Any = None, width: int = 12) -> list[Body]:
    return [Body(outputs, None if ending is None else ending(), places, seed, width) for seed in (1, 2)]


def zipped(networks: list[Body], labels: list[Tensor] | None = None, **options: Any) -> ZipResult:
    """Zip on 200 inputs each, evaluated on 150 others with these labels."""
    types = options.pop("types", None)
    calibration = [network.inputs(200, 10 + t) for t, network in enumerate(networks)]
    tested = None
    if labels is not None:
        tested = [(network.inputs(150, 20 + t), y) for t, (network, y) in enumerate(zip(networks, labels, strict=True))]
    return zip_networks(networks, calibration, ZipSpec(**options), evaluation=tested, types=types)


def answers(result: ZipResult, t: int, parent: bool = False) -> Array:
    """What the zipped network, or its parent, says of the evaluation inputs."""
    network: Any = result.network.parents[t]
    with torch.no_grad():
        x = network.inputs(150, 20 + t)
        return (network(x) if parent else result.network(x, task=t)).numpy()


# Errors, by hand


def test_one_logit_is_a_yes_above_zero() -> None:
    labels = [(draws(150, seed=t) > 0).long() for t in range(2)]
    result = zipped(two(1), labels)
    for t in range(2):
        for found, parent in ((result.errors, False), (result.parent_errors, True)):
            wrong = (answers(result, t, parent)[:, 0] > 0) != (labels[t].numpy() == 1)
            assert found is not None
            assert found[t] == pytest.approx(100 * wrong.mean())
    assert result.types == (TaskType("binary"),) * 2


def average_precision(score: Array, truth: Array) -> float:
    """Precision at every hit, mean."""
    order = np.argsort(-score)
    hits = truth[order] == 1
    return float(np.mean([hits[: k + 1].mean() for k in np.flatnonzero(hits)]))


def test_attributes_are_counted_one_by_one() -> None:
    labels = [(draws(150, 4, seed=t) > 0.5).double() for t in range(2)]
    result = zipped(two(4), labels)
    for t in range(2):
        z, y = answers(result, t), labels[t].numpy()
        assert result.errors is not None
        assert result.errors[t] == pytest.approx(100 * ((z > 0) != (y == 1)).mean(0).mean())
        by_hand = 100 * np.mean([average_precision(z[:, k], y[:, k]) for k in range(4)])
        assert result.scores[t] == {"mean average precision, %": pytest.approx(by_hand)}
    assert result.types == (TaskType("multilabel"),) * 2


def test_equal_scores_are_one_step_of_average_precision() -> None:
    z, y = torch.tensor([[2.0], [1.0], [1.0], [0.0]]).repeat(1, 2), torch.tensor([[0, 1], [1, 0], [0, 0], [1, 0]])
    first = 0.5 * 1 / 3 + 0.5 * 2 / 4  # of two hits, one is found among the first three, the other among all four
    found = Attributes(TaskType("multilabel")).scores([(z[:2], y[:2]), (z[2:], y[2:])])
    assert found.more["mean average precision, %"] == pytest.approx(100 * (first + 1) / 2)


def test_values_are_off_by_parts_of_the_labels_spread() -> None:
    labels = [2 * draws(150, 3, seed=t) + 1 for t in range(2)]
    result = zipped(two(3), labels)
    for t in range(2):
        off = {own: np.abs(answers(result, t, own) - labels[t].numpy()).mean(0) for own in (True, False)}
        assert result.errors is not None
        assert result.errors[t] == pytest.approx(100 * (off[False] / labels[t].numpy().std(0)).mean())
        assert result.scores[t]["mean absolute error"] == pytest.approx(off[False].mean())
        times = off[False].mean() / off[True].mean()
        assert result.scores[t]["mean absolute error, times the parent's"] == pytest.approx(times)
        assert result.parent_scores[t] == {"mean absolute error": pytest.approx(off[True].mean())}
    assert result.types == (TaskType("regression"),) * 2


def test_labels_of_one_number_that_never_changes_are_measured_by_the_parents_spread() -> None:
    output = Values(TaskType("regression"), torch.tensor([2.0]))
    assert output.scores([(torch.tensor([[1.0], [3.0]]), torch.zeros(2))]).error == pytest.approx(100.0)


def test_pixels_are_counted_but_those_that_are_ignored() -> None:
    labels = [torch.randint(0, 3, (150, 4, 4), generator=torch.Generator().manual_seed(t)) for t in range(2)]
    for y in labels:
        y[:, :, 0] = 255
    kind: Any = {"kind": "multiclass", "ignore_index": 255}
    result = zipped(two(3, "pixels"), labels, types=[kind, kind])
    for t in range(2):
        said, y = answers(result, t).argmax(1), labels[t].numpy()
        kept = y != 255
        assert result.errors is not None
        assert result.errors[t] == pytest.approx(100 * (said != y)[kept].mean())
        parts = [((said == k) & (y == k))[kept].sum() / ((said == k) | (y == k))[kept].sum() for k in range(3)]
        assert result.scores[t] == {"mean intersection over union, %": pytest.approx(100 * np.mean(parts))}
    assert result.types[0] == TaskType("multiclass", 1, False, 255, dense=True)


def test_the_axis_of_the_classes_of_tokens_is_found_by_their_labels() -> None:
    labels = [torch.randint(0, 3, (150, 6), generator=torch.Generator().manual_seed(t)) for t in range(2)]
    result = zipped(two(3, "tokens"), labels)
    for t in range(2):
        assert result.errors is not None
        assert result.errors[t] == pytest.approx(100 * (answers(result, t).argmax(2) != labels[t].numpy()).mean())
    assert result.types[0] == TaskType("multiclass", 2, dense=True)


# Probabilities


@pytest.mark.parametrize(("outputs", "ending"), [(4, lambda: nn.Softmax(1)), (4, nn.Sigmoid), (1, nn.Sigmoid)])
def test_a_network_that_ends_in_probabilities_zips_like_the_one_with_logits(outputs: int, ending: Any) -> None:
    kind = "multiclass" if outputs == 4 and ending is not nn.Sigmoid else "multilabel" if outputs == 4 else "binary"
    labels = []
    for t, network in enumerate(two(outputs)):
        z = network(network.inputs(150, 20 + t)).detach()
        labels.append(z.argmax(1) if kind == "multiclass" else (z > 0).long())
    retrain = {"steps": 10, "schedule": "final", "batch_size": 16}
    plain = zipped(two(outputs), labels, types=[kind] * 2, share=0.6, retrain=retrain)
    soft = zipped(two(outputs, ending=ending), labels, share=0.6, retrain=retrain)
    assert soft.types == (TaskType(kind, probabilities=True),) * 2  # type: ignore[arg-type]
    assert soft.errors == pytest.approx(plain.errors, abs=0.1)
    for a, b in zip(plain.network.stored(), soft.network.stored(), strict=True):
        for one, other in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (nn.Sequential(nn.Softmax(-1), nn.Dropout()), TaskType("multiclass", probabilities=True)),
        (
            nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Softmax(1), nn.Flatten()),
            TaskType("multiclass", probabilities=True),
        ),
        (
            nn.Sequential(nn.Sigmoid(), nn.Unflatten(1, (2, 2)), nn.Flatten()),
            TaskType("multilabel", probabilities=True),
        ),
    ],
)
def test_what_a_network_ends_in_is_found_behind_what_keeps_its_numbers(ending: nn.Module, kind: TaskType) -> None:
    networks = [Body(4, ending, seed=1), Body(4, ending, seed=2)]
    assert Zipper(networks, [network.inputs(100) for network in networks]).job.types == (kind, kind)


def test_log_probabilities_are_logits() -> None:
    result = zipped(two(4, ending=lambda: nn.LogSoftmax(-1)))
    assert result.types == (TaskType("multiclass"),) * 2
    assert not [w for w in result.warnings if "scores of" in w]


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_probabilities_give_the_same_losses_and_pulls_as_their_logits(kind: Any) -> None:
    z, other = 3 * draws(20, 4), draws(20, 4, seed=1)
    squashed = (lambda x: x.softmax(1)) if kind == "multiclass" else torch.sigmoid
    plain, soft = output_of(TaskType(kind)), output_of(TaskType(kind, probabilities=True))
    labels = z.argmax(1) if kind == "multiclass" else (z > 0).long()
    same = torch.testing.assert_close
    same(soft.loss(squashed(z), labels), plain.loss(z, labels))
    found = [o.distillation(f(other), o.targets(f(z), 3.0), 3.0) for o, f in ((soft, squashed), (plain, lambda x: x))]
    same(*found)
    p = z.clone().requires_grad_()
    for a, b in zip(soft.pulls(squashed(z), 5, 3, 2.0), plain.pulls(z, 5, 3, 2.0), strict=True):
        same(torch.autograd.grad(squashed(p), p, a)[0], b)


# Pulls: their mean square is the Fisher information


def fisher(output: Output, outputs: Tensor, temperature: float, answers_drawn: int = 40_000) -> Array:
    pulls = torch.stack(output.pulls(outputs.expand(answers_drawn // 4, *outputs.shape[1:]), 0, 4, temperature))
    g = pulls.flatten(0, 1).flatten(1)
    return (g.mT @ g / len(g)).numpy()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_pulls_of_attributes_have_the_covariance_of_coins(temperature: float) -> None:
    z = draws(1, 4) * 2
    p = sigmoid(z[0].numpy() / temperature)
    np.testing.assert_allclose(
        fisher(Attributes(TaskType("multilabel")), z, temperature), np.diag(p * (1 - p)), atol=0.01
    )


def test_the_pulls_of_one_logit_have_the_variance_of_a_coin() -> None:
    p = sigmoid(np.array(0.7))
    found = fisher(Attributes(TaskType("binary")), torch.tensor([[0.7]]), 1.0)
    np.testing.assert_allclose(found, [[p * (1 - p)]], atol=0.01)


def test_the_pulls_of_classes_have_the_covariance_of_a_die_at_every_place() -> None:
    """Divided by the number of places: what is said of one place counts as much as of an image."""
    z = draws(1, 3, 2)
    found = fisher(Multiclass(TaskType("multiclass", dense=True)), z, 1.0).reshape(3, 2, 3, 2)
    for place in range(2):
        p = softmax(z[0, :, place].numpy())
        np.testing.assert_allclose(found[:, place, :, place], (np.diag(p) - np.outer(p, p)) / 2, atol=0.01)
    np.testing.assert_allclose(found[:, 0, :, 1], 0.0, atol=0.01)


def test_the_pulls_of_values_have_the_inverse_squares_of_their_spread() -> None:
    answers = draws(500, 3) * torch.tensor([1.0, 2.0, 0.5])
    output = output_of(TaskType("regression"), answers)
    expected = np.diag(1 / answers.numpy().std(0) ** 2)
    np.testing.assert_allclose(fisher(output, answers[:1], 1.0), expected, atol=0.15)


# Divergence, changes, losses


def test_divergence_is_the_one_of_each_kind() -> None:
    a, b = 2 * draws(7, 4), 2 * draws(7, 4, seed=1)
    x, y = a.numpy(), b.numpy()
    p, q = softmax(x), softmax(y)
    classes = (p * np.log(p / q)).sum(1)
    p, q = sigmoid(x), sigmoid(y)
    coins = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1)
    spread = np.array([1.0, 2.0, 3.0, 4.0])
    values = Values(TaskType("regression"), torch.from_numpy(spread))
    squares = (0.5 * (x - y) ** 2 / spread**2).sum(1)
    kinds: list[tuple[Output, Array]] = [
        (Multiclass(TaskType("multiclass")), classes),
        (Attributes(TaskType("multilabel")), coins),
        (values, squares),
    ]
    for output, expected in kinds:
        found = output.divergence(output.predictions(a), output.predictions(b))
        np.testing.assert_allclose(found.numpy(), expected)
        # Softened by τ and multiplied by τ², it is what is distilled; values are not softened.
        np.testing.assert_allclose(output.distillation(b, output.targets(a, 1.0), 1.0).numpy(), expected)
        hot, known = (
            (2.0 * a, 2.0 * b) if output is not values else (a, b),
            4.0 * expected if output is not values else expected,
        )
        np.testing.assert_allclose(output.distillation(hot[1], output.targets(hot[0], 2.0), 2.0).numpy(), known)


def test_what_changes_is_counted_as_each_kind_says() -> None:
    a, b = draws(9, 4), draws(9, 4, seed=1)
    x, y = a.numpy(), b.numpy()
    spread = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = {
        "multiclass": (x.argmax(1) != y.argmax(1)).astype(float),
        "multilabel": ((x > 0) != (y > 0)).mean(1),
        "regression": np.minimum(np.abs(x - y) / (TOLERANCE * spread.numpy()), 1).mean(1),
    }
    outputs = (
        Multiclass(TaskType("multiclass")),
        Attributes(TaskType("multilabel")),
        Values(TaskType("regression"), spread),
    )
    for output in outputs:
        found = output.changed(output.predictions(a), output.predictions(b))
        np.testing.assert_allclose(found.numpy(), expected[output.type.kind])


def test_losses_are_means_over_places_that_count() -> None:
    z = draws(3, 4, 5)
    labels = torch.randint(0, 4, (3, 5), generator=torch.Generator().manual_seed(0))
    labels[0, 2:] = -100
    labels[2] = -100
    output = Multiclass(TaskType("multiclass", ignore_index=-100, dense=True))
    log_p = np.log(softmax(z.numpy(), 1))
    expected = [np.mean([-log_p[i, labels[i, k], k] for k in range(n)]) if n else 0.0 for i, n in enumerate((2, 5, 0))]
    np.testing.assert_allclose(output.loss(z, labels).numpy(), expected)
    coins = Attributes(TaskType("multilabel", ignore_index=255))
    some = torch.tensor([[1, 255, 0, 1]])
    p = sigmoid(z[:1, :, 0].numpy())[0]
    by_hand = 4 * -np.mean([np.log(p[0]), np.log(1 - p[2]), np.log(p[3])])
    np.testing.assert_allclose(coins.loss(z[:1, :, 0], some).numpy(), [by_hand])
    values = Values(TaskType("regression"), torch.tensor([1.0, 2.0, 1.0, 2.0]))
    y = draws(1, 4, seed=3)
    by_hand = (0.5 * ((y - z[:1, :, 0]).numpy() / [1, 2, 1, 2]) ** 2).sum()
    np.testing.assert_allclose(values.loss(z[:1, :, 0], y).numpy(), [by_hand])


@pytest.mark.parametrize(
    ("outputs", "places", "kind"),
    [(1, "", "binary"), (4, "", "multilabel"), (3, "", "regression"), (3, "pixels", "multiclass"),
     (3, "tokens", {"kind": "multilabel", "axis": 2})],
)  # fmt: skip
def test_steps_lower_the_divergence_that_they_name(outputs: int, places: str, kind: Any) -> None:
    heard: list[RetrainEnded] = []
    networks = two(outputs, places)
    spec = ZipSpec(share=1.0, retrain=RetrainSpec(steps=30, schedule="final", learning_rate=1e-2), compensate=False)
    calibration = [network.inputs(100, t) for t, network in enumerate(networks)]
    zip_networks(
        networks, calibration, spec, types=[kind] * 2,
        on_event=lambda event: heard.append(event) if isinstance(event, RetrainEnded) else None,
    )  # fmt: skip
    assert heard[0].after < 0.9 * heard[0].before


@pytest.mark.parametrize("kind", ["binary", "multilabel", "regression"])
def test_steps_with_labels_lower_their_loss(kind: Any) -> None:
    networks = two(1 if kind == "binary" else 3)
    data = []
    for t, network in enumerate(networks):
        x = network.inputs(100, t)
        z = network(x).detach()
        data.append((x, z if kind == "regression" else (z > 0).long()))
    heard: list[RetrainEnded] = []
    retrain = RetrainSpec(steps=30, schedule="final", targets="labels", learning_rate=1e-2)
    zip_networks(
        networks, [x for x, _ in data], ZipSpec(compensate=False, retrain=retrain), retraining=data,
        on_event=lambda event: heard.append(event) if isinstance(event, RetrainEnded) else None,
    )  # fmt: skip
    assert heard[0].after < 0.95 * heard[0].before


# Which type it is


def seen(*shape: int, labels: Tensor | None = None, ending: Ending | None = None) -> Seen:
    return Seen("network 0", shape, ending, () if labels is None else (("evaluation[0]", labels),))


ONES = torch.tensor([0, 1, 1, 0])
MAP = torch.randint(0, 3, (4, 8, 6), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (seen(3, labels=torch.tensor([0, 1, 2, 1])), TaskType("multiclass")),
        (seen(2, labels=ONES), TaskType("multiclass")),
        (seen(1, labels=ONES), TaskType("binary")),
        (seen(1, labels=ONES[:, None].double()), TaskType("binary")),
        (seen(1, labels=ONES + 0.5), TaskType("regression")),
        (seen(2, labels=torch.stack([ONES, ONES], 1)), TaskType("multilabel")),
        (seen(2, labels=draws(4, 2)), TaskType("regression")),
        (seen(3, 8, 6, labels=MAP), TaskType("multiclass", dense=True)),
        (seen(8, 6, 3, labels=MAP), TaskType("multiclass", 3, dense=True)),
        (seen(8, 3, labels=MAP[:, :, 0]), TaskType("multiclass", 2, dense=True)),
        (seen(3, 8, labels=MAP[:, :, 0]), TaskType("multiclass", 1, dense=True)),
        (seen(1, 8, 6, labels=MAP % 2), TaskType("binary", dense=True)),
        (seen(1, 8, 6, labels=draws(4, 1, 8, 6)), TaskType("regression", dense=True)),
        (seen(2, 8, 6, labels=draws(4, 2, 8, 6)), TaskType("regression", dense=True)),
        (seen(3, ending=Ending("softmax", 1)), TaskType("multiclass", probabilities=True)),
        (seen(6, 3, ending=Ending("softmax", 2)), TaskType("multiclass", 2, True, dense=True)),
        (seen(6, 3, ending=Ending("log-softmax", 2)), TaskType("multiclass", 2, dense=True)),
        (seen(1, ending=Ending("sigmoid")), TaskType("binary", probabilities=True)),
        (seen(3, ending=Ending("sigmoid")), TaskType("multilabel", probabilities=True)),
        (seen(1, 8, 6, ending=Ending("sigmoid")), TaskType("binary", probabilities=True, dense=True)),
    ],
)  # fmt: skip
def test_a_type_is_found_where_nothing_leaves_a_doubt(given: Seen, kind: TaskType) -> None:
    assert inferred(given, None) == (kind, None)


@pytest.mark.parametrize("shape", [(3,), (3, 8, 6)])
def test_classes_by_convention_are_stated(shape: tuple[int, ...]) -> None:
    found, note = inferred(seen(*shape), None)
    assert found == TaskType("multiclass", dense=len(shape) > 1)
    assert note is not None
    assert "network 0" in note
    assert "3 classes" in note


@pytest.mark.parametrize(
    "given",
    [
        seen(1),
        seen(1, 8, 6),
        seen(6, 3),
        seen(6, 3, ending=Ending("sigmoid")),
        seen(6, 3, labels=draws(4, 6, 3)),
        seen(6, 6, labels=MAP[:, :6, 0]),
        seen(1, labels=torch.tensor([0, 3, 5, 1])),
        seen(2, labels=torch.tensor([[0, 1], [1, 0], [0, 1]])),
        seen(3, labels=torch.tensor([0, 1, 2]), ending=Ending("sigmoid")),
        seen(3, labels=draws(4, 3), ending=Ending("softmax", 1)),
        seen(8, 6, 3, labels=draws(4, 5)),
    ],
)  # fmt: skip
def test_what_is_in_doubt_is_asked_for_by_name(given: Seen) -> None:
    with pytest.raises((SpecError, DataError), match=r"network 0|evaluation") as caught:
        inferred(given, None)
    assert "types=[" in str(caught.value) or "give labels of shape" in str(caught.value)


def test_what_is_said_is_believed_where_it_fits() -> None:
    regression = TypeSpec(kind="regression", axis=0)
    assert inferred(seen(8, 6), regression)[0] == TaskType("regression", 0, dense=True)
    assert inferred(seen(8, 6), TypeSpec(kind="binary"))[0] == TaskType("binary", 0, dense=True)
    assert inferred(seen(8, 3), TypeSpec(kind="multiclass", axis=-1))[0].axis == 2
    assert inferred(seen(3), TypeSpec(kind="multilabel", probabilities=True))[0].probabilities
    for shape, kind, said in (
        ((3,), TypeSpec(kind="binary"), "'multilabel' for 3"),
        ((1,), TypeSpec(kind="multiclass"), "cannot be told apart"),
        ((3,), TypeSpec(kind="multilabel", axis=2), "no axis 2"),
        ((3, 8), TypeSpec(kind="multilabel"), "which axis"),
    ):
        with pytest.raises(SpecError, match=said):
            inferred(seen(*shape), kind)


BAD: dict[str, tuple[Any, Tensor, tuple[int, ...], str]] = {
    "from one": ("multiclass", torch.tensor([1, 2, 3]), (3,), r"from 1 to 3 for 3 classes.*labels - 1"),
    "255": ("multiclass", torch.tensor([0, 255, 2]), (3,), r"255 and no ignore_index.*'ignore_index': 255"),
    "-100": ("multiclass", torch.tensor([0, -100, 2]), (3,), r"'ignore_index': -100"),
    "beyond": ("multiclass", torch.tensor([0, 7, 2]), (3,), r"from 0 to 7.*from 0 to 2"),
    "shape": ("multiclass", torch.zeros(3, 4).long(), (3,), r"\(N, 4\) for outputs \(N, 3\).*shape \(N,\)"),
    "one-hot": ("multiclass", torch.eye(3), (3,), r"one-hot.*argmax"),
    "column": ("multiclass", torch.zeros(3, 1).long(), (3,), "squeeze"),
    "floats": ("multiclass", torch.tensor([0.0, 1.0, 2.0]), (3,), r"one class index per image.*long\(\)"),
    "fractions": ("multiclass", torch.tensor([0.5, 1.0, 2.0]), (3,), "regression"),
    "attributes 2": ("multilabel", torch.tensor([[0, 2], [1, 0]]), (2,), "neither 0 nor 1, e.g. 2"),
    "attributes from one": ("multilabel", torch.tensor([[2, 2], [1, 1]]), (2,), "labels - 1"),
    "attributes -1": ("multilabel", torch.tensor([[-1, 1], [1, 1]]), (2,), "labels > 0"),
    "attributes 255": ("multilabel", torch.tensor([[0, 255], [1, 1]]), (2,), "'ignore_index': 255"),
    "attributes 0.3": ("multilabel", torch.tensor([[0.3, 1.0]]), (2,), "round"),
    "attributes of classes": ("multilabel", torch.tensor([0, 1]), (2,), r"labels of shape \(N, 2\)"),
    "not a number": ("regression", torch.tensor([[float("nan"), 1.0]]), (2,), "NaN"),
    "values' shape": ("regression", torch.zeros(2, 5), (2,), r"labels of shape \(N, 2\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_labels_are_told_apart_with_the_remedy(name: str) -> None:
    kind, labels, shape, said = BAD[name]
    with pytest.raises(DataError, match=rf"^evaluation\[0\] has (torch.float32 )?labels .*{said}"):
        inferred(seen(*shape, labels=labels), TypeSpec(kind=kind))


def test_bad_labels_are_refused_before_any_work() -> None:
    networks = two(3)
    data = [network.inputs(100) for network in networks]
    labels = torch.arange(100) % 3
    retraining = [(data[0], labels), (data[1], labels + 1)]
    with pytest.raises(DataError, match=r"retraining\[1\].*labels - 1"):
        Zipper(networks, data, ZipSpec(retrain=RetrainSpec(targets="labels")), retraining=retraining)
    with pytest.raises(SpecError, match=r"network 0 answers with \(N, 1\) and has no labels"):
        Zipper(two(1), data)
    with pytest.raises(SpecError, match="probabilities were said to come out"):
        zip_networks(networks, data, types=[{"kind": "multiclass", "probabilities": True}, None])
    with pytest.raises(SpecError, match="types: 3 were given for 2"):
        zip_networks(networks, data, types=["multiclass"] * 3)
    with pytest.raises(SpecError, match="given twice"):
        zip_networks(networks, data, ZipSpec(types=["multiclass"] * 2), types=["multiclass"] * 2)  # type: ignore[arg-type]


# What follows from it


def test_types_change_what_errors_weigh_and_are_told() -> None:
    plain, told = zipped(two(4)), zipped(two(4), types=["multilabel", None])
    assert [t.kind for t in told.types] == ["multilabel", "multiclass"]
    assert [len([w for w in r.warnings if "scores of" in w]) for r in (plain, told)] == [2, 1]
    pairs = zip(plain.network.parameters(), told.network.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("outputs", "places", "kind"),
    [(3, "", "multiclass"), (1, "", "binary"), (4, "", "multilabel"), (3, "", "regression"),
     (3, "pixels", "multiclass"), (3, "tokens", {"kind": "multiclass", "axis": 2})],
)  # fmt: skip
def test_changes_are_predicted_from_divergences_within_a_factor_of_one_and_a_half(
    outputs: int, places: str, kind: Any
) -> None:
    """κ √D beside what was counted on 800 inputs, whenever groups are merged and so many answers changed."""
    networks = two(outputs, places)
    fields: dict[str, Any] = {"share": "auto", "budget": {"size": 1.5}, "relu_rounds": 0, "types": [kind] * 2}
    job = Zipper(networks, [network.inputs(800, 10 + t) for t, network in enumerate(networks)], ZipSpec(**fields)).job
    forecast = Forecast.of(job, job.sample)
    list(forecast.choice())
    rate = changed_per_root(forecast.bench.seen)
    seen_often = [(divergence, counted) for divergence, counted in forecast.bench.seen if counted > 1.25]
    assert len(seen_often) >= 3
    for divergence, counted in seen_often:
        assert counted / 1.5 < rate * divergence**0.5 < counted * 1.5


@pytest.mark.parametrize(
    ("outputs", "places", "kind", "ending"),
    [(3, "", "multiclass", None), (3, "", "multiclass", lambda: nn.Softmax(-1)), (1, "", "binary", None),
     (1, "", "binary", nn.Sigmoid), (4, "", "multilabel", None), (3, "", "regression", None),
     (3, "pixels", "multiclass", None), (3, "tokens", {"kind": "multiclass", "axis": 2}, None)],
)  # fmt: skip
def test_changes_are_predicted_end_to_end_within_a_factor_of_one_and_a_half(
    outputs: int, places: str, kind: Any, ending: Any
) -> None:
    """What a plan predicts beside what zipping changes on 2,000 other inputs, wherever one in a hundred does."""
    networks = two(outputs, places, ending, 32)
    data = [network.inputs(1000, 10 + t) for t, network in enumerate(networks)]
    fields: dict[str, Any] = {"types": [kind] * 2}
    job = Zipper(networks, data, ZipSpec(share="auto", budget={"size": 1.5}, **fields)).job
    *_, choice = Forecast.of(job, job.sample).choice()
    assert isinstance(choice, Choice)
    often = 0
    for share in (0.4, 0.6, 0.8, 1.0):
        shares = choice.uniform(share)
        result, changed = zip_networks(networks, data, ZipSpec(share=shares, **fields)).network, 0.0
        for t, (network, output) in enumerate(zip(networks, job.outputs, strict=True)):
            x = network.inputs(2000, 30 + t)
            with torch.no_grad():
                says = output.predictions(network(x)), output.predictions(result(x, task=t))
            changed += 50.0 * float(output.changed(*says).mean())
        often += changed >= 1.0
        predicted = choice.error(choice.divergence(shares))
        assert changed < 1.0 or changed / 1.5 < predicted < changed * 1.5, (share, changed, predicted)
    assert often >= 2


def test_types_are_written_and_read() -> None:
    kind = TaskType("multiclass", 2, True, 255, True)
    assert TaskType.read(kind.data()) == kind
    with pytest.raises(SpecError, match="no type of task"):
        TaskType.read({"kind": "ranking"})
    assert changed_things((kind, TaskType("binary"))) == "answers"


def test_the_last_event_says_what_errors_count() -> None:
    labels = [(draws(150, 4, seed=t) > 0.5).long() for t in range(2)]
    networks = two(4)
    calibration = [network.inputs(100, t) for t, network in enumerate(networks)]
    tested = [(network.inputs(150, 20 + t), labels[t]) for t, network in enumerate(networks)]
    last = list(Zipper(networks, calibration, evaluation=tested).run())[-1]
    assert isinstance(last, Finished)
    assert [kind.error for kind in last.types] == ["wrong attributes"] * 2
    assert set(last.scores[0]) == {"mean average precision, %"}
