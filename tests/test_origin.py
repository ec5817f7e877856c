"""Where a difference comes from: parts of a quadratic form, spectra, likeness of layers, and what a run keeps."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from mtz_core.algebra import quadratic
from mtz_core.algebra.gram import DenseGram, Gram, RowGram, to_dense
from mtz_core.algebra.quadratic import PairForm
from mtz_core.algebra.similarity import debiased_hsic, linear_cka, linear_kernel
from mtz_core.algebra.spectrum import effective_rank, participation_ratio, spectrum


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
