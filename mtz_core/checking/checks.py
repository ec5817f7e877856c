"""Two checks on the actual weights.

Permuting the channels of every group must leave a network's outputs as they are: then the channel graph says the truth
about which weights read which channels. A network zipped with itself must answer as before at one network's size: then
sharing stores and assembles weights rightly.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from mtz_core.checking.orders import drawn_orders, moved
from mtz_core.checking.parameters import Met, channels_met, met_beside
from mtz_core.errors import GraphError
from mtz_core.graph.channels import ChannelGraph, WeightLayer
from mtz_core.graph.correspondence import correspond
from mtz_core.graph.execution import Program, execute
from mtz_core.graph.heads import Head, joined, scales
from mtz_core.graph.layout import Layout
from mtz_core.graph.own_answers import own_answer
from mtz_core.graph.record import Carries, Operation, call_of, operation_of
from mtz_core.graph.sources import fresh_name
from mtz_core.network.tables import own_entries
from mtz_core.network.zipped import ZippedNetwork

TOLERANCE = 1e-3
"""Largest difference of outputs, relative to the largest output, that counts as equal."""


@dataclass(frozen=True)
class Check:
    """One self-check of one network: `deviation` is the largest difference of its outputs, relative to the largest."""

    name: str
    network: int
    passed: bool
    deviation: float
    note: str = ""


def _tolerance(network: nn.Module) -> float:
    """Rounding of a network of half precision is no difference."""
    types = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    return max([TOLERANCE, *(4.0 * torch.finfo(kind).eps for kind in types)])


def _verdict(
    name: str,
    network: int,
    got: Tensor,
    expected: Tensor,
    heads: Sequence[Head],
    note: str = "",
    tolerance: float = TOLERANCE,
) -> Check:
    """Compare outputs (..., N, ·), of every head relative to its own largest."""
    deviation = float(((got - expected).abs() / scales(expected, heads)).max())
    return Check(name, network, deviation <= tolerance, deviation, note)


def require_identity(networks: Sequence[nn.Module], graphs: Sequence[ChannelGraph]) -> None:
    """Refuse networks that a zip would answer wrongly for: those that are not themselves when zipped with themselves.

    Raises:
        GraphError: which network, by how much, and the way out.
    """
    for number, (network, graph) in enumerate(zip(networks, graphs, strict=True)):
        check = identity_check(network, graph, number)
        if not check.passed:
            raise GraphError(
                f"network {number} ({type(network).__name__}) answers differently once it is taken apart into layers "
                f"and weights: by {deviation_text(check.deviation)} of its largest output, on its own calibration "
                "data. Some layer does more than its weight says (a forward or a hook of its own, a weight that is "
                "computed). Make such weights plain (torch.nn.utils.parametrize.remove_parametrizations and the "
                "like), or export the network with torch.export and zip the exported program"
            )


def deviation_text(deviation: float) -> str:
    """A relative difference of outputs in words."""
    return f"{100.0 * deviation:.3g} %" if math.isfinite(deviation) else "more than any number"


def identity_check(network: nn.Module, graph: ChannelGraph, number: int = 0) -> Check:
    """Zip a network with itself, every neuron with itself: outputs and size must be those of the untouched network."""
    twins = ZippedNetwork([network, network], correspond([graph, graph]), "no")
    for group in twins.joint.groups:
        if group.open:
            twins.pair(group.number, np.repeat(np.arange(group.narrowest)[:, None], 2, axis=1))
    for layer in twins.joint.layers:
        if twins.joint.groups[layer.group].open:
            twins.merge(layer.index, [twins.matrix(layer.index, t).detach() for t in range(2)])
    x = graph.network.example
    with torch.no_grad():
        got = torch.stack([twins.outputs(x, task=t) for t in range(2)])
    expected = joined(own_answer(network, x), graph.network.heads)
    counts = twins.counts()
    note = f"{counts.versus_smallest:.3f}× the size of one network"
    return _verdict("zipped with itself", number, got, expected, graph.network.heads, note, _tolerance(network))


def permutation_check(graph: ChannelGraph, number: int = 0, seed: int = 0) -> Check:
    """Permute the channels of every group; the outputs must stay the same."""
    body = _apart(graph)
    parameters = _parameters(graph, body)
    orders = drawn_orders(graph, [met for _, met in parameters], np.random.default_rng(seed))
    flat = np.concatenate([offset + order for offset, order in zip(graph.offsets, orders, strict=True)])
    matrices = {layer.name: _permuted_matrix(graph, layer, orders) for layer in graph.layers}
    for tensor, met in parameters:
        _rearrange(tensor, moved(met, flat))
    x = graph.network.example
    with torch.no_grad():
        got = execute(Program(body, graph.layers, graph.network.heads), x, matrices.__getitem__)
        expected = graph.network.outputs(x)
    away = int((flat != np.arange(len(flat))).sum())
    return _verdict(
        "channels permuted", number, got, expected, graph.network.heads, f"{away} of {len(flat)} channels moved"
    )


def _apart(graph: ChannelGraph) -> fx.GraphModule:
    """A copy in which every call of a module with numbers of its own, weight layers aside, has a module of its own.

    And every use of a parameter has a parameter of its own.
    """
    body, called = copy.deepcopy(graph.network.module), set[str]()
    managed = {node for layer in graph.layers for node in layer.nodes}
    for node in body.graph.nodes:
        if node.op == "call_module" and node.name not in managed:
            if node.target in called:
                module = copy.deepcopy(body.get_submodule(str(node.target)))
                node.target = fresh_name(body, f"{str(node.target).replace('.', '_')}_again")
                body.add_submodule(node.target, module)
            called.add(str(node.target))
    for node in [node for node in body.graph.nodes if node.op == "get_attr"]:
        prefix, _, name = str(node.target).rpartition(".")
        tensor = getattr(body.get_submodule(prefix), name)
        if isinstance(tensor, Tensor) and prefix not in {layer.name for layer in graph.layers}:
            for user in list(node.users)[1:]:
                again = fresh_name(body, f"{str(node.target).replace('.', '_')}_again")
                body.register_buffer(again, tensor.clone())
                with body.graph.inserting_after(node):
                    user.replace_input_with(node, body.graph.get_attr(again))
    return body


def _sources(ids: Layout, order: Layout) -> Layout:
    """For every position the one whose content it gets when channel c becomes channel `order[c]`; ids < 0 stay."""
    ids = ids.reshape(-1)
    positions: dict[int, list[int]] = {}
    for position, channel in enumerate(ids):
        positions.setdefault(int(channel), []).append(position)
    seen: dict[int, int] = {}
    result = np.arange(len(ids))
    for position, channel in enumerate(ids):
        if channel < 0:
            continue
        nth = seen.get(int(channel), 0)
        seen[int(channel)] = nth + 1
        there = positions.get(int(order[channel]), [])
        if nth < len(there):
            result[position] = there[nth]
    return result


def _permuted_matrix(graph: ChannelGraph, layer: WeightLayer, orders: Sequence[Layout]) -> Tensor:
    matrix = graph.matrix(layer)
    rows = _sources(layer.rows, orders[layer.group])
    if layer.depthwise:
        return matrix[torch.as_tensor(rows, device=matrix.device)]
    source = np.arange(len(layer.column_groups))
    for g in np.unique(layer.column_groups[layer.column_groups >= 0]):
        mine = np.flatnonzero(layer.column_groups == g)
        source[mine] = mine[_sources(layer.column_channels[mine], orders[int(g)])]
    kernel = np.arange(layer.kernel_size)
    keys = (np.arange(len(source))[:, None] * layer.kernel_size + kernel).reshape(-1)
    wanted = (source[:, None] * layer.kernel_size + kernel).reshape(-1)
    if layer.banks == 1:
        all_columns = np.append(wanted, layer.columns - 1) if layer.bias else wanted
        chosen = torch.as_tensor(all_columns, device=matrix.device)
        return matrix[torch.as_tensor(rows, device=matrix.device)].index_select(1, chosen)
    bias = [np.array([-1])] if layer.bias else []
    own, asked = (own_entries(layer, np.concatenate([x, *bias])) for x in (keys, wanted))
    first = own[:, :1]  # entries of one row are consecutive numbers, but for the bias
    columns = np.where(asked >= 0, asked - first, layer.columns - 1)
    index = torch.as_tensor(columns, device=matrix.device)
    return matrix[torch.as_tensor(rows, device=matrix.device)].gather(1, index)


def _parameters(graph: ChannelGraph, body: fx.GraphModule) -> list[tuple[Tensor, Met]]:
    """Parameters outside weight layers (normalisation, PReLU, tokens), with the channels that their numbers follow."""
    found: list[tuple[Tensor, Met]] = []
    done: set[str] = set()
    weighty = {node for layer in graph.layers for node in layer.nodes}
    for node in body.graph.nodes:
        if node.op not in ("call_module", "get_attr") or node.name in weighty or str(node.target) in done:
            continue
        done.add(str(node.target))
        if node.op == "call_module":
            module, layout = body.get_submodule(str(node.target)), graph.layouts.get(node.name)
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.numel() > 1 and layout is not None and node.name in graph.network.shapes:
                    met = _met_in(tensor, layout, _per_channel(operation_of(module)))
                    found += [] if met is None else [(tensor, met)]
        else:
            prefix, _, name = str(node.target).rpartition(".")
            tensor = getattr(body.get_submodule(prefix), name)
            met = _met_by(graph, body, node, tensor) if isinstance(tensor, Tensor) and tensor.numel() > 1 else None
            found += [] if met is None else [(tensor, met)]
    return found


def _met_by(graph: ChannelGraph, body: fx.GraphModule, node: fx.Node, tensor: Tensor) -> Met | None:
    """What a parameter meets where it is first used beside an activation; `None`: it is used in another way."""
    user = _first_activation(graph, node)
    if user is None:
        return None
    operation = call_of(user, body).operation
    if _per_channel(operation):
        return _met_in(tensor, graph.layouts[user.name], each=True)
    if operation is not None and operation.carries in (Carries.ATTENTION, Carries.PRODUCT):
        return None
    return channels_met(graph, node, user, tensor)


def _per_channel(operation: Operation | None) -> bool:
    return operation is not None and operation.parameters == "channels"


def _first_activation(graph: ChannelGraph, node: fx.Node) -> fx.Node | None:
    """The first node behind a parameter whose result holds channels."""
    frontier = [node]
    while frontier:
        current = frontier.pop(0)
        for user in current.users:
            if user.name in graph.layouts:
                return user
            frontier.append(user)
    return None


def _met_in(tensor: Tensor, layout: Layout, each: bool) -> Met | None:
    """What a parameter meets that has the last axes of an activation (..., ·), or one number for `each` channel.

    Layouts have an axis less than activations, that of the inputs, where they are kept.
    """
    if not each:
        return met_beside(layout, tuple(tensor.shape))
    if tensor.ndim != 1 or layout.shape[0] != len(tensor):
        return None
    return met_beside(layout.reshape(len(layout), -1)[:, 0], tuple(tensor.shape))


def _rearrange(tensor: Tensor, source: Layout) -> None:
    """Permute a tensor's numbers (in place)."""
    index = torch.as_tensor(source, device=tensor.device)
    with torch.no_grad():
        tensor.copy_(tensor.reshape(-1)[index].reshape(tensor.shape))
