"""Parts of a network that keep the sequence on the first axis and images on the second, rewritten to images first.

Recurrent and attention layers read (length, images, values) unless they are told otherwise. All else here counts images
along the first axis. So for every value y that a transposition has turned round, the graph gets a twin with
y = twin.transpose(0, 1), computed from its operands' twins. Each rule is an identity of arrays, whatever the axes mean.
An operation without a rule reads the twin transposed back.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx, nn

from mtz_core.graph.record import Call, Carries, call_of
from mtz_core.graph.sources import call_arguments, fresh_name

Shapes = Mapping[str, tuple[int, ...]]
Made = tuple[fx.Node, bool]
"""A node, and whether it is a twin (else it has the very values of the node that it replaces)."""

_SWAPPED = {0: 1, 1: 0}


def images_first(traced: fx.GraphModule, shapes: Callable[[], Shapes]) -> dict[str, str]:
    """Rewrite in place; `shapes` gives every node's shape, and is asked where something moves the first axis only.

    Returns new parameter → parameter whose first two axes were exchanged for it.
    """
    if not any(_moves_first(call_of(node, traced)) for node in traced.graph.nodes):
        return {}
    rewriter = _Rewriter(traced, shapes())
    for node in list(traced.graph.nodes):
        rewriter.visit(node)
    rewriter.restore()
    traced.graph.eliminate_dead_code()
    return rewriter.turned


def _moves_first(call: Call) -> bool:
    """Whether a call may be a permutation that moves the first axis: not if it names more axes and that one first."""
    if call.operation is None or call.operation.order is None:
        return False
    given: list[Any] = [*call.node.args[1:], *call.node.kwargs.values()]
    axes = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
    return len(axes) <= 2 or axes[0] != 0


class _Rewriter:
    def __init__(self, traced: fx.GraphModule, shapes: Shapes) -> None:
        self.traced, self.graph, self.shapes = traced, traced.graph, dict(shapes)
        self.twins: dict[fx.Node, fx.Node] = {}
        self.turned: dict[str, str] = {}

    def visit(self, node: fx.Node) -> None:
        """Find the node's twin, or the node that stands for it."""
        if node.op not in ("call_function", "call_method", "call_module"):
            return
        if node.target in (getattr, "size") and node.args[0] in self.twins:
            self._measured(node)
        if node.name not in self.shapes:
            return
        with self.graph.inserting_before(node):
            call = call_of(node, self.traced)
            made = self._permuted(call)
            if made is None and any(source in self.twins for source in node.all_input_nodes):
                made = self._rule(call)
        if made is None:
            return
        found, is_twin = made
        shape = self.shapes[node.name]
        if is_twin:
            self.twins[node] = found
            shape = (shape[1], shape[0], *shape[2:])
        else:
            node.replace_all_uses_with(found)
        self.shapes.setdefault(found.name, shape)

    def _measured(self, node: fx.Node) -> None:
        """`y.size(i)`, `y.shape[i]` and the like: ask the twin for the length of the axis."""
        source = cast(fx.Node, node.args[0])
        twin, rank = self.twins[source], self._rank(source)
        axes = [node.args[1]] if node.target == "size" and len(node.args) == 2 else []
        users = [] if axes else list(node.users)
        picks = [user.args[1] for user in users if user.target is operator.getitem]
        whole = node.target == "size" or node.args[1] == "shape"
        if not whole or len(picks) < len(users) or not all(isinstance(axis, int) for axis in [*axes, *picks]):
            return
        turned = [_SWAPPED.get(cast(int, axis) % rank, cast(int, axis)) for axis in [*axes, *picks]]
        for user, axis in zip(users, turned, strict=False):
            user.args = (node, axis)
        node.args = (twin, *(turned if axes else node.args[1:]))

    def restore(self) -> None:
        """Whatever has no twin reads the transposed twin of what it read."""
        known = set(self.twins)
        for node, twin in self.twins.items():
            others = [user for user in node.users if user not in known]
            if others:
                with self.graph.inserting_after(node):
                    back = self.graph.call_function(torch.transpose, (twin, 0, 1))
                for user in others:
                    user.replace_input_with(node, back)

    def _rank(self, node: fx.Node) -> int:
        return len(self.shapes[node.name])

    def _permuted(self, call: Call) -> Made | None:
        source = call.node.args[0] if call.node.args else None
        if call.operation is None or call.operation.order is None or not isinstance(source, fx.Node):
            return None
        order = call.operation.order(call, self._rank(call.node))
        if order is None or source.name not in self.shapes or len(order) < 2:
            return None
        if (twin := self.twins.get(source)) is not None:
            source, order = twin, [_SWAPPED.get(axis, axis) for axis in order]
        if order[0] == 0:
            return (self._by(source, order), False) if twin is not None else None
        if order[1] != 0:
            return None
        return self._by(source, [order[1], order[0], *order[2:]]), True

    def _by(self, source: fx.Node, order: Sequence[int]) -> fx.Node:
        return source if list(order) == sorted(order) else self.graph.call_method("permute", (source, *order))

    def _rule(self, call: Call) -> Made | None:
        node, operation = call.node, call.operation
        if operation is None:
            return None
        if operation.carries in (Carries.SUM, Carries.TIES, Carries.JOINS):
            return self._together(call, operation.carries is Carries.JOINS)
        first, *others = node.all_input_nodes
        if not node.args or first is not node.args[0] or first not in self.twins:
            return None
        if any(other.op != "get_attr" or len(self.shapes[other.name]) > self._rank(node) - 2 for other in others):
            return None
        if operation.alike is not None:
            return (self._again(node), True) if operation.alike(call, self._rank(node)) else None
        if operation.index is not None:
            return self._picked(first, operation.index(call, self._rank(first)))
        return self._reduced(call, first) if operation.carries is Carries.REDUCES else None

    def _again(self, node: fx.Node) -> fx.Node:
        """The same operation on twins."""
        return self.graph.node_copy(node, lambda source: self.twins.get(source, source))

    def _together(self, call: Call, joins: bool) -> Made | None:
        """Element-wise with others, or concatenated with them."""
        node, changed = call.node, dict(self.twins)
        rank = self._rank(node)
        for source in node.all_input_nodes:
            own = len(self.shapes.get(source.name, ()))
            if source in changed or (own <= rank - 2 and not joins):
                continue
            if own != rank:
                return None
            changed[source] = self._turned(source)
        twin = self.graph.node_copy(node, lambda source: changed.get(source, source))
        if joins:
            axis = call.setting("dim", 1, 0)
            if not isinstance(axis, int):
                return None
            axis %= rank
            tensors = call_arguments(twin, ("tensors",))["tensors"]
            twin.args, twin.kwargs = (tensors, _SWAPPED.get(axis, axis)), {}
        return twin, True

    def _turned(self, source: fx.Node) -> fx.Node:
        """A node with the values of `source`, its first two axes exchanged; of a parameter, another parameter."""
        shape = self.shapes[source.name]
        if source.op == "get_attr":
            *path, last = str(source.target).split(".")
            value = getattr(self.traced.get_submodule(".".join(path)), last).detach().transpose(0, 1).contiguous()
            name = fresh_name(self.traced, last)
            self.traced.register_parameter(name, nn.Parameter(value, requires_grad=False))
            self.turned[name] = str(source.target)
            found = self.graph.get_attr(name)
        else:
            found = self.graph.call_function(torch.transpose, (source, 0, 1))
        self.shapes[found.name] = (shape[1], shape[0], *shape[2:])
        return found

    def _picked(self, source: fx.Node, parts: list[Any] | None) -> Made | None:
        """`y[i]`, `y[i:j]` and `y[i, j, …]`, where i and j are whole numbers or slices of such."""
        if parts is None or None in parts:
            return None
        parts = parts + [slice(None)] * (2 - len(parts))
        found = self.graph.call_function(operator.getitem, (self.twins[source], (parts[1], parts[0], *parts[2:])))
        return found, isinstance(parts[0], slice) and isinstance(parts[1], slice)

    def _reduced(self, call: Call, source: fx.Node) -> Made | None:
        given, rank = call.setting("dim", 1), self._rank(source)
        listed = [given] if isinstance(given, int) else given
        if not isinstance(listed, list | tuple) or not all(isinstance(axis, int) for axis in listed):
            return None
        assert call.operation is not None
        axes = [axis % rank for axis in listed]
        kept = bool(call.setting("keepdim", 2, False))
        moved = [_SWAPPED.get(axis, axis) for axis in axes]
        found = self.graph.call_function(call.operation.functions[0], (self.twins[source], moved), {"keepdim": kept})
        return found, kept or not {0, 1} & set(axes)
