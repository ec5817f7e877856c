"""Functional difference and merging against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtz_core import functional_difference, merge_weights
from mtz_core.algebra.gram import DenseGram, RowGram
from mtz_core.errors import NumericalError, SpecError
from tests.oracles import minimum, random_gram


def _layer(seed: int, n_a: int = 3, n_b: int = 4, d: int = 6) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_a, d)), rng.normal(size=(n_b, d)), random_gram(rng, d, 40), random_gram(rng, d, 40)


@pytest.mark.parametrize("alpha", [0.5, 0.2])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_difference_equals_brute_force_minimum(alpha: float, ridge: float) -> None:
    a, b, h_a, h_b = _layer(0)
    got = functional_difference(*map(torch.tensor, (a, b, h_a, h_b)), alpha=alpha, ridge=ridge).numpy()
    eye = np.eye(len(h_a))
    p = alpha * (h_a + ridge * np.mean(np.diag(h_a)) * eye)
    q = (1 - alpha) * (h_b + ridge * np.mean(np.diag(h_b)) * eye)
    for i, j in np.ndindex(*got.shape):
        least, best = minimum([a[i], b[j]], [p, q])
        assert got[i, j] == pytest.approx(least, rel=1e-7)
        merged = merge_weights(
            [torch.tensor(a[i : i + 1]), torch.tensor(b[j : j + 1])], [torch.tensor(h_a), torch.tensor(h_b)],
            [alpha, 1 - alpha], ridge,
        )  # fmt: skip
        np.testing.assert_allclose(merged[0].numpy(), best, atol=1e-5)


def test_difference_follows_the_harmonic_formula() -> None:
    a, b, h_a, h_b = _layer(1)
    form = np.linalg.inv(np.linalg.inv(0.3 * h_a) + np.linalg.inv(0.7 * h_b))
    want = [[0.5 * (x - y) @ form @ (x - y) for y in b] for x in a]
    got = functional_difference(*map(torch.tensor, (a, b, h_a, h_b)), alpha=0.3)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.floats(0.05, 0.95), scale=st.floats(0.1, 10.0))
def test_difference_is_symmetric_translation_invariant_and_quadratic(seed: int, alpha: float, scale: float) -> None:
    a, b, h_a, h_b = map(torch.tensor, _layer(seed))
    d = functional_difference(a, b, h_a, h_b, alpha)
    torch.testing.assert_close(functional_difference(b, a, h_b, h_a, 1 - alpha), d.mT)
    shift = torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(functional_difference(a + shift, b + shift, h_a, h_b, alpha), d)
    torch.testing.assert_close(functional_difference(scale * a, scale * b, h_a, h_b, alpha), scale**2 * d)


def test_a_neuron_and_its_copy_differ_by_nothing() -> None:
    a, _, h_a, h_b = map(torch.tensor, _layer(2))
    assert functional_difference(a, a, h_a, h_b).diagonal().abs().max() < 1e-12
    torch.testing.assert_close(merge_weights([a, a], [h_a, h_b]), a, rtol=0, atol=0)


@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_path_through_rows_equals_dense_path(ridge: float) -> None:
    rng = np.random.default_rng(3)
    a, b = torch.tensor(rng.normal(size=(5, 50))), torch.tensor(rng.normal(size=(7, 50)))
    x, y = torch.tensor(rng.normal(size=(12, 50))), torch.tensor(rng.normal(size=(9, 50)))
    by_rows = [RowGram(x, 1 / 12), RowGram(y, 1 / 9)]
    dense = [DenseGram(x.mT @ x / 12), DenseGram(y.mT @ y / 9)]
    torch.testing.assert_close(
        functional_difference(a, b, *by_rows, 0.4, ridge), functional_difference(a, b, *dense, 0.4, ridge)
    )
    torch.testing.assert_close(
        merge_weights([a[:5], b[:5]], by_rows, [0.4, 0.6], ridge),
        merge_weights([a[:5], b[:5]], dense, [0.4, 0.6], ridge),
    )


def test_rows_path_builds_nothing_of_size_d_by_d(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowGram, "dense", lambda self: pytest.fail("a d×d matrix was built"))
    rng = torch.Generator().manual_seed(0)
    d = 2000
    a, b = torch.randn(6, d, generator=rng), torch.randn(6, d, generator=rng)
    grams = [RowGram(torch.randn(20, d, generator=rng), 1 / 20) for _ in range(2)]
    assert functional_difference(a, b, *grams, 0.5, 0.01).shape == (6, 6)
    assert merge_weights([a, b], grams, [0.5, 0.5], 0.01).shape == (6, d)


def test_dead_inputs_change_nothing() -> None:
    a, b, h_a, h_b = _layer(4)
    wide = [np.pad(h, (0, 3)) for h in (h_a, h_b)]
    weights = [np.pad(w, ((0, 0), (0, 3)), constant_values=v) for w, v in ((a, 5.0), (b, -2.0))]
    got = functional_difference(*map(torch.tensor, (*weights, *wide)))
    want = functional_difference(*map(torch.tensor, (a, b, h_a, h_b)))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_single_precision_stays_close_to_double() -> None:
    rng = np.random.default_rng(5)
    layer = [torch.tensor(v) for v in (*rng.normal(size=(2, 30, 200)), *(random_gram(rng, 200, 1000) for _ in "ab"))]
    exact = functional_difference(*layer, ridge=1e-3)
    rough = functional_difference(*(v.float() for v in layer), ridge=1e-3)
    assert (rough - exact).abs().max() / exact.max() < 1e-5


def test_three_tasks_at_once_equal_two_merged_in_turn() -> None:
    """w* of three tasks is w* of (the merge of two, with their summed Gram) and the third."""
    rng = np.random.default_rng(6)
    grams = [torch.tensor(random_gram(rng, 5, 60)) for _ in range(3)]
    weights = [torch.tensor(rng.normal(size=(4, 5))) for _ in range(3)]
    alphas = [0.2, 0.3, 0.5]
    together = merge_weights(weights, grams, alphas)
    pair = merge_weights(weights[:2], grams[:2], alphas[:2])
    summed = (0.2 * grams[0] + 0.3 * grams[1]) / 0.5
    torch.testing.assert_close(merge_weights([pair, weights[2]], [summed, grams[2]], [0.5, 0.5]), together)


def test_merging_under_a_mask_is_the_minimum_over_the_support() -> None:
    rng = np.random.default_rng(7)
    forms = [random_gram(rng, 7, 50) for _ in range(2)]
    masks = rng.random((2, 4, 7)) < 0.5
    masks[:, 3] = False
    neurons = rng.normal(size=(2, 4, 7)) * masks
    union = masks[0] | masks[1]
    got = merge_weights(
        [torch.tensor(n) for n in neurons], [torch.tensor(f) for f in forms], [0.5, 0.5], mask=torch.tensor(union)
    ).numpy()
    assert (got[~union] == 0).all()
    for r in range(3):
        _, best = minimum([neurons[0, r], neurons[1, r]], [0.5 * f for f in forms], union[r])
        np.testing.assert_allclose(got[r], best, atol=1e-6)


def test_bad_input_is_answered_with_the_remedy() -> None:
    a, b, h_a, h_b = map(torch.tensor, _layer(8))
    with pytest.raises(SpecError, match=r"same inputs|has 5"):
        functional_difference(a, b[:, :5], h_a, h_b[:5, :5])
    with pytest.raises(SpecError, match="alpha"):
        functional_difference(a, b, h_a, h_b, alpha=1.0)
    for name, pair in (("A", (a[:, :4], b)), ("B", (a, b[:, :4]))):
        with pytest.raises(SpecError, match=f"weights of {name} have 4 inputs, its Gram has {a.shape[1]}"):
            functional_difference(*pair, h_a, h_b)
    with pytest.raises(SpecError, match="weights of task 1 have 4 inputs"):
        merge_weights([a, b[:, :4]], [h_a, h_b])
    with pytest.raises(SpecError, match="ridge"):
        functional_difference(a, b, h_a, h_b, ridge=-1.0)
    with pytest.raises(NumericalError, match="NaN"):
        functional_difference(a * float("nan"), b, h_a, h_b)
    with pytest.raises(NumericalError, match="Gram"):
        functional_difference(a, b, h_a * float("nan"), h_b)
    with pytest.raises(SpecError, match="two or more"):
        merge_weights([a], [h_a])
    with pytest.raises(SpecError, match="align"):
        merge_weights([a, b], [h_a, h_b])
