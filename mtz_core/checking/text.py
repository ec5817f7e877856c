"""The report of `mtz_core.checking.report.preflight` as data and as text (no torch here)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtz_core.structure.networks import structure_to_json

if TYPE_CHECKING:
    from mtz_core.checking.report import Preflight

PASSED, FAILED = "passed", "FAILED"


def report_data(report: Preflight, names: Sequence[str]) -> dict[str, Any]:
    """Return a report as JSON-able data; `names` are the networks'. A deviation that is no number becomes `None`."""
    networks = [
        {
            "name": name,
            "architecture": network.architecture,
            "input_shape": list(network.input_shape),
            "nodes": network.nodes,
            "layers": network.layers,
            "groups": network.groups,
            "parameters": network.parameters,
            "head": network.head,
            "sharable": network.sharable,
            "share": network.share,
            "private": dict(network.private),
            "frozen": dict(network.frozen),
            "unsaved": network.unsaved,
            "structure": structure_to_json(network.structure),
        }
        for name, network in zip(names, report.networks, strict=True)
    ]
    checks = [
        {
            "name": check.name,
            "network": check.network,
            "passed": check.passed,
            "deviation": check.deviation if math.isfinite(check.deviation) else None,
            "note": check.note,
        }
        for check in report.checks
    ]
    correspondence = [
        {
            "layers": list(row.layers),
            "kinds": list(row.kinds),
            "widths": list(row.widths),
            "group": row.group,
            "reason": row.reason,
        }
        for row in report.correspondence
    ]
    return {
        "green": report.green,
        "seconds": report.seconds,
        "problems": list(report.problems),
        "networks": networks,
        "checks": checks,
        "correspondence": correspondence,
    }


def report_text(report: Mapping[str, Any]) -> str:
    """Return what `report_data` made of a report as lines to read."""
    lines = [f"{verdict(report)} ({report['seconds']:.1f} s)"]
    lines += ["  problem: " + problem.replace("\n", "\n    ") for problem in report["problems"]]
    for number, network in enumerate(report["networks"]):
        lines += ["", f"Network {number}: {network['name']} ({network['architecture']})"]
        lines += [f"  {line}".rstrip() for line in _network_lines(report, network, number)]
    if report["correspondence"]:
        lines += ["", "Layers that correspond"]
        heading = ["group", *(f"network {k}" for k in range(len(report["networks"]))), ""]
        rows = [
            [row["group"], *(layer_text(row, k) for k in range(len(row["layers"]))), sharing_text(row)]
            for row in report["correspondence"]
        ]
        lines += [f"  {line}" for line in columns([heading, *rows])]
    return "\n".join(lines)


def verdict(report: Mapping[str, Any]) -> str:
    """Return the outcome in one sentence."""
    failed = sum(not check["passed"] for check in report["checks"])
    if report["problems"]:
        return "Not green: these networks cannot be zipped together."
    if failed:
        return f"Not green: {failed} of {len(report['checks'])} self-checks failed."
    can = "these networks can be zipped" if len(report["networks"]) > 1 else "this network can be zipped"
    return f"Green: {can}, and all {len(report['checks'])} self-checks passed."


def layer_text(row: Mapping[str, Any], network: int) -> str:
    """Return a network's layer in one row of the correspondence: its name, kind and width."""
    name = row["layers"][network]
    return "–" if name is None else f"{name} ({row['kinds'][network]}, {row['widths'][network]})"


def sharing_text(row: Mapping[str, Any]) -> str:
    """Return whether the layers in one row of the correspondence are shared, or why not."""
    return "shared" if row["reason"] is None else f"not shared: {row['reason']}"


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape, e.g. `3 × 224 × 224`."""
    return " × ".join(map(str, shape))


def deviation_text(deviation: float | None) -> str:
    """Return a relative difference of outputs; one that was no number is said to be so."""
    return "not a number" if deviation is None else f"{deviation:.1e}" if deviation else "0"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines with aligned columns.

    >>> columns([["a", "bcd"], ["ef", "g"]])
    ['a   bcd', 'ef  g']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _network_lines(report: Mapping[str, Any], network: Mapping[str, Any], number: int) -> Iterator[str]:
    yield f"input {shape_text(network['input_shape'])}"
    yield (
        f"{network['nodes']} nodes, {network['layers']} layers, {network['groups']} channel groups, "
        f"{network['parameters']:,} parameters"
    )
    yield f"sharable: {network['share']:.1%} of the hidden layers' parameters; the task head has {network['head']:,}"
    for reason, size in network["private"].items():
        yield f"private: {size:,} parameters, {reason}"
    if network.get("unsaved"):
        yield f"cannot be saved: {network['unsaved']}"
    structure = network["structure"]
    layers = [
        [layer["name"], layer["kind"], str(layer["width"]), f"group {layer['group'] or 'none: task head'}"]
        for layer in structure["layers"]
    ]
    groups = [
        [group["name"], str(group["width"]), f"frozen: {group['frozen']}" if group["frozen"] else "sharable"]
        for group in structure["groups"]
    ]
    checks = [
        [check["name"], PASSED if check["passed"] else FAILED, deviation_text(check["deviation"]), check["note"]]
        for check in report["checks"]
        if check["network"] == number
    ]
    for heading, rows in (
        (["layer", "kind", "width", ""], layers),
        (["channel group", "width", ""], groups),
        (["self-check", "", "deviation", ""], checks),
    ):
        yield ""
        yield from columns([heading, *rows])
