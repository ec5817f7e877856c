"""A zip for trial: as the real one does it, on fewer images. It is judged, and nothing is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mtz_core.layerwise.ahead import pair_layer
from mtz_core.layerwise.ledger import Ledger

if TYPE_CHECKING:
    from mtz_core.calibration.stream import Twin
    from mtz_core.layerwise.walk import LayerWalk
    from mtz_core.network.zipped import ZippedNetwork
    from mtz_core.zipping.damage import Bench


def rehearsed(
    walk: LayerWalk,
    bench: Bench,
    shares: Mapping[str, int],
    streams: Sequence[Twin],
    fit: Sequence[Tensor],
    part: float,
    before: Sequence[Sequence[Tensor]] = (),
) -> float:
    """Divergence of the answers that a zip on all images would have, by one on some of them.

    Least squares on n images err by the noise that they fit, which falls like 1/n: errors on other images are by as
    much above what endless images would give as those on the fitted ones are below it.

    Args:
        walk: how the network is zipped.
        bench: judges.
        shares: shared channels by group.
        streams: the images that fit, at the beginning of the network.
        fit: these images.
        part: of all images, those that fit.
        before: the parents' answers on images that judge and on those that fit, if they are known.
    """
    given = (bench.judge, fit)
    before = before or [bench.answers(images) for images in given]
    with unchanged(walk.network):
        _zip(replace(walk, ledger=Ledger(walk.network.joint, shares)), streams)
        judged, fitted = (bench.compared(x, bench.answers(images)) for x, images in zip(before, given, strict=True))
    return with_images(judged, fitted, part)


def with_images(judged: float, fitted: float, part: float) -> float:
    """Divergence to expect with 1/`part` times the images, if it is `judged` on others and `fitted` on those that fit.

    >>> with_images(0.06, 0.02, 1.0), with_images(0.06, 0.02, 0.5)
    (0.06, 0.05)
    """
    noise = max(0.0, judged - fitted) / 2
    return (judged + fitted) / 2 + noise * part if noise else judged


@contextmanager
def unchanged(network: ZippedNetwork) -> Iterator[None]:
    """Afterwards the network is what it was."""
    layers, tables, merged = list(network.layers), list(network.tables), list(network.merged)
    try:
        yield
    finally:
        network.tables[:], network.merged[:] = tables, merged
        for k, layer in enumerate(layers):
            network.layers[k] = layer


def _zip(walk: LayerWalk, streams: Sequence[Twin]) -> None:
    """Merge and compensate all layers."""
    network, rounds, hidden = walk.network, walk.spec.relu_rounds, walk.ledger.hidden()
    for index in walk.stations():
        seen = walk.compare(index, streams, network.tables, peaks=False)
        if index not in hidden:
            rows = np.empty((0, network.tasks), dtype=np.int64)
            network.set_weights(index, seen.merge(rows, rounds, judged=False).weights)
            continue
        for _ in pair_layer(walk, index, seen, streams):
            pass
        outcome = seen.merge(walk.rows(index), rounds, judged=False)
        network.merge(index, outcome.weights, outcome.factors)
        if network.joint.layers[index].repeated:
            for stream in streams:
                stream.restart()
