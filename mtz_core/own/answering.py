"""Asking a network that was brought about some of its inputs, so that pages can show what it answers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtz_core.data.imageset import ImageSet, shuffled
from mtz_core.data.reading import Preparation
from mtz_core.data.tasks import TaskData
from mtz_core.graph.channels import ChannelGraph
from mtz_core.outputs.flips import OutputAnswers
from mtz_core.outputs.kind import Output
from mtz_core.own.heads import Whose, of_outputs
from mtz_core.own.samples import Samples, wrong
from mtz_core.spec import TypeSpec
from mtz_core.zipping.answered import Answered, asked_alone
from mtz_core.zipping.answers import found_outputs, require_labels, with_labels

MOST_ASKED, BATCH, MOST_SECONDS = 500, 32, 5.0
"""Inputs that are asked about, at once and in all, and the seconds after which no more are."""
MOST_KEPT, MOST_NUMBERS = 120, 2**22
"""Inputs that are kept to be looked at, and the numbers that they may have together, if one has not more."""
MOST_PLACES = 2**20
"""Answers of one output that are kept."""


def some_answers(
    graph: ChannelGraph, data: TaskData, asked: tuple[TypeSpec | None, Whose], how: Preparation
) -> Samples:
    """Ask about test inputs, or, without labels, about some that calibrate; half of those kept are answered wrong.

    Raises `MTZError` where nothing says what the outputs mean, or labels do not fit.
    """
    tested = data.test if data.test is not None and data.test.has_labels else None
    source = data.calibration if tested is None else tested
    chosen = shuffled(len(source), 0)[:MOST_ASKED]
    output = _output(graph, source, chosen, asked, how, tested is not None)
    batches: list[tuple[Answered, ...]] = []
    began = time.monotonic()
    for k in range(0, len(chosen), BATCH):
        if batches and time.monotonic() - began > MOST_SECONDS:
            break
        x, y = source.images(chosen[k : k + BATCH], how), None
        if tested is not None:
            x, y = of_outputs(tested.labelled(chosen[k : k + BATCH], how), asked[1])
            require_labels(graph, output, y, "data")
            y = with_labels(output, y, "data")
        batches.append(asked_alone(graph.network.outputs, output, x, y))
    outputs = _joined(batches, data.classes or ())
    count = len(outputs[0].parent)
    shown = _to_show(wrong(outputs, count), source.images(chosen[:1], how).numel())
    inputs = source.images(chosen[shown], how)
    kept = inputs.numpy() if not inputs.is_floating_point() else inputs.float().numpy()
    return Samples(outputs, kept, shown, tested is not None)


def _output(
    graph: ChannelGraph, source: ImageSet, chosen: Any, asked: tuple[TypeSpec | None, Whose], how: Preparation,
    labelled: bool,
) -> Output:  # fmt: skip
    """What the network's outputs say, as labels or the type that was asked for have it."""
    kind, whose = asked
    labels: list[tuple[str, Tensor | dict[str, Tensor] | None]] = []
    if labelled:
        targets = source.targets(chosen if source.masks is None else chosen[:BATCH], how)
        labels = [("data", of_outputs((None, targets), whose)[1])]
    (output,), _ = found_outputs([graph], [graph.network.example], [kind], [labels], torch.device("cpu"))
    return output


def _joined(batches: list[tuple[Answered, ...]], names: tuple[str, ...]) -> tuple[OutputAnswers, ...]:
    """The answers of all batches, of so many inputs that no output has more than `MOST_PLACES` numbers."""
    outputs = []
    most = min(MOST_PLACES // max(1, one.parent[:1].numel()) for one in batches[0]) or 1
    for parts in zip(*batches, strict=True):
        answers = torch.cat([part.parent for part in parts])[:most].numpy()
        truths = [part.truth for part in parts if part.truth is not None]
        truth = torch.cat(truths)[:most].numpy() if truths else None
        called = names if len(batches[0]) == 1 else ()
        outputs.append(OutputAnswers(parts[0].name, parts[0].type, called, answers, answers, truth))
    return tuple(outputs)


def _to_show(missed: Any, numbers: int) -> Any:
    """The numbers of inputs to keep, those answered wrong for a half, in the order in which they were drawn."""
    most = max(1, min(MOST_KEPT, MOST_NUMBERS // max(1, numbers)))
    bad, good = np.flatnonzero(missed), np.flatnonzero(~missed)
    few = bad[: max(most // 2, most - len(good))]
    return np.sort(np.concatenate([few, good[: most - len(few)]])).astype(np.int64)
