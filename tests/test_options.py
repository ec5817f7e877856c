"""No option is ignored: in every combination it changes what comes out, or the combination is refused with a reason."""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtz_core import RetrainSpec, ZipSpec, zip_networks
from mtz_core import events as ev
from mtz_core.errors import SpecError
from mtz_core.methods.kinds import METRICS, PAIRING
from mtz_core.spec import NetworkSpec
from mtz_core.zipping import sufficiency
from tests.networks import randomised

ALTERNATIVES: dict[str, tuple[Any, ...]] = {
    "share": (0.75,),
    "alpha": ("unequal",),
    "pairing": tuple(name for name in PAIRING.names if name != "optimal"),
    "metric": tuple(name for name in METRICS.names if name != "functional"),
    "constraints": ("apart",),
    "sharing": ("all",),
    "streams": ("all",),
    "ridge": (0.3,),
    "compensate": (False,),
    "bias": ("shared",),
    "scale": ("shared",),
    "input_scale": ("shared",),
    "normalise": (False,),
    "weighting": ("equal",),
    "relu_rounds": (3,),
    "positions": (4,),
    "calibration": ("enough",),
    "sparse": ("no",),
    "seed": (1,),
    "trunk": ("stem",),
    "retrain": ({"steps": 2, "schedule": "final", "batch_size": 16},),
}
"""One value or more of every option that says what is computed, other than its default."""
TOLD = {"types"}
"""Options that say what networks answer, not how they are zipped; `tests/test_outputs.py` has what follows."""
SPEED = {"batch_size", "activation_budget", "device"}
"""Options that say how; they must not change what comes out."""
PLANS = {"budget"}
"""Needs share: auto, see `tests/test_planning.py`."""
SETTLED = {
    frozenset({decides, name}): decides
    for decides, settled in (
        ("compensate", ("bias", "scale", "input_scale", "normalise", "weighting", "streams")),
        ("pairing=random", ("sharing",)),
        ("scale", ("input_scale",)),
    )
    for name in settled
}
"""Pairs of which one decides the other, which is in force already; another value of it is refused."""
REFUSED = (
    *({"pairing=random", f"metric={name}"} for name in ALTERNATIVES["metric"]),
    {"pairing=random", "streams"},
    {"pairing=random", "constraints"},
    {"compensate", "relu_rounds"},
)
"""Pairs of which one would have no effect."""


class Everything(nn.Module):
    """A residual stream, a grouped and a depthwise convolution, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.deep, self.narrow = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.dense, self.head = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.grouped(x)
        x = torch.relu(self.narrow(torch.relu(self.deep(x))))
        return self.head(torch.relu(self.dense(x.mean((2, 3)))))


def pruned(seed: int) -> nn.Module:
    """Half of the weights of two layers are zero."""
    network = randomised(Everything(), seed)
    chance = torch.Generator().manual_seed(seed)
    for layer in (network.deep, network.dense):
        with torch.no_grad():
            layer.weight.mul_(torch.rand(layer.weight.shape, generator=chance) < 0.5)
    return network


@cache
def networks() -> tuple[nn.Module, ...]:
    return tuple(pruned(seed) for seed in range(3))


@cache
def images() -> tuple[Tensor, ...]:
    chances = [torch.Generator().manual_seed(40 + t) for t in range(3)]
    return tuple(torch.rand(40, 1, 4, 4, generator=chance, dtype=torch.float64) for chance in chances)


def named(option: str, value: Any) -> str:
    return f"{option}={value}" if len(ALTERNATIVES[option]) > 1 else option


CHOICES = {named(option, value): (option, value) for option, values in ALTERNATIVES.items() for value in values}


@cache
def outcome(tasks: int, *chosen: str) -> str:
    """A fingerprint of everything a run yields, clocks aside; "refused" where it is refused with a reason."""
    fields: dict[str, Any] = dict(CHOICES[name] for name in chosen)
    if "alpha" in fields:
        fields["alpha"] = tuple(range(1, tasks + 1))
    if "constraints" in fields:
        fields["constraints"] = {"dense": {"apart": [tuple(range(tasks))]}}
    quick = {"share": 0.5, "positions": 6} | ({} if fields.get("compensate") is False else {"relu_rounds": 1})
    digest = hashlib.sha256()

    def take(event: ev.Event) -> None:
        if isinstance(event, ev.LayerZipped | ev.LayerCompensated | ev.RetrainStep | ev.DifferenceComputed):
            for name, value in sorted(vars(event).items()):
                if name not in ("seconds", "fraction"):
                    _hash(digest, value)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sufficiency, "FEWEST", 8)
            patch.setattr(sufficiency, "FALL", 10.0)
            patch.setattr(sufficiency, "REGRET", 10.0)
            result = zip_networks(networks()[:tasks], images()[:tasks], ZipSpec(**quick | fields), on_event=take)
    except SpecError:
        return "refused"
    for tensor in result.network.state_dict().values():
        _hash(digest, tensor.numpy())
    return digest.hexdigest()


def _hash(digest: Any, value: Any) -> None:
    if isinstance(value, dict):
        for key in sorted(value):
            _hash(digest, value[key])
    elif isinstance(value, tuple | list):
        for item in value:
            _hash(digest, item)
    elif isinstance(value, np.ndarray):
        digest.update(np.ascontiguousarray(value).tobytes() + str(value.shape).encode())
    else:
        digest.update(repr(value).encode())


def test_the_table_of_options_is_complete() -> None:
    assert set(ALTERNATIVES) | TOLD | SPEED | PLANS == set(ZipSpec.model_fields)


def tasks_of(*names: str) -> int:
    """Three where that makes a difference."""
    return 3 if any(CHOICES[name][0] in ("sharing", "pairing") for name in names) else 2


@pytest.mark.parametrize("name", CHOICES)
def test_every_option_changes_what_comes_out(name: str) -> None:
    tasks = tasks_of(name)
    assert outcome(tasks, name) not in (outcome(tasks), "refused")


@pytest.mark.parametrize(
    ("one", "other"), [pair for pair in combinations(CHOICES, 2) if CHOICES[pair[0]][0] != CHOICES[pair[1]][0]]
)
def test_no_option_is_ignored_beside_another(one: str, other: str) -> None:
    tasks = tasks_of(one, other)
    both = outcome(tasks, one, other)
    if {one, other} in REFUSED:
        assert both == "refused"
    elif (decided := SETTLED.get(frozenset({one, other}))) is not None:
        assert both == outcome(tasks, decided)
    else:
        assert both not in (outcome(tasks, one), outcome(tasks, other), outcome(tasks), "refused")


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {"compensate": False, name: value}
            for name, value in (("bias", "own"), ("scale", "own"), ("relu_rounds", 3))
        ),
        *({"compensate": "false", name: value} for name, value in (("normalise", True), ("weighting", "fisher"))),
        {"scale": "shared", "input_scale": "own"},
        *({"pairing": "random", name: v} for name, v in (("metric", "euclidean"), ("sharing", "subsets"))),
    ],
)
def test_an_option_that_another_one_settles_is_refused_by_name(fields: dict[str, Any]) -> None:
    first, second = fields
    with pytest.raises(SpecError, match=rf"{second} .* has no effect with {first}"):
        ZipSpec(**fields)
    settled = ZipSpec(**{first: fields[first]})
    assert ZipSpec(**settled.model_dump()) == settled


def test_a_temperature_is_refused_where_nothing_is_distilled() -> None:
    with pytest.raises(SpecError, match="temperature"):
        RetrainSpec(targets="labels", temperature=3.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"parent": "lenet5-mnist-0", "classes": 10},
        {"parent": "lenet5-mnist-0", "architecture": "lenet5"},
        {"model": "mine", "classes": 3},
        {"weights": "x.pt2", "architecture": "exported", "data": "mnist", "classes": 3},
    ],
)
def test_what_a_network_brings_itself_is_not_asked_for(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="brings its own"):
        NetworkSpec(**fields)


def pruned_part(seed: int) -> Tensor:
    """Weights of a grouped convolution of which half are zero."""
    chance = torch.Generator().manual_seed(seed)
    return torch.rand(8, 4, 3, 3, generator=chance) < 0.5


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_pruned_grouped_and_depthwise_convolutions_keep_their_zeros(share: float) -> None:
    parents = [pruned(seed) for seed in range(2)]
    for seed, parent in enumerate(parents):
        with torch.no_grad():
            parent.grouped.weight.mul_(pruned_part(seed))
    result = zip_networks(parents, images()[:2], ZipSpec(share=share, relu_rounds=1, retrain={"steps": 3}))
    either: dict[str, Tensor] = {}
    for t in range(2):
        for name, weight in result.network.extract(t).named_parameters():
            if name in ("grouped.weight", "deep.weight"):
                own = dict(parents[t].named_parameters())[name] != 0
                either[name] = either.get(name, torch.zeros_like(own)) | own
                filled = int((weight != 0).sum())
                assert int(own.sum()) <= filled <= own.numel() * (0.5 if share == 0.0 else 0.9)
    stored = sum(int((tensor != 0).sum()) for tensor in result.network.state_dict().values())
    assert result.counts.total <= stored + len(parents) * 4  # exact, but for a weight that happens to be zero
    assert result.counts.total < sum(p.numel() for parent in parents for p in parent.parameters()) * 0.9
