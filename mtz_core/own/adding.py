"""Checking a network that was brought, with its data, and keeping what the pages need to know of it."""

from __future__ import annotations

import time

import numpy as np
import torch

from mtz_core.data.imageset import shuffled
from mtz_core.data.tasks import TaskData, read_task
from mtz_core.errors import DataError
from mtz_core.graph.propagation import channel_graph
from mtz_core.own.networks import BuiltNetwork, Say, build_network, outputs_of
from mtz_core.own.registry import OwnNetwork, network_name, remember
from mtz_core.spec import NetworkSpec

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
    if data.classes is not None and len(data.classes) > outputs:
        raise DataError(
            f"the network tells {outputs} classes apart, but its data has {len(data.classes)}; choose data that it was "
            "trained on"
        )
    tell("tracing the network…")
    images = data.calibration.images(np.arange(min(2, len(data.calibration))), network.transform)
    structure = channel_graph(network.module, images).structure()
    tell("testing it on labelled images…")
    error, tested = _error(network, data)
    known = title.strip() or network.name
    kept = spec.model_copy(update={"data": network.data, "transform": network.transform})
    transform = network.transform
    shape = (transform.channels, transform.size, transform.size)
    added = OwnNetwork(network_name(known, kept), known, kept, structure, outputs, shape, error, tested)
    remember(added)
    return added


def _error(network: BuiltNetwork, data: TaskData) -> tuple[float | None, int]:
    """Percentage of wrongly classified test images, `None` without labels."""
    if data.test is None or data.test.labels is None:
        return None, 0
    chosen = shuffled(len(data.test), 0)[:MOST_TESTED]
    wrong, tested, began = 0.0, 0, time.monotonic()
    with torch.no_grad():
        for k in range(0, len(chosen), BATCH):
            if time.monotonic() - began > MOST_SECONDS:
                break
            x, labels = data.test.labelled(chosen[k : k + BATCH], network.transform)
            wrong += float((network.module(x).argmax(1) != labels).sum())
            tested += len(labels)
    return 100.0 * wrong / tested, tested
