"""What becomes of a weight layer's output: a sum that it joins, an activation that ignores part of its range.

Compensation can aim at more than a layer's own output. Where the output is added to something that was computed
before (a residual stream), the layer that comes last can make up for what is wrong with the other summand. And
where a ReLU follows, it does not matter how negative a negative value is.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

RELU = {F.relu, torch.relu, torch.relu_, F.relu_, "relu", "relu_"}
RELU6 = {F.relu6}
ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
POOL = {F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d}
SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Sequel:
    """`summand` is the node whose value is added to the output.

    Of values below `floor` or above `ceiling` it does not matter how far below or above they are.
    """

    summand: fx.Node | None = None
    floor: float | None = None
    ceiling: float | None = None


def sequel(module: fx.GraphModule, node: fx.Node, position: Mapping[fx.Node, int]) -> Sequel:
    """Return what follows the weight layer called at `node`; `position` is the order of execution."""
    summand: fx.Node | None = None
    pooled = False
    current = node
    while len(current.users) == 1:
        user = next(iter(current.users))
        called = module.get_submodule(str(user.target)) if user.op == "call_module" else None
        if user.target in RELU or isinstance(called, nn.ReLU):
            return Sequel(summand, 0.0)
        if user.target in RELU6 or isinstance(called, nn.ReLU6):
            return Sequel(summand, 0.0, 6.0)
        if user.target in ADD and summand is None and not pooled and not user.kwargs:
            others = [arg for arg in user.args if arg is not current]
            if len(user.args) != 2 or len(others) != 1 or not isinstance(others[0], fx.Node):
                break
            if position[others[0]] > position[node]:
                break
            summand = others[0]
        elif user.target in POOL or isinstance(called, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
            pooled = True
        elif not isinstance(called, SAME):
            break
        current = user
    return Sequel(summand)


def eager(nodes: Sequence[fx.Node], layers: Mapping[str, object]) -> list[fx.Node]:
    """The nodes in an order in which whatever needs no further weight layer comes before the next one."""
    waiting, done, order = list(nodes), set[fx.Node](), list[fx.Node]()
    while waiting:
        ready = [
            node
            for node in waiting
            if node.name not in layers
            and node.op != "output"
            and all(source in done for source in node.all_input_nodes)
        ]
        if not ready:
            ready = waiting[:1]
        for node in ready:
            done.add(node)
            order.append(node)
        chosen = set(ready)
        waiting = [node for node in waiting if node not in chosen]
    return order
