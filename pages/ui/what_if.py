"""What if: unmerge, forbid, swap or pin a pair, and zip again; the new run knows which one it varies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from mtz_core.figures.text import error_text
from mtz_core.spec import RunSpec
from pages.ui import address, frame, jobs, query
from pages.ui.inspect_stored import run_started

Neurons = Sequence[int | None]
KINDS = ("pin", "forbid", "apart")
SWAPPED = 200
"""Pairs among which one can be chosen to swap with."""


def varied(spec: RunSpec, origin: str, started: dict[str, Any], layer: str, rules: dict[str, list[Neurons]]) -> RunSpec:
    """Return the specification of a run that differs in the pairs of one layer alone.

    Rules about the same neurons that the specification had before are dropped. Shares that were planned are taken over
    as they were found, so that all earlier layers come out the same.

    Args:
        spec: of the run that is varied.
        origin: its identifier.
        started: what its `Started` event said.
        layer: the layer.
        rules: what is asked for, by kind; see `PairRules`.
    """
    constraints = {name: each.model_dump(mode="json") for name, each in (spec.zip.constraints or {}).items()}
    own = constraints.get(layer, {})
    touched = {(t, n) for each in rules.values() for neurons in each for t, n in enumerate(neurons) if n is not None}
    merged = {}
    for kind in KINDS:
        kept = [x for x in own.get(kind, []) if not touched & {(t, n) for t, n in enumerate(x)}]
        merged[kind] = kept + [list(neurons) for neurons in rules.get(kind, [])]
    fields: dict[str, Any] = {"zip.constraints": {**constraints, layer: merged}, "origin": origin}
    if spec.zip.share == "auto":
        trunk = started.get("trunk")
        fields |= {"zip.share": dict(started["shared"]), "zip.budget": None, "zip.trunk": trunk or spec.zip.trunk}
    return query.with_fields(spec, fields)


def show_what_if(
    run: Any, layer: str, pair: Neurons | None, pairs: Any, couple: tuple[int, int], cell: tuple[int, int]
) -> None:
    """Draw the choices for the chosen neurons; `pair` is the merged one that holds them, over all tasks."""
    if frame.is_live(run.status) or not run_started(run.id):
        return
    tasks = len(run.spec.networks)
    with st.popover("What if…", icon=":material/alt_route:"):
        st.caption("Starts a run that differs in this alone. Layers before this one come out the same.")
        if pair is None:
            if st.button("These two are merged", icon=":material/link:", key="what-pin", width="stretch"):
                _start(run, layer, {"pin": [placed(tasks, couple, cell)]}, f"{cell[0]} and {cell[1]} merged")
            return
        name = " and ".join("none" if n is None else str(n) for n in pair)
        if st.button("Unmerge this pair", icon=":material/link_off:", key="what-apart", width="stretch"):
            _start(run, layer, {"apart": [pair]}, f"{name} unmerged")
        if st.button("Merge them with others", icon=":material/block:", key="what-forbid", width="stretch"):
            _start(run, layer, {"forbid": [placed(tasks, couple, cell)]}, f"{name} with others")
        others = [(int(i), int(j)) for i, j in pairs if (int(i), int(j)) != cell][:SWAPPED]
        if others:
            other = st.selectbox("Swap with", others, format_func=lambda p: f"{p[0]} and {p[1]}", key="what-other")
            if st.button("Swap partners", icon=":material/swap_horiz:", key="what-swap", width="stretch"):
                crossed = [(cell[0], other[1]), (other[0], cell[1])]
                _start(run, layer, {"pin": [placed(tasks, couple, x) for x in crossed]}, f"{name} swapped")


def placed(tasks: int, couple: tuple[int, int], cell: tuple[int, int]) -> list[int | None]:
    """Return one neuron for each of `tasks`: those of two, none of the others.

    >>> placed(3, (0, 2), (5, 7))
    [5, None, 7]
    """
    found: list[int | None] = [None] * tasks
    for t, n in zip(couple, cell, strict=True):
        found[t] = n
    return found


def _start(run: Any, layer: str, rules: dict[str, list[Any]], what: str) -> None:
    spec = varied(run.spec, run.id, run_started(run.id), layer, rules)
    title = f"{frame.run_title(run)[:100]}: {layer[:40]} {what}"[:200]
    address.move(run=jobs.start(spec.model_copy(update={"title": title})), layer=layer)
    st.rerun()


def show_family(run: Any, labels: list[str]) -> None:
    """Say which run this one varies, and which ones vary it, with their errors."""
    relatives = {record.id: record for record in frame.store().list()} if run.id else {}
    origin = relatives.get(run.spec.origin or "")
    if run.spec.origin and origin is None:
        st.caption("This run varies one that was deleted.")
    if origin is not None:
        frame.link(
            frame.INSPECT,
            f"Varies: {frame.run_title(origin)}",
            icon=":material/call_split:",
            run=origin.id,
        )
        st.markdown(compared(origin, run, labels))
    for record in [r for r in relatives.values() if r.spec.origin == run.id][:8]:
        frame.link(
            frame.INSPECT,
            f"Variation: {frame.run_title(record)}",
            icon=":material/alt_route:",
            run=record.id,
        )
        st.markdown(compared(run, record, labels))


def compared(before: Any, after: Any, labels: list[str]) -> str:
    """Return the errors of a run and of its variation."""
    old, new = before.summary.get("errors"), after.summary.get("errors")
    if not old or not new:
        return f"The variation is {after.status}."
    changes = (
        f"{frame.plain(x)} {error_text(a)} → **{error_text(b)}**" for x, a, b in zip(labels, old, new, strict=False)
    )
    return "Error: " + ", ".join(changes)
