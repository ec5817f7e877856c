"""What the untouched network answers, and whether its graph answers so: to a batch, and to one input alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from mtz_core.errors import GraphError
from mtz_core.graph.heads import Head, leaves, mapped
from mtz_core.graph.images import Recorder
from mtz_core.graph.plain import computing_type, twin


def check_network(network: nn.Module) -> None:
    """Raise `GraphError` for what is no network, and for one whose numbers are damaged."""
    if not isinstance(network, nn.Module):
        raise GraphError(f"a network is a torch.nn.Module, got {type(network).__name__}; load the weights into one")
    if isinstance(network, nn.DataParallel):
        raise GraphError("the network is wrapped in nn.DataParallel; pass network.module")
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise GraphError(
                f"parameter {name!r} holds NaN or infinity; the network is damaged or its training diverged"
            )


def own_answer(network: nn.Module, example: Tensor) -> Any:
    """What the untouched network answers to a batch, in evaluation mode, in its own containers.

    Raises `GraphError` if it cannot.
    """
    wide = computing_type(network)
    try:
        with torch.no_grad():
            try:
                output = twin(network, example.device).to(wide)(example.clone())
            except Exception:  # its forward may ask for half precision by name
                if wide is None:
                    raise
                own = next(p.dtype for p in network.parameters() if p.is_floating_point())
                given = example.to(own) if example.is_floating_point() else example.clone()
                output = twin(network, example.device)(given)
    except Exception as error:  # the user's own code runs here
        raise GraphError(
            f"the network fails on an input of shape {tuple(example.shape)}: {error}. Calibration data must have the "
            "shape that the network was trained on"
        ) from error
    numbers = [x for _, x in leaves(output) if isinstance(x, Tensor) and x.is_floating_point() and x.numel()]
    if not all(math.isfinite(float(x.abs().max())) for x in numbers):
        raise GraphError("the network's output on the calibration data is NaN or infinite; check weights and inputs")
    return output if wide is None else _in_precision(output, wide)


def _in_precision(answer: Any, wide: torch.dtype) -> Any:
    """An answer in another floating type, in plain containers, or named tuples, that have the same names."""

    def converted(leaf: Any) -> Any:
        return leaf.to(wide) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return mapped(answer, converted, named=True)


def alike(output: Any, expected: Any, heads: Sequence[Head]) -> bool:
    """Whether two answers have the same leaves, as far as heads go, and the same numbers there."""
    if [name for name, _ in leaves(mapped(output))] != [name for name, _ in leaves(mapped(expected))]:
        return False
    own, other = ([value for _, value in leaves(answer)] for answer in (output, expected))
    for leaf in [head.leaf for head in heads] or [0]:
        mine, theirs = own[leaf], other[leaf]
        if not isinstance(mine, Tensor) or mine.shape != theirs.shape:
            return False
        if not torch.allclose(mine, theirs, rtol=1e-2, atol=1e-3 * float(theirs.abs().max())):
            return False
    return True


def one_by_one(
    network: nn.Module,
    traced: fx.GraphModule,
    layers: Collection[str],
    example: Tensor,
    expected: Any,
    heads: Sequence[Head],
) -> Recorder:
    """Make sure that the answer to one input does not depend on the others, nor its graph on their number.

    Returns the graph's run on the first input alone.

    Raises:
        GraphError: which of both it is, and the way out.
    """
    name = type(network).__name__
    try:
        alone = own_answer(network, example[:1])
    except GraphError as error:
        raise GraphError(
            f"{name} answers a batch, but not one input alone ({error}); its answers depend on the batch, as those of "
            "a BatchNorm without running statistics do. Give it statistics (track_running_stats=True, and a pass over "
            "training data), then zip"
        ) from error
    first = mapped(expected, lambda leaf: leaf[:1] if isinstance(leaf, Tensor) and leaf.ndim else leaf)
    if not alike(alone, first, heads):
        raise GraphError(
            f"{name} answers one input differently when others are in the batch (a BatchNorm without running "
            "statistics, or a mean over all inputs); no zipped network could stand for it. Give BatchNorm statistics "
            "(track_running_stats=True, and a pass over training data), then zip"
        )
    recorder = Recorder(traced, layers)
    try:
        again: Any = recorder.of(example[:1].clone())
    except Exception as error:  # the user's own code runs here
        again = error
    if not alike(again, alone, heads):
        raise GraphError(
            f"{name} builds the number of inputs in a batch into its computation, so its graph only serves batches of "
            f"{len(example)}. Take sizes from the tensor where they are used (x.new_zeros(x.shape[0], …), x.flatten(1))"
        )
    return recorder
