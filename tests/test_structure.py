"""What corresponds and how large the zip will be, from plain data, against the engine itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from torch import nn

from mtz_core import ZipSpec, zip_networks
from mtz_core.graph import channel_graph, correspond
from mtz_core.structure.joint import joined
from mtz_core.structure.networks import NetworkStructure
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import (
    effective_shares,
    plan_counts,
    plan_range,
    shared_count,
    unfounded,
    why_not_zippable,
)
from tests.networks import Perceptron, Tower, images, randomised


def chain(*stages: int, width: int = 5) -> nn.Module:
    """Convolutions in the manner of VGG: so many in each stage, with pooling between the stages."""
    layers: list[nn.Module] = []
    channels = 1
    for stage in stages:
        for _ in range(stage):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * (8 >> len(stages)) ** 2, 7), nn.ReLU(),
                         nn.Linear(7, 3))  # fmt: skip


OWN = Keeping.all()
"""What the engine's defaults store beside what is shared."""
FAMILIES: dict[str, Callable[[], Sequence[nn.Module]]] = {
    "one block more": lambda: (Tower(1), Tower(3)),
    "one block less": lambda: (Tower(3), Tower(1, width=8)),
    "a stage grows": lambda: (chain(1, 2), chain(2, 2, width=6)),
    "a stage shrinks": lambda: (chain(2, 3), chain(2, 1)),
    "three depths": lambda: (Tower(1), Tower(2, width=7), Tower(3)),
    "the first is short": lambda: (Tower(1), Tower(2), Tower(2)),
}


def plain(parents: Sequence[nn.Module]) -> list[NetworkStructure]:
    """Structures of networks that know nothing of each other, as the pages have them."""
    return [channel_graph(parent, images(2)).structure() for parent in parents]


def asked(structures: Sequence[NetworkStructure], share: float) -> dict[str, int]:
    return {g.name: shared_count(share, g.widths) for g in joined(structures).groups if g.sharing}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_plan_of_networks_of_different_depth_is_the_size_of_their_zip(family: str, share: float) -> None:
    parents = [randomised(parent, seed) for seed, parent in enumerate(FAMILIES[family]())]
    structures = plain(parents)
    result = zip_networks(parents, [images(30)] * len(parents), ZipSpec(share=share, sharing="all", ridge=1e-3))
    shared = asked(structures, share)
    assert plan_counts(joined(structures), shared, OWN) == result.counts
    assert (result.counts.shared > 0) == (share > 0)
    if len(parents) == 2:
        assert plan_range(joined(structures), shared, OWN) == (result.counts.total, result.counts.total)


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_structures_are_aligned_as_the_engine_aligns(family: str) -> None:
    parents = [randomised(parent, seed) for seed, parent in enumerate(FAMILIES[family]())]
    joint = joined(plain(parents))
    engine = correspond([channel_graph(parent, images(2)) for parent in parents])
    for t, graph in enumerate(engine.graphs):
        assert list(joint.positions[t]) == [k for k, layer in enumerate(graph.layers) if layer.width]
        alone = {layer.members[t].name for layer in engine.layers if layer.present == (t,)}
        assert {layer.name for layer in joint.networks[t].layers if layer.alone} == alone
    assert [group.name for group in joint.groups] == [group.name for group in engine.groups]
    assert [group.sharing for group in joint.groups] == [group.sharing if group.open else () for group in engine.groups]
    again = joined([graph.structure() for graph in engine.graphs])
    assert [own.layers for own in again.networks] == [own.layers for own in joint.networks]
    shared = asked(plain(parents), 0.5)
    assert effective_shares(joint, shared) == effective_shares(again, shared)


def test_behind_a_layer_that_one_network_lacks_sharing_goes_on_whatever_the_order_of_the_networks() -> None:
    parents = [randomised(chain(1, 2), 0), randomised(chain(2, 2, width=6), 1)]
    sizes = []
    for order in ((0, 1), (1, 0)):
        networks = [parents[k] for k in order]
        result = zip_networks(networks, [images(30)] * 2, ZipSpec(ridge=1e-3))
        alike = unfounded(joined(plain(networks)), asked(plain(networks), 1.0))
        assert [w for w in result.warnings if "reads nothing in common" in w] == [
            f"{name} reads nothing in common: its neurons are paired as they come, for the layers behind"
            for name in alike
        ]
        assert len(alike) == 1
        layers = {layer.name: layer for layer in result.layers}
        assert len(layers[alike[0]].pairs) == 5
        assert layers[alike[0]].merged.shape == (5, 0)
        last = result.layers[-1]
        assert last.merged.shape[0] == 7
        assert last.merged.shape[1] > 0
        sizes.append(result.counts.total)
    assert sizes[0] == sizes[1]


def test_channels_that_read_nothing_in_common_are_left_alone_where_no_later_layer_gains() -> None:
    parents = [randomised(chain(1, 2), 0), randomised(chain(2, 3), 1)]
    result = zip_networks(parents, [images(30)] * 2, ZipSpec(ridge=1e-3))
    # The second network's last convolution is its own, so that the dense layers read nothing in common.
    assert [len(layer.pairs) for layer in result.layers] == [5, 5, 5, 0]
    assert any("9 shares nothing" in w for w in result.warnings)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("family", ["three depths", "the first is short", "perceptrons", "perceptrons, two alike"])
def test_subsets_stay_within_the_bounds_of_the_plan(family: str, share: float) -> None:
    perceptrons = {
        "perceptrons": lambda: [randomised(Perceptron(width), seed) for seed, width in enumerate((12, 12, 14))],
        "perceptrons, two alike": lambda: [randomised(Perceptron(), seed) for seed in (0, 0, 1)],
    }
    build = perceptrons.get(family) or (lambda: [randomised(p, seed) for seed, p in enumerate(FAMILIES[family]())])
    parents = build()
    structures = plain(parents)
    shared = asked(structures, share)
    low, high = plan_range(joined(structures), shared, OWN)
    total = zip_networks(parents, [images(30)] * 3, ZipSpec(share=share, ridge=1e-3)).counts.total
    assert low <= total <= high
    assert low <= plan_counts(joined(structures), shared, OWN).total <= high
    if family == "perceptrons, two alike":
        assert (low < high) == (share < 1)


def test_bounds_hold_for_any_slots() -> None:
    """One layer between two groups, divided at random; the weights stored are counted cell by cell."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        widths = [rng.integers(2, 6, size=3).tolist() for _ in range(2)]
        networks = [randomised(nn.Sequential(nn.Flatten(), nn.Linear(64, a), nn.ReLU(), nn.Linear(a, b), nn.ReLU(),
                                             nn.Linear(b, 2)), 0) for a, b in zip(*widths, strict=True)]  # fmt: skip
        structures = plain(networks)
        shares = [int(rng.integers(0, min(w) + 1)) for w in widths]
        slots = [_random_slots(rng, w, 2 * s) for w, s in zip(widths, shares, strict=True)]
        if None in slots or 0 in shares:
            continue
        low, high = plan_range(joined(structures), dict(zip(("1", "3"), shares, strict=True)))
        columns, rows = slots
        assert rows is not None and columns is not None  # noqa: PT018
        stored = len(columns) * 65 + sum(bool(r & c) for r in rows for c in columns) + len(rows)
        stored += sum(2 * w + 2 for w in widths[1])
        assert low <= stored <= high
        seen.add((low < stored, stored < high))
    assert len(seen) == 4


def _random_slots(rng: np.random.Generator, widths: list[int], savings: int) -> list[set[int]] | None:
    """Slots as sets of tasks: channels of three tasks joined at random until so many are saved."""
    slots = [{t} for t, width in enumerate(widths) for _ in range(width)]
    for _ in range(savings):
        pairs = [(a, b) for a in range(len(slots)) for b in range(a) if not slots[a] & slots[b]]
        if not pairs:
            return None
        a, b = pairs[rng.integers(len(pairs))]
        slots[b] |= slots.pop(a)
    return slots


def test_a_bias_of_its_own_for_every_task_is_private() -> None:
    structures = plain([randomised(Perceptron(), seed) for seed in range(3)])
    shared = {"fc1": 6, "fc2": 10}
    common, apart = (plan_counts(joined(structures), shared, Keeping(bias=own)) for own in (False, True))
    assert apart.shared == common.shared - 16
    assert apart.private == tuple(size + 16 for size in common.private)
    ranges = [plan_range(joined(structures), shared, Keeping(bias=own)) for own in (False, True)]
    moved = [b - a for a, b in zip(*ranges, strict=True)]
    assert moved == [32, 32]


def test_why_networks_do_not_zip_is_said() -> None:
    tower, perceptron = plain([randomised(Tower(1), 0), randomised(Perceptron(), 0)])
    assert "Choose at least two" in str(why_not_zippable([tower], ["a"]))
    assert "No hidden layer of b corresponds to one of a" in str(why_not_zippable([tower, perceptron], ["a", "b"]))
    assert why_not_zippable([tower, plain([randomised(Tower(3), 0)])[0]], ["a", "b"]) is None


def test_grey_beside_colour_is_planned_as_the_engine_zips_it() -> None:
    parents = [randomised(Tower(1), 0), randomised(Tower(2, inputs=3), 1)]
    data = [images(30), images(30).expand(-1, 3, -1, -1).clone()]
    structures = [channel_graph(parent, x[:2]).structure() for parent, x in zip(parents, data, strict=True)]
    result = zip_networks(parents, data, ZipSpec(share=0.5, ridge=1e-3))
    assert plan_counts(joined(structures), asked(structures, 0.5), OWN) == result.counts
    assert result.counts.shared > 0
