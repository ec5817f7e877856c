"""A zipped network as it stood before one of its layers: what is earlier is as it was saved, the rest the parents'.

Without retraining a layer's weights are written once, when its turn comes, so this is exactly what the run compared
the layer in. Steps of retraining came after it; then it is the nearest thing that can be made from what was saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mtz_core.calibration.sensitivity import Sensitivity
from mtz_core.calibration.stream import Twin, twins
from mtz_core.graph.execution import Matrices
from mtz_core.layerwise.comparison import Calibrator, Comparison
from mtz_core.layerwise.ledger import Ledger
from mtz_core.layerwise.walk import LayerWalk
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.pairing.slots import shared_rows
from mtz_core.zipping.prepare import Job, Sample


@dataclass(frozen=True)
class Before:
    """Where the walk stood before layer number `index`, on a network of its own, and inputs on their way."""

    index: int
    walk: LayerWalk
    streams: Sequence[Twin]

    @classmethod
    def of(
        cls, job: Job, zipped: ZippedNetwork, shares: dict[str, int], index: int, sample: Sample,
        outputs: list[dict[str, Sensitivity]],
    ) -> Before:  # fmt: skip
        """Put it together.

        Args:
            job: what was zipped.
            zipped: what came out, which is not changed.
            shares: channels per group that were to be shared.
            index: number of the layer.
            sample: calibration inputs, all of them or some.
            outputs: how much every layer's outputs matter (see `Calibrator`).
        """
        spec, network, ledger = job.spec, job.network(), Ledger(job.joint, shares)
        for k in ledger.hidden():
            if k < index:
                ledger.mark(k, ledger.fresh(k))
        for g, table in enumerate(zipped.tables):
            known, shared = ledger.decided.get(g), shared_rows(table)
            if known is not None:
                kept = [all(c < 0 or int(c) in known[t] for t, c in enumerate(slot)) for slot in shared]
                network.pair(g, shared[np.array(kept, dtype=bool)])
        calibrator = Calibrator(network, spec, job.alphas, sample.halves(spec.seed), outputs, answers=job.outputs)
        ways = twins(zipped, sample.images, spec.compensate, spec.batch_size, spec.activation_budget, job.device)
        streams = [replace(way, matrices=partial(_matrices, zipped, network, index, t)) for t, way in enumerate(ways)]
        return cls(index, LayerWalk(network, spec, ledger, calibrator), streams)

    def compared(self) -> Comparison:
        """Compare the layer's neurons as the run did."""
        return self.walk.compare(self.index, self.streams, self.walk.network.tables, peaks=False)


def _matrices(zipped: ZippedNetwork, parents: ZippedNetwork, index: int, t: int) -> Matrices:
    """Task t's matrices by layer name: the zipped network's before layer `index`, the parent's from there on."""
    numbers = {own.name: k for k, own in enumerate(parents.graphs[t].layers)}
    now, own = zipped.matrices(t), parents.matrices(t)
    return lambda name: now(name) if numbers[name] < index else own(name)
