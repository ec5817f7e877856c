"""A zipped network as a file: every shared number once, what is shared, and what to compute with them.

The file is one of safetensors. Its metadata hold, as JSON, the description of what is shared, and for every task its
program, its layers and its channel groups (see `graph.stored_graph`). So a file needs nothing but itself: neither the
parents nor their classes, and no inputs. Nothing of a file is executed when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from mtz_core.errors import CheckpointError, GraphError
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.correspondence import correspond, side_by_side
from mtz_core.graph.plain import copied, make_plain
from mtz_core.graph.propagation import channel_graphs
from mtz_core.graph.stored_graph import Arrays, read_graph, weight_shapes, write_graph
from mtz_core.graph.stored_program import Missing, Shelf, Source
from mtz_core.network.description import FORMAT, OLDER
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.structure.stored import joint_from_json, joint_to_json

MOST_NETWORKS = 256
TOLERANCE = 1e-3
"""Largest deviation of a stored network's answers, relative to the largest, that rounding may cause; half precision
may have as many times more as its numbers are coarser."""

Packed = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and what is written beside them as JSON."""


def write(path: Path | str, network: ZippedNetwork) -> None:
    """Write one safetensors file.

    Raises:
        GraphError: the network calls something that cannot be named in a file, or what was written would come back
            different; the message says what.
    """
    tensors, about = packed(network)
    _check_the_way_back(network, tensors, about)
    try:
        save_file(tensors, str(path), metadata={"mtz": json.dumps(about)})
    except (SafetensorError, KeyError) as error:
        raise GraphError(f"the network holds numbers of a type that no safetensors file has ({error})") from error


def packed(network: ZippedNetwork) -> Packed:
    """What a file of the network holds. Raises `GraphError` if the network cannot be stored."""
    shelf = Shelf()
    arrays = Arrays(shelf)
    graphs = []
    for t, graph in enumerate(network.graphs):
        body = cast(fx.GraphModule, network.bodies[t])
        graphs.append(write_graph(graph, body, arrays, f"bodies.{t}.", _missing(network, graph)))
    for name, tensor in network.state_dict().items():
        if name.startswith("layers."):
            shelf.put(name, tensor)
    for k, layer in enumerate(network.stored()):
        for t in range(network.tasks) if layer.masked else ():
            bits = np.packbits(cast(Tensor, layer.mask(t)).cpu().numpy().reshape(-1))
            shelf.put(f"masks.{k}.{t}", torch.from_numpy(bits))
    about = {**network.description(), "graphs": graphs, "joint": joint_to_json(network.joint.structure)}
    return shelf.tensors, cast(dict[str, Any], json.loads(json.dumps(about)))


def _missing(network: ZippedNetwork, graph: ChannelGraph) -> Missing:
    """Shapes and types of the weights that stored layers hold for a task."""
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for own, layer in zip(graph.layers, network.stored(), strict=True):
        if own.width:
            module = graph.network.module.get_submodule(own.name)
            kinds = [parameter.dtype for parameter in layer.parameters()]
            dtype = cast(Tensor, module.weight).dtype
            found |= weight_shapes(module, own.name, dtype if dtype in kinds else kinds[0])
    return found


def _check_the_way_back(network: ZippedNetwork, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Read what is about to be written. Raises `GraphError` if it is not what it was."""
    try:
        with _damage("the file"):
            back = unpacked(tensors, about)
        if packed(back)[1] != about:
            raise GraphError("a file of this network would come back with other settings; nothing was written")
    except CheckpointError as error:
        raise GraphError(f"a file of this network could not be read back, so nothing was written: {error}") from error
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            for t, graph in enumerate(network.graphs):
                _check_answers(network, back, t, graph.network.example)
    finally:
        network.train(training)


def _check_answers(network: ZippedNetwork, back: ZippedNetwork, t: int, x: Tensor) -> None:
    """Whether a task of `back`, on the processor, answers as `network` does, wherever that is."""
    try:
        answer = back.outputs(x.cpu(), task=t).double()
    except Exception as error:  # whatever the user's own network makes torch raise
        raise GraphError(f"read back, task {t} fails ({error}); nothing was written") from error
    wanted = network.outputs(x.to(next(network.parameters()).device), task=t)
    coarse = torch.finfo(wanted.dtype).eps / torch.finfo(torch.float32).eps
    most = TOLERANCE * max(1.0, coarse / 1000) * float(wanted.nan_to_num(0.0).abs().max())
    if not torch.allclose(answer, wanted.double().cpu(), rtol=0.0, atol=most, equal_nan=True):
        raise GraphError(
            f"read back, task {t} answers differently, so nothing was written; a module in it depends on something "
            "other than its settings and numbers. Write its forward with operations of torch"
        )


def read(path: Path | str, networks: Sequence[nn.Module] | None = None) -> ZippedNetwork:
    """Read a file that `write` wrote; `networks`, if any, are modules of the classes that `extract` is to return.

    Raises:
        CheckpointError: not such a file, damaged, it calls what no file may call, or `networks` are others.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        about = json.loads(metadata["mtz"], parse_constant=_no_constant)
        version, tasks = about["format"], about["tasks"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a zipped network ({type(error).__name__}: {error})") from error
    if networks is not None and len(networks) != tasks:
        raise CheckpointError(
            f"{path} holds {tasks} networks, {len(networks)} were given; pass as many networks as were zipped, or none"
        )
    if version == OLDER:
        return _traced(path, about, tensors, networks)
    if version != FORMAT:
        raise CheckpointError(
            f"{path} holds {str(version)[:40]!r}, and this version of the program reads {FORMAT}; update the program"
        )
    with _damage(path):
        network = unpacked(tensors, about)
    if networks is not None:
        _check_parents(path, network, networks)
        network.parents = tuple(networks)
    return network


def _no_constant(name: str) -> float:
    raise ValueError(f"its description holds {name}, which is no number")


@contextmanager
def _damage(path: Path | str) -> Iterator[None]:
    """Within, whatever a wrong file makes the reader stumble over says so, and which file it is."""
    try:
        yield
    except (CheckpointError, GraphError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (
        *(KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, AssertionError, StopIteration),
        *(RecursionError, OverflowError, MemoryError),
        NotImplementedError,  # torch has no kernel for an operation with such tensors
    ) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {str(error).strip()[:200]}); copy it again, or save the "
            "network again"
        ) from error


def unpacked(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> ZippedNetwork:
    """The network of which `packed` told what a file holds. Raises `CheckpointError`, or what a wrong file causes."""
    source = Source(tensors, sum(tensor.numel() for tensor in tensors.values()))
    if not 1 <= len(about["graphs"]) <= MOST_NETWORKS or len(about["graphs"]) != about["tasks"]:
        raise CheckpointError(f"the file is damaged: it declares {str(about['tasks'])[:20]} networks")
    graphs = tuple(read_graph(record, source) for record in about["graphs"])
    joint = side_by_side(graphs, joint_from_json(about["joint"]))
    sparse = [bool(flag) for flag in about["sparse"]]
    if len(sparse) != len(joint.layers):
        raise CheckpointError(
            f"the file is damaged: it has {len(joint.layers)} layers, and {len(sparse)} that may be sparse"
        )
    network = ZippedNetwork((), joint, sparse)
    state = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("bodies.")}
    state |= {name: tensor for name, tensor in tensors.items() if name.startswith("layers.")}
    network.restore(about, state)
    for name, tensor in network.state_dict().items():
        if tensor.dtype != state[name].dtype:
            raise CheckpointError(f"the file is damaged: {name} is of type {state[name].dtype}, not {tensor.dtype}")
    for k, layer in enumerate(network.stored()):
        if layer.masked:
            layer.remask([_mask(tensors[f"masks.{k}.{t}"], layer.matrix(t)) for t in range(network.tasks)])
    return network


def _mask(bits: Tensor, like: Tensor) -> Tensor:
    found = np.unpackbits(bits.numpy(), count=like.numel()).astype(bool)
    return torch.from_numpy(found).reshape(like.shape)


def _check_parents(path: Path | str, network: ZippedNetwork, parents: Sequence[nn.Module]) -> None:
    """Whether what was zipped can be written into modules of these classes. Raises `CheckpointError`."""
    for t, (parent, graph) in enumerate(zip(parents, network.graphs, strict=True)):
        twin = copied(parent)
        make_plain(twin)
        held = {**dict(twin.named_parameters(remove_duplicate=False)), **dict(twin.named_buffers())}
        for layer in graph.layers:
            source = graph.network.sources.get(layer.name) if layer.width else None
            if source is None or not source.own:
                continue
            wanted = layer.width * (layer.columns - int(layer.bias)) // source.copies
            own = held.get(source.weight)
            numbers = -1 if own is None else (own if source.rows is None else own[slice(*source.rows)]).numel()
            lacks = [name for name in (source.bias, source.norm and source.norm.mean) if name and name not in held]
            if numbers != wanted or lacks:
                raise CheckpointError(
                    f"{path} was made from other architectures: network {t} ({type(parent).__name__}) has no "
                    f"{lacks[0] if lacks else source.weight} of {wanted:,} numbers for the layer {layer.name}. Load it "
                    "without networks, or pass modules of the classes that were zipped, in the same order"
                )


def _traced(
    path: Path | str, given: Mapping[str, Any], tensors: Mapping[str, Tensor], networks: Sequence[nn.Module] | None
) -> ZippedNetwork:
    """Read a file of the time when files had no programs: the given networks are traced on zeros."""
    if networks is None:
        raise CheckpointError(
            f"{path} was written before files held what to compute: load it with modules of the architectures that "
            "were zipped, ZippedNetwork.load(path, networks), and save it again; from then on the file is enough"
        )
    with _damage(path):
        shapes = [[int(n) for n in shape] for shape in given["examples"]]
        sparse = [bool(flag) for flag in given["sparse"]]
    for shape in shapes:
        if not 2 <= len(shape) <= 6 or not all(0 < n <= 2**20 for n in shape) or int(np.prod(shape)) > 2**28:
            raise CheckpointError(f"{path} declares an input of shape {shape}, which no supported network has")
    dtype = next(networks[0].parameters()).dtype
    joint = correspond(channel_graphs(networks, [torch.zeros(shape, dtype=dtype) for shape in shapes]))
    if len(sparse) != len(joint.layers):
        raise CheckpointError(
            f"{path} holds {len(sparse)} weight layers, these networks have {len(joint.layers)}; it was made from "
            "other architectures"
        )
    network = ZippedNetwork(networks, joint, sparse)
    network.restore(given, tensors)
    return network
