"""The drawing of networks: every layer once, every number once, and the paths on which values really go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtz_core import ZipSpec, zip_networks
from mtz_core.events import LayerZipped, Started
from mtz_core.figures.drawing import (
    Column,
    Drawing,
    drawing_to_json,
    merged_layers,
    parents_drawing,
    planned_drawing,
    run_drawing,
    slots_of,
    with_harm,
)
from mtz_core.graph import channel_graph
from mtz_core.structure.joint import NO_PARTNER, JointStructure, joined
from mtz_core.structure.networks import HEAD, structure_from_json, structure_to_json
from mtz_core.structure.paths import END, START, Paths, common_paths, inferred
from mtz_core.structure.savings import Keeping
from mtz_core.structure.sizes import shared_count
from mtz_core.zoo.architectures import example_inputs
from mtz_core.zoo.parents import load_parent
from tests.networks import Perceptron, Tower, images, randomised

WEIGHTS = (nn.Linear, nn.Conv2d)


class Dense(nn.Module):
    """Every layer reads all before it, concatenated, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Conv2d(1 + 3 * k, 3, 3, padding=1) for k in range(4))
        self.head = nn.Linear(13, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for step in self.steps:
            features.append(torch.relu(step(torch.cat(features, 1))))
        return self.head(torch.cat(features, 1).mean((2, 3)))


class Gated(nn.Module):
    """A gate multiplies, two branches with one residual stream are read apart, and there are two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.squeeze, self.excite = nn.Linear(5, 3), nn.Linear(3, 5)
        self.left, self.right = nn.Conv2d(5, 5, 1), nn.Conv2d(5, 5, 1)
        self.first, self.second = nn.Linear(5, 4), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.deep(x))
        y = y * torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3))))))[:, :, None, None]
        a, b = self.left(y) + x, self.right(y) + x
        return self.first(torch.relu(a).mean((2, 3))), self.second(torch.relu(b).mean((2, 3)))


MADE: dict[str, Callable[[], Sequence[nn.Module]]] = {
    "chain": lambda: (Perceptron(), Perceptron(16)),
    "residual, of different depth": lambda: (Tower(1), Tower(3, width=8)),
    "residual, three": lambda: (Tower(3), Tower(1), Tower(2, width=7)),
    "concatenation": lambda: (Dense(), Dense()),
    "gate, branches, two heads": lambda: (Gated(), Gated()),
}


def parents(family: str) -> list[nn.Module]:
    return [randomised(network, seed) for seed, network in enumerate(MADE[family]())]


def side_by_side(networks: Sequence[nn.Module]) -> JointStructure:
    return joined([channel_graph(network, images(2)).structure() for network in networks])


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in network.named_modules() if isinstance(module, WEIGHTS)}


def really_reads(network: nn.Module, x: Tensor) -> dict[str, set[str]]:
    """What every layer's input depends on if all other layers' outputs were inputs: found by differentiating.

    The keys are the layers and `output`; the values are layers and `input`.
    """
    leaves: dict[str, Tensor] = {"input": x.clone().requires_grad_()}
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., Tensor]:
        def cut(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            seen[name] = inputs[0]
            leaves[name] = output.detach().requires_grad_()
            return leaves[name] * 1.0

        return cut

    handles = [module.register_forward_hook(hook(name)) for name, module in layers_of(network).items()]
    answer = network(leaves["input"])
    seen["output"] = torch.cat(answer, 1) if isinstance(answer, tuple) else answer
    for handle in handles:
        handle.remove()
    names = list(leaves)
    found = {}
    for name, value in seen.items():
        grads = (
            torch.autograd.grad(value.sum(), [leaves[n] for n in names], allow_unused=True, retain_graph=True)
            if value.requires_grad
            else [None] * len(names)
        )
        found[name] = {n for n, grad in zip(names, grads, strict=True) if grad is not None}
    return found


def drawn_reads(joint: JointStructure, paths: Paths, task: int) -> dict[str, set[str]]:
    """What the paths of one task say, followed back through joins."""
    names: dict[int, str] = {START: "input", END: "output"}
    names |= {k: layer.name for k, layer in zip(joint.positions[task], joint.networks[task].layers, strict=True)}
    into: dict[int, set[int]] = {}
    for path in paths.paths:
        if task in path.tasks:
            into.setdefault(path.target, set()).add(path.source)
    joins = {join.node for join in paths.joins}

    def back(node: int) -> set[str]:
        ways = (back(source) if source in joins else {names[source]} for source in into.get(node, ()))
        return set().union(*ways)

    return {name: back(node) for node, name in names.items() if name != "input"}


@pytest.mark.parametrize("family", MADE)
def test_paths_are_those_on_which_values_go(family: str) -> None:
    networks = parents(family)
    joint = side_by_side(networks)
    paths = common_paths(joint)
    for t, network in enumerate(networks):
        assert drawn_reads(joint, paths, t) == really_reads(network, images(2))


def test_paths_of_a_trained_residual_network_are_those_on_which_values_go() -> None:
    module, x = load_parent("resnet14-mnist-0").module.eval(), example_inputs("resnet14")
    joint = joined([channel_graph(module, x).structure()] * 2)
    paths = common_paths(joint)
    assert drawn_reads(joint, paths, 1) == really_reads(module, x)
    assert [join.kind for join in paths.joins] == ["add"] * 6
    assert all(path.tasks == (0, 1) for path in paths.paths)


def test_a_concatenation_that_grows_is_drawn_from_the_one_before() -> None:
    paths = common_paths(side_by_side(parents("concatenation")))
    into = Counter(path.target for path in paths.paths)
    assert [join.kind for join in paths.joins] == ["concat"] * 4
    assert all(into[join.node] == 2 for join in paths.joins)


@pytest.mark.parametrize("family", ["chain", "residual, of different depth"])
def test_a_structure_stored_without_paths_is_drawn_alike_where_streams_are_sums(family: str) -> None:
    joint = side_by_side(parents(family))
    bare = [
        replace(n, joins=(), outputs=(), layers=tuple(replace(x, reads=()) for x in n.layers)) for n in joint.networks
    ]
    paths = common_paths(replace(joint, networks=tuple(map(inferred, bare))))
    assert paths == common_paths(replace(joint, networks=tuple(bare)))
    for t in range(2):
        assert drawn_reads(joint, paths, t) == drawn_reads(joint, common_paths(joint), t)


@pytest.mark.parametrize("family", MADE)
def test_every_layer_is_drawn_once_with_all_its_numbers(family: str) -> None:
    networks = parents(family)
    drawing = parents_drawing(side_by_side(networks), [str(t) for t in range(len(networks))])
    for t, network in enumerate(networks):
        own = layers_of(network)
        drawn = {column.names[t]: column for column in drawing.columns if column.names[t]}
        assert sorted(name for column in drawing.columns if (name := column.names[t])) == sorted(own)
        for name, module in own.items():
            assert drawn[name].parents[t] == sum(p.numel() for p in module.parameters())
            assert drawn[name].widths[t] == len(module.weight)  # type: ignore[arg-type]  # a tensor
        everything = sum(p.numel() for p in network.parameters())
        assert drawing.rest[t] + sum(column.parents[t] for column in drawing.columns) == everything
    assert drawing.total == drawing.parents == sum(p.numel() for n in networks for p in n.parameters())
    assert drawing.unit == max(sum(p.numel() for p in m.parameters()) for n in networks for m in layers_of(n).values())


def events_of(networks: Sequence[nn.Module], spec: ZipSpec) -> tuple[Started, list[LayerZipped], Any]:
    heard: list[Any] = []
    result = zip_networks(networks, [images(40, t) for t in range(len(networks))], spec, on_event=heard.append)
    zipped = [event for event in heard if isinstance(event, LayerZipped)]
    return next(event for event in heard if isinstance(event, Started)), zipped, result


def of_run(started: Started, zipped: Sequence[LayerZipped], **more: Any) -> Drawing:
    joint = joined(started.structures)
    plan = planned_drawing(joint, "abc"[: len(started.structures)], started.shared, Keeping.all(), "waiting")
    data = [{**asdict(event), "counts": asdict(event.counts)} for event in zipped]
    return run_drawing(plan, merged_layers(data, {event.layer: slots_of(event.pairs) for event in zipped}), **more)


@pytest.mark.parametrize("family", ["chain", "residual, of different depth", "concatenation"])
def test_a_plan_is_drawn_as_the_run_turns_out(family: str) -> None:
    """Layer by layer; the plan's numbers come from structures alone, the run's from the stored network's own counts."""
    started, zipped, result = events_of(parents(family), ZipSpec(share=0.5, sharing="all", ridge=1e-3))
    run = of_run(started, zipped, over=True)
    plan = planned_drawing(joined(started.structures), "ab", started.shared, Keeping.all())
    for planned, became in zip(plan.columns, run.columns, strict=True):
        same = replace(became, state=planned.state, heat=planned.heat)
        assert same == planned
    assert run.total == plan.total == result.counts.total


@pytest.mark.parametrize("sharing", ["all", "subsets"])
def test_shared_and_private_are_all_there_is(sharing: str) -> None:
    networks = parents("residual, three")
    started, zipped, result = events_of(networks, ZipSpec(share=0.6, sharing=sharing, ridge=1e-3))
    run = of_run(started, zipped, over=True)
    assert run.total == result.counts.total
    assert sum(column.shared for column in run.columns) == result.counts.shared
    for t in range(3):
        assert sum(column.private[t] for column in run.columns) == result.counts.private[t]
    for event in zipped:
        column = run.columns[run.column(event.layer) or 0]
        together = (event.pairs >= 0).sum(axis=1) > 1
        for t, width in enumerate(column.widths):
            mine = int(np.sum(together & (event.pairs[:, t] >= 0)))
            assert column.shared_channels(t) == mine
            assert column.private_channels(t) == width - mine >= 0
    assert any(column.slots for column in run.columns)


def test_a_run_goes_from_waiting_over_merging_to_merged() -> None:
    started, zipped, _ = events_of(parents("residual, of different depth"), ZipSpec(share=0.5, ridge=1e-3))
    for k in range(len(zipped)):
        run = of_run(started, zipped[:k], current=zipped[k].layer)
        states = {column.name: column.state for column in run.columns if column.slots}
        assert [states[event.layer] for event in zipped] == ["merged"] * k + ["merging"] + ["waiting"] * (
            len(zipped) - k - 1
        )
        assert run.total == (zipped[k - 1].counts.total if k else run.parents)
    stopped = of_run(started, zipped[:2], over=True)
    assert stopped.total == zipped[1].counts.total
    assert {column.state for column in stopped.columns} == {"merged", "apart"}


def test_what_stays_private_says_why() -> None:
    joint = side_by_side(parents("residual, of different depth"))
    drawing = planned_drawing(joint, "ab", {g.name: shared_count(1.0, g.widths) for g in joint.groups if g.sharing})
    for column in drawing.columns:
        if column.head:
            assert set(column.why) == {HEAD}
            assert not column.slots
        elif None in column.names:
            assert [why for why in column.why if why] == [NO_PARTNER]
        else:
            assert column.why == (None, None)
    heads = [column.head for column in drawing.columns]
    assert heads == [False] * (len(heads) - 1) + [True]


def test_harm_colours_by_the_task_that_suffers_most_and_is_told_of_each() -> None:
    joint = side_by_side(parents("chain"))
    drawing = planned_drawing(joint, ("digits", "clothes"), {"fc1": 5, "fc2": 5})
    harmed = with_harm(drawing, {"fc1": (0.25, -0.5), "fc2": (None, 7.0)})
    assert [column.heat for column in harmed.columns] == [0.25, 7.0, None]
    said = drawing_to_json(harmed)["columns"][0]["said"]
    assert said.startswith("fc1: dense, 12 and 16 neurons in digits and clothes; 5 to be shared")
    assert "harm to digits +0.25 points; harm to clothes −0.50 points" in said


def test_structures_with_their_paths_survive_the_store() -> None:
    for network in side_by_side(parents("gate, branches, two heads")).networks:
        assert structure_from_json(structure_to_json(network)) == network
        assert [a < b for a, b in pairwise(range(len(network.joins)))] == [True] * (len(network.joins) - 1)


def test_many_tasks_and_wide_layers_stay_small() -> None:
    """Eight networks of 54 layers of 4,096 channels: what the page is sent grows with layers, not with channels."""
    column = Column("x", "dense", ("x",) * 8, (4096,) * 8, (1,) * 8, 1, (1,) * 8, (((0, 1), 4),), "merged", (None,) * 8,
                    False)  # fmt: skip
    drawing = Drawing(tuple("abcdefgh"), (column,) * 54, (), (), (0,) * 8)
    assert len(str(drawing_to_json(drawing))) < 60_000
