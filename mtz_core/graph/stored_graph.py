"""A channel graph as data, and the way back: the program, its layers and groups, and where every channel lies.

All that the rules found out is stored, so that a file means the same when the rules change. Every number that is read
is held against the program: what a layer says of its rows and columns must fit its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from mtz_core.errors import CheckpointError
from mtz_core.graph.channels import PRIVATE, ChannelGraph, ChannelGroup, WeightLayer
from mtz_core.graph.heads import Head, leaves
from mtz_core.graph.layout import CONSTANT
from mtz_core.graph.record import Carries, operation_of
from mtz_core.graph.sources import NormSource, TracedNetwork, WeightSource
from mtz_core.graph.stored_program import Missing, Record, Shelf, Source, read_program, write_program
from mtz_core.graph.stored_values import DTYPES, path_parts, read_value, sizes, text, whole, write_value

_WORDS = (str, bool, int, type(None))
_IS: Mapping[str, Callable[[Any], bool]] = {
    "str": lambda x: isinstance(x, str),
    "int": lambda x: isinstance(x, int) and not isinstance(x, bool),
    "bool": lambda x: isinstance(x, bool),
    "float": lambda x: isinstance(x, float),
    "str | None": lambda x: x is None or isinstance(x, str),
    "tuple[str, ...]": lambda x: isinstance(x, tuple) and all(isinstance(item, str) for item in x),
    "tuple[int, ...]": lambda x: isinstance(x, tuple) and all(type(item) is int and item > 0 for item in x),
    "tuple[Any, ...]": lambda x: isinstance(x, tuple) and all(isinstance(item, _WORDS) for item in x),
    "tuple[int, int] | None": lambda x: x is None or (isinstance(x, tuple) and [type(i) for i in x] == [int, int]),
    "Indices": lambda x: isinstance(x, np.ndarray) and x.ndim == 1,
    "Indices | None": lambda x: x is None or (isinstance(x, np.ndarray) and x.ndim == 1),
    "NormSource | None": lambda x: x is None or isinstance(x, NormSource),
}
"""Annotation of a field → whether a value is of that kind."""

_INNER: Mapping[str, type[Any]] = {"NormSource": NormSource}
"""Records that stand in fields of others."""

_T = TypeVar("_T")


@dataclass
class Arrays:
    """Index arrays by number; equal ones are written once, in the smallest type that holds them."""

    shelf: Shelf
    known: dict[Any, int] = field(default_factory=dict)

    def put(self, array: NDArray[np.int64]) -> int:
        """The array's number."""
        key = (array.shape, np.ascontiguousarray(array).tobytes())
        if key not in self.known:
            self.known[key] = len(self.known)
            span = (int(array.min()), int(array.max())) if array.size else (0, 0)
            kinds = (k for k in (np.int16, np.int32) if np.iinfo(k).min <= span[0] and span[1] <= np.iinfo(k).max)
            kind = next(kinds, np.int64)
            self.shelf.put(f"indices.{self.known[key]}", torch.from_numpy(array.astype(kind)))
        return self.known[key]


def read_array(source: Source, number: Any) -> NDArray[np.int64]:
    """The array with that number. Raises `CheckpointError`."""
    if whole(number) not in source.arrays:
        tensor = source.tensors.get(f"indices.{number}")
        if tensor is None or tensor.dtype not in (torch.int16, torch.int32, torch.int64):
            raise CheckpointError(f"the file is damaged: it lacks the whole numbers indices.{number}")
        source.arrays[number] = tensor.numpy().astype(np.int64)
    return source.arrays[number]


def write_graph(graph: ChannelGraph, body: fx.GraphModule, arrays: Arrays, prefix: str, missing: Missing) -> Record:
    """Return a channel graph as JSON-able data.

    Args:
        graph: the channel graph.
        body: its program without the layers' weights, with the numbers that are to be stored.
        arrays: takes index arrays, and has the shelf for tensors.
        prefix: how the names of the program's tensors begin.
        missing: shapes and types of the layers' weights, which are stored elsewhere.
    """
    network = graph.network
    return {
        "program": write_program(body, arrays.shelf, prefix, missing),
        "example": {"shape": list(network.example.shape), "dtype": str(network.example.dtype).removeprefix("torch.")},
        "shapes": {name: list(shape) for name, shape in network.shapes.items()},
        "sources": {name: _write(source, arrays) for name, source in network.sources.items()},
        "computed": dict(network.computed),
        "fixed": network.fixed,
        "heads": [[head.name, head.leaf, list(head.shape)] for head in network.heads],
        "precision": str(network.precision).removeprefix("torch."),
        "homes": {name: list(home) for name, home in network.homes.items()},
        "layers": [_write(layer, arrays) for layer in graph.layers],
        "groups": [_write(group, arrays) for group in graph.groups],
        "places": {name: arrays.put(layout) for name, layout in graph.layouts.items()},
        "offsets": list(graph.offsets),
    }


def _write(record: Any, arrays: Arrays) -> Record:
    """The fields of a record that differ from their defaults."""
    found = {}
    for about in fields(record):
        value = getattr(record, about.name)
        if isinstance(value, np.ndarray) or value != about.default:
            name = type(value).__name__
            found[about.name] = {name: _write(value, arrays)} if name in _INNER else write_value(value, arrays.put)
    return found


def read_graph(record: Any, source: Source) -> ChannelGraph:
    """Return the channel graph that `write_graph` wrote.

    The layers' weights are zeros that take no memory, and so is the example.

    Raises:
        CheckpointError: the record is damaged or contradicts itself.
    """
    module = read_program(record["program"], source)
    shapes = {text(name): sizes(shape) for name, shape in record["shapes"].items()}
    sources = {
        ".".join(path_parts(name)): _read(WeightSource, about, source) for name, about in record["sources"].items()
    }
    homes = {text(name): (text(home), turned is True) for name, (home, turned) in record["homes"].items()}
    precision = DTYPES.get(text(record.get("precision", "None")))
    computed = {text(name): whole(count) for name, count in record.get("computed", {}).items()}
    network = TracedNetwork(
        module, sources, shapes, _example(record["example"]), computed, precision=precision, homes=homes,
        fixed=record.get("fixed") is True, heads=tuple(_head(about) for about in record.get("heads", ())),
    )  # fmt: skip
    layers = tuple(_read(WeightLayer, about, source) for about in record["layers"])
    groups = tuple(_read(ChannelGroup, about, source) for about in record["groups"])
    layouts = {text(name): read_array(source, number) for name, number in record["places"].items()}
    offsets = tuple(whole(offset, -1) for offset in record["offsets"])
    graph = ChannelGraph(network, layers, groups, layouts, offsets)
    _check(graph)
    return graph


def _read(kind: type[_T], about: Any, source: Source) -> _T:
    found: dict[str, Any] = {}
    for own in fields(kind):  # type: ignore[arg-type]  # every kind is a dataclass
        if own.name not in about and own.default is not MISSING:
            continue
        given = about[own.name]
        inner = next(iter(given.keys() & _INNER.keys()), None) if isinstance(given, dict) else None
        if inner is not None:
            value: Any = _read(_INNER[inner], given[inner], source)
        else:
            value = read_value(given, arrays=lambda number: read_array(source, number))
        if not _IS[str(own.type)](value):
            raise CheckpointError(f"the file is damaged: {own.name} of a {kind.__name__} is {str(given)[:60]!r}")
        found[own.name] = value
    return kind(**found)


def _head(about: Any) -> Head:
    name, leaf, shape = about
    return Head(text(name), whole(leaf), sizes(shape))


def _example(about: Any) -> Tensor:
    shape, dtype = sizes(about["shape"]), DTYPES.get(text(about["dtype"]))
    if dtype is None or len(shape) < 2 or not all(0 < n < 2**24 for n in shape):
        raise CheckpointError(f"the file is damaged: inputs of shape {shape} and type {about['dtype']!r} are none")
    return torch.zeros((), dtype=dtype).expand(shape)


def _check(graph: ChannelGraph) -> None:
    """Hold layers, groups and layouts against the program and against each other. Raises `CheckpointError`."""
    nodes = {node.name: node for node in graph.network.module.graph.nodes}
    _require(len(graph.offsets) == len(graph.groups), "it has another number of offsets than of channel groups")
    for group in graph.groups:
        written = [layer.rows for layer in graph.layers if layer.width and graph.groups[layer.group] is group]
        rows = np.unique(np.concatenate(written)) if written else np.empty(0, dtype=np.int64)
        whole_group = len(rows) == group.width and np.array_equal(rows, np.arange(len(rows)))
        _require(whole_group, f"channels of {group.name[:60]!r} are written by no layer")
        for parts in (group.blocks, group.cells, group.marks):
            _require(parts is None or len(parts) == group.width, f"blocks of {group.name[:60]!r} do not fit its width")
    present = [graph.network.module.get_submodule(layer.name) for layer in graph.layers if layer.width]
    _require(len({id(module) for module in present}) == len(present), "two of its layers have the same weights")
    _check_heads(graph)
    for layer in graph.layers:
        _require(0 <= layer.group < len(graph.groups), f"{layer.name[:60]!r} writes a channel group that is not there")
        if layer.width:
            _check_layer(graph, layer, nodes)
    most = sum(group.width for group in graph.groups)
    for name, layout in graph.layouts.items():
        shape = graph.network.shapes.get(name)
        fits = name in nodes and shape is not None and layout.ndim == len(shape) - 1
        inside = not layout.size or (layout.min() >= CONSTANT and layout.max() < most)
        _require(fits and bool(inside), f"the channels of the value {name[:60]!r} do not fit it")


def _check_heads(graph: ChannelGraph) -> None:
    """Hold what the network is said to answer against what it does."""
    (output,) = (node for node in graph.network.module.graph.nodes if node.op == "output")
    answer, heads = leaves(output.args[0]), graph.network.heads
    _require(heads or isinstance(output.args[0], fx.Node), "it does not say which of its outputs count")
    for head in heads:
        found = answer[head.leaf][1] if head.leaf < len(answer) else None
        shape = graph.network.shapes.get(found.name) if isinstance(found, fx.Node) else None
        _require(shape is not None and shape[1:] == head.shape, f"its output {head.name[:60]!r} is none")


def _check_layer(graph: ChannelGraph, layer: WeightLayer, nodes: Mapping[str, fx.Node]) -> None:
    name = layer.name[:60]
    called = [nodes[node] for node in layer.nodes if node in nodes]
    _require(
        len(called) == len(layer.nodes) > 0 and all(n.op == "call_module" and n.target == layer.name for n in called),
        f"the layer {name!r} is called where the network does not call it",
    )
    module = graph.network.module.get_submodule(layer.name)
    operation = operation_of(module)
    _require(operation is not None and operation.carries is Carries.LAYER, f"{name!r} is no weight layer")
    _require(layer.name in graph.network.sources, f"it does not say where {name!r} comes from")
    _require(
        all(
            node.args and isinstance(node.args[0], fx.Node) and layer.nodes[0] in graph.network.shapes
            for node in called
        ),
        f"the layer {name!r} reads no value",
    )
    numbers = sum(p.numel() for p in module.parameters(recurse=False))
    fits = 0 < layer.banks <= layer.width and layer.width == len(layer.rows)
    fits = fits and len(layer.column_groups) == len(layer.column_channels)
    _require(
        fits and len(layer.column_groups) % layer.banks == 0 and layer.width % layer.banks == 0
        and layer.bias == (getattr(module, "bias", None) is not None) and numbers == layer.width * layer.columns,
        f"rows and columns of the layer {name!r} do not fit its {numbers:,} numbers",
    )  # fmt: skip
    _require(bool((layer.rows >= 0).all()), f"the layer {name!r} writes channels that are not there")
    read = layer.column_groups
    _require(
        not read.size or (read.min() >= PRIVATE and read.max() < len(graph.groups)),
        f"the layer {name!r} reads channel groups that are not there",
    )
    widths = np.array([group.width for group in graph.groups], dtype=np.int64)
    own = read >= 0
    channels = layer.column_channels[own]
    _require(
        bool(((channels >= 0) & (channels < widths[read[own]])).all()),
        f"the layer {name!r} reads channels that are not there",
    )


def _require(holds: Any, what: str) -> None:
    if not holds:
        raise CheckpointError(f"the file is damaged: {what}")


def weight_shapes(module: nn.Module, name: str, dtype: torch.dtype) -> Missing:
    """Shapes of a layer's weight and bias by their paths, with the type in which they are to be."""
    found = {}
    for part in ("weight", "bias"):
        tensor = getattr(module, part, None)
        if tensor is not None:
            found[f"{name}.{part}"] = (tuple(tensor.shape), dtype)
    return found
