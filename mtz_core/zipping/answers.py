"""What every network's outputs say, found before any work: from its last operation, its labels, and what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mtz_core.calibration.inputs import Labels
from mtz_core.errors import DataError, SpecError
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.heads import Head, leaves
from mtz_core.graph.record import Carries, call_of
from mtz_core.outputs.kind import Output
from mtz_core.outputs.kinds import output_of
from mtz_core.outputs.labels import check_labels
from mtz_core.outputs.several import Several
from mtz_core.spec import TypeSpec
from mtz_core.zipping.inference import Ending, Seen, inferred, labels_of

MOST = 1000
"""Calibration images on which the spread of values is measured."""
BATCH = 128


def found_outputs(
    graphs: Sequence[ChannelGraph],
    images: Sequence[Tensor],
    asked: Sequence[TypeSpec | None],
    labels: Sequence[Sequence[tuple[str, Labels | None]]],
    device: torch.device,
) -> tuple[tuple[Output, ...], tuple[str, ...]]:
    """Return what every task's outputs say, and a note for each that was taken by convention alone.

    Args:
        graphs: the networks, traced.
        images: calibration images (N, ...) of every task.
        asked: types that were asked for.
        labels: for each task pairs of a name for messages and labels, or `None`; of several outputs by their names.
        device: where the networks run.

    Raises:
        SpecError: a type is in doubt or does not fit; the message names the network.
        DataError: labels do not fit.
    """
    outputs, notes = [], []
    for t, (graph, x, wanted, given) in enumerate(zip(graphs, images, asked, labels, strict=True)):
        heads, where = _heads(graph), f"network {t}"
        _check_names(where, heads, wanted, given)
        parts: list[Output] = []
        answers: list[Tensor] = []
        for k, head in enumerate(heads):
            named = f"{where}, output {head.name!r}," if len(heads) > 1 else where
            seen = Seen(named, head.shape or (1,), _ending(graph, head), _labels_of(given, head, len(heads)))
            own = None if wanted is None else wanted.of_head(head.name)
            kind, note = inferred(seen, own)
            if (kind.kind == "regression" or (kind.probabilities and own is not None)) and not answers:
                answers = _answers(graph, x, heads, device)
            parts.append(output_of(kind, answers[k] if answers else None))
            notes += [note] if note else []
        shapes = [head.shape or (1,) for head in heads]
        outputs.append(parts[0] if len(parts) == 1 else Several.of([head.name for head in heads], parts, shapes))
    return tuple(outputs), tuple(notes)


def require_labels(graph: ChannelGraph, output: Output, labels: Labels, where: str) -> None:
    """Raise `DataError` unless labels fit what the outputs of a network say."""
    parts = output.parts if isinstance(output, Several) else (output,)
    for head, part in zip(_heads(graph), parts, strict=True):
        given = labels if isinstance(labels, Tensor) else labels.get(head.name)
        if given is not None:
            check_labels(given, part.type, head.shape or (1,), where)


def with_labels(output: Output, labels: Labels, where: str) -> Tensor:
    """A task's labels as one tensor, as its `output` takes them. Raises `DataError` if they are of other outputs."""
    if isinstance(labels, Tensor):
        return labels
    return output.joined_labels(labels, where) if isinstance(output, Several) else next(iter(labels.values()))


def _heads(graph: ChannelGraph) -> tuple[Head, ...]:
    """What the network answers with; one head without a name, if that is one tensor."""
    return graph.network.heads or (Head("", 0, tuple(graph.network.shapes[_nodes(graph)[0].name][1:])),)


def _check_names(where: str, heads: Sequence[Head], asked: TypeSpec | None, given: Sequence[tuple[str, Any]]) -> None:
    """Raise `SpecError` or `DataError` for types and labels of outputs that are not there, or of none of several."""
    names = [head.name for head in heads]
    listed = ", ".join(map(repr, names)) if any(names) else "one tensor"
    for name in () if asked is None or asked.heads is None else asked.heads:
        if name not in names:
            raise SpecError(f"types: {where} has no output {name!r}; it answers with {listed}")
    for labels_name, labels in given:
        if isinstance(labels, Tensor) and len(names) > 1:
            raise DataError(
                f"{labels_name} has labels that name no output; {where} answers with {listed}: give a mapping from "
                f"names to labels, e.g. {{{names[0]!r}: labels}}"
            )
        for name in labels if isinstance(labels, Mapping) else ():
            if name not in names:
                raise DataError(f"{labels_name} has labels for {name!r}; {where} answers with {listed}")


def _labels_of(given: Sequence[tuple[str, Labels | None]], head: Head, heads: int) -> tuple[tuple[str, Tensor], ...]:
    """A head's own labels."""
    found: list[tuple[str, Tensor | None]] = []
    for where, labels in given:
        if isinstance(labels, Mapping):
            named = f"{where}, output {head.name!r}," if heads > 1 else where
            found.append((named, labels.get(head.name)))
        else:
            found.append((where, labels))
    return labels_of(found)


def _ending(graph: ChannelGraph, head: Head) -> Ending | None:
    """The last operation of an output, if it makes probabilities.

    Those that change nothing in evaluation, or only the shape, are passed over.
    """
    node, module, shapes = _nodes(graph)[head.leaf], graph.network.module, graph.network.shapes
    call, reshaped = call_of(node, module), False
    while call.operation is not None and (call.operation.same or call.operation.carries is Carries.RESHAPES):
        reshaped |= not call.operation.same
        node = node.all_input_nodes[0]
        call = call_of(node, module)
    name = "" if call.operation is None else call.operation.name
    if name == "sigmoid":
        return Ending("sigmoid")
    if name not in ("softmax", "log-softmax"):
        return None
    shape, outputs = shapes[node.name], head.shape
    axis = call.setting("dim", 1)
    axis = (0 if len(shape) in (1, 3) else 1) if axis is None else int(axis)  # as torch takes it, if it is left out
    axis %= len(shape)
    if reshaped:  # the axis is still known if nothing but the classes is left
        axis = int(axis > 0 and len(outputs) == 1 and outputs[0] == shape[axis])
    return Ending("softmax" if name == "softmax" else "log-softmax", axis)


def _nodes(graph: ChannelGraph) -> list[Any]:
    """The leaves of the network's answer: nodes, or constants."""
    output: fx.Node = next(node for node in graph.network.module.graph.nodes if node.op == "output")
    return [leaf for _, leaf in leaves(output.args[0])]


def _answers(graph: ChannelGraph, images: Tensor, heads: Sequence[Head], device: torch.device) -> list[Tensor]:
    """Every head's answers to calibration images (N, ...), on the CPU."""
    with torch.no_grad():
        batches = [graph.network.outputs(x.to(device)).cpu() for x in torch.split(images[:MOST], BATCH)]
    outputs = torch.cat(batches)
    pieces = torch.split(outputs, [head.numbers for head in heads], 1) if len(heads) > 1 else [outputs]
    return [piece.reshape(len(piece), *(head.shape or (1,))) for piece, head in zip(pieces, heads, strict=True)]
