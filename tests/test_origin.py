"""Where a difference comes from: parts of a quadratic form, spectra, likeness of layers, and what a run keeps."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from mtz_core import ZipSpec
from mtz_core.algebra import quadratic
from mtz_core.algebra.gram import DenseGram, Gram, RowGram, to_dense
from mtz_core.algebra.quadratic import PairForm
from mtz_core.algebra.similarity import debiased_hsic, linear_cka, linear_kernel
from mtz_core.algebra.spectrum import effective_rank, participation_ratio, spectrum
from mtz_core.errors import RunError, SpecError
from mtz_core.events import DifferenceComputed, LayerZipped, Started
from mtz_core.runs.origins import MOST, keep_layers, keep_pair, layers_path, pair_path, read_layers, read_pair
from mtz_core.zipping.findings import PairFindings
from mtz_core.zipping.origin import Origins
from mtz_core.zipping.zipper import Zipper
from tests.networks import Residual, images, randomised


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def grams(kind: str, size: int) -> tuple[Gram, Gram]:
    """Two Grams over inputs of very different strength, kept as matrices or as few rows."""
    strength = torch.logspace(0, -3, size, dtype=torch.float64)
    rows = [drawn(seed, 3 * size if kind == "matrix" else 4, size) * strength for seed in (1, 2)]
    made: list[Gram] = []
    for x, alpha in zip(rows, (0.3, 0.7), strict=True):
        gram = RowGram(x, alpha / len(x), 0.02)
        made.append(gram.dense() if kind == "matrix" else gram)
    return made[0], made[1]


def middle(p: Gram, q: Gram) -> np.ndarray:
    """M from two explicit inverses."""
    each = [to_dense(gram).full().numpy() for gram in (p, q)]
    return np.linalg.inv(np.linalg.inv(each[0]) + np.linalg.inv(each[1]))


@pytest.mark.parametrize("kind", ["matrix", "rows"])
def test_inputs_and_eigenvectors_each_add_up_to_the_difference(kind: str) -> None:
    p, q = grams(kind, 12)
    delta, m = drawn(3, 12), middle(p, q)
    form = PairForm(delta, p, q, factor=1.7)
    d = 1.7 * 0.5 * float(delta.numpy() @ m @ delta.numpy())
    by_input = form.contributions()
    np.testing.assert_allclose(by_input, 1.7 * 0.5 * delta.numpy() * (m @ delta.numpy()), rtol=1e-9)
    assert float(by_input.sum()) == pytest.approx(d, rel=1e-12)
    found = form.directions()
    values, vectors = np.linalg.eigh(m)
    np.testing.assert_allclose(found.values, values[::-1], rtol=1e-8)
    if kind == "matrix":  # else equal eigenvalues leave a choice of vectors
        np.testing.assert_allclose(found.squares, ((delta.numpy() @ vectors) ** 2)[::-1], rtol=1e-6, atol=1e-12)
    assert float(found.parts.sum()) == pytest.approx(d, rel=1e-12)
    assert float(found.squares.sum()) == pytest.approx(float(delta.square().sum()), rel=1e-12)
    assert found.rest == 0.0


def test_a_change_along_inputs_that_never_vary_costs_nothing() -> None:
    x = drawn(5, 40, 6)
    x[:, 4:] = 0.0
    gram = DenseGram(x.mT @ x / 40)
    delta = torch.tensor([0, 0, 0, 0, 1e3, -2e3], dtype=torch.float64)
    form = PairForm(delta, gram, gram)
    assert float(form.contributions().abs().sum()) < 1e-6
    assert float(form.directions().squares[-2:].sum()) == pytest.approx(5e6)


def test_of_very_wide_layers_the_rest_beyond_the_leading_directions_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = grams("matrix", 40)
    form = PairForm(drawn(3, 40), p, q)
    whole = form.directions()
    monkeypatch.setattr(quadratic, "WHOLE_UP_TO", 39)
    monkeypatch.setattr(quadratic, "LEADING", 7)
    some = form.directions()
    np.testing.assert_allclose(some.values, whole.values[:7], rtol=1e-8)
    np.testing.assert_allclose(some.parts, whole.parts[:7], rtol=1e-6)
    assert some.rest == pytest.approx(float(whole.parts[7:].sum()), rel=1e-8)
    assert some.rest > 0


def test_the_bound_of_depthwise_neurons_splits_likewise() -> None:
    p, q = grams("matrix", 5)
    delta = drawn(3, 5)
    form = PairForm(delta, p, q, mean=True)
    full = [g.full() for g in (p, q) if isinstance(g, DenseGram)]
    d = float(delta @ (full[0] + full[1]) @ delta) / 8
    assert float(form.contributions().sum()) == pytest.approx(d, rel=1e-12)
    assert float(form.directions().parts.sum()) == pytest.approx(d, rel=1e-12)


@pytest.mark.parametrize("count", [4, 30])
def test_the_spectrum_is_that_of_the_matrix_however_the_gram_is_kept(count: int) -> None:
    x = drawn(7, count, 10)
    expected = np.linalg.eigvalsh((x.mT @ x).numpy() / count)[::-1]
    found = spectrum(RowGram(x, 1.0 / count, ridge=3.0))
    assert len(found) == min(count, 10)
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(spectrum(RowGram(x, 1.0 / count).dense()), expected, rtol=1e-9, atol=1e-12)


def test_effective_ranks_count_equal_directions_and_forget_scale() -> None:
    for k in (1, 3, 8):
        values = torch.zeros(10, dtype=torch.float64)
        values[:k] = 5.0
        assert float(effective_rank(values)) == pytest.approx(k)
        assert float(participation_ratio(values)) == pytest.approx(k)
    values = torch.tensor([8.0, 1.0, 1.0], dtype=torch.float64)
    expected = math.exp(-sum(p * math.log(p) for p in (0.8, 0.1, 0.1)))
    assert float(effective_rank(values)) == float(effective_rank(7 * values)) == pytest.approx(expected)
    assert float(participation_ratio(values)) == pytest.approx(100 / 66)
    assert float(effective_rank(torch.zeros(3))) == float(participation_ratio(torch.zeros(3))) == 0.0


def u_statistic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """HSIC as a mean over all choices of four different inputs (Song et al. 2012, equation 4)."""
    chosen = list(permutations(range(len(k)), 4))
    terms = [k[a, b] * l[a, b] + k[a, b] * l[c, d] - 2 * k[a, b] * l[a, c] for a, b, c, d in chosen]
    return float(np.mean(terms))


def test_hsic_is_the_mean_over_all_fours_of_inputs() -> None:
    x, y = drawn(1, 6, 3), drawn(2, 6, 4) + drawn(1, 6, 3)[:, :1]
    k, l = linear_kernel(x), linear_kernel(y)  # noqa: E741
    assert debiased_hsic(k, l) == pytest.approx(u_statistic(k.numpy(), l.numpy()), rel=1e-10)


def test_cka_ignores_rotation_scale_and_shift_and_does_not_see_likeness_where_there_is_none() -> None:
    x = drawn(1, 50, 200)
    turned = x @ torch.linalg.qr(drawn(2, 200, 200))[0] * 3.0 + drawn(4, 200)
    assert linear_cka(linear_kernel(x), linear_kernel(turned)) == pytest.approx(1.0, abs=1e-9)
    unrelated = [linear_cka(linear_kernel(drawn(s, 50, 200)), linear_kernel(drawn(s + 99, 50, 200))) for s in range(20)]
    assert abs(np.mean(unrelated)) < 0.02  # the biased estimate is 0.8 here
    assert math.isnan(linear_cka(linear_kernel(torch.ones(50, 3)), linear_kernel(x)))
    assert math.isnan(linear_cka(linear_kernel(x[:3]), linear_kernel(x[:3])))


# After a run, on small networks


class Looked(NamedTuple):
    origins: Origins
    differences: dict[str, dict[tuple[int, int], np.ndarray]]
    pairs: dict[str, np.ndarray]

    def found(self, layer: str, tasks: tuple[int, int] = (0, 1), cell: tuple[int, int] | None = None) -> PairFindings:
        both = self.pairs[layer][:, list(tasks)]
        i, j = both[(both >= 0).all(1)][-1].tolist() if cell is None else cell
        last = list(self.origins.trace(self.origins.ask(layer, tasks, (i, j))))[-1]
        assert isinstance(last, PairFindings)
        return last


def looked(networks: Sequence[nn.Module], inputs: Sequence[Tensor], **spec: Any) -> Looked:
    """Zip, and be ready to look into it."""
    zipper = Zipper(networks, inputs, ZipSpec(**spec))
    events = list(zipper.run())
    started = next(e for e in events if isinstance(e, Started))
    differences = {e.layer: dict(e.differences) for e in events if isinstance(e, DifferenceComputed)}
    pairs = {e.layer: np.asarray(e.pairs) for e in events if isinstance(e, LayerZipped)}
    return Looked(Origins(zipper.job, zipper.sample, zipper.network, dict(started.shared)), differences, pairs)


def permuted(network: nn.Module, order: Tensor) -> nn.Module:
    """A copy whose first hidden layer's neurons stand in another order: neuron k is neuron `order[k]` of before."""
    twin = copy.deepcopy(network)
    first, second = twin[0], twin[2]
    with torch.no_grad():
        for parameter in (first.weight, first.bias):
            parameter.copy_(parameter[order])
        second.weight.copy_(second.weight[:, order])
    return twin


def perceptron(seed: int) -> nn.Module:
    return randomised(nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)), seed)


def test_of_a_network_and_its_permuted_copy_nothing_differs_and_every_half_finds_the_order() -> None:
    network, x = perceptron(0), drawn(1, 80, 9)
    order = torch.tensor([3, 1, 0, 2, 7, 5, 6, 4])
    run = looked([network, permuted(network, order)], [x, x], share=1.0)
    found = run.found("0", cell=(3, 0))
    assert found.difference == pytest.approx(0.0, abs=1e-12)
    assert found.stability.again == (8, 8)
    assert found.stability.common == 8
    assert found.stability.found == (True, True)
    assert not any(run.found("0", cell=(2, 0)).stability.found)
    first, second = found.responses
    np.testing.assert_allclose(first.points, second.points, atol=1e-6)
    np.testing.assert_allclose(first.points[:, [0]].repeat(3, 1), first.points, atol=1e-5)
    outputs = (x @ network[0].weight[3] + network[0].bias[3]).detach().numpy()
    assert first.before.tolist() == first.after.tolist() == np.argsort(-outputs)[:5].tolist()
    np.testing.assert_allclose(first.before_values, np.sort(outputs)[::-1][:5], rtol=1e-5)
    assert [like.cka for like in run.origins.layers()] == pytest.approx([1.0] * 6, abs=1e-6)


def test_halves_pair_as_runs_do_that_have_no_other_inputs() -> None:
    networks = [randomised(nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 3)), seed) for seed in (0, 1)]
    inputs, spec = [drawn(s, 20, 9) ** 3 for s in (0, 1)], {"share": 0.75, "weighting": "equal"}
    run = looked(networks, inputs, **spec)
    numbers = run.origins.sample.halves(0)
    alone = [looked(networks, [x[h == k] for x, h in zip(inputs, numbers, strict=True)], **spec) for k in (0, 1)]
    own, first, second = ({tuple(pair) for pair in each.pairs["0"].tolist()} for each in (run, *alone))
    told = run.found("0").stability
    assert told.pairs == len(own) == 12
    assert told.halves == (12, 12)
    assert told.again == (len(own & first), len(own & second))
    assert told.common == len(first & second)
    assert 0 < sum(told.again) < 24  # else this proves nothing
    assert told.chance == pytest.approx(144 / 256)


FORMS: dict[str, tuple[Callable[[int], nn.Module], int, dict[str, Any]]] = {
    "three tasks, subsets": (perceptron, 3, {"share": 0.6}),
    "without compensation": (perceptron, 2, {"share": 0.6, "compensate": False}),
    "several writers": (lambda seed: randomised(Residual(), seed), 2, {"share": 0.7}),
    "cosine": (perceptron, 2, {"share": 0.5, "metric": "cosine"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_layer_is_found_again_as_the_run_compared_it(form: str) -> None:
    make, tasks, spec = FORMS[form]
    networks = [make(seed) for seed in range(tasks)]
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
    run = looked(
        networks, [images(40, s) if form == "several writers" else drawn(s, 40, 9) for s in range(tasks)], **spec
    )
    shared = {name: tensor.clone() for name, tensor in run.origins.zipped.state_dict().items()}
    for k, (layer, each) in enumerate(run.differences.items()):
        for couple, difference in list(each.items())[k::3]:  # of three tasks other two in every layer
            found = run.found(layer, couple)
            assert found.difference == pytest.approx(float(difference[found.neurons]), rel=1e-9)
            assert float(found.parts.by_channel().sum()) == pytest.approx(found.difference, rel=1e-9)
            assert found.directions.parts.sum() == pytest.approx(found.difference, rel=1e-9)
    if form == "several writers":
        assert "paired before, in stem" in run.found("a").stability.why
    for network, was in zip(networks, before, strict=True):
        assert all(torch.equal(value, was[name]) for name, value in network.state_dict().items())
    assert all(torch.equal(tensor, shared[name]) for name, tensor in run.origins.zipped.state_dict().items())


def test_inputs_are_named_by_the_channels_that_write_them() -> None:
    run = looked([randomised(Residual(), s) for s in (0, 1)], [images(40, s) for s in (0, 1)], share=0.7)
    parts = run.found("a").parts
    assert [parts.groups[g] for g in parts.channels[:, 0]] == ["stem"] * 4
    assert sorted(map(tuple, parts.channels[:, 1:].tolist())) == sorted(map(tuple, run.pairs["stem"].tolist()))
    assert np.bincount(parts.channel).tolist() == [9] * 4  # the kernel's places


def banks(seed: int) -> nn.Module:
    """A depthwise convolution, then one in two groups."""
    first, depthwise = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, groups=6)
    rest = (nn.ReLU(), nn.Conv2d(6, 8, 1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return randomised(nn.Sequential(first, nn.ReLU(), depthwise, *rest), seed)


def test_neurons_in_banks_read_the_channels_of_their_own_bank() -> None:
    run = looked([banks(0), banks(1)], [images(40, s) for s in (0, 1)], share=1.0)
    depthwise, grouped = run.found("2"), run.found("4")
    own = depthwise.parts.channels[depthwise.parts.channels[:, 0] >= 0]
    assert own[:, 1:].tolist() == [list(depthwise.neurons)]
    written = grouped.parts.channels[grouped.parts.channels[:, 0] >= 0]
    for side, neuron in enumerate(grouped.neurons):
        assert set(written[:, 1 + side] // 3) == {neuron // 4}
    assert set(map(tuple, written[:, 1:].tolist())) <= set(map(tuple, run.pairs["0"].tolist()))
    assert [like.layer for like in run.origins.layers()] == ["0", "0", "2", "2", "4", "4", "8", "8"]


def test_what_cannot_be_said_is_said_why() -> None:
    wide = randomised(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)), 5)
    run = looked([perceptron(0), wide], [drawn(0, 40, 9), drawn(1, 40, 6)], share=0.6, pairing="random")
    found = run.found("0")
    assert "different inputs, of shapes (9,) and (6,)" in found.responses[0].why
    assert np.isnan(found.responses[0].points[:, 2]).all()
    assert "drawn, not found" in found.stability.why
    for layer, tasks, neurons, message in (
        ("9", (0, 1), (0, 0), "no layer '9'"),
        ("0", (0, 1), (0, 8), "neurons 0 to 7"),
        ("0", (1, 0), (0, 0), "are not compared"),
        ("4", (0, 1), (0, 0), "are not compared"),
    ):
        with pytest.raises(SpecError, match=re.escape(message)):
            run.origins.ask(layer, tasks, neurons)


# Kept with a run


def test_what_was_found_is_read_again_as_it_was_and_damage_is_said(tmp_path: Path) -> None:
    run = looked([perceptron(0), perceptron(1)], [drawn(s, 40, 9) for s in (0, 1)], share=0.6)
    found, layers = run.found("0"), list(run.origins.layers())
    keep_pair(tmp_path, found)
    keep_layers(tmp_path, layers)
    again = read_pair(tmp_path, "0", found.tasks, found.neurons)
    np.testing.assert_equal(asdict(again), asdict(found))
    np.testing.assert_equal([asdict(each) for each in read_layers(tmp_path) or ()], [asdict(each) for each in layers])
    assert read_pair(tmp_path, "../0", found.tasks, found.neurons) is None
    path = pair_path(tmp_path, "../../etc", (0, 1), (0, 0))
    assert path.parent == tmp_path / "origins"
    for k in range(MOST + 3):
        keep_pair(tmp_path, replace(found, neurons=(k, 99)))
    assert len(list((tmp_path / "origins").glob("pair-*"))) == MOST
    assert read_pair(tmp_path, "0", found.tasks, (MOST + 2, 99)) is not None
    for content in (b"", b"\x80\x04pickle", layers_path(tmp_path).read_bytes()[:-9]):
        layers_path(tmp_path).write_bytes(content)
        with pytest.raises(RunError, match="cannot be read"):
            read_layers(tmp_path)
    save_file({"0": np.zeros(2)}, layers_path(tmp_path), metadata={"about": '{"layers": [{"layer": "x"}]}'})
    with pytest.raises(RunError, match="cannot be read"):
        read_layers(tmp_path)
