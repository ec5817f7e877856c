"""Steps 7, 8 and 9 of the lesson: networks that are really zipped, and what becomes of their answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtz_core import events as ev
from mtz_core.api import zip_networks
from mtz_core.data.loading import load_data
from mtz_core.runs.inputs import Inputs, gather
from mtz_core.spec import CalibrationSpec, NetworkSpec, RunSpec, ZipSpec
from mtz_core.zipping.zipper import Zipper
from mtz_core.zoo.parents import load_parent

DEEP = ("resnet14-mnist-0", "resnet14-fashion-0")
FLAT = ("lenet300-mnist-0", "lenet300-fashion-0")
PAIRS = {
    "seeds": ("lenet300-mnist-0", "lenet300-mnist-1"),
    "clothes": ("lenet300-mnist-0", "lenet300-fashion-0"),
    "words": ("lstm-words-germanic-0", "lstm-words-romance-0"),
}
IMAGES, TESTED, SHOWN = 500, 1000, 24
SHARES = tuple(k / 10 for k in range(11))
DRAWS = 3


def run_spec(parents: Sequence[str], zipping: ZipSpec) -> RunSpec:
    """What the Zip page would start for these networks with its own defaults."""
    networks = tuple(NetworkSpec(parent=name) for name in parents)
    return RunSpec(networks=networks, calibration=CalibrationSpec(images=IMAGES), zip=zipping)


def paper(share: float = 1.0) -> ZipSpec:
    """The paper's formulas: only shared weights change."""
    return ZipSpec(share=share, compensate=False)


def spread(labels: Tensor, count: int) -> Tensor:
    """Indices (count,) of the first images of every class in turn, so that all classes are among few images."""
    places = [torch.nonzero(labels == c)[:, 0] for c in labels.unique()]
    rounds = max(len(p) for p in places)
    order = [int(p[k]) for k in range(rounds) for p in places if k < len(p)]
    return torch.tensor(order[:count])


def wrong_answers(network: nn.Module, task: int, images: Tensor, labels: Tensor) -> Tensor:
    """Which images (N,) a zipped network answers wrongly."""
    with torch.no_grad():
        answers = torch.cat([network(x, task=task).argmax(1) for x in images.split(500)])
    return answers != labels


def layer_by_layer(compensate: bool, parents: Sequence[str] = DEEP, tested: int = TESTED) -> dict[str, Any]:
    """Zip every layer in full; after each one, the test error of both tasks and which of a few images go wrong.

    The first entry is that of the parents. Errors are in % of the first `tested` of the run's own test images.
    """
    spec = run_spec(parents, ZipSpec(share=1.0) if compensate else paper())
    inputs = gather(spec)
    assert inputs.evaluation is not None
    tests = [(x[:tested], y[:tested]) for x, y in (pair for pair in inputs.evaluation if pair is not None)]
    zipper = Zipper(inputs.networks, inputs.calibration, inputs.zipping(spec))
    names, errors, wrong = ["parents"], [], []

    def look() -> None:
        gone = [wrong_answers(zipper.network, t, *pair) for t, pair in enumerate(tests)]
        errors.append([round(100 * float(g.double().mean()), 2) for g in gone])
        wrong.append([g[spread(y, SHOWN)].int().tolist() for g, (_, y) in zip(gone, tests, strict=True)])

    for event in zipper.run():
        if isinstance(event, ev.Started):
            look()
        if isinstance(event, ev.LayerFinished):
            names.append(event.layer)
            look()
    return {"layers": names, "errors": errors, "wrong": wrong}


def shown_images(parents: Sequence[str] = DEEP, tested: int = TESTED) -> list[list[str]]:
    """The few test images whose answers `layer_by_layer` follows, as hexadecimal bytes, for every task."""
    inputs = gather(run_spec(parents, paper()))
    assert inputs.evaluation is not None
    return [hexadecimal(x[:tested][spread(y[:tested], SHOWN)]) for x, y in filter(None, inputs.evaluation)]


def hexadecimal(images: Tensor) -> list[str]:
    """Images (N, 1, 28, 28) of [0, 1] as bytes in hexadecimal."""
    return [(255 * x).round().to(torch.uint8).numpy().tobytes().hex() for x in images]


def few_images(task: str, count: int, one_class: bool, seed: int) -> Tensor:
    """Calibration images that are drawn by a seed: of all classes, or of the first class alone."""
    images, labels = load_data(task, "calibration")
    order = np.random.default_rng(seed).permutation(len(labels))
    if one_class:
        order = order[labels.numpy()[order] == 0]
    return images[torch.as_tensor(order[:count])]


CASES = tuple((few, one, bare) for few in (False, True) for one in (False, True) for bare in (False, True))


def case_name(few: bool, one: bool, bare: bool) -> str:
    """Name a combination of switches: `few-one-bare`, each 0 or 1."""
    return "".join(str(int(on)) for on in (few, one, bare))


def what_can_go_wrong(
    few: bool, one: bool, bare: bool, seed: int, parents: Sequence[str] = FLAT, many: int = IMAGES
) -> list[float]:
    """Test errors in % of both tasks, all layers shared, after calibrating on `many` images or ten.

    `few`: ten images. `one`: of one class only (as many as there are, about 250). `bare`: no ridge.
    """
    chosen = [load_parent(name) for name in parents]
    images = [few_images(p.task, 10 if few else many, one, seed) for p in chosen]
    spec = ZipSpec(share=1.0, ridge=0.0 if bare else "auto")
    tests = [load_data(p.task, "test") for p in chosen]
    result = zip_networks([p.module for p in chosen], images, spec, evaluation=tests)
    assert result.errors is not None
    return [round(e, 2) for e in result.errors]


def error_at(parents: Sequence[str], share: float) -> dict[str, Any]:
    """Size (of all parents) and test errors in % of a network zipped as the Zip page does it."""
    spec = run_spec(parents, ZipSpec(share=share))
    inputs: Inputs = gather(spec)
    result = zip_networks(inputs.networks, inputs.calibration, inputs.zipping(spec), evaluation=inputs.evaluation)
    assert result.errors is not None
    assert result.parent_errors is not None
    return {
        "share": share,
        "size": round(result.counts.versus_all, 4),
        "errors": [round(e, 2) for e in result.errors],
        "parents": [round(e, 2) for e in result.parent_errors],
    }


def sweeps(shares: Sequence[float] = SHARES) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pair of networks of step 9 at every share."""
    for name, parents in PAIRS.items():
        points = [error_at(parents, share) for share in shares]
        yield name, {"parents": list(parents), "points": points}


def by_metric(metric: str, parents: Sequence[str]) -> dict[str, Any]:
    """Step 4: test errors in % of networks whose layers are all shared, paired by one metric or the other."""
    spec = run_spec(parents, ZipSpec(share=1.0, metric=metric))
    inputs = gather(spec)
    result = zip_networks(inputs.networks, inputs.calibration, inputs.zipping(spec), evaluation=inputs.evaluation)
    assert result.errors is not None
    assert result.parent_errors is not None
    return {"errors": [round(e, 2) for e in result.errors], "parents": [round(e, 2) for e in result.parent_errors]}


def seen_images() -> dict[str, list[list[str]]]:
    """Step 8: the ten images of the first draw, and ten of the many, of all classes and of one, for every task."""
    tasks = [load_parent(name).task for name in FLAT]
    drawn = {"one": True, "all": False}
    return {name: [hexadecimal(few_images(task, 10, one, 0)) for task in tasks] for name, one in drawn.items()}
