"""Pictures that are asked about: drawings in MNIST's form, and what a run's networks answer to them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mtz_core.data.bundled import bundled_inputs
from mtz_core.data.strokes import as_digit
from mtz_core.data.transform import prepare_images
from mtz_core.errors import DataError, RunError
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.runs.answering import Answerer
from mtz_core.runs.live_answers import Asked
from mtz_core.runs.store import RunStore
from mtz_core.runs.worker import execute
from mtz_core.spec import TransformSpec, parse_run_spec
from mtz_core.zoo.parents import load_parent
from pages.ui.try_it import bars_html


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunStore, str]:
    store = RunStore(tmp_path_factory.mktemp("store"))
    networks = [{"parent": name} for name in ("lenet300-mnist-0", "lenet300-fashion-0")]
    spec = parse_run_spec(
        {"networks": networks, "zip": {"share": 0.5, "calibration": "all"}, "calibration": {"images": 100},
         "evaluation": {"images": 50, "harm": False}}
    )  # fmt: skip
    record = store.create(spec)
    execute(store, record.id)
    return store, record.id


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_a_picture_is_answered_as_the_networks_do(run: tuple[RunStore, str]) -> None:
    store, run_id = run
    answerer = Answerer.of(store, run_id)
    network = ZippedNetwork.load(store.get(run_id).path / "zipped.safetensors")
    pictures, _ = bundled_inputs("mnist", "test")
    for pixels in pictures[:5]:
        answers = answerer.answers(png(pixels))
        x = prepare_images(pixels[None, None], TransformSpec())
        for t, name in enumerate(("lenet300-mnist-0", "lenet300-fashion-0")):
            with torch.no_grad():
                sides = {
                    "parent": load_parent(name).module(x)[0].softmax(0),
                    "zipped": network(x, task=t)[0].softmax(0),
                }
            answer = answers[t]
            assert answer is not None
            for side, chances in sides.items():
                best = answer[side][0]["best"]
                assert [k for k, _ in best] == chances.topk(5).indices.tolist()
                assert [p for _, p in best] == pytest.approx(chances.topk(5).values.tolist(), abs=1e-5)


def test_a_process_answers_one_question_after_another_and_says_what_is_wrong(run: tuple[RunStore, str]) -> None:
    store, run_id = run
    asked = Asked(store.root, run_id)
    try:
        pixels = bundled_inputs("mnist", "test")[0][0]
        first = asked.ask(png(pixels))
        with pytest.raises(RunError, match="no image"):
            asked.ask(b"no picture at all")
        assert asked.ask(png(pixels)) == first
    finally:
        asked.end()
    with pytest.raises(RunError, match="no run"):
        Asked(store.root, "20260101-000000-abcdef").ask(png(pixels))


def test_strokes_fill_a_box_of_twenty_pixels_around_their_centre_of_mass() -> None:
    ink = np.zeros((280, 280), np.uint8)
    ink[30:130, 200:240] = 255
    picture = as_digit(ink).astype(float)
    rows, columns = np.nonzero(picture)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 8)
    for axis in (0, 1):
        weights = picture.sum(1 - axis)
        assert abs(weights @ np.arange(28) / weights.sum() - 13.5) <= 0.5
    moved = np.roll(ink, (60, -90), (0, 1))
    assert np.array_equal(as_digit(moved), as_digit(ink))
    with pytest.raises(DataError, match="nothing is drawn"):
        as_digit(np.zeros((280, 280), np.uint8))


def test_digits_that_are_drawn_again_keep_their_answers() -> None:
    pictures, labels = bundled_inputs("mnist", "test")
    large = [np.kron(p, np.ones((10, 10), np.uint8)) for p in pictures[:200]]
    x = prepare_images(np.stack([as_digit(p) for p in large])[:, None], TransformSpec())
    with torch.no_grad():
        right = (load_parent("lenet5-mnist-0").module(x).argmax(1).numpy() == labels[:200]).mean()
    assert right > 0.95


def test_answers_are_drawn_without_markup() -> None:
    one = {"kind": "multiclass", "best": [[1, 0.75], [0, 0.25]]}
    other = {"kind": "multiclass", "best": [[1, 0.5], [2, 0.5]]}
    text = bars_html("<b>x</b>", one, other, ("a", "<img src=x>"))
    assert "<img" not in text
    assert "&lt;b&gt;" in text
    assert "width:75%" in text
    assert text.index("&lt;img") < text.index(">2<") < text.index(">a<")
