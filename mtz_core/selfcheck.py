"""Will these networks zip, and how much of them? Answered in seconds, without training and without data.

Two checks run on the actual weights. Permuting the channels of every group must leave a network's outputs as they
are: then the channel graph says the truth about which weights read which channels. A network zipped with itself must
answer as before at one network's size: then sharing stores and assembles weights rightly.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx, nn

from mtz_core.errors import GraphError, SpecError
from mtz_core.graph.channels import HEAD, PRIVATE, ChannelGraph, WeightLayer
from mtz_core.graph.execution import Program, execute
from mtz_core.graph.layout import Layout, expand
from mtz_core.graph.match import correspond
from mtz_core.graph.propagation import channel_graphs
from mtz_core.graph.trace import own_answer
from mtz_core.indexed import own_entries
from mtz_core.shares import participants
from mtz_core.structure import NetworkStructure
from mtz_core.zipped import ZippedNetwork

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


@dataclass(frozen=True)
class NetworkReport:
    """What one network consists of. `private` gives numbers that cannot be shared, by reason (task head aside)."""

    architecture: str
    input_shape: tuple[int, ...]
    nodes: int
    layers: int
    groups: int
    parameters: int
    head: int
    sharable: int
    private: Mapping[str, int]
    frozen: Mapping[str, str]
    structure: NetworkStructure = field(repr=False)

    @property
    def share(self) -> float:
        """Sharable part of the parameters of hidden layers, in [0, 1]."""
        hidden = self.sharable + sum(self.private.values())
        return self.sharable / hidden if hidden else 0.0


@dataclass(frozen=True)
class Correspondence:
    """One place in the common order of layers: every network's layer (or `None`), and why it is not shared, if so."""

    layers: tuple[str | None, ...]
    kinds: tuple[str | None, ...]
    widths: tuple[int, ...]
    group: str
    reason: str | None


@dataclass(frozen=True)
class Preflight:
    """The whole report; `green` says that the networks can be zipped and that all checks passed."""

    networks: tuple[NetworkReport, ...]
    correspondence: tuple[Correspondence, ...]
    checks: tuple[Check, ...]
    problems: tuple[str, ...]
    seconds: float

    @property
    def green(self) -> bool:
        """No problem, no failed check."""
        return not self.problems and all(check.passed for check in self.checks)


def preflight(networks: Sequence[nn.Module] | nn.Module, example: Tensor | Sequence[Tensor]) -> Preflight:
    """Examine networks before they are zipped.

    Args:
        networks: one network, or all that are to be zipped together; they are not changed.
        example: a batch of inputs (N, ...), or one batch per network. Random numbers will do.

    Returns:
        The report. Networks that do not correspond are a problem in it, not an error.

    Raises:
        GraphError: a network cannot be traced; the message says where and what to do.
        SpecError: the number of example batches is wrong.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> report = preflight(net, torch.randn(2, 4))
        >>> report.green, report.networks[0].share
        (True, 1.0)
    """
    began = time.monotonic()
    listed = [networks] if isinstance(networks, nn.Module) else list(networks)
    examples = [example] * len(listed) if isinstance(example, Tensor) else list(example)
    if not listed or len(examples) != len(listed):
        raise SpecError(f"{len(listed)} networks came with {len(examples)} example batches; give one batch per network")
    graphs = channel_graphs(listed, examples)
    reports = tuple(network_report(type(n).__name__, g) for n, g in zip(listed, graphs, strict=True))
    checks: list[Check] = []
    for k, (network, graph) in enumerate(zip(listed, graphs, strict=True)):
        checks += [permutation_check(graph, k), identity_check(network, graph, k)]
    problems: list[str] = []
    rows: tuple[Correspondence, ...] = ()
    if len(graphs) > 1:
        try:
            rows = _correspondence(correspond(graphs))
        except GraphError as error:
            problems.append(str(error))
    return Preflight(reports, rows, tuple(checks), tuple(problems), time.monotonic() - began)


def network_report(name: str, graph: ChannelGraph) -> NetworkReport:
    """Count what can be shared if a twin of the network is zipped with it."""
    head = sharable = 0
    private: dict[str, int] = {}
    for layer in graph.layers:
        frozen = graph.groups[layer.group].frozen
        size = layer.width * layer.columns
        if frozen == HEAD:
            head += size
        elif frozen is not None:
            private[frozen] = private.get(frozen, 0) + size
        else:
            unexplained = int((layer.column_groups == PRIVATE).sum()) * layer.kernel_size // layer.groups * layer.width
            closed = 0
            for g in np.unique(layer.column_groups[layer.column_groups >= 0]):
                reason = graph.groups[int(g)].frozen
                if reason is not None and not layer.depthwise:
                    columns = int((layer.column_groups == g).sum()) * layer.kernel_size // layer.groups * layer.width
                    key = f"reads channels that stay private: {reason}"
                    private[key] = private.get(key, 0) + columns
                    closed += columns
            if unexplained:
                key = "reads values that no rule explains"
                private[key] = private.get(key, 0) + unexplained
            sharable += size - unexplained - closed
    structure = graph.structure()
    if structure.other_parameters:
        private["normalisation and other parameters outside weight layers, kept per task"] = structure.other_parameters
    return NetworkReport(
        name,
        tuple(graph.network.example.shape[1:]),
        len(graph.network.module.graph.nodes),
        len(graph.layers),
        len(graph.groups),
        structure.parameters,
        head,
        sharable,
        private,
        {g.name: g.frozen for g in graph.groups if g.frozen is not None and g.frozen != HEAD},
        structure,
    )


def _correspondence(graphs: Sequence[ChannelGraph]) -> tuple[Correspondence, ...]:
    rows = []
    for layers in zip(*(graph.layers for graph in graphs), strict=True):
        able = participants(graphs, layers[0].group)
        present = [layer for layer in layers if layer.width]
        reasons = [
            r for graph in graphs if (r := graph.groups[layers[0].group].frozen) and graph.groups[layers[0].group].width
        ]
        reason = None if len(able) > 1 and len(present) > 1 else (reasons[0] if reasons else "no counterpart")
        rows.append(
            Correspondence(
                tuple(layer.name if layer.width else None for layer in layers),
                tuple(layer.kind if layer.width else None for layer in layers),
                tuple(layer.width for layer in layers),
                graphs[0].groups[layers[0].group].name,
                reason,
            )
        )
    return tuple(rows)


def _verdict(name: str, network: int, got: Tensor, expected: Tensor, note: str = "") -> Check:
    scale = float(expected.abs().max())
    deviation = float((got - expected).abs().max()) / (scale if scale > 0 else 1.0)
    return Check(name, network, deviation <= TOLERANCE, deviation, note)


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
    twins = ZippedNetwork([network, network], [graph, graph], "no")
    for g, group in enumerate(twins.graphs[0].groups):
        if group.frozen is None:
            twins.pair(g, np.repeat(np.arange(group.width)[:, None], 2, axis=1))
    for index, layer in enumerate(twins.graphs[0].layers):
        if twins.graphs[0].groups[layer.group].frozen is None:
            twins.merge(index, [twins.matrix(index, t).detach() for t in range(2)])
    x = graph.network.example
    with torch.no_grad():
        got = torch.stack([twins(x, task=t) for t in range(2)])
    expected = own_answer(network, x)
    counts = twins.counts()
    note = f"{counts.versus_smallest:.3f}× the size of one network"
    return _verdict("zipped with itself", number, got, expected.expand_as(got), note)


def permutation_check(graph: ChannelGraph, number: int = 0, seed: int = 0) -> Check:
    """Let the channels of every group change places; the outputs must stay the same."""
    rng = np.random.default_rng(seed)
    orders = []
    for group in graph.groups:
        order = np.arange(group.width)
        if group.frozen is None:
            for cell in np.unique(group.cells) if group.cells is not None else (None,):
                inside = order if cell is None else np.flatnonzero(group.cells == cell)
                order[inside] = rng.permutation(inside)
        orders.append(order)
    flat = np.concatenate([offset + order for offset, order in zip(graph.offsets, orders, strict=True)])
    matrices = {layer.name: _permuted_matrix(graph, layer, orders) for layer in graph.layers}
    body = copy.deepcopy(graph.network.module)
    _permute_body(graph, body, flat)
    x = graph.network.example
    with torch.no_grad():
        got = execute(Program(body, graph.layers), x, matrices.__getitem__)
        expected = graph.network.module(x)
    moved = int((flat != np.arange(len(flat))).sum())
    return _verdict("channels permuted", number, got, expected, f"{moved} of {len(flat)} channels moved")


def _sources(ids: Layout, order: Layout) -> Layout:
    """For every position the one whose content it gets when channel c becomes channel `order[c]`; ids < 0 stay."""
    ids = ids.reshape(-1)
    place: dict[int, list[int]] = {}
    for position, channel in enumerate(ids):
        place.setdefault(int(channel), []).append(position)
    seen: dict[int, int] = {}
    result = np.arange(len(ids))
    for position, channel in enumerate(ids):
        if channel < 0:
            continue
        nth = seen.get(int(channel), 0)
        seen[int(channel)] = nth + 1
        there = place.get(int(order[channel]), [])
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
    if layer.groups == 1:
        all_columns = np.append(wanted, layer.columns - 1) if layer.bias else wanted
        chosen = torch.as_tensor(all_columns, device=matrix.device)
        return matrix[torch.as_tensor(rows, device=matrix.device)].index_select(1, chosen)
    bias = [np.array([-1])] if layer.bias else []
    own, asked = (own_entries(layer, np.concatenate([x, *bias])) for x in (keys, wanted))
    first = own[:, :1]  # entries of one row are consecutive numbers, but for the bias
    columns = np.where(asked >= 0, asked - first, layer.columns - 1)
    index = torch.as_tensor(columns, device=matrix.device)
    return matrix[torch.as_tensor(rows, device=matrix.device)].gather(1, index)


def _permute_body(graph: ChannelGraph, body: fx.GraphModule, flat: Layout) -> None:
    """Let parameters outside weight layers (normalisation, PReLU, tokens) follow their channels."""
    done: set[str] = set()
    weighty = {node for layer in graph.layers for node in layer.nodes}
    for node in body.graph.nodes:
        if node.op == "call_module" and node.name not in weighty and str(node.target) not in done:
            done.add(str(node.target))
            layout, shape = graph.places.get(node.name), graph.network.shapes.get(node.name)
            module = body.get_submodule(str(node.target))
            if layout is not None and shape is not None:
                last = isinstance(module, nn.LayerNorm) or type(module).__name__ == "RMSNorm"
                for tensor in (*module.parameters(), *module.buffers()):
                    if tensor.numel() > 1:
                        _permute_tensor(tensor, layout, shape[1:], flat, tensor.ndim if last else 0)
        elif node.op == "get_attr" and str(node.target) not in done:
            done.add(str(node.target))
            user = _first_activation(graph, node)
            prefix, _, name = str(node.target).rpartition(".")
            tensor = getattr(body.get_submodule(prefix), name)
            if user is not None and isinstance(tensor, Tensor) and tensor.numel() > 1:
                shape = graph.network.shapes[user.name]
                if _functional_norm(user):
                    _permute_tensor(tensor, graph.places[user.name], shape[1:], flat, 0)
                else:
                    _permute_tensor(tensor, graph.places[user.name], shape[1:], flat, min(tensor.ndim, len(shape) - 1))


def _functional_norm(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") in ("group_norm", "batch_norm", "prelu", "instance_norm")


def _first_activation(graph: ChannelGraph, node: fx.Node) -> fx.Node | None:
    """The first node behind a parameter whose result holds channels."""
    frontier = [node]
    while frontier:
        current = frontier.pop(0)
        for user in current.users:
            if user.name in graph.places:
                return user
            frontier.append(user)
    return None


def _permute_tensor(tensor: Tensor, layout: Layout, shape: Sequence[int], flat: Layout, trailing: int) -> None:
    """Permute a parameter in place: its last `trailing` axes are the activation's, or (0) it has one per channel."""
    if trailing == 0:
        if tensor.ndim != 1 or layout.shape[0] != len(tensor):
            return
        ids = layout.reshape(layout.shape[0], -1)[:, 0]
    else:
        own = tensor.shape[tensor.ndim - trailing :]
        tail = layout[(0,) * (layout.ndim - trailing)] if layout.ndim > trailing else layout
        cut = tail[tuple(slice(0, 1) if size == 1 else slice(None) for size in own)]
        fits = all(a in (1, b) for a, b in zip(cut.shape, own, strict=True))
        if not fits or tensor.numel() != int(np.prod(own)):
            return
        ids = expand(cut, own)
    source = torch.as_tensor(_sources(ids, flat), device=tensor.device)
    with torch.no_grad():
        tensor.copy_(tensor.reshape(-1)[source].reshape(tensor.shape))
