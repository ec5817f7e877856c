"""Calibration images on their way through a partly zipped network, one layer at a time.

Between two layers the live activations of every batch are kept, so that the whole walk costs one forward pass. A batch
whose activations do not fit into the budget keeps earlier ones that did, and is recomputed from there. Merging a layer
does not disturb what was computed before it; retraining does, and then the walk starts again (`restart`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, fx

from mtz_core.graph.execution import Matrices, Program, State, advance, layer_input, start
from mtz_core.graph.sequel import Sequel
from mtz_core.network.zipped import ZippedNetwork

BATCHES = 8
"""So many batches of a network's largest activations fit into the budget at least: little of it is left over."""
SMALL_BATCH = 8
"""Images that a batch may hold in any case."""


class Stream:
    """Batches of images and how far each has come.

    Args:
        program: the task's computation.
        images: inputs (N, ...), kept where they are; batches move to `device`.
        batch_size: images per batch.
        budget: bytes of live activations that may be kept between two layers.
        device: where the network runs.
    """

    def __init__(self, program: Program, images: Tensor, batch_size: int, budget: int, device: torch.device) -> None:
        self.program, self.images, self.budget, self.device = program, images, budget, device
        self.starts = range(0, len(images), batch_size)
        self.batch_size = batch_size
        self.states: dict[int, State] = {}

    def restart(self) -> None:
        """Forget all activations: weights upstream have changed."""
        self.states.clear()

    def fork(self, count: int) -> Stream:
        """A stream of the first `count` images that starts where this one is and goes its own way.

        What it keeps counts against its own budget.
        """
        twin = Stream(self.program, self.images[:count], self.batch_size, self.budget, self.device)
        for first, state in self.states.items():
            if first + self.batch_size <= count:
                twin.states[first] = state.copy()
        return twin

    def inputs(
        self, node: str, matrices: Matrices, summand: fx.Node | None = None
    ) -> Iterator[tuple[slice, tuple[Tensor, Tensor | None]]]:
        """Yield for every batch which images it holds, what the layer called at `node` reads, and `summand`'s value."""
        for where, state in self._reached(node, matrices):
            other = None if summand is None else cast(Tensor, state.values.get(summand))
            yield where, (layer_input(self.program, state), other)

    def answers(self, node: str, matrices: Matrices, changed: Matrices) -> Iterator[tuple[slice, Tensor]]:
        """Yield for every batch which images it holds, and the outputs if weights are `changed` from `node` on."""
        for where, state in self._reached(node, matrices):
            with torch.no_grad():
                yield where, self.program.outputs(advance(self.program, state.copy(), changed)).contiguous()

    def _reached(self, node: str, matrices: Matrices) -> Iterator[tuple[slice, State]]:
        """Yield every batch stopped before the layer called at `node`; its state is kept where there is room."""
        position = self.program.position(node)
        for first in self.starts:
            where = slice(first, min(first + self.batch_size, len(self.images)))
            earlier = self.states.pop(first, None)
            if earlier is None or earlier.position > position:
                earlier, state = None, start(self.program, self.images[where].to(self.device))
            else:
                state = earlier.copy()
            with torch.no_grad():
                advance(self.program, state, matrices, stop=position)
            yield where, state
            free = self.budget - sum(kept.bytes() for kept in self.states.values())
            if state.bytes() <= free:
                self.states[first] = state
            elif earlier is not None and earlier.bytes() <= free:
                self.states[first] = earlier


@dataclass
class Twin:
    """The same images on their way through the partly zipped network and, for compensation, through the parent.

    `matrices()` gives the zipped network's weights as they are now, `original()` the parent's; each assembles a matrix
    once for as long as its answer is kept.
    """

    zipped: Stream
    matrices: Callable[[], Matrices]
    parent: Stream | None
    original: Callable[[], Matrices]

    def restart(self) -> None:
        """Forget activations of the zipped network: weights upstream have changed."""
        self.zipped.restart()

    def fork(self, count: int) -> Twin:
        """Streams of the first `count` images that start where these are and go their own way."""
        parent = None if self.parent is None else self.parent.fork(count)
        return Twin(self.zipped.fork(count), self.matrices, parent, self.original)

    def sequel(self, node: str) -> Sequel:
        """What becomes of the output of the layer called at `node`."""
        return self.zipped.program.sequel(node)

    def inputs(
        self, node: str, summand: fx.Node | None = None, both: bool = True
    ) -> Iterator[tuple[slice, tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None] | None]]:
        """Yield for every batch which images it holds, and what the layer called at `node` reads beside `summand`.

        First in the zipped network, then in the parent (`None` without compensation, or unless `both` are wanted).
        """
        zipped = self.zipped.inputs(node, self.matrices(), summand)
        if self.parent is None or not both:
            yield from ((where, found, None) for where, found in zipped)
            return
        before = self.parent.inputs(node, self.original(), summand)
        for (where, found), (_, original) in zip(zipped, before, strict=True):
            yield where, found, original


def twins(
    network: ZippedNetwork,
    images: Sequence[Tensor],
    compensate: bool,
    batch_size: int,
    budget: int,
    device: torch.device,
) -> list[Twin]:
    """One `Twin` per task; together they keep at most `budget` bytes of activations.

    Batches have at most `batch_size` images, fewer where activations are large.
    """
    made = []
    share = budget // (len(images) * (2 if compensate else 1))
    for t, given in enumerate(images):
        largest = network.graphs[t].network.largest
        size = min(batch_size, max(SMALL_BATCH, share // (BATCHES * max(1, largest))))
        zipped, parent = (Stream(network.program(t), given, size, share, device) for _ in range(2))
        original = partial(network.graphs[t].matrices, device)
        made.append(Twin(zipped, partial(network.matrices, t), parent if compensate else None, original))
    return made
