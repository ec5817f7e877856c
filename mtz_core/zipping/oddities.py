"""What looks odd in parents and data before a zip: nothing is wrong for certain, so a user is told and goes on.

A parent that answers its labelled images no better than chance was most likely given other images, labels or another
preparation than in training. A calibration sample in which no image is answered with some class says nothing of what
matters for that class. A layer that gives the same numbers for every image is dead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtz_core.graph.channels import ChannelGraph, WeightLayer
from mtz_core.graph.execution import Program, State, advance, start
from mtz_core.outputs.kind import Output
from mtz_core.outputs.several import Several

LOOKED_AT, LARGE, FEW, BATCH = 300, 20_000, 60, 128
"""So many images of a task are looked at; of images of more than `LARGE` numbers a few."""
FIRST = 8
"""Layers that tell these images apart are alive."""
NEAR = 0.9
"""An error of nine tenths of what chance gives, or more, is near chance."""
RARE = 0.02
"""A class that fewer than 2 % of the labelled images are answered with may be missing from a sample."""


@dataclass(frozen=True)
class _Task:
    """One network, what its outputs say, and its answers to labelled images."""

    name: str
    graph: ChannelGraph
    output: Output
    answers: Tensor
    labels: Tensor | None
    """`None`: this output has none."""


def oddities(
    graphs: Sequence[ChannelGraph],
    outputs: Sequence[Output],
    images: Sequence[Tensor],
    evaluation: Sequence[tuple[Tensor, Tensor] | None],
    device: torch.device,
) -> tuple[str, ...]:
    """Return a sentence, with the way out, for everything that looks odd.

    Args:
        graphs: the networks, traced.
        outputs: what their outputs say.
        images: calibration images (N, ...) of every task.
        evaluation: labelled images of every task, if there are any.
        device: where the networks run.
    """
    found: list[str] = []
    for t, (graph, output, x, pair) in enumerate(zip(graphs, outputs, images, evaluation, strict=True)):
        most = LOOKED_AT if x[0].numel() <= LARGE else FEW
        if pair is not None:
            seen, given = (_answers(graph, some[:most], device) for some in (x, pair[0]))
            task = _Task(f"network {t}", graph, output, given, pair[1][:most])
            for head, own in _by_heads(task, seen):
                if head.labels is not None:
                    found += _near_chance(head, head.labels)
                    found += _missing_classes(head, own)
        found += _dead_layers(f"network {t}", graph, x, device)
    return tuple(found)


def _by_heads(task: _Task, seen: Tensor) -> Iterator[tuple[_Task, Tensor]]:
    """Every output of a task as a task of its own, with its answers to calibration images."""
    output = task.output
    if not isinstance(output, Several):
        yield task, seen
        return
    labels = [None] * len(output.parts) if task.labels is None else output.split_labels(task.labels)
    split = zip(output.names, output.parts, output.split(task.answers), labels, output.split(seen), strict=True)
    for name, part, answers, own, calibration in split:
        yield _Task(f"{task.name}, output {name!r},", task.graph, part, answers, own), calibration


def _answers(graph: ChannelGraph, images: Tensor, device: torch.device) -> Tensor:
    with torch.no_grad():
        return torch.cat([graph.network.outputs(x.to(device)).cpu() for x in torch.split(images, BATCH)])


def _near_chance(task: _Task, labels: Tensor) -> Iterator[str]:
    """A parent that is about as often wrong as one that always gives the most frequent answer."""
    if task.output.type.kind == "regression" or task.output.type.dense or len(labels) < 20:
        return
    error = task.output.scores([(task.answers, labels)]).error
    if task.output.type.kind == "multiclass":
        counted = labels if task.output.type.ignore_index is None else labels[labels != task.output.type.ignore_index]
        chance = 100.0 * (1.0 - float(torch.bincount(counted).max()) / len(counted)) if len(counted) else 0
    else:
        often = labels.reshape(len(labels), -1).double().mean(0)
        chance = 100.0 * float(torch.minimum(often, 1.0 - often).mean())
    if chance > 0 and error >= NEAR * chance:
        yield (
            f"{task.name} answers {error:.1f} % of its labelled inputs wrongly, which is no better than "
            f"always the most frequent answer ({chance:.1f} %): are these the inputs, the order of labels and the "
            "preparation that it was trained with (not normalised twice, or not at all)?"
        )


def _missing_classes(task: _Task, calibration: Tensor) -> Iterator[str]:
    """Classes that the parent gives to labelled images, but to no calibration image."""
    if task.output.type.kind != "multiclass" or task.output.type.dense:
        return
    predicted, seen = (task.output.places(x).argmax(-1).flatten() for x in (task.answers, calibration))
    classes = task.output.places(task.answers).shape[-1]
    often = torch.bincount(predicted, minlength=classes).double() / max(1, len(predicted))
    known = torch.bincount(seen, minlength=classes)
    missing = [int(k) for k in torch.nonzero((often >= RARE) & (known == 0)).flatten()]
    if missing:
        yield (
            f"{task.name} answers none of the {len(seen)} calibration inputs with class "
            f"{', '.join(map(str, missing[:8]))}{' and others' if len(missing) > 8 else ''}, which it gives to "
            f"{100.0 * float(often[missing].sum()):.0f} % of the labelled inputs: calibrate with inputs of all "
            "classes, shuffled"
        )


def _dead_layers(name: str, graph: ChannelGraph, images: Tensor, device: torch.device) -> Iterator[str]:
    """Layers whose outputs, cut off as what follows cuts them off, are the same for all images."""
    dead = _alike(graph, images[:FIRST], device)  # mostly none: then more images need not be looked at
    dead = _alike(graph, images[:64], device) if dead else dead
    if dead:
        yield (
            f"{name}: {', '.join(dict.fromkeys(dead))} {'give' if len(dead) > 1 else 'gives'} the same "
            "numbers for every calibration input, so nothing behind can tell inputs apart by it; is the network "
            "trained, and are the inputs prepared as in training?"
        )


def _alike(graph: ChannelGraph, images: Tensor, device: torch.device) -> list[str]:
    """Layers that give the same for all these images."""
    program = Program(graph.network.module, graph.layers, graph.network.heads)
    matrices = graph.matrices(device)
    by_node = {node: layer for layer in graph.layers for node in layer.nodes}
    state: State = start(program, images.to(device))
    dead: list[str] = []
    with torch.no_grad():
        for node in sorted(by_node, key=program.position):
            advance(program, state, matrices, stop=program.position(node) + 1)
            value = state.values.get(program.nodes[program.position(node)])
            if isinstance(value, Tensor) and _constant(value, program, node, by_node[node]):
                dead.append(by_node[node].name)
    return dead


def _constant(value: Tensor, program: Program, node: str, layer: WeightLayer) -> bool:
    follows = program.sequel(node)
    if follows.summand is None:
        value = (
            value.clamp(follows.floor, follows.ceiling) if (follows.floor, follows.ceiling) != (None, None) else value
        )
    if len(value) < 2 or not layer.width:
        return False
    return bool((value == value[:1]).all())
