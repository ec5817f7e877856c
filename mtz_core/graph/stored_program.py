"""A traced computation as data, and the way back: nodes in order, the modules that they call, and where tensors lie.

Reading executes nothing of what was read. Nodes are made from names that `vocabulary` knows, modules from their class
and its settings without calling a constructor, so that no memory is taken because a file says so; the numbers are
those of the file. A computation that was read is interpreted, node by node: none of its text is ever compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx.graph import PythonCode

from mtz_core.errors import CheckpointError, GraphError
from mtz_core.graph.execution import method_named
from mtz_core.graph.heads import mapped
from mtz_core.graph.record import operation_of
from mtz_core.graph.stored_values import (
    DTYPES,
    path_parts,
    read_value,
    refused_call,
    sizes,
    text,
    whole,
    write_value,
)
from mtz_core.graph.vocabulary import ATTRIBUTES, class_name, classes, function_named, methods, name_of_function

MOST_NODES = 10_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_INTERNAL = frozenset(vars(nn.Module()))
_REBUILT = frozenset(["_flat_weights", "_flat_weight_refs"])
"""Attributes of recurrent modules that repeat their parameters."""

Record = dict[str, Any]
Missing = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Path of a tensor that is stored elsewhere → its shape and type."""


class PlainProgram(fx.GraphModule):
    """A computation that was read from a file: a module like any other, whose nodes are interpreted one by one."""

    def recompile(self) -> PythonCode:
        """Compile nothing: the text of a file must not become code."""
        self._code = ""
        return PythonCode("", {}, None)

    def forward(self, *inputs: Tensor) -> Any:
        """Return the answer to inputs (N, ...)."""
        return mapped(_Interpreter(self).run(*inputs))

    def __reduce__(self) -> Any:
        raise TypeError("a network that was read from a file is saved by its state_dict(), or by ZippedNetwork.save")


class _Interpreter(fx.Interpreter):
    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return super().call_method(method_named(target, args, kwargs), args, kwargs)


@dataclass
class Shelf:
    """Tensors by the name that they have in a file; memory that two of them share is written once."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    names: dict[Any, str] = field(default_factory=dict)
    memory: set[int] = field(default_factory=set)

    def put(self, name: str, tensor: Tensor) -> str:
        """Keep a tensor; return the name under which it is found."""
        tensor = tensor.detach()
        memory = tensor.untyped_storage().data_ptr() if tensor.numel() else 0
        same = (memory, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if memory and same in self.names:
            return self.names[same]
        if name in self.tensors:
            raise GraphError(f"two tensors of the network are called {name!r}; rename one of them")
        held = tensor.cpu().contiguous()
        shared = memory in self.memory and held.data_ptr() == tensor.data_ptr()
        self.tensors[name] = held.clone() if shared else held
        self.memory.add(memory)
        self.names[same] = name
        return name


def write_program(module: fx.GraphModule, shelf: Shelf, prefix: str, missing: Missing) -> Record:
    """Return a traced computation as JSON-able data.

    Args:
        module: the computation.
        shelf: takes its tensors, under names that begin with `prefix`.
        missing: tensors of layers whose numbers are stored elsewhere; the module has `None` for them.

    Raises:
        GraphError: it calls something that cannot be named in a file; the message says what.
    """
    nodes = _write_nodes(module)
    known: dict[int, str] = {}
    modules: dict[str, Record] = {}
    for path, child in module.named_modules(remove_duplicate=False):
        if id(child) in known:
            modules[path] = {"same": known[id(child)]}
            continue
        known[id(child)] = path
        modules[path] = _write_module(path, child, path == "", shelf, prefix, missing)
    return {"nodes": nodes, "modules": modules}


def why_not_written(module: fx.GraphModule) -> str | None:
    """Why a traced computation cannot be named in a file, with the way out; `None`: it can. No number is looked at."""
    try:
        _write_nodes(module)
        for path, child in module.named_modules():
            if path:
                _class_of(path, child)
    except GraphError as error:
        return str(error)
    return None


def _write_nodes(module: fx.GraphModule) -> list[list[Any]]:
    nodes = [_write_node(node) for node in module.graph.nodes]
    if len(nodes) > MOST_NODES:
        raise GraphError(
            f"the network has {len(nodes):,} operations, and a file holds at most {MOST_NODES:,}; a loop over a "
            "sequence is one operation if it is an nn.LSTM or nn.GRU"
        )
    return nodes


def _class_of(path: str, module: nn.Module) -> str:
    kind = class_name(module)
    if kind is None:
        raise GraphError(
            f"{path} is a {type(module).__module__}.{type(module).__qualname__} that is called as a whole, and only "
            "modules of torch.nn can be written to a file by name; write its forward with operations of torch that "
            "can be followed (torch.where instead of if), or export the network with torch.export and zip the "
            "exported program"
        )
    return kind


def _write_module(path: str, module: nn.Module, root: bool, shelf: Shelf, prefix: str, missing: Missing) -> Record:
    kind = "nn.Module" if root else _class_of(path, module)
    base = f"{path}." if path else ""

    def numbers(name: str, tensor: Tensor | None) -> Any:
        if base + name in missing:
            shape, dtype = missing[base + name]
            return {"shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}
        return None if tensor is None else shelf.put(prefix + base + name, tensor)

    found = {
        "class": kind,
        "settings": {} if root else _settings(classes()[kind], module),
        "parameters": {name: numbers(name, p) for name, p in module._parameters.items()},
        "buffers": {name: numbers(name, b) for name, b in module._buffers.items()},
        "hidden": sorted(module._non_persistent_buffers_set),
    }
    return {key: value for key, value in found.items() if value}


def _settings(kind: type[nn.Module], module: nn.Module) -> Record:
    """Attributes that are plain data. What is left out by it shows when a file is compared with what was written."""
    found = {}
    for name, value in vars(module).items():
        if _is_setting(kind, name):
            try:
                found[name] = write_value(value)
            except GraphError:
                continue
    return found


def _is_setting(kind: type[nn.Module], name: str) -> bool:
    own = name not in _INTERNAL and name not in _REBUILT and not name.startswith("__")
    return own and _NAME.fullmatch(name) is not None and not callable(getattr(kind, name, None))


def _write_node(node: fx.Node) -> list[Any]:
    target: Any = node.target
    args, kwargs = node.args, node.kwargs
    if node.op == "call_function":
        operation, name = operation_of(target), name_of_function(target)
        if name is None and operation is not None and operation.same:  # of another library: it returns its input
            name, args, kwargs = name_of_function(nn.functional.dropout), (node.args[0], 0.0, False), {}
        if name is None:
            raise GraphError(
                f"the function {getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)} cannot be "
                "written to a file by name; write it with operations of torch (without torch.fx.wrap), so that tracing "
                "sees what it does"
            )
        target = name
    elif node.op == "call_method" and target not in methods():
        raise GraphError(f"the method {target!r} of tensors cannot be written to a file; use another operation")
    return [node.op, node.name, str(target), write_value(tuple(args))["tuple"], write_value(dict(kwargs))["pairs"]]


@dataclass(frozen=True)
class Source:
    """What a file holds: tensors by name, and how many numbers these are."""

    tensors: Mapping[str, Tensor]
    numbers: int
    made: dict[str, nn.Parameter] = field(default_factory=dict)
    """Parameters by name: those of one name are one."""
    arrays: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    """Index arrays by number, likewise."""


def read_program(record: Any, source: Source) -> PlainProgram:
    """Return the computation that `write_program` wrote, in evaluation mode.

    Tensors that are stored elsewhere become zeros of their shape, which take no memory.

    Raises:
        CheckpointError: the record is damaged, or names what no file may name.
    """
    root = nn.Module()
    made: dict[str, nn.Module] = {"": root}
    given = record["modules"]
    budget = source.numbers
    for path, about in given.items():
        parts = path_parts(path)
        if "same" in about:
            module = made[text(about["same"])]
        elif path:
            module, budget = _read_module(about, source, budget)
        else:
            budget = _give_tensors(root, about, source, budget)
            continue
        made[path] = module
        made[".".join(parts[:-1])].add_module(parts[-1], module)
    for module in root.modules():
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()
    return PlainProgram(root, _read_nodes(record["nodes"], root)).eval()


def _read_module(about: Mapping[str, Any], source: Source, budget: int) -> tuple[nn.Module, int]:
    kind = classes().get(text(about["class"]))
    if kind is None:
        raise refused_call(about["class"])
    module: nn.Module = kind.__new__(kind)
    nn.Module.__init__(module)
    for name, value in about.get("settings", {}).items():
        if not _is_setting(kind, name):
            raise CheckpointError(f"the file is damaged: {name[:60]!r} is no setting of {about['class']}")
        vars(module)[name] = read_value(value)
    return module, _give_tensors(module, about, source, budget)


def _give_tensors(module: nn.Module, about: Mapping[str, Any], source: Source, budget: int) -> int:
    """Register parameters and buffers; return how many numbers may still be stored elsewhere."""
    hidden = about.get("hidden", [])
    for name, where in about.get("parameters", {}).items():
        tensor, count = _tensor(where, source)
        budget -= count
        if budget < 0:
            raise CheckpointError(
                "the file is damaged: its layers declare more weights than it holds numbers; nothing was allocated"
            )
        parameter = None if tensor is None else nn.Parameter(tensor, requires_grad=False)
        if parameter is not None and isinstance(where, str):
            parameter = source.made.setdefault(where, parameter)
        module.register_parameter(_own(name), parameter)
    for name, where in about.get("buffers", {}).items():
        module.register_buffer(_own(name), _tensor(where, source)[0], persistent=name not in hidden)
    return budget


def _own(name: Any) -> str:
    (part,) = path_parts(name)
    return part


def _tensor(where: Any, source: Source) -> tuple[Tensor | None, int]:
    """A tensor of the file; one that is stored elsewhere as zeros without memory, with its size."""
    if where is None:
        return None, 0
    if isinstance(where, str):
        if where not in source.tensors:
            raise CheckpointError(f"the file is damaged: it lacks the tensor {where[:100]!r}")
        return source.tensors[where], 0
    shape, dtype = sizes(where["shape"]), DTYPES.get(text(where["dtype"]))
    if dtype is None or not (dtype.is_floating_point or dtype.is_complex):
        raise CheckpointError(f"the file is damaged: weights of type {str(where['dtype'])[:40]!r} are not known")
    count = 1
    for n in shape:
        count = whole(count * n)
    if count > source.numbers:
        raise CheckpointError(
            f"the file is damaged: it declares a weight of shape {shape}, more numbers than the file holds; nothing "
            "was allocated"
        )
    return torch.zeros((), dtype=dtype).expand(shape), count


def _read_nodes(listed: Any, root: nn.Module) -> fx.Graph:
    if not isinstance(listed, list) or not 2 <= len(listed) <= MOST_NODES:
        raise CheckpointError(f"the file is damaged: a network has 2 to {MOST_NODES:,} operations")
    graph, nodes = fx.Graph(), dict[str, fx.Node]()
    for k, (op, name, target, given, named) in enumerate(listed):
        if not _NAME.fullmatch(text(name)) or name in nodes:
            raise CheckpointError(f"the file is damaged: {str(name)[:60]!r} is no new name of a value")
        args = read_value({"tuple": given}, nodes)
        kwargs = read_value({"pairs": named}, nodes)
        if not all(isinstance(key, str) for key in kwargs):
            raise CheckpointError(f"the file is damaged: {name!r} has an argument without a name")
        last = k == len(listed) - 1
        if (op == "output") != last or (op == "placeholder" and (len(args) > 1 or kwargs)):
            raise CheckpointError(f"the file is damaged: {str(op)[:20]!r} stands in the wrong position")
        if (op == "placeholder" and not args) != (k == 0) or (last and (len(args) != 1 or kwargs)):
            raise CheckpointError("the file is damaged: a network has one input and one output")
        node = graph.create_node(text(op), _target(op, text(target), args, root), args, kwargs, name=name)
        node.name = name
        nodes[name] = node
    return graph


def _target(op: str, target: str, args: tuple[Any, ...], root: nn.Module) -> Any:
    """What a node calls, if it may."""
    if op in ("placeholder", "output"):
        if not _NAME.fullmatch(target):
            raise CheckpointError(f"the file is damaged: {target[:60]!r} is no name of an input")
        return target
    if op == "call_function":
        return _function(target, args)
    if op == "call_method":
        if target not in methods() or not args or not isinstance(args[0], fx.Node):
            raise refused_call(f"the method {target}")
        return target
    parts = path_parts(target)
    try:
        if op == "call_module":
            if type(root.get_submodule(target)) is not nn.Module:
                return target
        elif op == "get_attr":
            home = root.get_submodule(".".join(parts[:-1]))
            if {**home._parameters, **home._buffers}.get(parts[-1]) is not None:
                return target
    except AttributeError:
        pass
    raise CheckpointError(f"the file is damaged: it has no {target[:100]!r} for a node of kind {op[:20]!r}")


def _function(name: str, args: tuple[Any, ...]) -> Callable[..., Any]:
    function = function_named(name)
    if function is None:
        raise refused_call(name)
    if function is getattr and (len(args) != 2 or args[1] not in ATTRIBUTES):
        raise refused_call(f"getattr {args[1:]}")
    return function
