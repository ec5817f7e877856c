"""Finds where a difference of a finished run comes from, after the run (the torch side of `origins`)."""

from __future__ import annotations

from collections.abc import Iterator

from mtz_core.runs.inputs import prepare
from mtz_core.runs.origins import keep_layers, keep_pair
from mtz_core.runs.revisit import Revisited
from mtz_core.runs.store import RunStore
from mtz_core.zipping.findings import Likeness, PairFindings
from mtz_core.zipping.origin import Origins

WHAT = "differences can be traced"


def trace_pair(
    store: RunStore, run_id: str, layer: str, tasks: tuple[int, int], neurons: tuple[int, int]
) -> Iterator[str | PairFindings]:
    """Yield what is being done, in words, and at last where the difference of two neurons comes from; keep that.

    Raises:
        RunError: the run has no network.
        SpecError: there are no such neurons, or they read nothing in common.
        MTZError: networks or data of the run are not there any more.
    """
    record = store.get(run_id)
    yield "reading networks and data"
    origins = _origins(store, run_id)
    for found in origins.trace(origins.ask(layer, tasks, neurons)):
        if isinstance(found, PairFindings):
            keep_pair(record.path, found)
        yield found


def trace_layers(store: RunStore, run_id: str) -> Iterator[str | Likeness]:
    """Yield what is being done, and how alike parent and zipped network are at every layer; keep all of it at the end.

    Raises as `trace_pair` does.
    """
    record = store.get(run_id)
    yield "reading networks and data"
    found = []
    for each in _origins(store, run_id).layers():
        found.append(each)
        yield each
    keep_layers(record.path, found)


def _origins(store: RunStore, run_id: str) -> Origins:
    run = Revisited.of(store, store.get(run_id), prepare, WHAT)
    return Origins(run.job, run.sample, run.network, dict(run.shares))
