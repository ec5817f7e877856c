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
import torch.nn.functional as F
from torch import fx, nn

from mtz_core.graph.recurrent import Recurrence
from mtz_core.graph.rules import ADDITIVE, POINTWISE_FUNCTIONS, POINTWISE_MODULES, REDUCTIONS, callee
from mtz_core.graph.sources import call_arguments, fresh_name

Shapes = Mapping[str, tuple[int, ...]]
Made = tuple[fx.Node, bool]
"""A node, and whether it is a twin (else it has the very values of the node that it replaces)."""

_SWAPPED = {0: 1, 1: 0}


def images_first(traced: fx.GraphModule, shapes: Callable[[], Shapes]) -> None:
    """Rewrite in place; `shapes` gives every node's shape, and is asked where something moves the first axis only."""
    if not any(_moves_first(node) for node in traced.graph.nodes):
        return
    rewriter = _Rewriter(traced, shapes())
    for node in list(traced.graph.nodes):
        rewriter.visit(node)
    rewriter.restore()
    traced.graph.eliminate_dead_code()


def _moves_first(node: fx.Node) -> bool:
    """Whether a node may be a permutation that moves the first axis."""
    name = getattr(node.target, "__name__", node.target)
    if node.op not in ("call_function", "call_method") or name not in ("permute", "transpose", "swapaxes"):
        return False
    given = [*node.args[1:], *node.kwargs.values()]
    axes = list(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else given
    first = axes[:1] != [0] if name == "permute" else True
    return first and all(isinstance(axis, int) for axis in axes)


class _Rewriter:
    def __init__(self, traced: fx.GraphModule, shapes: Shapes) -> None:
        self.traced, self.graph, self.shapes = traced, traced.graph, dict(shapes)
        self.twins: dict[fx.Node, fx.Node] = {}

    def visit(self, node: fx.Node) -> None:
        """Find the node's twin, or the node that stands for it."""
        if node.op not in ("call_function", "call_method", "call_module"):
            return
        if node.target in (getattr, "size") and node.args[0] in self.twins:
            self._measured(node)
        if node.name not in self.shapes:
            return
        with self.graph.inserting_before(node):
            made = self._permuted(node) if _moves_first(node) else None
            if made is None and any(source in self.twins for source in node.all_input_nodes):
                made = self._rule(node)
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

    def _order(self, node: fx.Node) -> list[int] | None:
        """Which axis of its input each axis of a permutation's result is."""
        name, rank = getattr(node.target, "__name__", node.target), self._rank(node)
        given: list[Any] = [*node.args[1:], *node.kwargs.values()]
        listed = list(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else given
        axes = [axis % rank for axis in listed if isinstance(axis, int)]
        if name == "permute":
            return axes if len(axes) == rank else None
        if len(axes) != 2:
            return None
        order = list(range(rank))
        order[axes[0]], order[axes[1]] = axes[1], axes[0]
        return order

    def _permuted(self, node: fx.Node) -> Made | None:
        source, order = node.args[0], self._order(node)
        if not isinstance(source, fx.Node) or order is None or source.name not in self.shapes or len(order) < 2:
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

    def _rule(self, node: fx.Node) -> Made | None:
        called = callee(node, self.traced)
        first = node.args[0] if node.args else None
        if called in ADDITIVE or called is torch.cat:
            return self._together(node, called)
        if not isinstance(first, fx.Node) or first not in self.twins or len(node.all_input_nodes) != 1:
            return None
        if isinstance(called, nn.Module):
            return (self._again(node), True) if _keeps_front(called, self._rank(node)) else None
        if called in POINTWISE_FUNCTIONS or (called in (F.softmax, torch.softmax, "softmax") and self._late(node)):
            return self._again(node), True
        if called is operator.getitem:
            return self._picked(node, node.args[1])
        if called in (torch.select, "select"):
            arguments = call_arguments(node, ("input", "dim", "index"))
            if arguments["dim"] == 0 and isinstance(arguments["index"], int):
                return self._picked(node, arguments["index"])
        return self._reduced(node, first) if called in REDUCTIONS else None

    def _again(self, node: fx.Node) -> fx.Node:
        """The same operation on twins."""
        return self.graph.node_copy(node, lambda source: self.twins.get(source, source))

    def _late(self, node: fx.Node) -> bool:
        """Whether the axis of a softmax is none of the first two."""
        axis = call_arguments(node, ("input", "dim")).get("dim")
        return isinstance(axis, int) and axis % self._rank(node) > 1

    def _together(self, node: fx.Node, called: Any) -> Made | None:
        """Element-wise with others, or concatenated with them."""
        rank, changed = self._rank(node), dict(self.twins)
        for source in node.all_input_nodes:
            own = len(self.shapes.get(source.name, ()))
            if source in changed or (own <= rank - 2 and called is not torch.cat):
                continue
            if own != rank:
                return None
            changed[source] = self._turned(source)
        twin = self.graph.node_copy(node, lambda source: changed.get(source, source))
        if called is torch.cat:
            arguments = call_arguments(node, ("tensors", "dim"))
            axis = arguments.get("dim", 0)
            if not isinstance(axis, int):
                return None
            axis %= rank
            twin.args, twin.kwargs = (twin.args[0], _SWAPPED.get(axis, axis)), {}
        return twin, True

    def _turned(self, source: fx.Node) -> fx.Node:
        """A node with the values of `source`, its first two axes exchanged; of a parameter, another parameter."""
        shape = self.shapes[source.name]
        if source.op == "get_attr":
            *path, last = str(source.target).split(".")
            value = getattr(self.traced.get_submodule(".".join(path)), last).detach().transpose(0, 1).contiguous()
            name = fresh_name(self.traced, last)
            self.traced.register_parameter(name, nn.Parameter(value, requires_grad=False))
            found = self.graph.get_attr(name)
        else:
            found = self.graph.call_function(torch.transpose, (source, 0, 1))
        self.shapes[found.name] = (shape[1], shape[0], *shape[2:])
        return found

    def _picked(self, node: fx.Node, index: Any) -> Made | None:
        """`y[i]`, `y[i:j]` and `y[i, j, …]`, where i and j are whole numbers or slices of such."""
        parts = list(index) if isinstance(index, tuple) else [index]
        parts += [slice(None)] * (2 - len(parts))
        if not all(isinstance(part, int | slice) for part in parts):
            return None
        twin = self.twins[cast(fx.Node, node.args[0])]
        found = self.graph.call_function(operator.getitem, (twin, (parts[1], parts[0], *parts[2:])))
        return found, isinstance(parts[0], slice) and isinstance(parts[1], slice)

    def _reduced(self, node: fx.Node, source: fx.Node) -> Made | None:
        arguments = call_arguments(node, ("input", "dim", "keepdim"))
        given, rank = arguments.get("dim"), self._rank(source)
        listed = [given] if isinstance(given, int) else given
        if not isinstance(listed, list | tuple) or not all(isinstance(axis, int) for axis in listed):
            return None
        axes = [axis % rank for axis in listed if isinstance(axis, int)]
        kept = bool(arguments.get("keepdim", False))
        target = getattr(torch, str(getattr(node.target, "__name__", node.target)))
        moved = [_SWAPPED.get(axis, axis) for axis in axes]
        found = self.graph.call_function(target, (self.twins[source], moved), {"keepdim": kept})
        return found, kept or not {0, 1} & set(axes)


def _keeps_front(module: nn.Module, rank: int) -> bool:
    """Whether a module treats the first two axes alike."""
    if isinstance(module, nn.LayerNorm):
        return len(module.normalized_shape) <= rank - 2
    if isinstance(module, nn.Softmax):
        return module.dim is not None and module.dim % rank > 1
    return isinstance(module, (nn.Linear, *POINTWISE_MODULES)) and not isinstance(module, Recurrence) and rank > 2
