"""From a torch module to its channel graph: which layers write which channels, and who reads them."""

from mtz_core.graph import operations as operations  # fills the register of operations
from mtz_core.graph.channels import ChannelGraph, ChannelGroup, WeightLayer
from mtz_core.graph.correspondence import correspond
from mtz_core.graph.execution import execute
from mtz_core.graph.propagation import channel_graph
from mtz_core.graph.sources import TracedNetwork
from mtz_core.graph.trace import trace

__all__ = [
    "ChannelGraph",
    "ChannelGroup",
    "TracedNetwork",
    "WeightLayer",
    "channel_graph",
    "correspond",
    "execute",
    "trace",
]
