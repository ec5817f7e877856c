"""Figures of errors, sizes and layers: what they show is what came in."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mtz_core.figures.curves import Measurement, curve_points, error_curves, loss_curves, positions
from mtz_core.figures.palette import PALETTES, palette
from mtz_core.figures.size import counts_from_event, size_bars, size_by_layer
from mtz_core.structure.joint import joined
from mtz_core.structure.networks import GroupSummary, LayerSummary, NetworkStructure
from mtz_core.structure.sizes import ParameterCounts, plan_counts

LAYERS = ("fc1", "fc2")
NET = NetworkStructure(
    layers=(
        LayerSummary("fc1", "linear", 300, 785, "fc1"),
        LayerSummary("fc2", "linear", 100, 301, "fc2", {"fc1": 1}),
        LayerSummary("fc3", "linear", 10, 101, None, {"fc2": 1}),
    ),
    groups=(GroupSummary("fc1", 300, ("fc1",)), GroupSummary("fc2", 100, ("fc2",))),
)


def run(steps_per_layer: int) -> list[Measurement]:
    """A run whose errors are all different, with `steps_per_layer` retraining steps after each layer."""
    out = [Measurement("parents", None, 0, (1.0, 2.0))]
    step = 0
    for k, layer in enumerate(LAYERS):
        out.append(Measurement("zipped", layer, step, (5.0 + k, 7.0 + k)))
        for _ in range(2 if steps_per_layer else 0):
            step += steps_per_layer // 2
            out.append(Measurement("retraining", layer, step, (4.0 + k, 6.0 + k)))
        if steps_per_layer:
            out.append(Measurement("retrained", layer, step, (3.5 + k, 5.5 + k)))
    return [*out, Measurement("final", None, step, (3.0, 4.0))]


@pytest.mark.parametrize("steps", [0, 50])
def test_positions_never_go_back(steps: int) -> None:
    xs = positions(run(steps), LAYERS, steps * len(LAYERS))
    assert xs == sorted(xs)
    assert (xs[0], xs[-1]) == (-1.0, 2.0)


def test_a_layer_fills_its_own_interval() -> None:
    measurements = run(50)
    for m, x in zip(measurements, positions(measurements, LAYERS, 100), strict=True):
        if m.layer is not None:
            assert LAYERS.index(m.layer) <= x < LAYERS.index(m.layer) + 1


def test_half_of_a_layers_steps_stand_half_way() -> None:
    first = positions(run(50), LAYERS, 100)[2]
    assert first == pytest.approx(0.4)


def test_final_schedule_stays_between_the_last_layer_and_the_end() -> None:
    xs = positions([Measurement("retraining", None, s, (1.0,)) for s in (50, 100)], LAYERS, 100)
    assert xs == pytest.approx([1.4, 1.8])


def test_error_curves_show_every_measured_number() -> None:
    figure = error_curves(run(50), layers=LAYERS, tasks=("a", "b"), retrain_steps=100)
    curves = [trace for trace in figure.data if trace.showlegend is not False]
    for t, trace in enumerate(curves):
        assert list(trace.y) == [m.errors[t] for m in run(50)]


def test_parents_are_dashed_at_their_own_error() -> None:
    figure = error_curves(run(0), layers=LAYERS, tasks=("a", "b"))
    dashed = [trace for trace in figure.data if trace.line.dash == "dash"]
    assert [set(trace.y) for trace in dashed] == [{1.0}, {2.0}]


def test_curves_end_on_the_inputs_on_which_they_began() -> None:
    seen = [replace(m, images=(100, 100)) for m in run(0)[:-1]]
    final = Measurement("final", None, 0, (3.0, 4.0), (900, 900))
    ended = Measurement("ended", None, 0, (3.5, 4.5), (100, 100))
    for measurements, end in (([*seen, ended, final], [3.5]), ([*seen, final], [])):
        figure = error_curves(measurements, layers=LAYERS, tasks=("a", "b"))
        curve = next(trace for trace in figure.data if trace.name == "a")
        assert list(curve.y) == [1.0, 5.0, 6.0, *end]
        dashed = [trace for trace in figure.data if trace.line.dash == "dash"]
        assert [list(trace.y) for trace in dashed] == [[1.0, 1.0], [2.0, 2.0]]
        assert all(trace.x[-1] >= 2.0 for trace in dashed)


def test_curves_show_accuracy_or_points_over_the_parent() -> None:
    accuracy = error_curves(run(0), layers=LAYERS, tasks=("a", "b"), shown="accuracy")
    over = error_curves(run(0), layers=LAYERS, tasks=("a", "b"), shown="points over the parent")
    curves = [next(trace for trace in figure.data if trace.name == "b") for figure in (accuracy, over)]
    assert [list(curve.y) for curve in curves] == [[98.0, 93.0, 92.0, 96.0], [0.0, 5.0, 6.0, 2.0]]
    lines = [next(trace for trace in figure.data if trace.line.dash == "dash") for figure in (accuracy, over)]
    assert [set(line.y) for line in lines] == [{99.0}, {0.0}]


def test_the_state_that_is_kept_is_ringed_at_its_step() -> None:
    measurements = run(50)
    kept = [(m, part) for m, part in zip([m for m in measurements if m.stage == "retrained"], (0.5, 0.0), strict=True)]
    figure = error_curves(measurements, layers=LAYERS, tasks=("a", "b"), retrain_steps=100, kept=kept)
    rings = [trace for trace in figure.data if trace.name == "state that is kept"]
    assert [(list(ring.x), list(ring.y)) for ring in rings] == [([0.4, 1.0], [3.5, 4.5]), ([0.4, 1.0], [5.5, 6.5])]


def test_a_point_without_an_error_is_left_out() -> None:
    measurements = [*run(0), Measurement("zipped", "fc2", 0, (math.nan, 1.0))]
    points = curve_points(measurements, [float(k) for k in range(len(measurements))], 0)
    assert [(point.x, point.error) for point in points] == [(0.0, 1.0), (1.0, 5.0), (2.0, 6.0), (3.0, 3.0)]


def test_tasks_differ_in_colour_and_marker() -> None:
    figure = error_curves(run(0), layers=LAYERS, tasks=("a", "b"))
    curves = [trace for trace in figure.data if trace.showlegend is not False]
    assert curves[0].line.color != curves[1].line.color
    assert curves[0].marker.symbol != curves[1].marker.symbol


def test_a_task_without_labels_leaves_no_point() -> None:
    measurements = [Measurement("zipped", "fc1", 0, (math.nan, 3.0))]
    figure = error_curves(measurements, layers=LAYERS, tasks=("a", "b"))
    assert [list(trace.y) for trace in figure.data] == [[], [3.0]]


def test_nothing_measured_is_said_in_words() -> None:
    figure = error_curves([], layers=LAYERS, tasks=("a",))
    assert "No error" in figure.layout.annotations[0].text
    assert "No retraining" in loss_curves([], [], tasks=("a",)).layout.annotations[0].text


def test_stored_nan_reads_as_nan() -> None:
    m = Measurement.from_event({"stage": "final", "layer": None, "step": 3, "errors": [None, 2]})
    assert math.isnan(m.errors[0])
    assert m.errors[1] == 2.0


@pytest.mark.parametrize("share", [0, 40, 300])
def test_bars_add_up_to_the_counts(share: int) -> None:
    counts = plan_counts(joined([NET, NET]), {"fc1": share})
    figure = size_bars(counts, tasks=("a", "b"))
    assert sum(trace.x[0] for trace in figure.data) == counts.total
    assert sum(trace.x[1] for trace in figure.data) == sum(counts.parents)


def test_bars_by_layer_add_up() -> None:
    counts = [plan_counts(joined([NET, NET]), shared) for shared in ({}, {"fc1": 300}, {"fc1": 300, "fc2": 100})]
    figure = size_by_layer(("parents", *LAYERS), counts, tasks=("a", "b"))
    assert [sum(trace.y[i] for trace in figure.data) for i in range(3)] == [c.total for c in counts]


def test_counts_survive_the_store() -> None:
    counts = ParameterCounts(3, (4, 5), (6, 7))
    assert counts_from_event({"shared": 3, "private": [4, 5], "parents": [6, 7]}) == counts


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", list(PALETTES))
def test_colours_are_legible(mode: str) -> None:
    p = palette(mode)  # type: ignore[arg-type]
    for colour in (p.text, p.muted, p.good, p.bad, p.warning):
        assert _contrast(colour, p.paper) >= 4.5, colour
    for colour in (*p.tasks, p.shared, p.accent):
        assert _contrast(colour, p.paper) >= 2.9, colour


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="light, dark"):
        palette("sepia")  # type: ignore[arg-type]
