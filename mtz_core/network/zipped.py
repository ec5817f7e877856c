"""The zipped network: every parent's computation, with weights assembled from shared and private submatrices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mtz_core.errors import SpecError
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.correspondence import CommonLayer, JointGraph
from mtz_core.graph.execution import Program, respond
from mtz_core.graph.heads import joined, mapped
from mtz_core.network.dense import DenseLayer
from mtz_core.network.description import checked, described, explained
from mtz_core.network.extract import extracted
from mtz_core.network.grouped import GroupedLayer
from mtz_core.network.plain import plain
from mtz_core.network.stored import NO_FACTORS, Factors, StoredLayer
from mtz_core.network.tables import column_keys, column_table, own_entries, row_keys, row_table
from mtz_core.pairing.slots import Table, complete, private_table, shared_rows
from mtz_core.structure.networks import RECURRENT
from mtz_core.structure.sizes import ParameterCounts

SPARSE_FRACTION = 0.01


class ZippedNetwork(nn.Module):
    """T networks in one.

    It starts with everything private and answers exactly as the parents do; `pair` and `merge` then share channels and
    weights. `extract(task)` returns a task's network as a module of the parent's own class.

    Args:
        networks: the parents; they are read, never changed. None, if a network was read from a file: then `extract`
            returns the traced computation as a plain module.
        joint: their channel graphs side by side, in the same order.
        sparse: `"auto"` keeps zeros of layers in which more than 1 % of the weights are exactly zero, `"yes"` of all
            layers, `"no"` of none; or one flag per layer.
        own_bias: whether every task keeps a bias of its own for shared neurons.
        trunk: how many layers, from the first on, are to be computed once for all tasks (see `structure.trunks.Trunk`).
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        joint: JointGraph,
        sparse: str | Sequence[bool] = "auto",
        own_bias: bool = False,
        trunk: int = 0,
    ) -> None:
        super().__init__()
        self.parents, self.joint, self.own_bias, self.trunk = tuple(networks), joint, own_bias, trunk
        self.tables: list[Table] = [private_table(group.widths) for group in joint.groups]
        self.merged: list[bool] = [False] * len(joint.layers)
        self.bodies = nn.ModuleList(_body(graph) for graph in joint.graphs)
        self.layers = nn.ModuleList()
        self._types: list[list[torch.dtype]] = []
        for layer in joint.layers:
            matrices = [graph.matrix(own) for graph, own in zip(joint.graphs, layer.members, strict=True)]
            self._types.append([matrix.dtype for matrix in matrices])
            mode = sparse if isinstance(sparse, str) else ("yes" if sparse[layer.index] else "no")
            masks = _masks(matrices, [own.bias for own in layer.members], mode)
            self.layers.append(self._stored(layer.index, matrices, masks))
        pairs = zip(self.bodies, joint.graphs, strict=True)
        self._programs = [Program(cast(Any, body), graph.layers, graph.network.heads) for body, graph in pairs]
        self._index = [{own.name: k for k, own in enumerate(graph.layers)} for graph in joint.graphs]
        self.parent_sizes = _own_sizes(self)
        self.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> ZippedNetwork:
        sparse = [layer.masked for layer in self.stored()]
        twin = ZippedNetwork(self.parents, self.joint, sparse, self.own_bias, self.trunk)
        twin.restore(self.description(), {k: v.detach().clone() for k, v in self.state_dict().items()})
        memo[id(self)] = twin
        return twin

    @property
    def tasks(self) -> int:
        """Number of networks."""
        return self.joint.tasks

    @property
    def graphs(self) -> tuple[ChannelGraph, ...]:
        """Every task's channel graph, with the numbers of the common order."""
        return self.joint.graphs

    def stored(self) -> list[StoredLayer]:
        """What is stored of every layer."""
        return [cast(StoredLayer, layer) for layer in self.layers]

    def _stored(
        self,
        index: int,
        matrices: Sequence[Tensor],
        masks: Sequence[Tensor] | None,
        factors: Factors = NO_FACTORS,
    ) -> StoredLayer:
        """What is to be stored of a layer: in one vector where its neurons read different channels."""
        members = self.joint.layers[index].members
        if any(own.banks > 1 and not own.depthwise for own in members):
            return GroupedLayer(matrices, _row_keys(self, index), self.entries(index), masks)
        rows = self.row_slots(index) if self.merged[index] else private_table([own.width for own in members])
        return DenseLayer(matrices, rows, self.column_slots(index), masks, factors.scales, factors.gains)

    def entries(self, index: int, tables: Sequence[Table] | None = None) -> list[Table]:
        """For every task what the entries (n_t, d_t) of a grouped convolution read (see `tables.column_keys`).

        `tables` are the slot tables of all channel groups, the network's own if omitted.
        """
        members = self.joint.layers[index].members
        tables = self.tables if tables is None else tables
        keys = column_keys(members, tables, self.joint.widths, self.owns_bias(index))
        return [own_entries(own, k) for own, k in zip(members, keys, strict=True)]

    def row_slots(self, index: int, table: Table | None = None) -> Table:
        """Slot table that the layer's rows have once it is merged, if its group has this one, its own if omitted."""
        group = self.joint.group_of(index)
        table = self.tables[group.number] if table is None else table
        return row_table(self.joint.layers[index].members, table, group.widths)

    def column_slots(self, index: int, tables: Sequence[Table] | None = None) -> Table:
        """Slot table of the layer's columns, if the groups have these tables, their own if omitted."""
        tables = self.tables if tables is None else tables
        return column_table(self.joint.layers[index].members, tables, self.joint.widths, self.owns_bias(index))

    def owns_bias(self, index: int) -> bool:
        """Whether every task keeps a bias of its own for shared neurons of layer number `index`."""
        return self.own_bias and index not in self.common

    @property
    def common(self) -> range:
        """Numbers of the layers in which tasks share biases and scales: the trunk, but for its last layer's sums."""
        if self.trunk and self.joint.layers[self.trunk - 1].kind in RECURRENT:
            return range(self.trunk)
        return range(max(0, self.trunk - 1))

    def program(self, task: int) -> Program:
        """The task's computation, to be run with `matrices(task)`."""
        return self._programs[task]

    def matrices(self, task: int) -> Callable[[str], Tensor]:
        """Weight matrices by layer name; each is assembled once and kept for the life of the returned function."""
        known: dict[str, Tensor] = {}

        def lookup(name: str) -> Tensor:
            if name not in known:
                known[name] = self.matrix(self._index[task][name], task)
            return known[name]

        return lookup

    def matrix(self, index: int, task: int) -> Tensor:
        """Assembled weights (n_t, d_t) of layer number `index`, in the type that the task is computed in."""
        return self.stored()[index].matrix(task).to(self._types[index][task])

    def scale(self, index: int, task: int) -> Tensor | None:
        """Factors (n_t,) of what the rows of layer number `index` share, relative to the first task's; `None`: one."""
        return self.stored()[index].scale(task)

    def mask(self, index: int, task: int) -> Tensor | None:
        """Sparsity mask (n_t, d_t) of layer number `index`, `None` if it is dense."""
        return self.stored()[index].mask(task)

    def forward(self, x: Tensor, task: int = 0) -> Any:
        """Return task's answer to inputs `x` (N, ...), arranged as the parent's, in their type if that is floating."""
        if not 0 <= task < self.tasks:
            raise SpecError(f"task {task} was asked of a network that answers tasks 0 to {self.tasks - 1}")
        require_size(self.graphs[task], x)
        given = x.to(self.graphs[task].network.example.dtype) if x.is_floating_point() else x
        answer = respond(self._programs[task], given, self.matrices(task))
        return mapped(answer, partial(_in_type, x.dtype)) if x.is_floating_point() else answer

    def outputs(self, x: Tensor, task: int = 0) -> Tensor:
        """Return task's outputs for inputs `x` (N, ...) as one tensor (see `graph.heads.joined`)."""
        return joined(self(x, task=task), self._programs[task].heads)

    def pair(self, group: int, shared: Table) -> None:
        """Share channels: each row of `shared` (k, T) holds undecided channels of two or more tasks (-1: none).

        Producers keep their weights until `merge`; consumers now read these channels through shared columns.
        """
        slots = np.concatenate([shared_rows(self.tables[group]), shared])
        self.tables[group] = complete(slots, self.joint.groups[group].widths)
        for layer in self.joint.layers:
            reads = any((own.column_groups == group).any() for own in layer.members)
            if reads or (layer.group == group and self.merged[layer.index]):
                self._rebuild(layer.index, [self.matrix(layer.index, t) for t in range(self.tasks)])

    def merge(self, index: int, matrices: Sequence[Tensor], factors: Factors = NO_FACTORS) -> None:
        """Share the layer's rows as its group is paired, with the weights `matrices` (n_t, d_t).

        The tasks' matrices must agree wherever they share an entry, each divided by its `factors`.
        """
        self.merged[index] = True
        self._rebuild(index, matrices, factors)

    def set_weights(self, index: int, matrices: Sequence[Tensor]) -> None:
        """Change the weights of a layer, shared as before; the tasks' matrices must agree where they share."""
        self._rebuild(index, matrices)

    def _rebuild(self, index: int, matrices: Sequence[Tensor], factors: Factors | None = None) -> None:
        before, tasks = self.stored()[index], range(self.tasks)
        masks = [cast(Tensor, before.mask(t)) for t in tasks] if before.masked else None
        factors = before.factors(self.tasks) if factors is None else factors
        after = self._stored(index, [m.detach() for m in matrices], masks, factors)
        self.layers[index] = after.requires_grad_(next(before.parameters()).requires_grad)

    def counts(self, parents: tuple[int, ...] | None = None) -> ParameterCounts:
        """Stored numbers: shared, private per task, and the parents' own. Zeros of pruned layers are not stored."""
        shared, private = 0, [0] * self.tasks
        for layer in self.stored():
            common, alone = layer.counts()
            shared += common
            private = [a + b for a, b in zip(private, alone, strict=True)]
        for t, body in enumerate(self.bodies):
            private[t] += sum(parameter.numel() for parameter in body.parameters())
        return ParameterCounts(shared, tuple(private), self.parent_sizes if parents is None else parents)

    def extract(self, task: int) -> nn.Module:
        """Return task's network as a new module, in evaluation mode: of the parent's own class, where that is known.

        A BatchNorm that was folded into its convolution stays and becomes the identity. A network that was
        loaded without its parents returns its traced computation, which is a module like any other.
        """
        named = {own.name: self.matrix(k, task) for k, own in enumerate(self.graphs[task].layers) if own.width}
        if not self.parents:
            return plain(self.graphs[task], named, self.bodies[task])
        return extracted(self.parents[task], self.graphs[task], named, self.bodies[task])

    def description(self) -> dict[str, Any]:
        """What is shared, as JSON-able data: with `state_dict()` all that `restore` needs."""
        return described(self)

    def restore(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take over a state saved by `description()` and `state_dict()`.

        Raises:
            CheckpointError: it belongs to other networks, or is damaged.
        """
        state = checked(description, self)
        self.merged, self.own_bias, self.trunk = state.merged, state.own_bias, state.trunk
        for g, shared in enumerate(state.shared):
            self.tables[g] = complete(shared, self.joint.groups[g].widths)
        with explained():
            for layer in self.joint.layers:
                k = layer.index
                factors = _ones(layer, state.scaled[k], state.gained[k])
                self._rebuild(k, [self.matrix(k, t) for t in range(self.tasks)], factors)
            self.load_state_dict(tensors, strict=True)
        self.parent_sizes = state.parents
        for layer, stored in zip(self.joint.layers, self.stored(), strict=True):
            _remask(stored, [own.bias for own in layer.members])

    def save(self, path: Path | str) -> None:
        """Write one safetensors file, all that `load` needs: the numbers, what is shared, and what to compute.

        Raises:
            GraphError: the network calls something that cannot be named in a file; the message says what.
        """
        from mtz_core.network import saving  # reading files of before traces networks, which is above this module

        saving.write(path, self)

    @staticmethod
    def load(path: Path | str, networks: Sequence[nn.Module] | None = None) -> ZippedNetwork:
        """Read a file written by `save`; nothing that it holds is executed, and nothing else is needed.

        `networks` are for `extract`: with modules of the classes that were zipped, in the same order, it returns such
        modules. Their weights do not matter.

        Raises:
            CheckpointError: not such a file, damaged, or made from other architectures than `networks`.
        """
        from mtz_core.network import saving

        return saving.read(path, networks)


def _ones(layer: CommonLayer, scaled: bool, gained: bool) -> Factors:
    """Factors of one, to be overwritten, of a layer that stores some."""
    rows = [torch.ones(own.width) for own in layer.members] if scaled else None
    columns = [torch.ones(own.columns) for own in layer.members] if gained else None
    return Factors(rows, columns)


def _remask(stored: StoredLayer, biases: Sequence[bool]) -> None:
    """A pruned layer's zeros are its mask; the shared part has its own."""
    if stored.masked:
        matrices = [stored.matrix(t).detach() for t in range(len(biases))]
        stored.remask([_nonzero(matrix, bias) for matrix, bias in zip(matrices, biases, strict=True)])


def _in_type(numbers: torch.dtype, leaf: Any) -> Any:
    return leaf.to(numbers) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def require_size(graph: ChannelGraph, x: Tensor) -> None:
    """Raise `SpecError` for inputs of another size where the parent's forward decided by the size of its inputs."""
    wanted = tuple(graph.network.example.shape[1:])
    if graph.network.fixed and tuple(x.shape[1:]) != wanted:
        raise SpecError(
            f"inputs are of shape {tuple(x.shape[1:])}, but the forward of this network decides by the size of its "
            f"inputs, and it was zipped for {wanted}; resize them, or zip with inputs of that size"
        )


def _row_keys(network: ZippedNetwork, index: int) -> list[Table]:
    members, group = network.joint.layers[index].members, network.joint.group_of(index)
    if not network.merged[index]:
        return [np.full(own.width, -1, dtype=np.int64) for own in members]
    return row_keys(members, network.tables[group.number], group.widths)


def _own_sizes(network: ZippedNetwork) -> tuple[int, ...]:
    """Numbers of the parents while nothing is shared; where weights were computed, of what they were made from."""
    sizes = list(network.counts(parents=()).private)
    for stored, layer in zip(network.stored(), network.joint.layers, strict=True):
        for t, (own, count) in enumerate(zip(layer.members, stored.counts()[1], strict=True)):
            made = network.graphs[t].network.computed.get(own.name)
            if made is not None:
                sizes[t] += made + own.width * own.bias - count
    return tuple(sizes)


def _body(graph: ChannelGraph) -> nn.Module:
    """The traced computation without the weights that stored layers hold."""
    managed = [layer.name for layer in graph.layers if layer.width]
    weights = (p for name in managed for p in graph.network.module.get_submodule(name).parameters(recurse=False))
    body = copy.deepcopy(graph.network.module, {id(p): p for p in weights})  # which are not to be copied
    for name in managed:
        module = body.get_submodule(name)
        module.register_parameter("weight", None)
        module.register_parameter("bias", None)
    return body


def _nonzero(matrix: Tensor, bias: bool) -> Tensor:
    mask = matrix != 0
    if bias and matrix.numel():
        mask[:, -1] = True
    return mask


def _masks(matrices: Sequence[Tensor], biases: Sequence[bool], sparse: str) -> list[Tensor] | None:
    if sparse == "no":
        return None
    weights = [matrix[:, :-1] if bias else matrix for matrix, bias in zip(matrices, biases, strict=True)]
    zeros = max(float((w == 0).float().mean()) if w.numel() else 0.0 for w in weights)
    if sparse == "auto" and zeros <= SPARSE_FRACTION:
        return None
    return [_nonzero(matrix, bias) for matrix, bias in zip(matrices, biases, strict=True)]
