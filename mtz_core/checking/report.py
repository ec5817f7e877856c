"""Will these networks zip, and how much of them? Answered in seconds, without training and without data.

Two checks run on the actual weights. Permuting the channels of every group must leave a network's outputs as they
are: then the channel graph says the truth about which weights read which channels. A network zipped with itself must
answer as before at one network's size: then sharing stores and assembles weights rightly.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from torch import Tensor, fx, nn

from mtz_core.checking.checks import Check, identity_check, permutation_check
from mtz_core.errors import GraphError, SpecError
from mtz_core.graph.channels import PRIVATE, ChannelGraph
from mtz_core.graph.correspondence import JointGraph, correspond
from mtz_core.graph.propagation import channel_graphs
from mtz_core.graph.record import Carries, call_of
from mtz_core.graph.stored_program import why_not_written
from mtz_core.structure.networks import HEAD, NetworkStructure


@dataclass(frozen=True)
class NetworkReport:
    """What one network consists of. `private` gives numbers that cannot be shared, by reason.

    `unsaved` says why a zipped network of it cannot be written to a file, if so. Task heads are not among the private
    numbers, nor the tables of embeddings: a task's tokens are its own, as its outputs are.
    """

    architecture: str
    input_shape: tuple[int, ...]
    nodes: int
    layers: int
    groups: int
    parameters: int
    head: int
    tables: int
    sharable: int
    private: Mapping[str, int]
    frozen: Mapping[str, str]
    structure: NetworkStructure = field(repr=False)
    unsaved: str | None = None

    @property
    def share(self) -> float:
        """Sharable part of the parameters of hidden layers, in [0, 1]."""
        hidden = self.sharable + sum(self.private.values())
        return self.sharable / hidden if hidden else 0.0


@dataclass(frozen=True)
class Correspondence:
    """A step in the common order of layers: every network's layer (or `None`), and why it is not shared, if so."""

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
        >>> import torch
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
            unexplained = int((layer.column_groups == PRIVATE).sum()) * layer.kernel_size // layer.banks * layer.width
            closed = 0
            for g in np.unique(layer.column_groups[layer.column_groups >= 0]):
                reason = graph.groups[int(g)].frozen
                if reason is not None and not layer.depthwise:
                    columns = int((layer.column_groups == g).sum()) * layer.kernel_size // layer.banks * layer.width
                    key = f"reads channels that stay private: {reason}"
                    private[key] = private.get(key, 0) + columns
                    closed += columns
            if unexplained:
                key = layer.why
                private[key] = private.get(key, 0) + unexplained
            sharable += size - unexplained - closed
    structure = graph.structure()
    tables = _tables(graph)
    if structure.other_parameters > tables:
        key = "normalisation and other parameters outside weight layers, kept per task"
        private[key] = structure.other_parameters - tables
    return NetworkReport(
        name,
        tuple(graph.network.example.shape[1:]),
        len(graph.network.module.graph.nodes),
        len(graph.layers),
        len(graph.groups),
        structure.parameters,
        head,
        tables,
        sharable,
        private,
        {g.name: g.frozen for g in graph.groups if g.frozen is not None and g.frozen != HEAD},
        structure,
        why_not_written(graph.network.module),
    )


def _tables(graph: ChannelGraph) -> int:
    """Parameters of embeddings that look tokens of the input up."""
    module, found = graph.network.module, dict[int, int]()
    for node in module.graph.nodes:
        call = call_of(node, module)
        if call.operation is not None and call.operation.carries is Carries.LOOKS_UP and node.name in graph.layouts:
            weights = call.called.parameters() if isinstance(call.called, nn.Module) else _read(module, node)
            found |= {id(weight): weight.numel() for weight in weights}
    return sum(found.values())


def _read(module: nn.Module, node: fx.Node) -> list[Tensor]:
    reads = [str(source.target).rpartition(".") for source in node.all_input_nodes if source.op == "get_attr"]
    return [cast(Tensor, getattr(module.get_submodule(prefix), name)) for prefix, _, name in reads]


def _correspondence(joint: JointGraph) -> tuple[Correspondence, ...]:
    rows = []
    for layer in joint.layers:
        group = joint.groups[layer.group]
        reason = None if group.open and len(layer.present) > 1 else group.frozen or "no counterpart"
        rows.append(
            Correspondence(
                tuple(own.name if own.width else None for own in layer.members),
                tuple(own.kind if own.width else None for own in layer.members),
                tuple(layer.widths),
                group.name,
                reason,
            )
        )
    return tuple(rows)
