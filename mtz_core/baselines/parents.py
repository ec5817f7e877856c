"""The networks that are to be merged, side by side, and the images that they are run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mtz_core.baselines.extent import Extent, extent
from mtz_core.baselines.lockstep import Lockstep
from mtz_core.calibration.inputs import as_images, network_dtype
from mtz_core.errors import DataError, SpecError
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.correspondence import JointGraph, correspond
from mtz_core.graph.propagation import channel_graph
from mtz_core.graph.record import call_of
from mtz_core.network.zipped import ZippedNetwork


@dataclass(frozen=True)
class Parents:
    """T networks whose layers correspond, with BatchNorm folded in.

    `images[t]` are task t's (N_t, ...), `extent` says which layers are to be merged; `private` holds the networks with
    nothing shared.
    """

    private: ZippedNetwork
    lockstep: Lockstep
    images: list[Tensor]
    extent: Extent

    @classmethod
    def of(cls, networks: Sequence[nn.Module], calibration: Sequence[Any], until: str | None) -> Parents:
        """Trace the networks. Raises what `merge_networks` raises for networks, data and `until`."""
        images = _same_inputs(networks, calibration)
        graphs = [channel_graph(network, part[:2]) for network, part in zip(networks, images, strict=True)]
        joint = correspond(graphs)
        private = ZippedNetwork(networks, joint)
        _check_graphs(joint.graphs)
        lockstep = Lockstep(joint.graphs, [private.program(t) for t in range(joint.tasks)])
        return cls(private, lockstep, images, extent(joint, lockstep, until))

    @property
    def joint(self) -> JointGraph:
        """Layers and channel groups with their common numbers."""
        return self.private.joint

    @property
    def graphs(self) -> Sequence[ChannelGraph]:
        """Every network's channel graph."""
        return self.joint.graphs

    @cached_property
    def union(self) -> Tensor:
        """All tasks' images, (Σ N_t, ...)."""
        return torch.cat(self.images)

    @cached_property
    def groups(self) -> list[int]:
        """Numbers of the channel groups that are merged."""
        return self.extent.groups(self.joint)

    def matrices(self, index: int) -> list[Tensor]:
        """Every network's weights of layer number `index`, (n_t, d_t)."""
        return [self.private.matrix(index, t).detach() for t in range(self.joint.tasks)]


def _same_inputs(networks: Sequence[nn.Module], calibration: Sequence[Any]) -> list[Tensor]:
    """Every task's images (N, ...). Raises `DataError` where their shape or type differs from task to task."""
    images = [as_images(data, f"calibration[{t}]", network_dtype(networks[t])) for t, data in enumerate(calibration)]
    if len({(tuple(part.shape[1:]), part.dtype) for part in images}) > 1:
        raise DataError(
            "these methods run the same images through all networks, but the tasks' inputs have "
            f"{', '.join(f'shape {tuple(part.shape[1:])} of {part.dtype}' for part in images)}"
        )
    return images


def _check_graphs(graphs: Sequence[ChannelGraph]) -> None:
    """Refuse what the definition of these methods does not cover."""
    for t, graph in enumerate(graphs):
        for layer in graph.layers:
            if layer.width == 0 or not layer.nodes:
                raise SpecError(f"network {t} lacks layer {layer.name}; these methods need networks of one depth")
            if getattr(graph.network.module.get_submodule(layer.name), "groups", 1) != 1:
                raise SpecError(f"{layer.name} of network {t} is a grouped convolution; these methods know none")
        for node in graph.network.module.graph.nodes:
            operation = call_of(node, graph.network.module).operation
            if operation is not None and operation.folds:
                raise SpecError(
                    f"{node.name} of network {t} is a BatchNorm that cannot be folded into the layer before it; "
                    "these methods have no rule for it"
                )
