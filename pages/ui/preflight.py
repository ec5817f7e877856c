"""Preflight: will the chosen networks zip, and how much of them? Asked of a process of its own, in seconds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import streamlit as st

from mtz_core.checking.text import deviation_text, layer_text, shape_text, sharing_text, verdict
from mtz_core.errors import MTZError
from mtz_core.figures.text import duration_text, percent_text
from mtz_core.spec import RunSpec, dump_run_spec
from mtz_core.structure.sizes import why_not_zippable
from pages.ui import address, frame, jobs, query, setup, working

PATIENCE = 120.0
"""Seconds until a check is given up."""
PARAMETER = "preflight"


def check(known: Collection[str]) -> address.Check:
    """What `?preflight=` may be, for `address.vet`: names of networks."""

    def read(text: str) -> str:
        if not set(text.split(",")) <= set(known):
            raise ValueError(text)
        return text

    return address.Check(read, "names of networks that are here, with commas between them")


@st.fragment
def area(parents: Sequence[str], tasks: Sequence[str]) -> None:
    """Draw the button, and the report once these very networks were checked: `?preflight=` names them."""
    st.subheader("Preflight", anchor=False)
    st.markdown(
        "Before a run: what of these networks can be zipped, tested on their actual weights. No data are read and "
        "nothing is trained; it takes a few seconds."
    )
    asked = ",".join(parents)
    if st.button("Check", icon=":material/fact_check:", key="preflight-check"):
        _reports().pop(asked, None)
        st.query_params[PARAMETER] = asked
    if address.asked(PARAMETER) != asked:
        return
    try:
        if asked not in _reports():
            _reports()[asked] = _checked(parents)
    except MTZError as error:
        st.error(f"The check failed. {frame.plain(str(error))}", icon=":material/error:")
        return
    report = _reports()[asked]
    _report(report, [f"{number}: {task}" for number, task in enumerate(tasks)])
    known = query.known_networks()
    if report["green"] and (problem := why_not_zippable([known[name] for name in parents], parents)):
        st.info(f"The Zip page does not take them. {frame.plain(problem)}", icon=":material/block:")


def _report(report: Mapping[str, Any], names: Sequence[str]) -> None:
    """Draw a report; `names` are the networks'."""
    text = f"{verdict(report)} Took {duration_text(report['seconds'])}."
    if report["green"]:
        st.success(text, icon=":material/check_circle:")
    else:
        problems = [frame.plain(line) for problem in report["problems"] for line in problem.splitlines()]
        st.error("  \n".join([text, *problems]), icon=":material/cancel:")
    networks = report["networks"]
    _table(
        {
            "network": names,
            "architecture": [n["architecture"] for n in networks],
            "input": [shape_text(n["input_shape"]) for n in networks],
            "nodes": [n["nodes"] for n in networks],
            "layers": [n["layers"] for n in networks],
            "channel groups": [n["groups"] for n in networks],
            "parameters": [f"{n['parameters']:,}" for n in networks],
            "task head": [f"{n['head']:,}" for n in networks],
            "sharable": [percent_text(n["share"], 1) for n in networks],
        }
    )
    st.caption("Sharable: the part of the hidden layers' parameters that can be shared with a network of its kind.")
    for name, network in zip(names, networks, strict=True):
        private = [f"{size:,} parameters: {reason}" for reason, size in network["private"].items()]
        frozen = [f"group {group} stays with its task: {reason}" for group, reason in network["frozen"].items()]
        if private or frozen:
            lines = [f"- {frame.plain(line)}" for line in (*private, *frozen)]
            st.markdown("\n".join([f"**Network {frame.plain(name)}**, what stays private", "", *lines]))
        if network.get("unsaved"):
            st.warning(frame.plain(f"Network {name} cannot be saved once it is zipped: {network['unsaved']}."))
    st.markdown("**Self-checks**")
    _table(
        {
            "network": [names[check["network"]] for check in report["checks"]],
            "check": [check["name"] for check in report["checks"]],
            "result": ["✓ passed" if check["passed"] else "✗ failed" for check in report["checks"]],
            "deviation": [deviation_text(check["deviation"]) for check in report["checks"]],
            "note": [check["note"] for check in report["checks"]],
        }
    )
    st.caption("Deviation: the largest difference of outputs, relative to the largest output; at most 0.001 passes.")
    if rows := report["correspondence"]:
        st.markdown("**Which layers correspond**")
        layers = {f"layer of {name}": [layer_text(row, k) for row in rows] for k, name in enumerate(names)}
        _table({**layers, "shared": [("✓ " if not row["reason"] else "✗ ") + sharing_text(row) for row in rows]})


def _table(cells: Mapping[str, Sequence[Any]]) -> None:
    st.dataframe(dict(cells), hide_index=True, width="stretch")


def _checked(parents: Sequence[str]) -> dict[str, Any]:
    """Run `python -m mtz_core preflight` and return its report; whatever is clicked meanwhile ends it.

    Raises `RunError` with the message of the process, or if it took too long.
    """
    spec = RunSpec(networks=tuple(map(setup.network_spec, parents)))
    with jobs.place("check"), TemporaryDirectory() as folder:
        file = Path(folder) / "preflight.yaml"
        file.write_text(dump_run_spec(spec), encoding="utf-8")
        report: dict[str, Any] = working.answer_of("preflight", file, "Checking the networks…", PATIENCE)
    return report


def _reports() -> dict[str, dict[str, Any]]:
    """Reports of this session, by the networks' names."""
    reports: dict[str, dict[str, Any]] = st.session_state.setdefault("preflight-reports", {})
    return reports
