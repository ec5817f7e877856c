"""The numbers of the lessons against brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import minimize

from mtz_core.errors import DataError
from mtz_core.figures import lesson_figures, lessons


@pytest.fixture
def layer() -> lessons.Lesson:
    rng = np.random.default_rng(3)
    grams = []
    for _ in range(2):
        x = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5))
        grams.append(x.T @ x / 40 + 0.05 * np.eye(5))
    return lessons.Lesson(rng.normal(size=(7, 5)), rng.normal(size=(6, 5)), *grams, facts={})


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8])
def test_compromise_is_the_minimum_that_an_optimiser_finds(layer: lessons.Lesson, alpha: float) -> None:
    w_i, w_j = layer.W_a[2], layer.W_b[4]

    def weighted(w: np.ndarray) -> float:
        step, other = w - w_i, w - w_j
        return float(alpha * step @ layer.H_a @ step / 2 + (1 - alpha) * other @ layer.H_b @ other / 2)

    found = minimize(weighted, np.zeros(5), tol=1e-12)
    best = lessons.merge(w_i, w_j, layer.H_a, layer.H_b, alpha)
    np.testing.assert_allclose(best.height, found.fun, rtol=1e-7)
    np.testing.assert_allclose(best.weights, found.x, atol=1e-4)
    assert best.height == pytest.approx(weighted(best.weights), rel=1e-12)


def test_difference_matrix_holds_the_height_of_every_compromise(layer: lessons.Lesson) -> None:
    matrix = lessons.differences(layer.W_a, layer.W_b, layer.H_a, layer.H_b, 0.3)
    for i, w_i in enumerate(layer.W_a):
        for j, w_j in enumerate(layer.W_b):
            height = lessons.merge(w_i, w_j, layer.H_a, layer.H_b, 0.3).height
            np.testing.assert_allclose(matrix[i, j], height, rtol=1e-10)


def test_bowl_on_a_plane_agrees_with_the_bowl_in_weight_space(layer: lessons.Lesson) -> None:
    w_i, w_j = layer.W_a[0], layer.W_b[0]
    best = lessons.merge(w_i, w_j, layer.H_a, layer.H_b, 0.4)
    plane = lessons.plane_through(w_i, w_j, best.weights)
    u, v = np.linspace(-1, 2, 5), np.linspace(-1, 1, 4)
    height = lessons.bowl_on_plane(plane, w_j, layer.H_b, u, v)
    for a in range(4):
        for b in range(5):
            step = plane.point(u[b], v[a]) - w_j
            brute = sum(step[k] * layer.H_b[k, m] * step[m] for k in range(5) for m in range(5)) / 2
            np.testing.assert_allclose(height[a, b], brute, rtol=1e-10, atol=1e-12)


def test_plane_holds_both_neurons_and_the_compromise(layer: lessons.Lesson) -> None:
    w_i, w_j = layer.W_a[1], layer.W_b[1]
    best = lessons.merge(w_i, w_j, layer.H_a, layer.H_b, 0.5)
    plane = lessons.plane_through(w_i, w_j, best.weights)
    np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-12)
    for w in (w_i, w_j, best.weights):
        np.testing.assert_allclose(plane.point(*plane.coordinates(w)), w, atol=1e-10)


def test_plane_through_three_points_of_a_line_is_still_a_plane(layer: lessons.Lesson) -> None:
    w_i, w_j = layer.W_a[1], layer.W_b[1]
    plane = lessons.plane_through(w_i, w_j, (w_i + w_j) / 2)
    np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-12)
    with pytest.raises(ValueError, match="same weights"):
        lessons.plane_through(w_i, w_i, w_i)


def test_bowls_on_the_line_and_their_least_against_a_fine_grid(layer: lessons.Lesson) -> None:
    w_i, w_j = layer.W_a[3], layer.W_b[2]
    t = np.linspace(0, 1, 20001)
    loss_a, loss_b = lessons.bowls_on_line(w_i, w_j, layer.H_a, layer.H_b, t)
    for k in (0, 777, 20000):
        w = w_i + t[k] * (w_j - w_i)
        assert loss_a[k] == pytest.approx(lessons.bowl(w, w_i, layer.H_a), abs=1e-12)
        assert loss_b[k] == pytest.approx(lessons.bowl(w, w_j, layer.H_b), abs=1e-12)
    best = lessons.best_on_line(w_i, w_j, layer.H_a, layer.H_b, 0.7)
    assert best == pytest.approx(t[np.argmin(0.7 * loss_a + 0.3 * loss_b)], abs=1e-4)


def test_leaving_the_line_never_costs(layer: lessons.Lesson) -> None:
    w_i, w_j = layer.W_a[3], layer.W_b[2]
    t = np.array([lessons.best_on_line(w_i, w_j, layer.H_a, layer.H_b, 0.5)])
    loss_a, loss_b = lessons.bowls_on_line(w_i, w_j, layer.H_a, layer.H_b, t)
    assert lessons.merge(w_i, w_j, layer.H_a, layer.H_b, 0.5).height < 0.5 * (loss_a + loss_b)[0]


def test_distances_are_norms_of_the_differences(layer: lessons.Lesson) -> None:
    assert lessons.distances(layer.W_a, layer.W_b)[3, 5] == pytest.approx(
        np.sqrt(sum((layer.W_a[3] - layer.W_b[5]) ** 2))
    )


def test_contrast_pairs_are_where_the_order_is_reversed() -> None:
    functional = np.array([[9.0, 2.0], [3.0, 1.0]])
    euclidean = np.array([[1.0, 2.0], [3.0, 9.0]])
    assert lessons.contrast_pairs(functional, euclidean) == ((0, 0), (1, 1))


@pytest.mark.parametrize("seed", range(5))
def test_optimal_pairing_is_the_cheapest_permutation_and_greedy_no_better(seed: int) -> None:
    cost = np.random.default_rng(seed).random((5, 5))
    least = min(sum(cost[i, p[i]] for i in range(5)) for p in permutations(range(5)))
    best, greedy = lessons.optimal_pairs(cost), lessons.greedy_pairs(cost)
    assert lessons.total_cost(cost, best) == pytest.approx(least)
    assert lessons.total_cost(cost, greedy) >= least - 1e-12
    for pairs in (best, greedy):
        assert sorted(i for i, _ in pairs) == sorted(j for _, j in pairs) == list(range(5))


def test_greedy_takes_the_cheapest_free_cell_every_time() -> None:
    cost = np.array([[1.0, 2.0], [3.0, 9.0]])
    assert lessons.greedy_pairs(cost) == [(0, 0), (1, 1)]
    assert lessons.optimal_pairs(cost) == [(0, 1), (1, 0)]


def test_a_click_keeps_one_pair_per_row_and_column() -> None:
    pairs = [(0, 0), (1, 1), (2, 2)]
    assert lessons.toggle_pair(pairs, (0, 1)) == [(2, 2), (0, 1)]
    assert lessons.toggle_pair(pairs, (1, 1)) == [(0, 0), (2, 2)]


@pytest.mark.parametrize(("shared_in", "shared_out"), [(0, 0), (3, 2), (8, 5), (8, 0), (0, 5)])
def test_submatrices_hold_every_weight_of_a_task(shared_in: int, shared_out: int) -> None:
    counts = lessons.weight_counts(8, 5, shared_in, shared_out)
    assert counts.shared + counts.per_task == 5 * (8 + 1)
    mask_in = np.arange(9) >= 8 - shared_in  # shared inputs and the bias last
    mask_out = np.arange(5) < shared_out
    assert counts.shared == int(np.outer(mask_out, mask_in).sum())
    assert counts.specific_to_shared == int(np.outer(mask_out, ~mask_in).sum())
    assert counts.shared_to_specific == int(np.outer(~mask_out, mask_in).sum())
    assert counts.specific_to_specific == int(np.outer(~mask_out, ~mask_in).sum())
    assert counts.total == 2 * 45 - counts.shared


def test_more_shared_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot share 9 of 8"):
        lessons.weight_counts(8, 5, 9, 1)


def test_corner_is_seeded_and_has_distinct_neurons() -> None:
    matrix = np.zeros((20, 30))
    rows, columns = lessons.corner(matrix, seed=4)
    assert len(set(rows)) == len(set(columns)) == 6
    np.testing.assert_array_equal(lessons.corner(matrix, seed=4)[1], columns)


def test_bundled_example_is_a_real_layer_with_sound_grams() -> None:
    example = lessons.load_lesson()
    assert example.W_a.shape == example.W_b.shape == (100, 301)
    for gram in (example.H_a, example.H_b):
        np.testing.assert_allclose(gram, gram.T, atol=1e-5)
        assert np.linalg.eigvalsh(gram).min() > 0
        assert gram[-1, -1] == pytest.approx(1.0, rel=0.01)  # the constant one, plus the ridge
    assert example.facts["layer"] == "fc2"


def test_bundled_example_contradicts_euclidean_distance() -> None:
    example = lessons.load_lesson()
    functional = lessons.differences(example.W_a, example.W_b, example.H_a, example.H_b)
    euclidean = lessons.distances(example.W_a, example.W_b)
    close, far = lessons.contrast_pairs(functional, euclidean)
    assert euclidean[close] < euclidean[far]
    assert functional[close] > functional[far]


def test_missing_example_says_how_to_write_it(tmp_path) -> None:
    with pytest.raises(DataError, match="make_lesson"):
        lessons.load_lesson(tmp_path / "none.npz")


def test_bowls_figure_marks_the_compromise_where_it_is(layer: lessons.Lesson) -> None:
    w_i, w_j = layer.W_a[0], layer.W_b[0]
    best = lessons.merge(w_i, w_j, layer.H_a, layer.H_b, 0.4)
    plane = lessons.plane_through(w_i, w_j, best.weights)
    figure = lesson_figures.bowls_figure(plane, w_i, w_j, layer.H_a, layer.H_b, best, tasks=["a", "b"], points=41)
    star = next(trace for trace in figure.data if trace.name == "best compromise w*")
    assert (star.x[0], star.y[0]) == pytest.approx(plane.coordinates(best.weights))
    total = figure.data[0]
    row, column = np.unravel_index(np.argmin(total.z), np.shape(total.z))
    assert abs(total.x[column] - star.x[0]) <= total.x[1] - total.x[0]
    assert abs(total.y[row] - star.y[0]) <= total.y[1] - total.y[0]


def test_line_figure_has_both_losses_and_their_sum(layer: lessons.Lesson) -> None:
    best = lessons.merge(layer.W_a[0], layer.W_b[0], layer.H_a, layer.H_b, 0.4)
    figure = lesson_figures.line_figure(
        layer.W_a[0], layer.W_b[0], layer.H_a, layer.H_b, alpha=0.4, best=best, tasks=["a", "b"]
    )
    a, b, total = (np.asarray(figure.data[k].y) for k in range(3))
    np.testing.assert_allclose(a + b, total)


def test_submatrices_figure_draws_seven_parts_or_one() -> None:
    some = lesson_figures.submatrices_figure(lessons.weight_counts(8, 4, 4, 2), 0.5, 0.5, tasks=["a", "b"])
    assert len(some.data) == 7
    everything = lesson_figures.submatrices_figure(lessons.weight_counts(8, 4, 8, 4), 1.0, 1.0, tasks=["a", "b"])
    assert len(everything.data) == 1


@pytest.mark.parametrize(("share_in", "share_out"), [(0.5, 0.5), (1.0, 0.3), (0.0, 0.9), (0.2, 0.0), (1.0, 1.0)])
def test_parts_of_a_layer_fill_it_without_lying_on_one_another(share_in: float, share_out: float) -> None:
    parts = lessons.layer_parts(
        lessons.weight_counts(10, 10, round(10 * share_in), round(10 * share_out)), share_in, share_out
    )
    xs, ys = ((np.arange(200) + 0.5) / 100, (np.arange(100) + 0.5) / 100)
    over = [((xs > p.x[0]) & (xs < p.x[1]))[None] & ((ys > p.y[0]) & (ys < p.y[1]))[:, None] for p in parts]
    covered = sum(area.astype(int) for area in over)
    assert covered.max() == 1
    for t in range(2):
        mine = sum(area.sum() for area, p in zip(over, parts, strict=True) if p.task in (None, t)) / 100**2
        assert mine == pytest.approx(share_out + (1 - share_out) / 2)


def test_the_window_holds_its_points_and_is_as_wide_as_the_bowl(layer: lessons.Lesson) -> None:
    w_i, w_j = layer.W_a[0], layer.W_b[0]
    plane = lessons.plane_through(w_i, w_j, layer.W_b[1])
    u, v = lessons.window(plane, [w_i, w_j], layer.H_a, 21)
    heights = lessons.bowl_on_plane(plane, plane.point((u[0] + u[-1]) / 2, 0.0), layer.H_a, u, v)
    assert heights[10, 0] == pytest.approx(heights[0, 10])
    assert heights[10, 10] == pytest.approx(0.0)
    wide = lessons.window(plane, [w_i, w_j, plane.point(0.1, 50.0)], layer.H_a, 21)[1]
    assert (wide[0] < 0.0, wide[-1] > 50.0) == (True, True)


def test_distances_figure_marks_the_named_pairs(layer: lessons.Lesson) -> None:
    functional = lessons.differences(layer.W_a, layer.W_b, layer.H_a, layer.H_b)
    euclidean = lessons.distances(layer.W_a, layer.W_b)
    figure = lesson_figures.distances_figure(euclidean, functional, {"this": (1, 2)})
    assert len(figure.data[0].x) == functional.size
    assert (figure.data[1].x[0], figure.data[1].y[0]) == (euclidean[1, 2], functional[1, 2])
