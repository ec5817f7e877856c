"""How alike parent and zipped network are at every layer, and how many directions its inputs use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from mtz_core.algebra.gram import RowGram, precise
from mtz_core.algebra.similarity import linear_cka, linear_kernel
from mtz_core.algebra.spectrum import effective_rank, participation_ratio, spectrum
from mtz_core.calibration.activations import Reader, some_places
from mtz_core.calibration.stream import Stream, twins
from mtz_core.network.zipped import ZippedNetwork
from mtz_core.zipping.findings import Likeness
from mtz_core.zipping.prepare import Job, Sample

IMAGES = 512
"""Inputs of a task on which two networks are compared: kernels have so many rows."""
PLACES, FEATURES = 8, 8192
"""Places of every output that are compared, fewer where outputs are wide: so many numbers of an input at most."""
ROWS = 2048
"""Input rows of a layer whose spectrum is found."""
BYTES = 64 * 2**20
"""Bytes of these rows, at most."""


@dataclass(frozen=True)
class Both:
    """Calibration inputs of every task on their way through the zipped network and through its parents."""

    zipped: ZippedNetwork
    parents: ZippedNetwork
    ways: Sequence[Stream]
    own: Sequence[Stream]
    job: Job

    @classmethod
    def of(cls, job: Job, zipped: ZippedNetwork, parents: ZippedNetwork, sample: Sample, count: int) -> Both:
        """Begin with the first `count` inputs of every task."""
        spec, images = job.spec, [x[:count] for x in sample.images]
        made = [
            twins(which, images, True, spec.batch_size, spec.activation_budget // 2, job.device)
            for which in (zipped, parents)
        ]
        return cls(zipped, parents, [twin.zipped for twin in made[0]], [twin.zipped for twin in made[1]], job)

    def readers(self, index: int, t: int) -> tuple[Reader, Reader]:
        """Layer number `index` in task t's parent, and in the zipped network."""
        graph = self.parents.graphs[t]
        layer, original = graph.layers[index], graph.matrices(self.job.device)
        return Reader(graph, layer, self.own[t], original), Reader(graph, layer, self.ways[t], self.zipped.matrices(t))


def likeness_of_layers(both: Both) -> Iterator[Likeness]:
    """Yield every layer of every task, in order."""
    for layer in both.parents.joint.layers:
        for t in layer.present:
            yield likeness(both, layer.index, t)


def likeness(both: Both, index: int, t: int) -> Likeness:
    """CKA of one layer's outputs, and the spectrum of its inputs in the zipped network."""
    parent, zipped = both.readers(index, t)
    places = max(1, min(PLACES, FEATURES // max(1, parent.layer.width)))
    values, count, size = _spectrum(zipped)
    return Likeness(
        layer=both.parents.joint.layers[index].name,
        task=t,
        cka=linear_cka(_kernel(parent, places), _kernel(zipped, places)),
        images=min(IMAGES, len(both.own[t].images)),
        spectrum=values.reshape(-1, values.shape[-1]).mean(0).cpu().numpy(),
        rows=count,
        size=size,
        effective=float(effective_rank(values).mean()),
        participation=float(participation_ratio(values).mean()),
    )


def _kernel(reader: Reader, places: int) -> Tensor:
    """Linear kernel of a layer's outputs at the same places of the first inputs; calls of a layer are added up."""
    total: Tensor | None = None
    for calls in _calls(reader, places):
        kernel = linear_kernel(calls)
        total = kernel if total is None else total + kernel
    assert total is not None
    return total


def _calls(reader: Reader, places: int) -> Iterator[Tensor]:
    """Outputs (N, P, n) of the first inputs, of each call of the layer."""
    found: list[Tensor] = []
    for where, outputs in reader.outputs():
        if where.start == 0 and found:
            yield torch.cat(found)[:IMAGES]
            found = []
        if where.start < IMAGES:
            found.append(outputs[:, some_places(outputs.shape[1], places)].float().cpu())
    yield torch.cat(found)[:IMAGES]


def _spectrum(reader: Reader) -> tuple[Tensor, int, int]:
    """Eigenvalues (k,), or (banks, k), of the Gram of input rows; how many rows, of how many numbers."""
    layer, images = reader.layer, len(reader.stream.images)
    most = max(1, min(ROWS, BYTES // (8 * max(1, layer.columns * layer.banks))))
    found, count = [], 0
    for rows in islice(reader.rows(max(1, most // max(1, images))), 0, None):
        found.append(rows[: most - count])
        count += len(found[-1])
        if count >= most:
            break
    rows = torch.cat(found)
    rows = rows.to(precise(rows.device))
    if layer.banks == 1:
        return spectrum(RowGram(rows, 1.0 / len(rows))), len(rows), rows.shape[-1]
    each = rows.transpose(0, 1)
    values: Tensor = torch.linalg.eigvalsh(each.mT @ each / len(rows))
    return values.flip(-1).clamp(min=0.0), len(rows), rows.shape[-1]
