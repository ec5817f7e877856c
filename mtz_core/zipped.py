"""The zipped network: every parent's computation, with weights assembled from shared and private blocks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mtz_core.blocks import BlockLayer
from mtz_core.errors import CheckpointError, SpecError
from mtz_core.graph.channels import ChannelGraph, WeightLayer
from mtz_core.graph.execution import Program, execute
from mtz_core.graph.match import correspond
from mtz_core.graph.propagation import channel_graphs
from mtz_core.graph.sources import WeightSource
from mtz_core.indexed import IndexedLayer, own_entries
from mtz_core.slots import Table, column_keys, column_table, complete, private_table, row_keys, row_table, shared_rows
from mtz_core.structure import RECURRENT, ParameterCounts

FORMAT = "mtz-zipped-1"
SPARSE_FRACTION = 0.01


class ZippedNetwork(nn.Module):
    """T networks in one.

    It starts with everything private and answers exactly as the parents do; `pair` and `merge` then share channels
    and weights. `forward(x, task)` runs task's network; `extract(task)` returns it as a plain module of the
    parent's own class; `state_dict()` holds every shared number once.

    Args:
        networks: the parents; they are read, never changed. Their classes are needed for `extract`.
        graphs: their channel graphs, in the same order.
        sparse: `"auto"` keeps zeros of layers in which more than 1 % of the weights are exactly zero, `"yes"` of all
            layers, `"no"` of none; or one flag per layer.
        own_bias: whether every task keeps a bias of its own for shared neurons.
        trunk: how many layers, from the first on, are to be computed once for all tasks (see `trunks.Trunk`).

    Raises:
        GraphError: the networks have no hidden layer in common.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        graphs: Sequence[ChannelGraph],
        sparse: str | Sequence[bool] = "auto",
        own_bias: bool = False,
        trunk: int = 0,
    ) -> None:
        super().__init__()
        self.graphs = graphs = correspond(graphs)
        self.tasks = len(graphs)
        self.own_bias, self.trunk = own_bias, trunk
        self._parents = tuple(networks)
        self.widths = [[group.width for group in graph.groups] for graph in graphs]
        self.tables: list[Table] = [
            private_table([self.widths[t][g] for t in range(self.tasks)]) for g in range(len(graphs[0].groups))
        ]
        self.merged: list[bool] = [False] * len(graphs[0].layers)
        self.bodies = nn.ModuleList(_body(graph) for graph in graphs)
        self.layers = nn.ModuleList()
        for index, per_task in enumerate(zip(*(graph.layers for graph in graphs), strict=True)):
            matrices = [graph.matrix(layer) for graph, layer in zip(graphs, per_task, strict=True)]
            mode = sparse if isinstance(sparse, str) else ("yes" if sparse[index] else "no")
            masks = _masks(matrices, [layer.bias for layer in per_task], mode)
            self.layers.append(self._stored(index, matrices, masks))
        self._programs = [Program(cast(Any, b), g.layers) for b, g in zip(self.bodies, graphs, strict=True)]
        self._index = [{layer.name: k for k, layer in enumerate(graph.layers)} for graph in graphs]
        self.parent_sizes = tuple(self.counts(parents=()).private)
        self.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> ZippedNetwork:
        sparse = [block.masked for block in self._blocks()]
        twin = ZippedNetwork(self._parents, self.graphs, sparse, self.own_bias, self.trunk)
        twin.restore(self.description(), {k: v.detach().clone() for k, v in self.state_dict().items()})
        memo[id(self)] = twin
        return twin

    def _blocks(self) -> list[BlockLayer | IndexedLayer]:
        return [cast(BlockLayer | IndexedLayer, layer) for layer in self.layers]

    def is_grouped(self, index: int) -> bool:
        """Whether layer number `index` is a grouped convolution other than a depthwise one."""
        return any(layer.groups > 1 and not layer.depthwise for layer in self._of_task(index))

    def _stored(
        self,
        index: int,
        matrices: Sequence[Tensor],
        masks: Sequence[Tensor] | None,
        scales: Sequence[Tensor] | None = None,
    ) -> BlockLayer | IndexedLayer:
        if self.is_grouped(index):
            return IndexedLayer(matrices, self._row_keys(index), self.entries(index), masks)
        return BlockLayer(matrices, self._rows(index), self._columns(index), masks, scales)

    def _row_keys(self, index: int) -> list[Table]:
        layers = self._of_task(index)
        if not self.merged[index]:
            return [np.full(layer.width, -1, dtype=np.int64) for layer in layers]
        g = layers[0].group
        return row_keys(layers, self.tables[g], [self.widths[t][g] for t in range(self.tasks)])

    def entries(self, index: int, tables: Sequence[Table] | None = None) -> list[Table]:
        """For every task what the entries (n_t, d_t) of a grouped convolution read (see `slots.column_keys`).

        `tables` are the slot tables of all channel groups, the network's own if omitted.
        """
        layers = self._of_task(index)
        tables = self.tables if tables is None else tables
        keys = column_keys(layers, tables, self.widths, self.owns_bias(index))
        return [own_entries(layer, k) for layer, k in zip(layers, keys, strict=True)]

    def _of_task(self, index: int) -> list[WeightLayer]:
        return [graph.layers[index] for graph in self.graphs]

    def _rows(self, index: int) -> Table:
        layers = self._of_task(index)
        if not self.merged[index]:
            return private_table([layer.width for layer in layers])
        return self.row_slots(index)

    def row_slots(self, index: int) -> Table:
        """Slot table that the layer's rows have once it is merged."""
        g = self.graphs[0].layers[index].group
        return row_table(self._of_task(index), self.tables[g], [self.widths[t][g] for t in range(self.tasks)])

    def _columns(self, index: int) -> Table:
        return column_table(self._of_task(index), self.tables, self.widths, self.owns_bias(index))

    def owns_bias(self, index: int) -> bool:
        """Whether every task keeps a bias of its own for shared neurons of layer number `index`."""
        return self.own_bias and index not in self.common

    @property
    def common(self) -> range:
        """Numbers of the layers in which tasks share biases and scales: the trunk, but for its last layer's sums."""
        if self.trunk and self.graphs[0].layers[self.trunk - 1].kind in RECURRENT:
            return range(self.trunk)
        return range(max(0, self.trunk - 1))

    def lay_trunk(self, count: int) -> None:
        """Have so many layers computed once; to be called before any of them is merged."""
        longest = max(self.trunk, count)
        self.trunk = count
        for index in range(longest):
            self._rebuild(index, [self.matrix(index, t) for t in range(self.tasks)])

    def shared_columns(self, index: int) -> Table:
        """Columns of the layer that two or more tasks share, (k, T) column numbers; -1 where a task has none."""
        return shared_rows(self._columns(index))

    def program(self, task: int) -> Program:
        """The task's computation, to be run with `matrices(task)`."""
        return self._programs[task]

    def matrices(self, task: int) -> Callable[[str], Tensor]:
        """Weight matrices by layer name; each is assembled once and kept for the life of the returned function."""
        known: dict[str, Tensor] = {}

        def lookup(name: str) -> Tensor:
            if name not in known:
                known[name] = self._blocks()[self._index[task][name]].matrix(task)
            return known[name]

        return lookup

    def matrix(self, index: int, task: int) -> Tensor:
        """Assembled weights (n_t, d_t) of layer number `index`."""
        return self._blocks()[index].matrix(task)

    def scale(self, index: int, task: int) -> Tensor | None:
        """Factors (n_t,) of what the rows of layer number `index` share, relative to the first task's; `None`: one."""
        block = self._blocks()[index]
        return block.scale(task) if isinstance(block, BlockLayer) else None

    def mask(self, index: int, task: int) -> Tensor | None:
        """Sparsity mask (n_t, d_t) of layer number `index`, `None` if it is dense."""
        return self._blocks()[index].mask(task)

    def forward(self, x: Tensor, task: int = 0) -> Tensor:
        """Return task's outputs for inputs `x` (N, ...)."""
        if not 0 <= task < self.tasks:
            raise SpecError(f"task {task} was asked of a network that answers tasks 0 to {self.tasks - 1}")
        return execute(self._programs[task], x, self.matrices(task))

    def pair(self, group: int, shared: Table) -> None:
        """Share channels: each row of `shared` (k, T) holds undecided channels of two or more tasks (-1: none).

        Producers keep their weights until `merge`; consumers now read these channels through shared columns.
        """
        widths = [self.widths[t][group] for t in range(self.tasks)]
        self.tables[group] = complete(np.concatenate([shared_rows(self.tables[group]), shared]), widths)
        for index, layer in enumerate(self.graphs[0].layers):
            if (layer.column_groups == group).any() or (layer.group == group and self.merged[index]):
                self._rebuild(index, [self.matrix(index, t) for t in range(self.tasks)])

    def merge(self, index: int, matrices: Sequence[Tensor], scales: Sequence[Tensor] | None = None) -> None:
        """Share the layer's rows as its group is paired, with the weights `matrices` (n_t, d_t).

        The tasks' matrices must agree wherever they share an entry, each divided by its `scales` (n_t,) if given.
        """
        self.merged[index] = True
        self._rebuild(index, matrices, scales)

    def set_weights(self, index: int, matrices: Sequence[Tensor]) -> None:
        """Change the weights of a layer, shared as before; the tasks' matrices must agree where they share."""
        self._rebuild(index, matrices)

    def _rebuild(self, index: int, matrices: Sequence[Tensor], scales: Sequence[Tensor] | None = None) -> None:
        block = self._blocks()[index]
        masks = [cast(Tensor, block.mask(t)) for t in range(self.tasks)] if block.masked else None
        if scales is None and isinstance(block, BlockLayer) and block.scaled:
            scales = [cast(Tensor, block.scale(t)) for t in range(self.tasks)]
        stored = self._stored(index, [m.detach() for m in matrices], masks, scales)
        self.layers[index] = stored.requires_grad_(next(block.parameters()).requires_grad)

    def counts(self, parents: tuple[int, ...] | None = None) -> ParameterCounts:
        """Stored numbers: shared, private per task, and the parents' own. Zeros of pruned layers are not stored."""
        shared, private = 0, [0] * self.tasks
        for block in self._blocks():
            common, alone = block.counts()
            shared += common
            private = [a + b for a, b in zip(private, alone, strict=True)]
        for t, body in enumerate(self.bodies):
            private[t] += sum(parameter.numel() for parameter in body.parameters())
        return ParameterCounts(shared, tuple(private), self.parent_sizes if parents is None else parents)

    def extract(self, task: int) -> nn.Module:
        """Return task's network as a new module of the parent's own class, in evaluation mode.

        A BatchNorm that was folded into its convolution stays in place and becomes the identity.
        """
        parent = copy.deepcopy(self._parents[task])
        graph = self.graphs[task]
        tensors: dict[str, Tensor] = {**dict(parent.named_parameters(remove_duplicate=False))}
        tensors |= dict(parent.named_buffers(remove_duplicate=False))
        with torch.no_grad():
            for index, layer in enumerate(graph.layers):
                if layer.width == 0:
                    continue
                matrix = self.matrix(index, task).detach()
                _write(tensors, graph.network.sources[layer.name], layer, matrix)
            body = self.bodies[task]
            own: dict[str, Tensor] = {**dict(body.named_parameters()), **dict(body.named_buffers())}
            for name, value in own.items():
                if name in tensors and tensors[name].shape == value.shape:
                    tensors[name].copy_(value)
        return parent.eval()

    def description(self) -> dict[str, Any]:
        """What is shared, as JSON-able data: with `state_dict()` it restores the network (see `restore`)."""
        return {
            "format": FORMAT,
            "tasks": self.tasks,
            "example": list(self.graphs[0].network.example.shape),
            "examples": [list(graph.network.example.shape) for graph in self.graphs],
            "groups": [shared_rows(table).tolist() for table in self.tables],
            "merged": list(self.merged),
            "own_bias": self.own_bias,
            "trunk": self.trunk,
            "scaled": [isinstance(block, BlockLayer) and block.scaled for block in self._blocks()],
            "sparse": [block.masked for block in self._blocks()],
            "parents": list(self.parent_sizes),
        }

    def restore(self, description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take over a state saved by `description()` and `state_dict()`.

        Raises:
            CheckpointError: it belongs to other networks, or is damaged.
        """
        try:
            if description["format"] != FORMAT or description["tasks"] != self.tasks:
                raise CheckpointError(
                    f"the file holds {description['format']} for {description['tasks']} tasks; expected {FORMAT} for "
                    f"{self.tasks}. Pass as many networks as were zipped"
                )
            if len(description["merged"]) != len(self.layers) or len(description["groups"]) != len(self.tables):
                raise CheckpointError(
                    f"the saved network has {len(description['merged'])} weight layers and belongs to other networks; "
                    f"these have {len(self.layers)}"
                )
            self.merged = [bool(m) for m in description["merged"]]
            self.own_bias = bool(description.get("own_bias", False))
            self.trunk = int(description.get("trunk", 0))
            if not 0 <= self.trunk <= len(self.layers):
                raise CheckpointError(
                    f"the file names a trunk of {self.trunk} layers; these networks have {len(self.layers)}"
                )
            scaled_layers = list(description.get("scaled", ()))
            for g, shared in enumerate(description["groups"]):
                widths = [self.widths[t][g] for t in range(self.tasks)]
                table = np.asarray(shared, dtype=np.int64).reshape(-1, self.tasks)
                if len(table) and (table.min() < -1 or (table.max(axis=0) >= widths).any()):
                    raise CheckpointError("the file names channels that these networks do not have")
                self.tables[g] = complete(table, widths)
            for index in range(len(self.layers)):
                scaled = index < len(scaled_layers) and bool(scaled_layers[index])
                ones = [torch.ones(layer.width) for layer in self._of_task(index)] if scaled else None
                self._rebuild(index, [self.matrix(index, t) for t in range(self.tasks)], ones)
            self.load_state_dict(tensors, strict=True)
            self.parent_sizes = tuple(int(size) for size in description["parents"])
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise CheckpointError(
                f"the saved network does not fit these parents ({str(error).strip()[:300]}); load it with networks "
                "of the architectures that were zipped, in the same order"
            ) from error
        self._mask_from_zeros()

    def _mask_from_zeros(self) -> None:
        """A pruned layer's zeros are its mask; the shared part of a restored network has its own."""
        for index, block in enumerate(self._blocks()):
            if block.masked:
                matrices = [block.matrix(t).detach() for t in range(self.tasks)]
                layers = self._of_task(index)
                masks = [_nonzero(m, layer.bias) for m, layer in zip(matrices, layers, strict=True)]
                self.layers[index] = self._stored(index, matrices, masks)

    def save(self, path: Path | str) -> None:
        """Write one safetensors file that `load` reads; it also holds what is shared, as JSON metadata."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, str(path), metadata={"mtz": json.dumps(self.description())})

    @classmethod
    def load(cls, path: Path | str, networks: Sequence[nn.Module]) -> ZippedNetwork:
        """Read a file written by `save`.

        Args:
            path: safetensors file.
            networks: modules of the architectures that were zipped, in the same order; their weights do not matter.

        Raises:
            CheckpointError: not such a file, damaged, or made from other architectures.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            description = json.loads(metadata["mtz"])
            known = description.get("examples") or [description["example"]] * len(networks)
            shapes = [[int(n) for n in shape] for shape in known]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not a zipped network ({type(error).__name__}: {error})") from error
        for shape in shapes:
            if not 2 <= len(shape) <= 6 or not all(0 < n <= 4096 for n in shape):
                raise CheckpointError(f"{path} declares an input of shape {shape}, which no supported network has")
        if len(shapes) != len(networks):
            raise CheckpointError(
                f"{path} holds {len(shapes)} networks, {len(networks)} were given; pass as many networks as were zipped"
            )
        dtype = next(networks[0].parameters()).dtype
        graphs = channel_graphs(networks, [torch.zeros(shape, dtype=dtype) for shape in shapes])
        sparse = [bool(flag) for flag in description.get("sparse", ())]
        joint = correspond(graphs)
        if len(sparse) != len(joint[0].layers):
            raise CheckpointError(
                f"{path} holds {len(sparse)} weight layers, these networks have {len(joint[0].layers)}; it was made "
                "from other architectures"
            )
        network = cls(networks, joint, sparse)
        network.restore(description, tensors)
        return network


def _body(graph: ChannelGraph) -> nn.Module:
    """The traced computation without the weights that `BlockLayer`s hold."""
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


def _write(tensors: dict[str, Tensor], source: WeightSource, layer: WeightLayer, matrix: Tensor) -> None:
    """Write a weight matrix into the parent's own tensors."""
    weight = tensors[source.weight] if source.rows is None else tensors[source.weight][slice(*source.rows)]
    flat, bias = (matrix[:, :-1], matrix[:, -1]) if layer.bias else (matrix, None)
    if source.copies > 1:
        flat = flat.reshape(layer.width, source.copies, -1).sum(1)
    weight.copy_(flat.reshape(weight.shape))
    if source.bias is not None and bias is not None:
        rows = source.bias_rows or source.rows
        (tensors[source.bias] if rows is None else tensors[source.bias][slice(*rows)]).copy_(bias)
    norm = source.norm
    if norm is None:
        return
    assert bias is not None
    tensors[norm.variance].fill_(1.0 - norm.eps)
    rest = torch.zeros_like(bias) if source.bias is not None else bias
    if norm.weight is not None:
        tensors[norm.weight].fill_(1.0)
    if norm.bias is not None:
        tensors[norm.mean].zero_()
        tensors[norm.bias].copy_(rest)
    else:
        tensors[norm.mean].copy_(-rest)
