"""Checking a network that was brought, with its data, and keeping what the pages need to know of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from mtz_core.data.imageset import shuffled
from mtz_core.data.kinds import input_kind
from mtz_core.data.reading import Preparation
from mtz_core.data.tasks import TaskData, read_task
from mtz_core.errors import MTZError, SpecError
from mtz_core.graph.channels import ChannelGraph
from mtz_core.graph.propagation import channel_graph
from mtz_core.own.answering import some_answers
from mtz_core.own.heads import Whose, asked_of, labelled_outputs, of_outputs
from mtz_core.own.networks import BuiltNetwork, Say, build_network, check_classes, outputs_of
from mtz_core.own.registry import OwnNetwork, network_name, own_networks, remember
from mtz_core.own.samples import keep
from mtz_core.spec import NetworkSpec, TypeSpec
from mtz_core.zipping.answers import found_outputs, require_labels, with_labels
from mtz_core.zoo.catalog import catalog

MOST_TESTED = 500
MOST_SECONDS = 5.0
BATCH = 64
Asked = tuple[TypeSpec | None, Whose]
"""The type that was asked for, and the outputs that labels belong to, of several."""
LOW = 2.0
"""Errors below this many percent show that images are prepared rightly."""


def add_network(spec: NetworkSpec, title: str = "", say: Say | None = None) -> OwnNetwork:
    """Load a network and its data, trace it, measure its error on up to `MOST_TESTED` labelled inputs, remember it.

    Runs and pictures call it by its `title`. Raises `MTZError` if any of this fails; nothing is remembered then.
    """
    tell = say or (lambda text: None)
    tell("reading the network…")
    network = build_network(spec, say)
    outputs = outputs_of(network)
    tell("reading the data…")
    data = read_task(network.data, labels=spec.labels, outputs=tuple(spec.label_names.values()))
    check_classes(outputs, data.classes, "the network")
    data.check(network.preparation)
    tell("tracing the network…")
    images = data.calibration.images(np.arange(min(2, len(data.calibration))), network.preparation)
    graph = channel_graph(network.module, images)
    structure = graph.structure()
    tell("testing it on labelled inputs…")
    whose = labelled_outputs(spec, outputs, data, "the network")
    asked = asked_of(data, spec.type, outputs, whose), whose
    error, tested = _error(network, graph, data, asked, network.preparation)
    note = _normalised_twice(network, graph, data, asked, error)
    said = "".join(letter for letter in title if letter.isprintable()).strip()[:60].strip()
    known = said or network.name
    kept = spec.model_copy(update={"data": network.data, "transform": network.transform, "name": said or spec.name})
    shape = tuple(images.shape[1:])
    count = len(data.calibration)
    named, kind = network_name(known, kept), input_kind(shape, not images.is_floating_point())
    added = OwnNetwork(named, known, kept, structure, outputs, shape, error, tested, note, count, kind)
    remember(added)
    tell("asking it about some inputs…")
    with suppress(MTZError):  # they are only looked at
        keep(added.name, some_answers(graph, data, asked, network.preparation))
    return added


def sample_network(name: str) -> None:
    """Ask a network that was added earlier, or a bundled one, about some inputs, and keep them. Raises `MTZError`."""
    known = own_networks().get(name)
    if known is None and name not in catalog():
        raise SpecError(f"there is no network {name[:60]!r}")
    spec = NetworkSpec(parent=name) if known is None else known.spec
    network = build_network(spec)
    outputs = outputs_of(network)
    data = read_task(network.data, labels=spec.labels, outputs=tuple(spec.label_names.values()))
    images = data.calibration.images(np.arange(min(2, len(data.calibration))), network.preparation)
    whose = labelled_outputs(spec, outputs, data, "the network")
    asked = asked_of(data, spec.type, outputs, whose), whose
    keep(name, some_answers(channel_graph(network.module, images), data, asked, network.preparation))


def _normalised_twice(
    network: BuiltNetwork, graph: ChannelGraph, data: TaskData, asked: Asked, error: float | None
) -> str:
    """A sentence for a network that answers far better when its inputs are not normalised, which it does itself."""
    transform = network.transform
    plain = {"mean": (0.0,) * transform.channels, "std": (1.0,) * transform.channels}
    if error is None or error < LOW or transform.plain or network.reading is not None:
        return ""
    other, _ = _error(network, graph, data, asked, transform.model_copy(update=plain))
    if other is None or other > error / 2:
        return ""
    return (
        f"Its error is {error:.1f} % with images prepared like this, and {other:.1f} % with a mean of 0 and a standard "
        "deviation of 1: it seems to normalise its inputs itself. Remove it and add it again with these"
    )


def _error(
    network: BuiltNetwork, graph: ChannelGraph, data: TaskData, asked: Asked, how: Preparation
) -> tuple[float | None, int]:
    """Error in % on test inputs prepared in some way, as the type of their labels has it; `None` without labels."""
    test = data.test
    if test is None or not test.has_labels:
        return None, 0
    chosen = shuffled(len(test), 0)[:MOST_TESTED]
    labels = test.targets(chosen if test.masks is None else chosen[:BATCH], how)
    kind, whose = asked
    given = of_outputs((None, labels), whose)[1]
    (output,), _ = found_outputs([graph], [graph.network.example], [kind], [[("data", given)]], torch.device("cpu"))
    tested = 0

    def answered() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal tested
        began = time.monotonic()
        for k in range(0, len(chosen), BATCH):
            if time.monotonic() - began > MOST_SECONDS:
                break
            x, y = test.labelled(chosen[k : k + BATCH], how)
            labels = of_outputs((x, y), whose)[1]
            require_labels(graph, output, labels, "data")
            tested += len(x)
            yield graph.network.outputs(x), with_labels(output, labels, "data")

    with torch.no_grad():
        error = output.scores(answered()).error
    return error, tested
