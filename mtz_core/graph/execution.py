"""Run a traced network with weight matrices from elsewhere, to the end or up to a layer, and go on from there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from mtz_core.graph.channels import WeightLayer
from mtz_core.graph.heads import Head, joined, mapped
from mtz_core.graph.recurrent import Recurrence
from mtz_core.graph.sequel import Sequel, eager, sequel

Matrices = Callable[[str], Tensor]
"""Layer name → weight matrix (n, d)."""


@dataclass
class Program:
    """The nodes of a traced network in order, with what is needed to free each value after its last use."""

    module: fx.GraphModule
    layers: Mapping[str, WeightLayer]
    """Node name of a managed layer's call → the layer."""
    heads: tuple[Head, ...]
    """What its answer consists of (see `graph.heads`)."""
    managed: Mapping[str, WeightLayer] = field(init=False)
    """The same layers by their names."""
    nodes: list[fx.Node] = field(init=False)
    last_use: dict[fx.Node, int] = field(init=False)

    def __init__(self, module: fx.GraphModule, layers: tuple[WeightLayer, ...], heads: tuple[Head, ...] = ()) -> None:
        self.module, self.heads = module, heads
        self.layers = {node: layer for layer in layers for node in layer.nodes}
        self.managed = {layer.name: layer for layer in layers if layer.width}
        self._order(eager(list(module.graph.nodes), self.layers))

    def _order(self, nodes: list[fx.Node]) -> None:
        self.nodes, self.last_use = nodes, {}
        for position, node in enumerate(self.nodes):
            for source in node.all_input_nodes:
                self.last_use[source] = position

    def without(self, known: Collection[fx.Node]) -> Program:
        """The same computation for a state that holds the values of `known` nodes, as far as others need them."""
        rest = copy.copy(self)
        rest._order([node for node in self.nodes if node not in known])
        return rest

    def outputs(self, state: State) -> Tensor:
        """The answer of a state that is at its end, as one tensor (see `graph.heads.joined`)."""
        return joined(state.result, self.heads)

    def position(self, node_name: str) -> int:
        """Index of a node in the order of execution."""
        return next(k for k, node in enumerate(self.nodes) if node.name == node_name)

    def sequel(self, node_name: str) -> Sequel:
        """What becomes of the output of the weight layer called at a node."""
        position = {node: k for k, node in enumerate(self.nodes)}
        return sequel(self.module, self.nodes[self.position(node_name)], position)


@dataclass
class State:
    """Execution stopped before node `position`; `values` holds what later nodes still need."""

    position: int
    values: dict[fx.Node, Any]
    result: Any = None

    def copy(self) -> State:
        """The same state; either may be moved on without the other (no operation overwrites its input)."""
        return State(self.position, dict(self.values), self.result)

    def bytes(self) -> int:
        """Memory of the live activations."""
        return sum(v.numel() * v.element_size() for v in self.values.values() if isinstance(v, Tensor))


def start(program: Program, x: Tensor) -> State:
    """State before the first node, with `x` as the network's input."""
    return State(0, {program.nodes[0]: x})


def advance(program: Program, state: State, matrices: Matrices, stop: int | None = None) -> State:
    """Run nodes until `stop` (exclusive; to the end if `None`); returns the same state, moved on."""
    end = len(program.nodes) if stop is None else stop
    while state.position < end:
        node = program.nodes[state.position]
        if node.op == "output":
            state.result = mapped(fx.node.map_arg(node.args[0], lambda n: state.values[n]), _contiguous)
        elif node.op == "placeholder":
            if node not in state.values and node.args:
                state.values[node] = node.args[0]
        else:
            state.values[node] = _call(program, node, state.values, matrices)
        for source in node.all_input_nodes:
            if program.last_use[source] == state.position:
                state.values.pop(source, None)
        state.position += 1
    return state


def execute(program: Program, x: Tensor, matrices: Matrices) -> Tensor:
    """Output of the network for inputs `x` (N, ...), contiguous; of several heads as one tensor."""
    return program.outputs(advance(program, start(program, x), matrices)).contiguous()


def respond(program: Program, x: Tensor, matrices: Matrices) -> Any:
    """Answer of the network to inputs `x` (N, ...) as the network itself gives it, in plain containers."""
    return advance(program, start(program, x), matrices).result


def _contiguous(value: Any) -> Any:
    return value.contiguous() if isinstance(value, Tensor) else value


def layer_input(program: Program, state: State) -> Tensor:
    """The activation that the node about to run (a weight layer's call) reads."""
    node = program.nodes[state.position]
    return cast(Tensor, state.values[cast(fx.Node, node.args[0])])


def apply_layer(module: nn.Module, layer: WeightLayer, matrix: Tensor, x: Tensor) -> Tensor:
    """Output of a weight layer with the given (n, d) matrix instead of its own weights."""
    if isinstance(module, Recurrence):
        return module.run(x, matrix, layer.bias)[0]
    kernel, bias = _apart(layer, matrix)
    if isinstance(module, nn.Linear):
        return F.linear(x, kernel, bias)
    if isinstance(module, nn.Conv2d) and kernel.device.type == "cpu":
        kernel = _channels_last(kernel)
    return cast(Tensor, cast(Any, module)._conv_forward(x, kernel, bias))


def _apart(layer: WeightLayer, matrix: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight, as the layer has it, and bias of a matrix (n, d)."""
    weight, bias = (matrix[:, :-1], matrix[:, -1]) if layer.bias else (matrix, None)
    return weight.reshape(layer.width, -1, *layer.kernel), bias


def _channels_last(kernel: Tensor) -> Tensor:
    """A kernel (n, c, h, w) laid out so that convolutions keep channels innermost, even with a single one.

    On processors this is faster with few channels, and about as fast with many.
    """
    return torch.empty_like(kernel, memory_format=torch.channels_last).copy_(kernel)


def _call(program: Program, node: fx.Node, values: dict[fx.Node, Any], matrices: Matrices) -> Any:
    args = fx.node.map_arg(node.args, lambda n: values[n])
    kwargs = fx.node.map_arg(node.kwargs, lambda n: values[n])
    if node.op == "get_attr":
        prefix, _, name = str(node.target).rpartition(".")
        if prefix in program.managed and name in ("weight", "bias"):
            weight, bias = _apart(program.managed[prefix], matrices(prefix))
            return weight if name == "weight" else bias
        return getattr(program.module.get_submodule(prefix), name)
    if node.op == "call_function":
        return cast(Callable[..., Any], node.target)(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], method_named(str(node.target), args, kwargs))(*args[1:], **kwargs)
    module = program.module.get_submodule(str(node.target))
    layer = program.layers.get(node.name)
    if layer is not None:
        return apply_layer(module, layer, matrices(layer.name), cast(Tensor, args[0]))
    return module(*args, **kwargs)


def method_named(target: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The method that a call is made by: a view needs strides that only some layouts have, so it is reshaped."""
    shaped = target == "view" and not kwargs and not isinstance(args[-1], torch.dtype)
    return "reshape" if shaped else target
