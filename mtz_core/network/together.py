"""All tasks' answers to one image, where what the tasks have in common is computed once.

Layers of a trunk have equal weights in all tasks, up to the order of their channels. Whatever follows from the image by
such layers, and by operations without parameters of their own (see `graph.recipes`), is computed in the first task's
network; the others take it over, with channels in their own order, and go on from there. Of the last layer of a trunk
they take over the sums, and give them a scale and a bias of their own.
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
from mtz_core.graph.heads import joined, scales
from mtz_core.graph.layout import Layout
from mtz_core.graph.recipes import recipes
from mtz_core.network.zipped import ZippedNetwork, require_size
from mtz_core.pairing.slots import Table, slot_of

TOLERANCE = 1e-3
"""Largest deviation of an answer, relative to the largest output, that rounding may cause."""


@dataclass(frozen=True)
class Takeover:
    """A value that a task takes over from the first one: the first task's node, and what goes where.

    `order` indexes the channels' axes, `axes`, of the first task's value; `None`: as they are.
    If it is the output of weight layer number `layer`, the task has a scale and a bias of its own there.
    """

    node: fx.Node
    axes: tuple[int, ...]
    order: Tensor | None
    layer: int | None = None

    def of(self, value: Any) -> Any:
        """The value as the task has it."""
        if self.order is None:
            return value
        first, last = self.axes[0], self.axes[-1]
        flat = value.flatten(first, last)
        return flat.index_select(first, self.order.to(value.device)).reshape(value.shape)


class Together(nn.Module):
    """Computes the answers of all tasks of a zipped network to the same images.

    `forward(x)` returns one answer per task, equal to `network(x, task)`. What the tasks cannot have in common is
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
        sums = self._sums(programs, known)
        for t in range(1, network.tasks):
            common = {n: first[recipe] for n, recipe in known[t].items() if recipe in first and n.op != "placeholder"}
            if sums:
                common[sums[t]] = sums[0]
            rest = programs[t].without(common)
            needed = {source for node in rest.nodes for source in node.all_input_nodes if source in common}
            layers = {sums[t]: network.trunk - 1} if sums else {}
            self.programs.append(rest)
            self.taken.append({node: self._takeover(t, node, common[node], layers.get(node)) for node in needed})
        self._kept = {takeover.node for taken in self.taken for takeover in taken.values()}
        self._check()

    def _check(self) -> None:
        """Compare all answers to the example with what each task computes alone."""
        x = self.network.joint.first.network.example
        with torch.no_grad():
            for t, answer in enumerate(self(x)) if any(self.taken) else ():
                heads = self.network.graphs[t].network.heads
                alone = self.network.outputs(x, task=t)
                if float(((joined(answer, heads) - alone).abs() / scales(alone, heads)).max()) > TOLERANCE:
                    raise GraphError(
                        f"task {t} answers otherwise when what it has in common with the first task is computed once; "
                        "its forward does something that tracing cannot see. Use network(x, task) for each task"
                    )

    def _recipes(self, graph: ChannelGraph, program: Program) -> Mapping[fx.Node, str]:
        numbers = {node: k for k, layer in enumerate(graph.layers) for node in layer.nodes}
        ready = {index for index in self.network.common if self.network.merged[index]}
        found = recipes(program.module, numbers, graph.network.example.shape[1:], ready)
        order = {node: k for k, node in enumerate(program.nodes)}
        return {node: recipe for node, recipe in found.items() if node in order}

    def _sums(self, programs: Sequence[Program], known: Sequence[Mapping[fx.Node, str]]) -> list[fx.Node]:
        """The node of the trunk's last layer in every task, if these differ by scale and bias only; else none."""
        network, index = self.network, self.network.trunk - 1
        if index < 0 or index in network.common or not network.merged[index]:
            return []
        nodes = [p.nodes[p.position(g.layers[index].nodes[0])] for p, g in zip(programs, network.graphs, strict=True)]
        reads = {own.get(node.all_input_nodes[0]) for node, own in zip(nodes, known, strict=True)}
        return nodes if len(reads) == 1 and None not in reads else []

    def _takeover(self, t: int, mine: fx.Node, theirs: fx.Node, layer: int | None) -> Takeover:
        graphs = self.network.graphs
        own, other = graphs[t].layouts.get(mine.name), self.network.joint.first.layouts.get(theirs.name)
        axes = [] if own is None else [k + 1 for k, size in enumerate(own.shape) if size > 1]
        if own is None or other is None or not axes:
            return Takeover(theirs, (), None, layer)
        span = range(axes[0], axes[-1] + 1)
        lengths = [graphs[t].network.shapes[mine.name][axis] for axis in span]
        wanted, given = (
            np.broadcast_to(layout.reshape(layout.shape[span[0] - 1 : span[-1]]), lengths).reshape(-1)
            for layout in (self._numbered(t, own), other)
        )
        order = indices_of(wanted, given)
        alike = np.array_equal(order, np.arange(len(order)))
        return Takeover(theirs, tuple(span), None if alike else torch.as_tensor(order), layer)

    def _numbered(self, t: int, layout: Layout) -> Layout:
        """A layout of task t with the first task's numbers of the channels that share its slots."""
        graphs, network = self.network.graphs, self.network
        found = layout.copy()
        for g, table in enumerate(network.tables):
            offset, width = graphs[t].offsets[g], network.joint.widths[t][g]
            mine = (layout >= offset) & (layout < offset + width) if offset >= 0 else np.zeros_like(layout, dtype=bool)
            if mine.any():
                found[mine] = network.joint.first.offsets[g] + _partners(table, t, width)[layout[mine] - offset]
        return found

    def frozen(self) -> Callable[[Tensor], tuple[Any, ...]]:
        """The same computation with the weights as they are now, assembled once and for all."""
        with torch.no_grad():
            matrices = [self.network.matrices(t) for t in range(self.network.tasks)]
            for lookup, graph in zip(matrices, self.network.graphs, strict=True):
                for layer in graph.layers:
                    if layer.width:
                        lookup(layer.name)
        return partial(self._answers, matrices=matrices)

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        """Return every task's answer to inputs `x` (N, ...)."""
        return self._answers(x, [self.network.matrices(t) for t in range(self.network.tasks)])

    def _answers(self, x: Tensor, matrices: Sequence[Matrices]) -> tuple[Any, ...]:
        for graph in self.network.graphs:
            require_size(graph, x)
        answers: list[Any] = []
        values: dict[fx.Node, Any] = {}
        for t, (program, taken) in enumerate(zip(self.programs, self.taken, strict=True)):
            state = start(program, x)
            if t == 0:
                for position, node in enumerate(program.nodes):
                    advance(program, state, matrices[t], stop=position + 1)
                    if node in self._kept:
                        values[node] = state.values[node]
            else:
                mine = {node: self._own(t, each, each.of(values[each.node]), matrices) for node, each in taken.items()}
                state = State(0, {program.nodes[0]: x, **mine})
            answers.append(advance(program, state, matrices[t]).result)
        return tuple(answers)

    def _own(self, t: int, taken: Takeover, value: Any, matrices: Sequence[Matrices]) -> Any:
        """The value with task t's scale and bias instead of the first task's, if it has some of its own."""
        if taken.layer is None:
            return value
        first, own = (self.network.graphs[x].layers[taken.layer] for x in (0, t))
        scale = self.network.scale(taken.layer, t)
        gain = value.new_ones(own.width) if scale is None else scale.to(value)
        offset = torch.zeros_like(gain)
        if own.bias:
            before = matrices[0](first.name)[:, -1]
            before = before if taken.order is None else before[taken.order.to(before.device)]
            offset = matrices[t](own.name)[:, -1] - gain * before
        shape = [-1 if axis in taken.axes else 1 for axis in range(value.ndim)]
        return value * gain.reshape(shape) + offset.reshape(shape)


def _partners(table: Table, t: int, width: int) -> Table:
    """The first task's channel in the slot of each of task t's channels."""
    partners: Table = table[slot_of(table, t, width), 0]
    return partners


def indices_of(wanted: Layout, given: Layout) -> Layout:
    """For every entry of `wanted` (n,) the index of the same number in `given` (n,): the k-th for its k-th appearance.

    Numbers below zero stay where they are.

    >>> indices_of(np.array([7, 7, 5, -1]), np.array([5, 7, 7, -1])).tolist()
    [1, 2, 0, 3]
    """
    indices: dict[int, list[int]] = {}
    for index, number in enumerate(given):
        indices.setdefault(int(number), []).append(index)
    seen: dict[int, int] = {}
    result = np.arange(len(wanted))
    for index, number in enumerate(wanted):
        if number >= 0:
            turn = seen.get(int(number), 0)
            seen[int(number)] = turn + 1
            result[index] = indices[int(number)][turn]
    return result
