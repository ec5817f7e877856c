"""All tasks' answers to one image, where what the tasks have in common is computed once.

Layers of a trunk have equal weights in all tasks, up to the order of their channels. Whatever follows from the image by
such layers, and by operations without parameters of their own (see `graph.recipes`), is computed in the first task's
network; the others take it over, with channels in their own order, and go on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from mtz_core.errors import GraphError
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.execution import Matrices, Program, State, advance, start
from mtz_core.graph.layout import Layout
from mtz_core.graph.recipes import recipes
from mtz_core.slots import Table, slot_of
from mtz_core.zipped import ZippedNetwork

TOLERANCE = 1e-3
"""Largest deviation of an answer, relative to the largest output, that rounding may cause."""


@dataclass(frozen=True)
class Takeover:
    """A value that a task takes over from the first one: the first task's node, and which places go where.

    `order` holds the places of the channels' axes in the first task's value; `None`: as they are. `axes` are these.
    """

    node: fx.Node
    axes: tuple[int, ...]
    order: Tensor | None

    def of(self, value: Any) -> Any:
        """The value as the task has it."""
        if self.order is None:
            return value
        first, last = self.axes[0], self.axes[-1]
        flat = value.flatten(first, last)
        return flat.index_select(first, self.order.to(value.device)).reshape(value.shape)


class Together(nn.Module):
    """Computes the answers of all tasks of a zipped network to the same images.

    `forward(x)` returns one tensor per task, equal to `network(x, task)`. What the tasks cannot have in common is
    computed for each; that is all of it where no trunk was laid (see `ZipSpec.trunk`).

    Raises:
        GraphError: the answers would not be the same.

    Example:
        >>> from mtz_core import ZipSpec, zip_networks
        >>> a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
        >>> zipped = zip_networks([a, b], [torch.randn(200, 4), torch.randn(200, 4)], ZipSpec(trunk="0")).network
        >>> [answer.shape for answer in Together(zipped)(torch.randn(5, 4))]
        [torch.Size([5, 3]), torch.Size([5, 3])]
    """

    def __init__(self, network: ZippedNetwork) -> None:
        super().__init__()
        self.network = network
        graphs = network.graphs
        programs = [network.program(t) for t in range(network.tasks)]
        known = [self._recipes(graph, program) for graph, program in zip(graphs, programs, strict=True)]
        first: dict[str, fx.Node] = {}
        for node, recipe in known[0].items():
            first.setdefault(recipe, node)
        self.programs, self.taken = [programs[0]], [dict[fx.Node, Takeover]()]
        for t in range(1, network.tasks):
            common = {node for node, recipe in known[t].items() if recipe in first and node.op != "placeholder"}
            rest = programs[t].without(common)
            needed = {source for node in rest.nodes for source in node.all_input_nodes if source in common}
            self.programs.append(rest)
            self.taken.append({node: self._takeover(t, node, first[known[t][node]]) for node in needed})
        self._kept = {takeover.node for taken in self.taken for takeover in taken.values()}
        self._check()

    def _check(self) -> None:
        """Compare all answers to the example with what each task computes alone."""
        x = self.network.graphs[0].network.example
        with torch.no_grad():
            for t, answer in enumerate(self(x)) if any(self.taken) else ():
                alone = self.network(x, task=t)
                if float((answer - alone).abs().max()) > TOLERANCE * float(alone.abs().max()):
                    raise GraphError(
                        f"task {t} answers otherwise when what it has in common with the first task is computed once; "
                        "its forward does something that tracing cannot see. Use network(x, task) for each task"
                    )

    def _recipes(self, graph: ChannelGraph, program: Program) -> Mapping[fx.Node, str]:
        numbers = {node: k for k, layer in enumerate(graph.layers) for node in layer.nodes}
        ready = {index for index in self.network.trunk if self.network.merged[index]}
        found = recipes(program.module, numbers, graph.network.example.shape[1:], ready)
        order = {node: k for k, node in enumerate(program.nodes)}
        return {node: recipe for node, recipe in found.items() if node in order}

    def _takeover(self, t: int, mine: fx.Node, theirs: fx.Node) -> Takeover:
        graphs = self.network.graphs
        own, other = graphs[t].places.get(mine.name), graphs[0].places.get(theirs.name)
        if own is None or other is None:
            return Takeover(theirs, (), None)
        axes = [k + 1 for k, size in enumerate(own.shape) if size > 1]
        if not axes:
            return Takeover(theirs, (), None)
        span = range(axes[0], axes[-1] + 1)
        lengths = [graphs[t].network.shapes[mine.name][axis] for axis in span]
        wanted, given = (
            np.broadcast_to(layout.reshape(layout.shape[span[0] - 1 : span[-1]]), lengths).reshape(-1)
            for layout in (self._numbered(t, own), other)
        )
        order = places_of(wanted, given)
        alike = np.array_equal(order, np.arange(len(order)))
        return Takeover(theirs, tuple(span), None if alike else torch.as_tensor(order))

    def _numbered(self, t: int, layout: Layout) -> Layout:
        """A layout of task t with the first task's numbers of the channels that share its slots."""
        graphs, network = self.network.graphs, self.network
        found = layout.copy()
        for g, table in enumerate(network.tables):
            offset, width = graphs[t].offsets[g], network.widths[t][g]
            mine = (layout >= offset) & (layout < offset + width) if offset >= 0 else np.zeros_like(layout, dtype=bool)
            if mine.any():
                found[mine] = graphs[0].offsets[g] + _partners(table, t, width)[layout[mine] - offset]
        return found

    def frozen(self) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """The same computation with the weights as they are now, assembled once and for all."""
        with torch.no_grad():
            matrices = [self.network.matrices(t) for t in range(self.network.tasks)]
            for lookup, graph in zip(matrices, self.network.graphs, strict=True):
                for layer in graph.layers:
                    if layer.width:
                        lookup(layer.name)
        return partial(self._answers, matrices=matrices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return every task's outputs for inputs `x` (N, ...)."""
        return self._answers(x, [self.network.matrices(t) for t in range(self.network.tasks)])

    def _answers(self, x: Tensor, matrices: Sequence[Matrices]) -> tuple[Tensor, ...]:
        answers: list[Tensor] = []
        values: dict[fx.Node, Any] = {}
        for t, (program, taken) in enumerate(zip(self.programs, self.taken, strict=True)):
            state = start(program, x)
            if t == 0:
                for position, node in enumerate(program.nodes):
                    advance(program, state, matrices[t], stop=position + 1)
                    if node in self._kept:
                        values[node] = state.values[node]
            else:
                state = State(0, {program.nodes[0]: x, **{n: each.of(values[each.node]) for n, each in taken.items()}})
            answers.append(advance(program, state, matrices[t]).result.contiguous())
        return tuple(answers)


def _partners(table: Table, t: int, width: int) -> Table:
    """The first task's channel in the slot of each of task t's channels."""
    partners: Table = table[slot_of(table, t, width), 0]
    return partners


def places_of(wanted: Layout, given: Layout) -> Layout:
    """For every entry of `wanted` (n,) the place of the same number in `given` (n,): the k-th for its k-th appearance.

    Numbers below zero stay where they are.

    >>> places_of(np.array([7, 7, 5, -1]), np.array([5, 7, 7, -1])).tolist()
    [1, 2, 0, 3]
    """
    places: dict[int, list[int]] = {}
    for place, number in enumerate(given):
        places.setdefault(int(number), []).append(place)
    seen: dict[int, int] = {}
    result = np.arange(len(wanted))
    for place, number in enumerate(wanted):
        if number >= 0:
            turn = seen.get(int(number), 0)
            seen[int(number)] = turn + 1
            result[place] = places[int(number)][turn]
    return result
