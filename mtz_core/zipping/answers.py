"""What every network's outputs say, found before any work: from its last operation, its labels, and what was asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.record import Carries, call_of
from mtz_core.outputs.kind import Output
from mtz_core.outputs.kinds import output_of
from mtz_core.spec import TypeSpec
from mtz_core.zipping.inference import Ending, Seen, inferred, labels_of

MOST = 1000
"""Calibration images on which the spread of values is measured."""
BATCH = 128


def found_outputs(
    graphs: Sequence[ChannelGraph],
    images: Sequence[Tensor],
    asked: Sequence[TypeSpec | None],
    labels: Sequence[Sequence[tuple[str, Tensor | None]]],
    device: torch.device,
) -> tuple[tuple[Output, ...], tuple[str, ...]]:
    """Return what every task's outputs say, and a note for each that was taken by convention alone.

    Args:
        graphs: the networks, traced.
        images: calibration images (N, ...) of every task.
        asked: types that were asked for.
        labels: for each task pairs of a name for messages and labels, or `None`.
        device: where the networks run.

    Raises:
        SpecError: a type is in doubt or does not fit; the message names the network.
        DataError: labels do not fit.
    """
    outputs, notes = [], []
    for t, (graph, x, wanted, given) in enumerate(zip(graphs, images, asked, labels, strict=True)):
        kind, note = inferred(Seen(f"network {t}", output_shape(graph), ending(graph), labels_of(given)), wanted)
        known = kind.kind == "regression" or (kind.probabilities and wanted is not None)
        outputs.append(output_of(kind, _answers(graph, x, device) if known else None))
        notes += [note] if note else []
    return tuple(outputs), tuple(notes)


def output_shape(graph: ChannelGraph) -> tuple[int, ...]:
    """Shape of one image's outputs."""
    return tuple(graph.network.shapes[_last(graph).name][1:])


def ending(graph: ChannelGraph) -> Ending | None:
    """The last operation, if it makes probabilities.

    Those that change nothing in evaluation, or only the shape, are passed over.
    """
    node, module, shapes = _last(graph), graph.network.module, graph.network.shapes
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
    shape, outputs = shapes[node.name], output_shape(graph)
    axis = call.setting("dim", 1)
    axis = (0 if len(shape) in (1, 3) else 1) if axis is None else int(axis)  # as torch takes it, if it is left out
    axis %= len(shape)
    if reshaped:  # the axis is still known if nothing but the classes is left
        axis = int(axis > 0 and len(outputs) == 1 and outputs[0] == shape[axis])
    return Ending("softmax" if name == "softmax" else "log-softmax", axis)


def _last(graph: ChannelGraph) -> fx.Node:
    """The node whose result is the network's."""
    output: fx.Node = next(node for node in graph.network.module.graph.nodes if node.op == "output")
    return output.all_input_nodes[0]


def _answers(graph: ChannelGraph, images: Tensor, device: torch.device) -> Tensor:
    """Answers to calibration images, on the CPU."""
    with torch.no_grad():
        return torch.cat([graph.network.module(x.to(device)).cpu() for x in torch.split(images[:MOST], BATCH)])
