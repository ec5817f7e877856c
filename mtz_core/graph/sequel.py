"""What becomes of a weight layer's output: a sum that it joins, an activation that ignores part of its range.

Compensation can aim at more than a layer's own output. Where the output is added to something that was computed
before (a residual stream), the layer that comes last can make up for what is wrong with the other summand. And
where a ReLU follows, it does not matter how negative a negative value is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from mtz_core.graph.record import Call, Carries, Operation, call_of


@dataclass(frozen=True)
class Sequel:
    """`summand` is the node whose value, times `sign`, is added to the output.

    Of values of that sum below `floor` or above `ceiling` it does not matter how far below or above they are. A layer
    that is subtracted from the summand is looked at with both signs turned: where a ReLU cuts off z - y below 0, y - z
    is cut off above 0.
    """

    summand: fx.Node | None = None
    floor: float | None = None
    ceiling: float | None = None
    sign: float = 1.0


def sequel(module: fx.GraphModule, node: fx.Node, position: Mapping[fx.Node, int]) -> Sequel:
    """Return what follows the weight layer called at `node`; `position` is the order of execution."""
    summand: fx.Node | None = None
    sign = own = 1.0
    pooled = False
    current = node
    while len(current.users) == 1:
        call = call_of(next(iter(current.users)), module)
        operation = call.operation
        if operation is None:
            break
        if operation.clip is not None:
            low, high = operation.clip.bounds(call) or (None, None)
            if own < 0:
                low, high = (None if x is None else -x for x in (high, low))
            return Sequel(summand, low, high, sign)
        if operation.carries is Carries.SUM:
            joined = None if summand is not None or pooled else _other(call, operation, current)
            if joined is None or position[joined[0]] > position[node]:
                break
            summand, own, theirs = joined
            sign = theirs * own
        elif operation.largest:
            pooled = True
        elif not operation.same:
            break
        current = call.node
    return Sequel(summand, sign=sign)


def _other(call: Call, operation: Operation, current: fx.Node) -> tuple[fx.Node, float, float] | None:
    """The other summand of a plain sum of two, the sign of `current` in it, and the other's."""
    others = [arg for arg in call.node.args if arg is not current]
    if call.node.kwargs or len(call.node.args) != 2 or len(others) != 1 or not isinstance(others[0], fx.Node):
        return None
    own, theirs = operation.signs if call.node.args[0] is current else operation.signs[::-1]
    return others[0], own, theirs


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
