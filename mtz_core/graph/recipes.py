"""What a traced network computes, as text: equal text, equal values, if the weights are equal.

Every node whose value follows from the network's input by weight layers and by operations without parameters of their
own gets a *recipe*: a digest of its operation and of the recipes of what it reads, in which weight layers are named by
their number. Two networks that share all weights up to some layer have equal values wherever their recipes are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from mtz_core.graph.record import call_of

UNSEEN = ("inplace", "training")
"""Settings of modules that don't change their values."""


def recipes(
    module: fx.GraphModule,
    layers: Mapping[str, int],
    shape: Sequence[int],
    allowed: Collection[int] | None = None,
) -> dict[fx.Node, str]:
    """Return the recipe of every node that has one.

    Args:
        module: the traced network.
        layers: number of the weight layer that a node calls, by the node's name.
        shape: of one input.
        allowed: numbers of the layers whose weights are equal; `None`: all.
    """
    found: dict[fx.Node, str] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            if not node.args:
                found[node] = f"input {tuple(shape)}"
            continue
        if node.op == "output" or not all(source in found for source in node.all_input_nodes):
            continue
        if not node.all_input_nodes:
            continue
        if node.name in layers:
            number = layers[node.name]
            if allowed is not None and number not in allowed:
                continue
            text = f"layer {number}"
        else:
            known = _operation(module, node)
            if known is None:
                continue
            text = known
            if not text:
                found[node] = found[node.all_input_nodes[0]]
                continue
        arguments = _text((node.args, {k: v for k, v in node.kwargs.items() if k not in UNSEEN}), found)
        found[node] = hashlib.sha256(f"{text} {arguments}".encode()).hexdigest()[:16]
    return found


def _operation(module: fx.GraphModule, node: fx.Node) -> str | None:
    """An operation and its settings; empty: it changes nothing; `None`: it has parameters of its own."""
    call = call_of(node, module)
    if call.operation is not None and call.operation.same:
        return ""
    if node.op == "call_module":
        child = call.called
        if next(child.parameters(), None) is not None or next(child.buffers(), None) is not None:
            return None
        settings = {k: v for k, v in sorted(vars(child).items()) if k[0] != "_" and k not in UNSEEN}
        return f"{type(child).__module__}.{type(child).__qualname__} {settings}"
    if node.op == "call_function":
        name = getattr(node.target, "__name__", str(node.target))
        return f"{getattr(node.target, '__module__', '')}.{name}"
    return str(node.target) if node.op == "call_method" else None


def _text(value: Any, found: Mapping[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return f"<{found[value]}>"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_text(v, found)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(v, found) for v in value) + "]"
    if isinstance(value, slice):
        return f"slice({_text([value.start, value.stop, value.step], found)})"
    if isinstance(value, torch.Tensor):
        return f"tensor {value.tolist()}"
    return repr(value)
