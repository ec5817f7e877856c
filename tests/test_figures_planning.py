"""The figure of a plan: the frontier."""

from __future__ import annotations

from mtz_core.figures.planning import frontier_figure


def test_the_frontier_shows_the_best_points_and_the_chosen_one() -> None:
    figure = frontier_figure([100, 150, 200], [3.0, 1.0, 0.0], chosen=(160, 2.0), smallest=100)
    best, chosen = figure.data
    assert list(best.x) == [100, 150, 200]
    assert list(best.y) == [3.0, 1.0, 0.0]
    assert [row[1] for row in best.customdata] == [1.0, 1.5, 2.0]
    assert (chosen.x[0], chosen.y[0]) == (160, 2.0)
