"""Several networks side by side on one batch: all stop before each weight layer, and go on from what they are given."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from torch import Tensor, nn

from mtz_core.errors import SpecError
from mtz_core.graph.channels import ChannelGraph, WeightLayer
from mtz_core.graph.execution import Program, State, advance, layer_input, start

Walk = Generator[tuple[int, list[Tensor]], list[Tensor], list[Tensor]]
"""Yields a call's number and what it reads in every network, is sent what it writes there; returns the outputs."""
Step = Callable[[int, list[Tensor]], list[Tensor]]


class Lockstep:
    """Programs of corresponding networks, their calls of weight layers aligned.

    `order[c]` is the number of the layer that call c runs.

    Args:
        graphs: channel graphs, corresponding layer by layer.
        programs: the networks' computations, in the same order.

    Raises:
        SpecError: the networks call their layers in different orders, or their feature maps differ in size.
    """

    def __init__(self, graphs: Sequence[ChannelGraph], programs: Sequence[Program]) -> None:
        self.programs = list(programs)
        calls = [_calls(graph, program) for graph, program in zip(graphs, programs, strict=True)]
        self.order = [index for index, _ in calls[0]]
        for t, mine in enumerate(calls):
            if [index for index, _ in mine] != self.order:
                raise SpecError(f"networks 0 and {t} do not call the same weight layers in the same order")
        self.positions = [tuple(position for _, position in per_task) for per_task in zip(*calls, strict=True)]
        for index, positions in zip(self.order, self.positions, strict=True):
            sizes = [_space(graph, program, p) for graph, program, p in zip(graphs, programs, positions, strict=True)]
            if len(set(sizes)) > 1:
                name = next(graph.layers[index].name for graph in graphs)
                raise SpecError(f"the feature maps of {name} differ in size: {sizes}; prepare all images alike")

    def module(self, call: int, task: int = 0) -> nn.Module:
        """The module that a network runs in a call, for its stride and padding."""
        program = self.programs[task]
        return program.module.get_submodule(str(program.nodes[self.positions[call][task]].target))

    def walk(self, x: Tensor, cut: int | None = None, task: int | None = None) -> Walk:
        """Run all networks on inputs `x` (N, ...), call by call; of calls from `cut` on, those of `task` alone."""
        running = list(enumerate(self.programs))
        states = [start(program, x) for program in self.programs]
        for call, positions in enumerate(self.positions):
            if call == cut:
                running = running if task is None else running[task : task + 1]
            for t, program in running:
                advance(program, states[t], _unused, stop=positions[t])
            written = yield call, [layer_input(program, states[t]) for t, program in running]
            for (t, program), y in zip(running, written, strict=True):
                _put(program, states[t], y)
        running = running if task is None else [(task, self.programs[task])]
        return [program.outputs(advance(program, states[t], _unused)) for t, program in running]

    def run(self, x: Tensor, step: Step, cut: int | None = None, task: int | None = None) -> list[Tensor]:
        """Outputs of the networks that `walk` runs to their end, with `step` instead of every call."""
        walk = self.walk(x, cut, task)
        try:
            call, given = next(walk)
            while True:
                call, given = walk.send(step(call, given))
        except StopIteration as stop:
            outputs: list[Tensor] = stop.value
            return outputs


def channel_axis(layer: WeightLayer, x: Tensor) -> int:
    """Axis of a weight layer's input or output along which channels lie."""
    return 1 if layer.kernel else x.ndim - 1


def as_samples(x: Tensor, layer: WeightLayer) -> Tensor:
    """One row per image and place, one column per channel, (N · places, channels)."""
    moved = x.movedim(channel_axis(layer, x), -1)
    return moved.reshape(-1, moved.shape[-1])


def _calls(graph: ChannelGraph, program: Program) -> list[tuple[int, int]]:
    """(layer number, position of the call) in order of execution."""
    number = {node: index for index, layer in enumerate(graph.layers) for node in layer.nodes}
    return [(number[node.name], position) for position, node in enumerate(program.nodes) if node.name in number]


def _space(graph: ChannelGraph, program: Program, position: int) -> tuple[int, ...]:
    """Axes of what a call writes, without images and channels."""
    shape = graph.network.shapes[program.nodes[position].name]
    module = program.module.get_submodule(str(program.nodes[position].target))
    return shape[1:-1] if isinstance(module, nn.Linear) else shape[2:]


def _put(program: Program, state: State, value: Tensor) -> None:
    """Stand in for the node about to run."""
    node = program.nodes[state.position]
    state.values[node] = value
    for source in node.all_input_nodes:
        if program.last_use[source] == state.position:
            state.values.pop(source, None)
    state.position += 1


def _unused(name: str) -> Tensor:
    raise AssertionError(f"{name} is run by the caller")
