"""Symbolic tracing that knows an example: what a forward decides by shapes or types is decided as for the example.

torch's own tracer gives up where a forward asks for the length of an axis in a condition. Here every node carries its
value for an example batch. Questions about sizes and types are answered from it, sizes used in computations stay part
of the graph, and a condition on the *numbers* of an activation is still an error. A module within the network that
cannot be traced is called as a whole.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute, TraceError

from mtz_core.graph.record import torchs_own
from mtz_core.graph.sources import called

_UNKNOWN = object()
_ONE_AT_A_TIME = threading.RLock()
"""torch's tracing exchanges how modules are called, for all threads: two at once would undo each other's exchange."""
_PLAIN = (bool, int, float, str, tuple, list, dict, type(None), torch.dtype, torch.device, torch.layout)


class _Valued(fx.Proxy):
    """A proxy that can say what it is for the example."""

    tracer: Tracer

    def __getattr__(self, k: str) -> Any:
        device = self.tracer.values.get(self.node)
        if isinstance(device, torch.device) and k == "type":  # which chooses code, and computes nothing
            return device.type
        return _ValuedAttribute(self, k)

    def __len__(self) -> int:
        return len(self.tracer.plain(self))

    def __int__(self) -> int:
        return int(self.tracer.plain(self))

    def __index__(self) -> int:
        return operator.index(self.tracer.plain(self))

    def __float__(self) -> float:
        return float(self.tracer.plain(self))


class _ValuedAttribute(_Valued, Attribute):
    """An attribute of a proxy."""


def _length(of: Any) -> Any:
    """`len`, which Python lets return whole numbers only: of an activation it is the length of its first axis.

    It belongs to no tracer: of whatever is not being traced, in whichever thread, it is the length as ever.
    """
    if isinstance(of, _Valued) and isinstance(of.tracer.values.get(of.node), Tensor):
        return cast(Any, of.shape)[0]
    return len(of)


class Tracer(fx.Tracer):
    """A tracer of one module on one example; `opaque` says of modules called as a whole why they were not traced.

    It may be used in any thread, while others trace or run networks: tracers wait for one another, and what another
    thread calls meanwhile is not traced.

    `fixed` says that something was decided by lengths of axes other than the first: the graph is for these alone.
    """

    def __init__(self, given: Sequence[Any]) -> None:
        super().__init__(param_shapes_constant=True)
        self.given = list(given)
        self.values: dict[fx.Node, Any] = {}
        self.opaque: dict[str, str] = {}
        self.fixed = False
        self._sizes: set[fx.Node] = set()
        self._busy = False
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Only layers of torch that nobody has changed are called as they are."""
        kind = next(one for one in type(m).__mro__ if one.__module__.partition(".")[0] == "torch")
        return (
            torchs_own(m)
            and kind.__module__.startswith(("torch.nn", "torch.ao.nn"))
            and not isinstance(m, nn.Sequential)
        )

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Valued(node, self)

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        """Note the node and its value."""
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        value = self._value(node)
        if value is not _UNKNOWN:
            self.values[node] = value
            if self._is_size(node, value):
                self._sizes.add(node)
        return node

    def _is_size(self, node: fx.Node, value: Any) -> bool:
        """Whether a node is the length of an axis other than the first, or was computed from such lengths."""
        if isinstance(value, Tensor):
            return False
        if any(source in self._sizes for source in node.all_input_nodes):
            return True
        if node.target == "size" and len(node.args) == 2:
            return bool(node.args[1] != 0)
        shape = isinstance(node.args[0] if node.args else None, fx.Node) and self.values.get(cast(Any, node.args[0]))
        if node.target is operator.getitem and isinstance(shape, torch.Size):
            return bool(node.args[1] != 0)
        return node.op == "call_method" and node.target == "numel"

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Trace a module, or call it as a whole where that fails."""
        if self._busy or self._thread != threading.get_ident():
            return forward(*args, **kwargs)
        stack = self.module_stack.copy()
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:  # tracing runs the user's own code: anything may come
            self.module_stack = stack
            path = self.path_of_module(m)
            with contextlib.suppress(Exception):
                found = self.create_proxy("call_module", path, args, kwargs)
                if found.node in self.values:
                    self.opaque[path] = f"{type(error).__name__}: {error}".splitlines()[0]
                    return found
            raise

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Within a layer that is run for its value, and in another thread, attributes are what they are."""
        if self._busy or self._thread != threading.get_ident():
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.plain(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return iter([cast(Any, obj)[k] for k in range(len(self.plain(obj)))])

    def plain(self, proxy: fx.Proxy) -> Any:
        """Value of a proxy that is a number, a shape, a type or the like. Raises `TraceError` for anything else."""
        value = self.values.get(proxy.node, _UNKNOWN)
        if not isinstance(value, _PLAIN):
            raise TraceError(f"its forward decides by the values of {proxy.node.name}")
        self.fixed |= proxy.node in self._sizes
        return value

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Trace with `len` exchanged in what the network's own classes see."""
        with _ONE_AT_A_TIME:
            self._thread = threading.get_ident()
            return self._with_lengths(root, concrete_args)

    def _with_lengths(self, root: Any, concrete_args: dict[str, Any] | None) -> fx.Graph:
        kinds = {kind for module in root.modules() for kind in type(module).__mro__}
        seen = [
            vars(kind)["forward"].__globals__ for kind in kinds if hasattr(vars(kind).get("forward"), "__globals__")
        ]
        own = [
            names for names in seen if str(names.get("__name__")).partition(".")[0] != "torch" and "len" not in names
        ]
        try:
            for names in own:
                names["len"] = _length
            return super().trace(root, concrete_args)
        finally:
            for names in own:
                names.pop("len", None)

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.given.pop(0) if self.given else (node.args[0] if node.args else _UNKNOWN)
        if node.op == "output" or not all(source in self.values for source in node.all_input_nodes):
            return _UNKNOWN
        args = fx.node.map_arg(node.args, self.values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, self.values.__getitem__)
        before, self._busy = self._busy, True
        try:
            with torch.no_grad():
                return called(self.root, node, args, kwargs)
        except Exception:  # the node is still part of the graph, and fails there if it is ever needed
            return _UNKNOWN
        finally:
            self._busy = before
