"""Plan all shares under a budget. Measuring runs in a process of its own; after that every budget is solved at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st
from pydantic import ValidationError

from mtz_core.budget.choice import Choice, Point
from mtz_core.budget.plan import EVEN, read_choice
from mtz_core.budget.search import frontier, resolve
from mtz_core.budget.shipped import curves_text
from mtz_core.budget.spread import range_text
from mtz_core.errors import MTZError
from mtz_core.figures.planning import frontier_figure
from mtz_core.figures.text import count_text
from mtz_core.spec import BudgetSpec, RunSpec
from mtz_core.structure.joint import JointStructure
from mtz_core.structure.trunks import trunk_of
from pages.ui import frame, measuring, setup, shares, visitor

KINDS = ("size", "error", "computation")
"""Displayed as they are: the URL of a bound widget holds what is displayed."""


def specification(
    parents: Sequence[str],
    weights: tuple[float, ...] | None,
    method: Mapping[str, Any],
    advanced: Mapping[str, Any],
) -> RunSpec | None:
    """Return what is to be measured, whatever the budget is; `None` where the inputs make no sense yet."""
    fixed = {path: value for path, value in advanced.items() if "retrain" not in path}
    try:
        method = {**method, "calibration": "all"}  # plans measure on some of the images in any case
        spec = setup.run_spec(parents, {"": 1.0}, weights, method, None, more=fixed)
    except ValidationError:
        return None
    zipping = spec.zip.model_copy(update={"share": "auto", "budget": BudgetSpec(error=100.0)})
    return spec.model_copy(update={"zip": zipping})


def busy() -> bool:
    """Whether a process measures that was asked for."""
    job = measuring.current()
    return job is not None and not job.quiet


def apply_wanted() -> None:
    """Set the sliders to the last plan; to be called before they are drawn."""
    wanted = st.session_state.pop("plan-wanted", None)
    if wanted is not None:
        shares.set_shares(wanted["shares"])
        st.session_state["trunk"] = wanted["trunk"]


def choose_budget(things: str) -> BudgetSpec:
    """Draw the budget, bound to `?budget=` and `?size=`, `?change=` or `?macs=`."""
    kind = st.segmented_control(
        "Budget",
        KINDS,
        default="size",
        required=True,
        key="budget",
        bind="query-params",
        help="Size: the least predicted error at this size. Error: the smallest network within a predicted error. "
        f"Computation, for tasks that see the same {things}: as many layers as it takes are computed once.",
    )
    if kind == "computation":
        limit = st.number_input(
            "Multiplications for all answers, as a multiple of one network",
            1.0,
            100.0,
            1.5,
            0.05,
            format="%.3f",
            key="macs",
            bind="query-params",
        )
        return BudgetSpec(macs=limit)
    if kind == "error":
        error = st.number_input(
            "Answers that may change, %", 0.0, 100.0, 2.0, 0.1, format="%.2f", key="change", bind="query-params"
        )
        return BudgetSpec(error=error)
    size = st.number_input(
        "Size, as a multiple of the smallest parent",
        0.05,
        100.0,
        1.5,
        0.05,
        format="%.3f",
        key="size",
        bind="query-params",
    )
    return BudgetSpec(size=size)


def area(spec: RunSpec | None, joint: JointStructure, things: str) -> None:
    """Draw budget and button; while a process measures, its progress and a way to stop it."""
    st.caption(
        f"Chooses all shares at once. First every layer's predicted error is measured on the calibration {things}; "
        "nothing is merged, and no labels are used."
    )
    budget = choose_budget(things)
    if spec is not None and budget.macs is not None:
        try:
            trunk = trunk_of(joint, limit=budget.macs)
            name = None if trunk is None else trunk.name
            spec = spec.model_copy(update={"zip": spec.zip.model_copy(update={"trunk": name})})
        except MTZError as error:
            st.error(frame.plain(str(error)), icon=":material/error:")
            spec = None
    _join(spec)
    clicked = st.button("Plan", icon=":material/route:", key="plan", disabled=spec is None or busy())
    if clicked and spec is not None:
        choice = measuring.known(spec, joint)
        if choice is not None:
            _settle(choice, budget)
        _ask(spec)
    if (failure := st.session_state.pop("plan-failure", None)) is not None:
        st.error(frame.plain(failure), icon=":material/error:")
    if (note := st.session_state.pop("plan-note", None)) is not None:
        st.info(note, icon=":material/info:")
    if busy():
        st.fragment(_watch, run_every=measuring.TICK)(budget, joint)


def _join(spec: RunSpec | None) -> None:
    """Wait for a process, too, that another page has asked for."""
    job = None if spec is None else measuring.all_jobs().get(curves_text(spec))
    if job is not None and not job.quiet and measuring.current() is not job:
        st.session_state["plan-job"] = job.key
        st.rerun()


def _ask(spec: RunSpec) -> None:
    """Let a process measure for a plan; one that does so quietly is asked for from now on."""
    job = measuring.all_jobs().get(curves_text(spec))
    if job is not None:
        job.quiet, job.owner = False, visitor.access().browser
        st.session_state["plan-job"] = job.key
        st.rerun()
    try:
        measuring.quieten()
        measuring.begin(spec)
    except MTZError as error:
        st.session_state["plan-failure"] = str(error)


def picture(choice: Choice, parameters: int, error: float) -> None:
    """Draw the frontier, with the point where the sliders stand."""
    points = _frontier(choice, repr(choice))
    smallest = choice.smallest
    st.subheader("Predicted error and size", anchor=False)
    frame.show(
        frontier_figure(
            [p.parameters for p in points],
            [p.error for p in points],
            chosen=(parameters, error),
            smallest=smallest,
            mode=frame.theme(),
        ),
        "plan-frontier",
        alt="Best predicted error at every size; the sliders stand at "
        f"{count_text(parameters)} parameters, {error:.1f} %",
    )
    st.caption(
        f"Predicted: {range_text(error, choice.inputs)} of the answers differ from the parents' own, right or wrong, "
        "without retraining; in brackets what nine of ten counts show. Some of them were wrong before, so the measured "
        "error usually rises by less."
    )


@st.cache_data(show_spinner=False, max_entries=20)
def _frontier(_choice: Choice, key: str) -> list[Point]:
    """Return the frontier; `key` tells choices apart."""
    return frontier(_choice)


def _watch(budget: BudgetSpec, joint: JointStructure) -> None:
    """Show how far a process is; when it has ended, take its plan over."""
    job = measuring.current()
    if job is None:  # another page has ended it
        st.rerun()
    if job.process is None:
        measuring.wait(job)
    elif job.process.poll() is not None:
        if measuring.all_jobs().pop(job.key, None) is None:  # pages run at the same time; the first takes the plan
            st.rerun()
        found = measuring.keep(job)
        if found is None:
            st.session_state["plan-failure"] = job.complaint()
        measuring.end(job)
        if found is not None:
            _settle(read_choice(found, joint), budget)
        st.rerun()
    if job.process is not None:
        measuring.progress(job)
    access = visitor.access()
    if job.owner not in (None, access.browser) and not access.administrator:
        st.caption(":material/lock: Another browser has asked for this plan; you see it, too.")
    elif st.button("Stop", icon=":material/stop:", key="plan-stop"):
        measuring.failed()[job.key] = "stopped"
        measuring.end(job)
        st.rerun()


def _settle(choice: Choice, budget: BudgetSpec) -> None:
    """Solve for a budget; the sliders follow when the page is drawn next."""
    try:
        point = resolve(choice, budget)
    except MTZError as error:
        st.session_state["plan-failure"] = str(error)
        st.rerun()
    widths = {curve.group: curve.width for curve in choice.curves}
    wanted = {group: count / max(1, widths[group]) for group, count in point.shares.items()}
    trunk = setup.NO_TRUNK if choice.trunk is None else choice.trunk.name
    fixed = {} if choice.trunk is None else choice.trunk.groups
    wanted = {group: share for group, share in wanted.items() if group not in fixed}
    st.session_state["plan-wanted"] = {"shares": wanted, "trunk": trunk}
    if point.even:
        st.session_state["plan-note"] = EVEN
    st.rerun()
