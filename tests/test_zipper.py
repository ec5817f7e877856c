"""The loop: its events, determinism, resumption, retraining, and what it says about bad input."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mtz_core import RetrainSpec, Zipper, ZipSpec, zip_networks
from mtz_core import events as ev
from mtz_core.errors import DataError, MTZError, SpecError
from tests.networks import FAMILIES, Perceptron, images, randomised


def _twins(family: str = "perceptron") -> list[nn.Module]:
    return [randomised(FAMILIES[family](), seed) for seed in (0, 1)]


def _labelled(parents: list[nn.Module], count: int = 40) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = images(count, 9)
    return [(x, parent(x).argmax(1)) for parent in parents]


def test_events_come_in_order_and_progress_never_falls() -> None:
    parents = _twins()
    spec = ZipSpec(retrain=RetrainSpec(steps=7, evaluate_every=2))
    seen = list(Zipper(parents, [images()] * 2, spec, evaluation=_labelled(parents)).run())
    names = [type(event).__name__ for event in seen if not isinstance(event, ev.RetrainStep | ev.OutputsWeighed)]
    stages = [event.stage for event in seen if isinstance(event, ev.Evaluated)]
    assert names[:2] == ["Started", "Evaluated"]
    assert names[2:5] == ["LayerCalibrated", "DifferenceComputed", "LayerZipped"]
    assert names[-1] == "Finished"
    assert names.count("LayerFinished") == 3  # the head follows, compensated
    assert stages[0] == "parents"
    assert stages[-1] == "final"
    assert stages.count("zipped") == stages.count("retrained") == 2
    assert [e.step for e in seen if isinstance(e, ev.RetrainStep)] == list(range(1, 8))
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    first = next(event for event in seen if isinstance(event, ev.Evaluated))
    assert first.errors == (0.0, 0.0)


def test_every_layers_retraining_is_seen_twenty_times_and_ends_on_the_inputs_it_began_with() -> None:
    parents = _twins()
    spec = ZipSpec(retrain=RetrainSpec(steps=100))
    zipper = Zipper(parents, [images()] * 2, spec, evaluation=_labelled(parents), live_images=15)
    seen = [event for event in zipper.run() if isinstance(event, ev.Evaluated)]
    layers = [event.layer for event in seen if event.stage == "zipped"]
    for layer in layers:
        assert sum(e.layer == layer and e.stage in ("retraining", "retrained") for e in seen) >= 20
    counts = {event.stage: event.images for event in seen}
    assert counts["parents"] == counts["retrained"] == counts["ended"] == (15, 15)
    assert counts["final"] == (40, 40)


@pytest.mark.parametrize("family", ["convolutional", "residual"])
def test_the_same_seed_gives_the_same_network_to_the_bit(family: str) -> None:
    spec = ZipSpec(share=0.7, positions=3, retrain=RetrainSpec(steps=6))
    one, two = (zip_networks(_twins(family), [images()] * 2, spec).network.state_dict() for _ in range(2))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)
    other = zip_networks(_twins(family), [images()] * 2, spec.model_copy(update={"seed": 1})).network.state_dict()
    assert any(value.shape != other[key].shape or bool((value != other[key]).any()) for key, value in one.items())


def test_small_batches_and_no_activation_memory_give_the_same_network() -> None:
    results = [
        zip_networks(
            _twins("residual"), [images()] * 2, ZipSpec(positions=None, batch_size=size, activation_budget=budget)
        )
        for size, budget in ((60, 2**30), (7, 0), (7, 40_000))
    ]
    for other in results[1:]:
        for a, b in zip(results[0].layers, other.layers, strict=True):
            np.testing.assert_allclose(a.difference, b.difference, rtol=1e-6, atol=1e-12)
            assert a.ridge == b.ridge


@pytest.mark.parametrize("schedule", ["layerwise", "final"])
def test_an_interrupted_run_resumes_to_the_same_network(schedule: str) -> None:
    spec = ZipSpec(share=0.6, positions=4, retrain=RetrainSpec(steps=9, schedule=schedule))
    whole = Zipper(_twins("residual"), [images()] * 2, spec)
    list(whole.run())
    broken = Zipper(_twins("residual"), [images()] * 2, spec)
    checkpoint = None
    for event in broken.run():
        if isinstance(event, ev.LayerFinished) and event.layer == "a":
            checkpoint = broken.checkpoint()
    assert checkpoint is not None
    assert len(checkpoint.meta["finished"]) == 2  # what happens after it was taken does not change it
    again = Zipper(_twins("residual"), [images()] * 2, spec)
    events = list(again.run(resume=checkpoint))
    assert [e.layer for e in events if isinstance(e, ev.LayerFinished)] == ["b", "fc"]
    assert events[0].fraction > 0.2
    for key, value in whole.network.state_dict().items():
        torch.testing.assert_close(again.network.state_dict()[key], value, rtol=1e-12, atol=1e-12)
    with pytest.raises(MTZError, match=r"another|damaged|other networks"):
        list(Zipper(_twins(), [images()] * 2).run(resume=checkpoint))


def test_retraining_by_distillation_needs_no_labels_and_helps() -> None:
    parents = _twins()
    data = [images(400, 3)] * 2
    evaluation = _labelled(parents, 300)
    plain = zip_networks(parents, data, ZipSpec(compensate=False, ridge=1e-3), evaluation=evaluation)
    retrain = RetrainSpec(steps=300, learning_rate=0.01, schedule="final", temperature=1.0)
    better = zip_networks(parents, data, ZipSpec(compensate=False, ridge=1e-3, retrain=retrain), evaluation=evaluation)
    assert plain.errors is not None
    assert better.errors is not None
    assert sum(better.errors) < 0.7 * sum(plain.errors)
    labels = RetrainSpec(steps=300, learning_rate=0.01, schedule="final", targets="labels")
    told = zip_networks(
        parents,
        data,
        ZipSpec(compensate=False, ridge=1e-3, retrain=labels),
        evaluation=evaluation,
        retraining=_labelled(parents, 400),
    )
    assert told.errors is not None
    assert sum(told.errors) < 0.7 * sum(plain.errors)


def test_prediction_from_halves_agrees_with_the_loss_found_on_new_images() -> None:
    """The in-sample cost is far below what new images show; the cross-validated prediction is not."""
    parents = [randomised(Perceptron(), seed) for seed in (0, 1)]
    known = [images(count, seed) for count, seed in ((300, 1), (300, 2))]
    unseen = [(images(300, seed), torch.zeros(300, dtype=torch.long)) for seed in (5, 6)]
    for ridge, low, high in (("auto", 0.7, 1.4), (1e-6, 1.0, 2.0)):
        zipper = Zipper(parents, known, ZipSpec(ridge=ridge, compensate=False), evaluation=unseen)
        layer = next(event for event in zipper.run() if isinstance(event, ev.LayerZipped))
        assert layer.measured_on == "evaluation"
        assert layer.costs.sum() < 0.95 * layer.measured or ridge == "auto"
        assert low < layer.predicted / layer.measured < high
    for event in Zipper(parents, known, ZipSpec(), evaluation=unseen).run():
        if isinstance(event, ev.LayerZipped | ev.LayerCompensated):
            assert 0.6 < event.predicted / event.measured < 1.6


def test_three_tasks_and_task_weights() -> None:
    parents = [randomised(Perceptron(), seed) for seed in range(3)]
    even = zip_networks(parents, [images(200, 4)] * 3, ZipSpec(share=0.5, ridge=1e-4, sharing="all"))
    assert even.layers[0].pairs.shape == (6, 3)
    assert set(even.layers[0].differences) == {(0, 1), (0, 2), (1, 2)}
    skewed = zip_networks(parents, [images(200, 4)] * 3, ZipSpec(alpha=(0.98, 0.01, 0.01), ridge=1e-4))
    x = images(50, 8)
    drift = [float((skewed.network(x, task=t) - parents[t](x)).detach().norm()) for t in range(3)]
    assert drift[0] < 0.3 * min(drift[1:])


def test_share_takes_names_ratios_and_counts() -> None:
    result = zip_networks(_twins(), [images()] * 2, ZipSpec(share={"fc1": 0.25, "fc2": 4}))
    assert [len(layer.pairs) for layer in result.layers] == [3, 4]
    for share, message in (
        ({"fc9": 0.5}, "fc1, fc2"),
        ({"fc3": 0.5}, "task head"),
        ({"fc1": 13}, "narrowest has 12"),
    ):
        with pytest.raises(SpecError, match=message):
            Zipper(_twins(), [images()] * 2, ZipSpec(share=share))
    with pytest.raises(SpecError, match="residual stream"):
        Zipper(_twins("residual"), [images()] * 2, ZipSpec(share={"stem": 0.5, "a": 0.7}))


def test_calibration_takes_tensors_loaders_and_generators() -> None:
    x = images()
    batches = [(x[:20], torch.zeros(20)), (x[20:], torch.zeros(40))]
    from_tensor = zip_networks(_twins(), [x, x], ZipSpec(ridge=1e-3))
    from_loader = zip_networks(_twins(), [batches, (b for b in (x[:30], x[30:]))], ZipSpec(ridge=1e-3))
    for key, value in from_tensor.network.state_dict().items():
        torch.testing.assert_close(from_loader.network.state_dict()[key], value, rtol=0, atol=0)


def test_single_precision_parents_stay_single() -> None:
    parents = [parent.float() for parent in _twins("convolutional")]
    result = zip_networks(parents, [images()] * 2)
    assert result.network(images(3).float(), task=1).dtype == torch.float32


@pytest.mark.parametrize(
    ("networks", "data", "message"),
    [
        (1, [images()], "two or more networks"),
        (2, [images()], "one each"),
        (2, [images(), images()[:1]], "two or more inputs"),
        (2, [images(), images() * float("nan")], "NaN"),
        (2, [images(), (images() * 255).long()], "floating-point"),
        (2, [images(), "images.npy"], "iterable of batches"),
        (2, [images(), [images(), images()[:, :, 1:]]], "different shapes"),
        (2, [images(), images()[:, :, 1:]], "shape"),
        (2, [images(), {"x": images()}], "iterable of batches"),
    ],
)
def test_bad_data_is_refused_with_the_remedy(networks: int, data: list[torch.Tensor], message: str) -> None:
    with pytest.raises(MTZError, match=message):
        zip_networks(_twins()[:networks], data)


def test_labels_are_asked_for_when_they_are_needed() -> None:
    with pytest.raises(DataError, match="distill"):
        Zipper(_twins(), [images()] * 2, ZipSpec(retrain=RetrainSpec(targets="labels")))
    with pytest.raises(DataError, match="one class index per image"):
        Zipper(_twins(), [images()] * 2, evaluation=[(images(), torch.zeros(60)), None])


def test_evaluation_images_of_another_shape_are_refused() -> None:
    wrong = (images()[:, :, 1:], torch.zeros(60, dtype=torch.long))
    with pytest.raises(DataError, match=r"evaluation\[1\] has inputs of shape \(1, 7, 8\)"):
        Zipper(_twins(), [images()] * 2, evaluation=[None, wrong])


def test_a_layer_that_reads_nothing_shared_shares_nothing_and_says_so() -> None:
    result = zip_networks(_twins(), [images()] * 2, ZipSpec(share={"fc2": 1.0}))
    assert result.counts.shared == 0
    assert any("fc2 shares nothing" in note for note in result.warnings)


def test_an_unknown_operation_leaves_its_neighbours_private_and_the_rest_zips() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(64, 9), nn.Linear(9, 8), nn.Linear(64, 7), nn.Linear(15, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1)
            odd = torch.relu(self.b(torch.cumsum(self.a(x), 1)))
            return self.d(torch.cat([odd, torch.relu(self.c(x))], 1))

    parents = [randomised(Odd(), seed) for seed in (0, 1)]
    result = zip_networks(parents, [images()] * 2, ZipSpec(bias="shared"))
    by_name = {layer.name: len(layer.pairs) for layer in result.layers}
    assert by_name == {"b": 0, "c": 7}
    assert any("cumsum" in note for note in result.warnings)
    alone = zip_networks(parents, [images()] * 2, ZipSpec(share={"b": 1.0})).network
    for t, parent in enumerate(parents):
        torch.testing.assert_close(alone(images(5), task=t), parent(images(5)))
    assert result.network.counts().shared == 7 * 65


def test_a_missing_gpu_is_named() -> None:
    if torch.cuda.is_available():
        assert zip_networks(_twins(), [images()] * 2, ZipSpec(device="cuda")).counts.shared > 0
    else:
        with pytest.raises(SpecError, match="CUDA"):
            Zipper(_twins(), [images()] * 2, ZipSpec(device="cuda"))


def test_the_core_imports_neither_streamlit_nor_plotly() -> None:
    code = (
        "import sys, mtz_core; [getattr(mtz_core, n) for n in mtz_core.__all__];"
        "print(sorted({'streamlit', 'plotly', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_specification_and_store_need_no_torch() -> None:
    code = "import sys, mtz_core.spec, mtz_core.events, mtz_core.structure.networks; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
