"""The lesson: numbers against brute force, what is stored against a recomputation, texts all used and none missing."""

from __future__ import annotations

import json
import re
from itertools import permutations
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from mtz_core.errors import DataError, SpecError
from mtz_core.figures import lesson_facts, lessons
from mtz_core.structure.joint import joined
from mtz_core.zoo.structures import structures
from pages.ui.lesson.parts import PARTS, SIZED
from pages.ui.lesson.stage import SCRIPTS, script
from pages.ui.lesson.texts import ORDER, STEPS, load_texts
from pages.ui.lesson.zipping import guessed

LESSON, TEXTS = lessons.load_lesson(), load_texts()
HERE = Path(__file__).parents[1] / "pages" / "ui" / "lesson"
SHARED = ("title", "idea", "formula", "symbols", "try", "question", "answer", "learnt", "picture")


def loss(w: np.ndarray, alpha: float) -> float:
    """The weighted sum of both bowls, entry by entry."""
    part, both = LESSON["weights"], 0.0
    for t, weight in enumerate((alpha, 1 - alpha)):
        H, own = part["grams"][t], part["weights"][t]
        both += weight * sum((w[i] - own[i]) * H[i][j] * (w[j] - own[j]) for i in (0, 1) for j in (0, 1)) / 2
    return both


def test_every_compromise_is_the_minimum_that_an_optimiser_finds() -> None:
    for known in LESSON["weights"]["compromises"]:
        found = minimize(loss, np.zeros(2), args=(known["alpha"],), tol=1e-12)
        np.testing.assert_allclose(known["height"], found.fun, rtol=1e-5)
        np.testing.assert_allclose(known["w"], found.x, atol=1e-4)
        assert loss(np.array(known["w"]), known["alpha"]) == pytest.approx(known["height"], rel=1e-5)
        assert lessons.weighted_loss(LESSON["weights"], known["w"], known["alpha"]) == pytest.approx(
            known["height"], rel=1e-5
        )


def test_the_bowls_look_like_bowls_and_the_compromise_is_not_on_the_line() -> None:
    part = LESSON["weights"]
    for gram in part["grams"]:
        values, axes = lessons.principal_axes(gram)
        assert values[0] > 0
        assert values[1] / values[0] < 6.0
        np.testing.assert_allclose(axes.T @ np.diag(values) @ axes, gram, atol=1e-12)
    a, b = (np.array(w) for w in part["weights"])
    line = min(loss(a + t * (b - a), 0.5) for t in np.linspace(0, 1, 101))
    height = next(c["height"] for c in part["compromises"] if c["alpha"] == 0.5)
    assert height < 0.8 * line
    assert lesson_facts.two_bowls(part)["line"] == lesson_facts.loss_text(line)


def test_pairing_ends_at_the_optimum_and_never_pays_more_than_it_must() -> None:
    cost = np.array(LESSON["pairing"]["costs"])
    greedy, optimal = lessons.greedy_steps(cost), lessons.optimal_steps(cost)
    for k in range(7):
        least = min(sum(cost[i, p[i]] for i in range(k)) for p in permutations(range(6), k))
        assert lessons.total_cost(cost, optimal[k]) == pytest.approx(least)
        assert len(greedy[k]) == len(optimal[k]) == k
        free = [c for c in np.ndindex(6, 6) if all(c[0] != i and c[1] != j for i, j in greedy[k])]
        if k < 6:
            assert greedy[k + 1] == [*greedy[k], min(free, key=lambda cell: cost[cell])]
        if k:
            assert {j for _, j in optimal[k - 1]} < {j for _, j in optimal[k]}  # one more column, none given back
    assert lessons.total_cost(cost, optimal[6]) < 0.8 * lessons.total_cost(cost, greedy[6])


def test_sizes_agree_with_counting_every_weight() -> None:
    """784 → 300 → 100 → 10, the raw inputs always shared: a weight is stored once if its row and its column are."""
    networks = [structures()[name] for name in SIZED]
    table = lessons.size_table(networks)
    for first, second in ((0, 0), (3, 7), (10, 4), (10, 10)):
        s, r = 30 * first, 10 * second
        shared = np.ones((s, 785)).size + np.ones((r, s + 1)).size
        both = 2 * (300 * 785 + 100 * 301 + 10 * 101)
        assert table[first][second] == {"shared": shared, "private": both - 2 * shared, "total": both - shared}
    assert joined(networks).groups[0].name == "fc1"
    counts = lessons.weight_counts(300, 100, 90, 70)
    assert counts == {"shared": 70 * 91, "own": 100 * 301 - 70 * 91}
    with pytest.raises(ValueError, match="cannot share 9 of 8"):
        lessons.weight_counts(8, 5, 9, 1)


def test_the_size_at_which_the_error_leaves_lies_between_measured_points() -> None:
    points = [{"size": s, "errors": [e, e], "parents": [1.0, 1.0]} for s, e in ((1.0, 1.0), (0.8, 1.1), (0.6, 1.5))]
    assert lessons.leaving_size(points) == pytest.approx(0.8 - 0.2 * 0.15 / 0.4)
    assert lessons.leaving_size(points[:2]) is None


def test_the_evidence_is_strong() -> None:
    near, best = LESSON["nearest"]["differences"]
    assert LESSON["nearest"]["distances"][0] < LESSON["nearest"]["distances"][1]
    assert near > 6 * best
    plain, compensated = (LESSON["layers"][kind]["errors"] for kind in ("plain", "compensated"))
    assert min(plain[-1]) > 70
    assert max(np.subtract(compensated[-1], compensated[0])) < 1.0
    means = {case: lessons.mean_of_draws(draws) for case, draws in LESSON["wrong"]["errors"].items()}
    assert len(means) == 8
    assert all(min(np.subtract(means[case], means["000"])) > 2 for case in means if case != "000")


def test_the_first_layers_numbers_are_recomputed() -> None:
    from scripts.lesson import bowls, neurons
    from scripts.make_lesson import CLOTHES, DIGITS, rounded

    a, b = neurons.first_layer(DIGITS), neurons.first_layer(CLOTHES)
    weights = LESSON["weights"]
    pixels = [x + 28 * y for x, y in weights["pixels"]]
    assert list(bowls.choose_pixels(a, b)) == pixels
    anew = rounded(bowls.two_bowls(a, b, pixels, tuple(weights["neurons"])))
    np.testing.assert_allclose(anew["grams"], weights["grams"], rtol=1e-5)
    assert anew["whole"] == pytest.approx(weights["whole"], rel=1e-4)
    pairing = LESSON["pairing"]
    cost = neurons.difference(a, b)
    np.testing.assert_allclose(cost[np.ix_(pairing["rows"], pairing["columns"])], pairing["costs"], rtol=1e-4)
    picture = neurons.picture(neurons.brightest(a.likes[pairing["rows"][0]]))
    assert np.abs(_bytes(picture) - _bytes(pairing["likes"][0][0])).max() <= 1


def _bytes(hexadecimal: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(hexadecimal), dtype=np.uint8).astype(int)


def test_a_measured_point_is_measured_again() -> None:
    from scripts.lesson import measured

    known = LESSON["sweeps"]["seeds"]["points"][-1]
    anew = measured.error_at(measured.PAIRS["seeds"], known["share"])
    assert anew["size"] == pytest.approx(known["size"])
    np.testing.assert_allclose(anew["errors"], known["errors"], atol=0.12)  # three of 2,500 images on another machine


@pytest.mark.parametrize("step", ORDER)
def test_every_text_is_used_and_none_is_missing(step: str) -> None:
    texts, shared = TEXTS["steps"][step], (HERE / "base.js").read_text(encoding="utf-8")
    code = script(step).removeprefix(shared)
    said = set(re.findall(r'"(\w+)"', code))
    known = (
        set(SHARED) if step != "end" else {"title", "idea", "where", "zip", "inspect", "compare", "networks", "home"}
    )
    known |= {"verdict", "verdict_never"} if step == "9" else set()
    assert set(texts) - said - known == set(), "never used"
    assert set(re.findall(r'say\("(\w+)"', code)) <= set(texts), "missing"
    if step != "end":
        assert set(SHARED) <= set(texts)
        assert set(re.findall(r"\[\[(\w+)\]\]", texts["formula"])) == set(texts["symbols"]), "a symbol without words"


@pytest.mark.parametrize("step", ORDER)
def test_every_number_that_a_text_names_is_computed(step: str) -> None:
    _, facts = PARTS[step](LESSON, TEXTS)
    texts, code = TEXTS["steps"][step], script(step)
    for text in _texts(texts):
        for name in (field for _, field, _, _ in Formatter().parse(text) if field):
            live = re.search(rf"\b{name}\b(:|,| \}})", code) or name in ("pair", "size")
            assert name in facts or live, f"{{{name}}} of step {step}"
    used = {field for text in _texts(texts) for _, field, _, _ in Formatter().parse(text) if field}
    assert set(facts) <= used, "a fact that no text names"


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [text for inner in value.values() for text in _texts(inner)]


def test_what_all_steps_say_is_used() -> None:
    code = "".join(script(step) for step in ORDER) + (HERE.parents[1] / "5_Learn.py").read_text(encoding="utf-8")
    for name in TEXTS["common"]:
        assert re.search(rf"common\.{name}\b|common\[[\"']{name}[\"']\]", code), name
    assert set(re.findall(r"common\.(\w+)", code)) <= set(TEXTS["common"])


def test_the_scripts_ask_nobody_else() -> None:
    for step in ORDER:
        assert set(re.findall(r"https?://[\w./]+", script(step))) <= {"http://www.w3.org/2000/svg"}
    assert set(SCRIPTS) == set(ORDER)


def test_a_guess_becomes_the_run_that_was_measured() -> None:
    spec = guessed(LESSON["sweeps"], {"pair": "clothes", "size": 66}, "mine")
    assert [network.parent for network in spec.networks] == LESSON["sweeps"]["clothes"]["parents"]
    assert (spec.zip.share, spec.zip.retrain, spec.title) == (0.7, None, "mine")
    for bad in ({"pair": "../x", "size": 66}, {"pair": "clothes", "size": "x"}, {}):
        with pytest.raises(SpecError, match="the lesson zips"):
            guessed(LESSON["sweeps"], bad, "")


def test_a_missing_or_damaged_lesson_says_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make_lesson"):
        lessons.load_lesson(tmp_path / "none.json")
    (tmp_path / "half.json").write_text(json.dumps({"weights": {}}), encoding="utf-8")
    with pytest.raises(DataError, match="lacks networks"):
        lessons.load_lesson(tmp_path / "half.json")
    with pytest.raises(DataError, match="no readable texts"):
        load_texts(tmp_path / "none.yaml")


def test_there_are_nine_steps() -> None:
    assert len(STEPS) == 9
