"""From a torch module to its channel graph: which layers write which channels, and who reads them."""

from mtz_core.graph.channels import ChannelGraph, ChannelGroup, WeightLayer, channel_graph
from mtz_core.graph.execution import execute
from mtz_core.graph.match import check_correspondence
from mtz_core.graph.trace import TracedNetwork, trace

__all__ = [
    "ChannelGraph",
    "ChannelGroup",
    "TracedNetwork",
    "WeightLayer",
    "channel_graph",
    "check_correspondence",
    "execute",
    "trace",
]
