"""As many calibration images as it takes: what is tried, when it stops, and what a run then calibrates on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mtz_core import ZipSpec, zip_networks
from mtz_core import events as ev
from mtz_core.errors import CheckpointError
from mtz_core.zipping import sufficiency
from mtz_core.zipping.sufficiency import Trial, trial_sizes
from mtz_core.zipping.zipper import Zipper
from tests.networks import FAMILIES, images, randomised

ENOUGH = ZipSpec(calibration="enough")


def twins(family: str = "perceptron") -> list[nn.Module]:
    return [randomised(FAMILIES[family](), seed) for seed in range(2)]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sufficiency, "FEWEST", 40)


def tried(parents: list[nn.Module], counts: tuple[int, int], **fields: Any) -> tuple[list[ev.ImagesTried], Any]:
    heard: list[ev.Event] = []
    data = [images(count, seed) for seed, count in enumerate(counts)]
    result = zip_networks(parents, data, ENOUGH.model_copy(update=fields), on_event=heard.append)
    return [event for event in heard if isinstance(event, ev.ImagesTried)], result


def test_sizes_double_up_to_all() -> None:
    assert trial_sizes([1000, 700]) == [40, 80, 160, 320, 640, 1000]
    assert trial_sizes([40, 12]) == [40]


def test_it_is_enough_when_loss_and_pairs_change_little() -> None:
    good = {"images": 80, "done": 3, "total": 3, "loss": 1.0}
    assert Trial(**good, fall=0.08, regret=0.05).enough
    assert not Trial(**good, fall=0.12, regret=0.05).enough
    assert not Trial(**good, fall=-0.12, regret=0.05).enough
    assert not Trial(**good, fall=0.02, regret=0.15).enough
    assert not Trial(**good).enough
    assert not Trial(80, 2, 3, fall=0.0, regret=0.0).enough


@pytest.mark.parametrize("family", ["perceptron", "residual", "convolutional"])
def test_a_run_stops_at_the_first_number_that_is_enough(family: str) -> None:
    events, result = tried(twins(family), (2000, 2000))
    ended = [event for event in events if event.done == event.total]
    assert [event.images for event in ended] == trial_sizes([2000])[: len(ended)]
    assert [event.enough for event in ended] == [False] * (len(ended) - 1) + [True]
    assert result.images == (ended[-1].images,) * 2
    assert ended[-1].images < 2000
    assert ended[-1].loss > 0


def test_every_layers_fall_counts_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers, of which the large one does not fall, and pairs that stay as they are."""
    losses = iter([9.0, 0.4, 9.0, 0.2, 9.0, 0.18])
    monkeypatch.setattr(sufficiency, "_expected", lambda *_: next(losses))
    monkeypatch.setattr(sufficiency, "_total", lambda *_: 1.0)
    events, result = tried(twins(), (2000, 2000))
    ended = [event for event in events if event.done == event.total]
    assert [event.loss for event in ended] == pytest.approx([9.4, 9.2, 9.18])
    assert [event.fall for event in ended[1:]] == pytest.approx([1 - 0.5**0.5, 1 - 0.9**0.5])
    assert [event.regret for event in ended[1:]] == [0.0, 0.0]
    assert result.images == (160, 160)


def test_with_too_few_all_are_used() -> None:
    events, result = tried(twins(), (90, 60))
    assert result.images == (90, 60)
    assert [event.images for event in events if event.done == event.total] == [40, 80, 90]
    assert not events[-1].enough


def test_the_run_is_that_of_the_chosen_images() -> None:
    parents, data = twins(), [images(600, seed) for seed in range(2)]
    zipper = Zipper(parents, data, ENOUGH)
    heard = list(zipper.run())
    count = next(event for event in heard if isinstance(event, ev.Started)).images[0]
    assert count < 600
    some = [x[chosen] for x, chosen in zip(data, zipper.sample.chosen, strict=True)]
    assert [len(x) for x in some] == [count, count]
    plain = zip_networks(parents, some)
    for name, tensor in plain.network.state_dict().items():
        torch.testing.assert_close(zipper.network.state_dict()[name], tensor)
    first = next(event for event in heard if isinstance(event, ev.LayerZipped))
    with torch.no_grad():
        outputs = parents[0].fc1(data[0].flatten(1))
    for neuron, (indices, values) in enumerate(zip(first.top_images[0], first.top_values[0], strict=True)):
        torch.testing.assert_close(outputs[indices, neuron].float(), torch.as_tensor(values))
    fractions = [event.fraction for event in heard]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_resumed_run_takes_the_same_images() -> None:
    data = [images(600, seed) for seed in range(2)]
    whole = Zipper(twins(), data, ENOUGH)
    list(whole.run())
    broken = Zipper(twins(), data, ENOUGH)
    next(event for event in broken.run() if isinstance(event, ev.LayerFinished))
    again = Zipper(twins(), data, ENOUGH)
    heard = list(again.run(resume=broken.checkpoint()))
    assert not any(isinstance(event, ev.ImagesTried) for event in heard)
    for name, tensor in whole.network.state_dict().items():
        torch.testing.assert_close(again.network.state_dict()[name], tensor)
    with pytest.raises(CheckpointError):
        list(Zipper(twins(), data).run(resume=broken.checkpoint().__class__({}, {})))


def test_three_tasks_and_a_plan() -> None:
    parents = [randomised(FAMILIES["perceptron"](), seed) for seed in range(3)]
    heard: list[ev.Event] = []
    spec = ZipSpec(calibration="enough", share="auto", budget={"size": 2.0})
    result = zip_networks(parents, [images(600, seed) for seed in range(3)], spec, on_event=heard.append)
    kinds = list(dict.fromkeys(type(event).__name__ for event in heard))
    assert kinds[:4] == ["ImagesTried", "Planning", "Planned", "Started"]
    assert len(set(result.images)) == 1
    assert result.counts.versus_smallest < 2.1
