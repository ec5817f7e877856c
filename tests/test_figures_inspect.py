"""Pooling, the Pareto front, and the figures of Inspect and Compare, against oracles written out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from mtz_core.errors import RunError
from mtz_core.figures import compare, inspect, plane, pooling, settings
from mtz_core.figures.harm import harm_by_layer, harm_figure, worst_first
from mtz_core.figures.inspect import Tiling
from mtz_core.figures.names import task_labels
from mtz_core.figures.pareto import pareto_front
from mtz_core.runs.store import RunStore
from mtz_core.runs.undone import Undone, keep, of_layers, of_pair, undone
from mtz_core.spec import NetworkSpec, ZipSpec, parse_run_spec
from tests.synthetic import synthetic_run


@pytest.mark.parametrize("shape", [(7, 5), (3, 9), (64, 64), (1, 1)])
def test_every_tile_holds_the_least_of_its_entries(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).random(shape)
    pooled = pooling.pool_minimum(matrix, limit=4)
    assert max(pooled.values.shape) <= 4
    for a, (top, bottom) in enumerate(zip(pooled.row_edges, pooled.row_edges[1:], strict=False)):
        for b, (left, right) in enumerate(zip(pooled.column_edges, pooled.column_edges[1:], strict=False)):
            assert pooled.values[a, b] == matrix[top:bottom, left:right].min()
            i, j = pooling.cheapest_in_tile(matrix, pooled, a, b)
            assert matrix[i, j] == pooled.values[a, b]
            assert pooled.tile(i, j) == (a, b)


def test_tiles_cover_a_large_matrix_evenly_and_keep_its_minimum() -> None:
    matrix = np.random.default_rng(1).random((1300, 700)).astype(np.float32)
    pooled = pooling.pool_minimum(matrix)
    assert pooled.values.shape == (512, 512)
    assert not pooled.exact
    assert (pooled.row_edges[0], pooled.row_edges[-1]) == (0, 1300)
    assert np.ptp(np.diff(pooled.row_edges)) <= 1
    assert pooled.values.min() == matrix.min()


def test_a_small_matrix_is_left_as_it_is() -> None:
    matrix = np.random.default_rng(2).random((12, 9))
    pooled = pooling.pool_minimum(matrix)
    assert pooled.exact
    np.testing.assert_array_equal(pooled.values, matrix)


def test_missing_entries_count_only_where_a_whole_tile_is_missing() -> None:
    matrix = np.array([[np.nan, 1.0, np.nan, np.nan], [2.0, 3.0, np.nan, np.nan]])
    pooled = pooling.pool_minimum(matrix, limit=2)
    np.testing.assert_array_equal(pooled.values, [[1.0, np.nan], [2.0, np.nan]])
    assert pooling.cheapest_in_tile(matrix, pooled, 0, 0) == (0, 1)
    assert pooling.to_bytes(pooled.values, 1.0, 2.0).tolist() == [[0, 255], [254, 255]]


def test_an_empty_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        pooling.pool_minimum(np.empty((0, 3)))


@pytest.mark.parametrize("centre", [0, 5, 19])
def test_a_crop_has_its_width_and_holds_its_centre(centre: int) -> None:
    window = np.arange(20)[pooling.crop_window(20, centre, 6)]
    assert window.size == 6
    assert centre in window


def test_pairs_lie_on_the_diagonal_after_sorting() -> None:
    pairs = np.array([[4, 0], [1, 3], [2, 2]])
    rows, columns = pooling.diagonal_order(6, pairs[:, 0]), pooling.diagonal_order(5, pairs[:, 1])
    assert sorted(rows) == list(range(6))
    assert sorted(columns) == list(range(5))
    np.testing.assert_array_equal(np.stack([rows[:3], columns[:3]], axis=1), pairs)


def test_colour_range_ignores_outliers_and_missing_values() -> None:
    values = np.concatenate([np.linspace(1.0, 2.0, 1000), [1e9, np.nan]])[None]
    low, high = pooling.colour_range(values)
    assert (low, high) == (1.0, pytest.approx(1.99, abs=0.01))
    assert pooling.colour_range(np.full((2, 2), np.nan)) == (0.0, 1.0)
    assert pooling.colour_range(np.ones((2, 2))) == (1.0, 2.0)


def brute_front(sizes: list[float], errors: list[float]) -> set[int]:
    """Every point that no other is at least as good as in both and better in one."""
    known = [k for k in range(len(sizes)) if not math.isnan(sizes[k] + errors[k])]
    return {
        k
        for k in known
        if not any(
            sizes[m] <= sizes[k] and errors[m] <= errors[k] and (sizes[m] < sizes[k] or errors[m] < errors[k])
            for m in known
        )
    }


@pytest.mark.parametrize("seed", range(20))
def test_front_agrees_with_the_definition_also_for_ties_and_missing_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes, errors = rng.integers(0, 5, size=(2, 15)).astype(float)
    errors[rng.random(15) < 0.2] = np.nan
    front = pareto_front(list(sizes), list(errors))
    assert set(front) == brute_front(list(sizes), list(errors))
    assert len(set(front)) == len(front)
    assert list(sizes[front]) == sorted(sizes[front])


def test_front_of_nothing_is_empty() -> None:
    assert pareto_front([], []) == []
    assert pareto_front([math.nan], [1.0]) == []
    with pytest.raises(ValueError, match="sizes came with"):
        pareto_front([1.0], [])


@pytest.mark.parametrize(
    ("weights", "kernel", "inputs", "image", "expected"),
    [
        (784, (), {}, (1, 28, 28), Tiling("image", 1, 28, 28)),
        (25, (5, 5), {}, (1, 28, 28), Tiling("tiles", 1, 5, 5)),
        (500, (5, 5), {"conv1": 25}, (1, 28, 28), Tiling("tiles", 20, 5, 5)),
        (800, (), {"conv2": 16}, (1, 28, 28), Tiling("tiles", 50, 4, 4)),
        (300, (), {"fc1": 1}, (1, 28, 28), Tiling("bars", 300, 1, 1)),
        (784, (), {}, None, Tiling("bars", 784, 1, 1)),
        (0, (3, 3), {"conv1": 9}, None, Tiling("bars", 0, 1, 1)),
        (48, (3, 3), {"stream": 4.5}, None, Tiling("bars", 48, 1, 1)),
    ],
)
def test_weights_are_drawn_as_what_they_read(weights, kernel, inputs, image, expected) -> None:
    assert inspect.tiling(weights, kernel, inputs, image) == expected


def test_mosaic_holds_every_weight_once_in_its_tile() -> None:
    weights = np.arange(1.0, 1 + 5 * 6)
    grid = inspect.mosaic(weights, Tiling("tiles", 5, 2, 3))
    assert np.nansum(grid) == weights.sum()
    np.testing.assert_array_equal(grid[:2, :3], weights[:6].reshape(2, 3))
    np.testing.assert_array_equal(grid[:2, 4:7], weights[6:12].reshape(2, 3))


def test_facts_of_a_cell_are_counted_from_the_matrix() -> None:
    difference = np.array([[3.0, 1.0, 2.0], [0.5, 9.0, 4.0]])
    pairs = np.array([[0, 1], [1, 0]])
    facts = inspect.cell_facts(difference, pairs, 0, 2)
    assert (facts.difference, facts.rank_in_row, facts.rank_in_column) == (2.0, 2, 1)
    assert (facts.pair, facts.partner_of_i, facts.partner_of_j) == (None, 1, None)
    assert inspect.cell_facts(difference, pairs, 1, 0).pair == 1
    with pytest.raises(IndexError, match="2 × 3"):
        inspect.cell_facts(difference, pairs, 2, 0)


def test_table_of_pairs_is_sorted_and_adds_up() -> None:
    costs = np.array([0.3, 0.1, 0.2])
    difference = np.diag(costs) + 1 - np.eye(3)
    rows = inspect.pair_rows(difference, np.array([[0, 0], [1, 1], [2, 2]]), costs, ["a", "b"])
    assert [row["a neuron"] for row in rows] == [0, 2, 1]
    assert rows[-1]["sum of costs"] == pytest.approx(0.6)
    assert {row["rank in row"] for row in rows} == {1}
    assert [inspect.cost_rank(costs, k) for k in range(3)] == [1, 3, 2]


def test_three_tasks_have_three_neurons_a_row_and_no_rank() -> None:
    rows = inspect.pair_rows(None, np.array([[0, 1, 2]]), np.array([1.0]), ["a", "a", "b"])
    assert rows == [{"pair": 1, "a neuron (1)": 0, "a neuron (2)": 1, "b neuron": 2, "cost": 1.0, "sum of costs": 1.0}]


def test_half_of_the_cost() -> None:
    assert inspect.half_cost_count(np.array([1.0, 1.0, 1.0, 3.0])) == 3
    assert inspect.half_cost_count(np.array([])) == 0


def test_weight_figure_uses_one_scale_and_says_what_is_missing() -> None:
    a, b = np.full(4, 0.5), np.full(4, -2.0)
    figure = inspect.weight_figure([a, None, b], ["a", "merged", "b"], Tiling("image", 1, 2, 2))
    assert {(trace.zmin, trace.zmax) for trace in figure.data} == {(-2.0, 2.0)}
    assert any(note.text == "not merged" for note in figure.layout.annotations)
    bars = inspect.weight_figure([a, None, b], ["a", "merged", "b"], Tiling("bars", 4, 1, 1))
    np.testing.assert_array_equal(bars.data[2].y, b)


def _undone(layers: tuple[str, ...], before: tuple[float, ...], after: tuple[float, ...]) -> Undone:
    judged = {"images": (10, 10), "labelled": (True, True), "calibration": 50}
    return Undone(
        group=layers[0], layers=layers, errors_before=before, errors_after=after, divergences_before=(0.2, 0.2),
        divergences_after=(0.1, 0.2), **judged,
    )  # fmt: skip


def test_the_layer_that_does_most_harm_comes_first_and_losses_are_relative_to_a_layer_of_zeros() -> None:
    harm = {"a": _undone(("a",), (2.0, 9.0), (1.9, 8.9)), "c": _undone(("c", "d"), (2.0, 9.0), (2.0, 8.0))}
    assert worst_first(["a", "b", "c"], harm, {"a": 1.0, "b": 2.0, "c": 0.0}) == ["c", "a", "b"]
    losses = {"c": (1.0, 2.0, 10.0), "a": (2.0, 4.0, 0.0)}
    figure = harm_figure(["c", "a"], harm, ["x", "y"], losses)
    x, y, predicted, measured = (list(trace.y) for trace in figure.data)
    assert x == pytest.approx([0.0, 0.1])
    assert y == pytest.approx([1.0, 0.1])
    assert (predicted[0], measured[0]) == pytest.approx((10.0, 20.0))
    assert math.isnan(predicted[1])
    assert figure.data[0].customdata[0] == "<br>together with d"
    assert harm_figure([], {}, [], {}).layout.annotations[0].text.startswith("No layer")


def test_harm_by_layer_reads_the_run_and_what_was_measured_later(store: RunStore) -> None:
    run = synthetic_run(store)
    found = harm_by_layer(run)
    assert found["fc1"] == pytest.approx({"digits": 0.25, "clothes": 0.3})
    keep(run, [replace(of_layers(undone(store, run.id))["fc2"], errors_after=(0.0, 0.0))])
    assert harm_by_layer(run)["fc2"]["digits"] > 1.0
    pair = replace(of_layers(undone(store, run.id))["fc1"], neurons=(3, None))
    keep(run, [pair])
    assert of_pair(undone(store, run.id), "fc1", (3, None)) == pair
    assert harm_by_layer(run)["fc1"] == found["fc1"]
    (run.path / "undone.json").write_text("[{}]")
    with pytest.raises(RunError, match=r"undone.json.*measure again"):
        harm_by_layer(run)


def test_cost_curve_is_sorted_cumulated_and_marks_the_chosen_pair() -> None:
    figure = inspect.cost_curve(np.array([3.0, 1.0, 2.0]), selected=1)
    np.testing.assert_array_equal(figure.data[0].y, [1.0, 2.0, 3.0])
    marked, cumulated = figure.data[1], figure.data[2]
    np.testing.assert_array_equal(cumulated.y, [1.0, 3.0, 6.0])
    assert (marked.x[0], marked.y[0]) == (2, 2.0)


def test_task_labels_are_distinct() -> None:
    assert task_labels(["mnist", "letters"], ["p", "q"]) == ["digits", "letters"]
    assert task_labels(["mnist", "mnist"], ["lenet5-mnist-0", "lenet5-mnist-1"]) == ["digits-0", "digits-1"]
    assert task_labels(["mnist", "mnist"], ["a-mnist-0", "b-mnist-0"]) == ["a-mnist-0", "b-mnist-0"]
    assert task_labels(["mnist", "mnist"], ["p", "q"]) == ["p", "q"]
    assert task_labels(["mnist", "mnist"], ["p", "p"]) == ["p (1)", "p (2)"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 20, 5),
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(3, 8, 1),
        nn.Linear(784, 30),
    ],
    ids=str,
)
def test_the_bias_of_a_first_layer_is_recognised(layer: nn.Module, bias: bool) -> None:
    """The oracle is the number of weights of a torch module."""
    kernel = tuple(getattr(layer, "kernel_size", ()))
    weight = layer.weight.flatten(1)
    image = (layer.in_channels, 28, 28) if kernel else (1, 28, 28)
    assert inspect.has_bias(weight.shape[1] + bias, kernel, 0, image) == bias


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3), (5,)])
def test_the_bias_of_a_later_layer_is_recognised(kernel: tuple[int, ...], bias: bool) -> None:
    weights = 20 * 4 * math.prod(kernel)
    started = {
        "structures": [
            {
                "layers": [
                    {"name": "a", "columns": 785, "kernel": (), "inputs": {}},
                    {"name": "b", "columns": weights + bias, "kernel": kernel, "inputs": {"a": weights / 20}},
                ],
                "groups": [{"name": "a", "width": 20}, {"name": "b", "width": 7}],
            }
        ]
    }
    info = inspect.layer_info(started, "b", (1, 28, 28))
    assert info.bias == bias
    column = np.arange(weights + bias, dtype=float)
    incoming, last = info.split(column)
    assert incoming.size == weights
    assert last == (weights if bias else None)


def test_an_unknown_layer_is_taken_to_have_a_bias() -> None:
    assert inspect.layer_info({}, "fc1") == inspect.LayerInfo(bias=True)


POINT = compare.RunPoint(
    id="r", title="one", tasks=("mnist", "fashion"), parents=("p", "q"), total=150, parent_sizes=(100, 200),
    errors=(2.0, 12.0), parent_errors=(1.0, 10.0), share="80 %", pairing="optimal", retraining="none", seconds=3.0,
)  # fmt: skip

MIXED = replace(POINT, tasks=("mnist", "letter-pose"), units=("wrong answers", "mean absolute error"))


def test_size_and_error_in_every_unit() -> None:
    assert (POINT.size("parameters"), POINT.size("of all parents"), POINT.size("of smallest")) == (150, 0.5, 1.5)
    assert POINT.value("test error", None) == 7.0
    assert POINT.value("increase over the parents", None) == 1.5
    assert POINT.value("increase over the parents", 1) == 2.0
    unlabelled = replace(POINT, errors=(2.0, math.nan), parent_errors=(1.0, math.nan))
    assert unlabelled.value("increase over the parents", None) == 1.0


def test_relative_errors_are_each_tasks_own_and_their_mean_is_that_of_ratios() -> None:
    assert POINT.ratios == (2.0, 1.2)
    assert POINT.value("relative to the parents", 0) == 2.0
    assert POINT.value("relative to the parents", None) == 1.6  # and not 14 / 11
    faultless = replace(POINT, errors=(0.0, 12.0), parent_errors=(0.0, 10.0))
    assert math.isnan(faultless.value("relative to the parents", 0))
    assert faultless.value("relative to the parents", None) == 1.2
    unlabelled = replace(POINT, errors=(math.nan, 12.0), parent_errors=(math.nan, 10.0))
    assert unlabelled.value("relative to the parents", None) == 1.2


def test_the_relative_plane_puts_the_parents_at_one() -> None:
    figure = plane.plane_figure([MIXED], labels=["mnist", "pose"], measure="relative to the parents")
    named = {trace.name: trace for trace in figure.data}
    assert named["run"].y[0] == 1.6
    assert named["both parents, unzipped"].y[0] == 1.0
    assert figure.layout.yaxis.title.text == "mean error relative to the parent's (1 = parent)"
    assert "pose: 12.00\xa0% (+2.00, 1.20× its parent's)" in named["run"].hovertext[0]
    assert "%" not in named["both parents, unzipped"].hovertemplate.replace("%{", "")
    one = plane.plane_figure([MIXED], labels=["mnist", "pose"], task=1, measure="relative to the parents")
    named = {trace.name: trace for trace in one.data}
    assert (named["run"].y[0], named["parent of pose alone"].y[0]) == (1.2, 1.0)
    assert one.layout.yaxis.title.text == "pose error relative to the parent's (1 = parent)"


def test_runs_of_equal_mean_error_and_unequal_ratios_lie_apart() -> None:
    other = replace(POINT, errors=(3.0, 11.0))
    assert compare.coinciding([POINT, other], None) == [[0, 1], [0, 1]]
    assert compare.coinciding([POINT, other], None, "relative to the parents") == [[0], [1]]


def test_errors_that_count_different_things_have_no_mean_in_the_table() -> None:
    (row,) = compare.table_rows([MIXED], ["mnist", "pose"])
    assert {name: value for name, value in row.items() if "mean" in name} == {"mean error relative to the parents": 1.6}
    assert (row["pose error, %"], row["pose error relative to the parent"]) == (12.0, 1.2)
    (row,) = compare.table_rows([POINT], ["mnist", "fashion"])
    assert {name: value for name, value in row.items() if "mean" in name} == {
        "mean error, %": 7.0, "mean increase, points": 1.5, "mean error relative to the parents": 1.6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kinds", "mixed"),
    [
        ([], False),
        (["multiclass", "binary"], False),
        (["multiclass", "regression"], True),
        (["multiclass", "multilabel"], True),
    ],
)
def test_what_errors_count_decides_whether_they_have_a_mean(store: RunStore, kinds: list[str], mixed: bool) -> None:
    run = synthetic_run(store)
    types = [{"kind": kind} for kind in kinds]
    found = compare.run_point(replace(run, summary=run.summary | {"types": types}))
    assert found is not None
    assert found.mixed == mixed
    swapped = compare.aligned(found, replace(found, networks=found.networks[::-1]))
    assert swapped.units == found.units[::-1]


def test_networks_in_another_order_are_compared_task_by_task() -> None:
    swapped = replace(
        POINT, id="s", tasks=("fashion", "mnist"), parents=("q", "p"), parent_sizes=(200, 100), errors=(12.0, 2.0),
        parent_errors=(10.0, 1.0),
    )  # fmt: skip
    assert list(compare.same_parents([POINT, swapped])) == ["p + q"]
    assert compare.aligned(swapped, POINT) == replace(POINT, id="s")


def test_networks_of_one_name_are_told_apart_and_one_network_of_two_names_is_not(store: RunStore) -> None:
    def run(*given: tuple[str, str]) -> compare.RunPoint:
        networks = tuple(
            NetworkSpec(name=name, architecture="lenet300", weights=file, data="mnist") for name, file in given
        )
        made = synthetic_run(store)
        names = [name for name, _ in given]
        spec = made.spec.model_copy(update={"networks": networks})
        point = compare.run_point(replace(made, spec=spec, summary=made.summary | {"parents": names}))
        assert point is not None
        return point

    first, other = run(("net", "/a.pt"), ("net", "/b.pt")), run(("net", "/a.pt"), ("net", "/c.pt"))
    swapped = run(("renamed", "/b.pt"), ("net", "/a.pt"))
    groups = compare.same_parents([first, other, swapped])
    assert list(groups.values()) == [[first, swapped], [other]]
    assert all(name.startswith("net + net · ") for name in groups)
    assert compare.aligned(swapped, first).errors == swapped.errors[::-1]


def test_plane_marks_front_references_and_identifiers() -> None:
    worse = replace(POINT, id="w", total=160, errors=(3.0, 13.0))
    figure = plane.plane_figure([POINT, worse], labels=["mnist", "fashion"], task=0)
    named = {trace.name: trace for trace in figure.data}
    assert [row[0] for row in named["run"].customdata] == ["r", "w"]
    assert list(named["best trade-offs"].x) == [0.5]
    assert (named["both parents, unzipped"].x[0], named["both parents, unzipped"].y[0]) == (1.0, 1.0)
    assert named["parent of mnist alone"].x[0] == pytest.approx(1 / 3)
    increase = plane.plane_figure([POINT], labels=["a", "b"], measure="increase over the parents")
    assert {trace.name: trace for trace in increase.data}["both parents, unzipped"].y[0] == 0.0


def test_unzipped_networks_stand_beside_the_runs_where_their_error_is_known() -> None:
    every, alone = plane.references(POINT, ["mnist", "fashion"], 1)
    assert (every.name, every.total, every.error) == ("both parents, unzipped", 300, 10.0)
    assert (alone.name, alone.total, alone.error) == ("parent of fashion alone", 200, 10.0)
    assert [found.error for found in plane.references(POINT, ["a", "b"], None)] == [5.5]
    assert plane.references(replace(POINT, parent_errors=(1.0, math.nan)), ["a", "b"], 1) == []


def test_runs_that_coincide_are_listed_together() -> None:
    twin, other = replace(POINT, id="t", title="two"), replace(POINT, id="o", title="three", total=280)
    assert compare.coinciding([POINT, other, twin], None) == [[0, 2], [1], [0, 2]]
    figure = plane.plane_figure([POINT, other, twin], labels=["a", "b"])
    run = next(trace for trace in figure.data if trace.name == "run")
    assert list(run.text) == ["80 %, 2 runs", "80 %", ""]
    for k in (0, 2):
        assert "<b>one</b>" in run.hovertext[k]
        assert "<b>two</b>" in run.hovertext[k]
    assert "<b>one</b>" not in run.hovertext[1]


def test_plane_without_errors_says_so() -> None:
    figure = plane.plane_figure([replace(POINT, errors=(math.nan, math.nan))], labels=["a", "b"])
    assert figure.layout.annotations[0].text.startswith("No run")


def test_table_has_sizes_in_percent_and_errors_per_task() -> None:
    (row,) = compare.table_rows([POINT], ["mnist", "fashion"])
    assert row["of all parents, %"] == 50.0
    assert row["fashion increase, points"] == 2.0


def test_every_method_has_a_mark_of_its_own() -> None:
    specs = [ZipSpec(), ZipSpec(share=0.5, seed=3), ZipSpec(pairing="greedy", compensate=False), ZipSpec(ridge=0.5)]
    points = [replace(POINT, id=str(k), total=150 + k, method=settings.method_text(s)) for k, s in enumerate(specs)]
    figure = plane.plane_figure(points, labels=["a", "b"], chosen="2")
    methods = [trace for trace in figure.data if trace.customdata is not None]
    found = [(trace.name, [row[0] for row in trace.customdata]) for trace in methods]
    ours = "optimal pairs, compensated"
    assert found == [(ours, ["0", "1"]), ("greedy pairs (the paper)", ["2"]), (f"{ours}, ridge 0.5", ["3"])]
    assert len({trace.marker.symbol[0] for trace in methods}) == len({trace.marker.color for trace in methods}) == 3
    (ring,) = [trace for trace in figure.data if trace.name == "chosen"]
    assert (ring.x[0], ring.y[0]) == (methods[1].x[0], methods[1].y[0])


@pytest.mark.parametrize("field", [name for name in ZipSpec.model_fields if name in settings.METHOD])
def test_a_method_says_every_setting_that_is_not_the_usual_one(field: str) -> None:
    other = {"sharing": "all", "streams": "all", "ridge": 0.5, "bias": "shared", "scale": "shared", "normalise": False,
             "weighting": "equal", "trunk": "fc1", "relu_rounds": 1, "positions": 3, "calibration": "enough",
             "sparse": "no", "alpha": (2.0, 1.0)}[field]  # fmt: skip
    spec = ZipSpec.model_validate({field: other})
    assert settings.method_text(spec) != settings.method_text(ZipSpec())


def test_two_runs_differ_where_a_reader_of_their_files_sees_it() -> None:
    networks = [{"parent": "p"}, {"parent": "q"}]
    left = parse_run_spec({"title": "a", "networks": networks, "zip": {"alpha": [2, 1], "retrain": {"steps": 90}}})
    right = parse_run_spec({"title": "b", "networks": [{"parent": "p"}, {"parent": "r"}], "zip": {"compensate": False}})
    found = settings.differences(left, right)
    assert settings.differences(left, left) == []
    assert ("networks 2.parent", "q", "r") in found
    assert ("zip.compensate", "yes", "no") in found
    assert ("zip.alpha", "2, 1", "none") in found
    assert ("zip.retrain.steps", "90", "–") in found
    assert not [row for row in found if "title" in row[0]]


def test_the_second_of_two_runs_is_told_less_the_first() -> None:
    other = replace(POINT, total=120, errors=(2.5, math.nan))
    rows = {name: rest for name, *rest in compare.beside(POINT, other, ["a", "b"])}
    assert rows["parameters"] == ["150", "120", "−30"]
    assert rows["error, a"] == ["2.00\xa0%", "2.50\xa0%", "+0.50"]
    assert rows["error, b"] == ["12.00\xa0%", "–", "–"]


def test_retraining_and_share_in_words() -> None:
    networks = [{"parent": "p"}, {"parent": "q"}]
    spec = parse_run_spec({"networks": networks, "zip": {"retrain": {"steps": 90, "schedule": "final"}}})
    assert settings.retraining_text(spec) == "90 steps, final, distill"
    assert settings.retraining_text(parse_run_spec({"networks": networks})) == "none"
    assert settings.share_text({}) == "none"
