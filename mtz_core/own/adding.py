"""Checking a network that was brought, with its data, and keeping what the pages need to know of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mtz_core.data.imageset import shuffled
from mtz_core.data.tasks import TaskData, read_task
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.propagation import channel_graph
from mtz_core.own.networks import BuiltNetwork, Say, build_network, check_classes, outputs_of
from mtz_core.own.registry import OwnNetwork, network_name, remember
from mtz_core.spec import NetworkSpec, TypeSpec
from mtz_core.zipping.answers import found_outputs

MOST_TESTED = 500
MOST_SECONDS = 5.0
BATCH = 64


def add_network(spec: NetworkSpec, title: str = "", say: Say | None = None) -> OwnNetwork:
    """Load a network and its data, trace it, measure its error on up to `MOST_TESTED` labelled images, remember it.

    Raises `MTZError` if any of this fails; nothing is remembered then.
    """
    tell = say or (lambda text: None)
    tell("reading the network…")
    network = build_network(spec, say)
    outputs = outputs_of(network)
    tell("reading the data…")
    data = read_task(network.data)
    check_classes(outputs, data.classes, "the network")
    tell("tracing the network…")
    images = data.calibration.images(np.arange(min(2, len(data.calibration))), network.transform)
    graph = channel_graph(network.module, images)
    structure = graph.structure()
    tell("testing it on labelled images…")
    error, tested = _error(network, graph, data, spec.type or data.asked)
    known = title.strip() or network.name
    kept = spec.model_copy(update={"data": network.data, "transform": network.transform})
    shape = tuple(images.shape[1:])
    added = OwnNetwork(network_name(known, kept), known, kept, structure, outputs, shape, error, tested)
    remember(added)
    return added


def _error(
    network: BuiltNetwork, graph: ChannelGraph, data: TaskData, asked: TypeSpec | None
) -> tuple[float | None, int]:
    """Error in % on test images, as the type that their labels show has it; `None` without labels."""
    test = data.test
    if test is None or test.labels is None:
        return None, 0
    chosen = shuffled(len(test), 0)[:MOST_TESTED]
    labels = torch.from_numpy(test.labels[chosen])
    (output,), _ = found_outputs([graph], [graph.network.example], [asked], [[("data", labels)]], torch.device("cpu"))
    tested = 0

    def answered() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal tested
        began = time.monotonic()
        for k in range(0, len(chosen), BATCH):
            if time.monotonic() - began > MOST_SECONDS:
                break
            x, y = test.labelled(chosen[k : k + BATCH], network.transform)
            tested += len(y)
            yield network.module(x), y

    with torch.no_grad():
        error = output.scores(answered()).error
    return error, tested
