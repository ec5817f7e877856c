"""Figures of a plan: the curve under a slider, and the frontier."""

from __future__ import annotations

import pytest

from mtz_core.figures.planning import frontier_figure, predicted_error, share_curve


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_curve_shows_every_point_and_where_the_slider_stands(mode: str) -> None:
    figure = share_curve([0, 5, 20], [0.0, 1.0, 7.0], count=10, highest=14.0, mode=mode)  # type: ignore[arg-type]
    line, mark = figure.data
    assert list(line.x) == [0.0, 25.0, 100.0]
    assert list(line.y) == [0.0, 1.0, 7.0]
    assert (mark.x[0], mark.y[0]) == (50.0, pytest.approx(3.0))
    assert mark.text == ("3.0 %",)
    assert figure.layout.yaxis.range[1] > 14.0


def test_the_frontier_shows_the_best_points_and_the_chosen_one() -> None:
    figure = frontier_figure([100, 150, 200], [3.0, 1.0, 0.0], chosen=(160, 2.0), smallest=100)
    best, chosen = figure.data
    assert list(best.x) == [100, 150, 200]
    assert list(best.y) == [3.0, 1.0, 0.0]
    assert [row[1] for row in best.customdata] == [1.0, 1.5, 2.0]
    assert (chosen.x[0], chosen.y[0]) == (160, 2.0)


def test_errors_between_points_are_linear() -> None:
    assert predicted_error([0, 4, 8], [0.0, 2.0, 10.0], 6) == 6.0
