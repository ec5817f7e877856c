"""Plan all shares under a budget. Measuring runs in a process of its own; after that every budget is solved at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import streamlit as st
from pydantic import ValidationError

from mtz_core.budget.choice import Choice, Point
from mtz_core.budget.plan import EVEN, read_choice
from mtz_core.budget.search import frontier, resolve
from mtz_core.errors import MTZError
from mtz_core.figures.planning import frontier_figure, share_curve
from mtz_core.figures.text import count_text, duration_text
from mtz_core.spec import BudgetSpec, RunSpec, dump_run_spec
from mtz_core.structure.joint import JointStructure
from mtz_core.structure.trunks import trunk_of
from mtz_core.system.paths import child_environment
from pages.ui import frame, setup

TICK = 0.7
KINDS = ("size", "error", "computation")
"""Displayed as they are: the URL of a bound widget holds what is displayed."""


@dataclass
class Job:
    """A process that measures, and what it has written."""

    key: str
    process: subprocess.Popen[bytes]
    folder: TemporaryDirectory[str]
    began: float = field(default_factory=time.monotonic)

    def lines(self) -> list[dict[str, Any]]:
        """Whole lines written so far; none once another page has put them away."""
        try:
            written = (Path(self.folder.name) / "out").read_bytes()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in written[: written.rfind(b"\n") + 1].splitlines()]

    def complaint(self) -> str:
        """Why it ended without a plan."""
        lines = (Path(self.folder.name) / "err").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if not lines:
            return "Its process ended without a word, most likely for lack of memory."
        return lines[-1] if lines[0].startswith("Traceback") else "\n".join(lines)

    def end(self) -> None:
        """Stop the process and forget what it wrote."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.folder.cleanup()


@st.cache_resource(show_spinner=False, max_entries=1)
def _jobs() -> dict[str, Job]:
    """Processes that measure, by what their curves depend on: a page that was reloaded finds its own again."""
    return {}


@st.cache_resource(show_spinner=False, max_entries=1)
def _measured() -> dict[str, dict[str, Any]]:
    """What was measured since the server started, by everything that it depends on."""
    return {}


def key_of(spec: RunSpec) -> str:
    """Return what the curves of a specification depend on: everything but shares, budget, retraining and title."""
    zipping = spec.zip.model_copy(update={"share": 1.0, "budget": None, "retrain": None})
    return dump_run_spec(spec.model_copy(update={"zip": zipping, "title": ""}))


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
    """Whether a process measures."""
    return _job() is not None


def known(spec: RunSpec, joint: JointStructure) -> Choice | None:
    """Return the curves of a specification if they were measured."""
    data = _measured().get(key_of(spec))
    return None if data is None else read_choice(data, joint)


def apply_wanted() -> None:
    """Set the sliders to the last plan; to be called before they are drawn."""
    for name, value in (st.session_state.pop("plan-wanted", None) or {}).items():
        st.session_state[name] = value


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
    if _job() is None and spec is not None and key_of(spec) in _jobs():
        st.session_state["plan-job"] = key_of(spec)
        st.rerun()
    clicked = st.button("Plan", icon=":material/route:", key="plan", disabled=spec is None or _job() is not None)
    if clicked and spec is not None:
        choice = known(spec, joint)
        if choice is None:
            _start(spec)
        else:
            _settle(choice, budget)
    if (failure := st.session_state.pop("plan-failure", None)) is not None:
        st.error(frame.plain(failure), icon=":material/error:")
    if (note := st.session_state.pop("plan-note", None)) is not None:
        st.info(note, icon=":material/info:")
    if _job() is not None:
        st.fragment(_watch, run_every=TICK)(budget, joint)
    elif spec is not None and known(spec, joint) is None:
        st.caption("The curves under the sliders appear once they were measured for these networks and this method.")


def curves(choice: Choice | None) -> Callable[[str, int], None] | None:
    """Return what draws the curve of a group under its slider."""
    if choice is None:
        return None
    mode = frame.theme()
    drawn = {c.group: (c.counts, [choice.error(d) for d in c.divergences]) for c in choice.curves}
    highest = max((errors[-1] for _, errors in drawn.values()), default=0.0)

    def draw(group: str, count: int) -> None:
        if group in drawn:
            counts, errors = drawn[group]
            figure = share_curve(counts, errors, count=count, highest=highest, mode=mode)
            frame.show(
                figure,
                f"curve-{group}",
                alt=f"Predicted error against the share of {group}: {errors[-1]:.1f} % if all is shared",
            )

    return draw


def picture(choice: Choice, shares: Mapping[str, int], parameters: int) -> None:
    """Draw the frontier, with the point where the sliders stand."""
    points = _frontier(choice, repr(choice))
    error = choice.error(choice.divergence(shares))
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
        "Predicted: how many answers differ from the parents' own, right or wrong, without retraining. Some of "
        "them were wrong before, so the measured error usually rises by less."
    )


@st.cache_data(show_spinner=False, max_entries=20)
def _frontier(_choice: Choice, key: str) -> list[Point]:
    """Return the frontier; `key` tells choices apart."""
    return frontier(_choice)


def _job() -> Job | None:
    """The process that this page waits for, if it is not over."""
    key: str | None = st.session_state.get("plan-job")
    job = None if key is None else _jobs().get(key)
    if job is None:
        st.session_state["plan-job"] = None
    return job


def _end(job: Job) -> None:
    _jobs().pop(job.key, None)
    st.session_state["plan-job"] = None
    job.end()


def _plan_of(job: Job) -> dict[str, Any] | None:
    """Keep what an ended process has found."""
    found = next((line for line in job.lines() if "plan" in line), None)
    if found is not None:
        _measured()[job.key] = found
    return found


def _start(spec: RunSpec) -> None:
    """Start `python -m mtz_core plan`; what nobody waited for is put away."""
    for job in [job for job in _jobs().values() if job.process.poll() is not None]:
        _plan_of(job)
        _end(job)
    folder: TemporaryDirectory[str] = TemporaryDirectory(prefix="plan-")
    file, out, err = (Path(folder.name) / name for name in ("plan.yaml", "out", "err"))
    file.write_text(dump_run_spec(spec), encoding="utf-8")
    with out.open("wb") as output, err.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mtz_core", "plan", str(file), "--json"],
            stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True,
            env=child_environment(),
        )  # fmt: skip
    st.session_state["plan-job"] = key_of(spec)
    _jobs()[key_of(spec)] = Job(key_of(spec), process, folder)


def _watch(budget: BudgetSpec, joint: JointStructure) -> None:
    """Show how far a process is; when it has ended, take its plan over."""
    job = _job()
    if job is None:  # another page has ended it
        st.rerun()
    if job.process.poll() is not None:
        if _jobs().pop(job.key, None) is None:  # pages of one server run at the same time; the first takes the plan
            st.rerun()
        found = _plan_of(job)
        if found is None:
            st.session_state["plan-failure"] = job.complaint()
        _end(job)
        if found is not None:
            _settle(read_choice(found, joint), budget)
        st.rerun()
    _progress(job, job.lines())
    if st.button("Stop", icon=":material/stop:", key="plan-stop"):
        _end(job)
        st.rerun()


def _progress(job: Job, lines: Sequence[Mapping[str, Any]]) -> None:
    if not lines:
        st.progress(0.0, "starting…")
        return
    now, first = lines[-1], job.began
    done, total = int(now.get("done", 0)), max(1, int(now.get("total", 1)))
    elapsed = time.monotonic() - first
    left = f", about {duration_text(elapsed * (total - done) / done)} left" if done else ""
    st.progress(done / total, f"measuring {now.get('group', '')}, step {done + 1} of {total}{left}")


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
    wanted = {f"share-{group}": share for group, share in wanted.items() if group not in fixed}
    st.session_state["plan-wanted"] = {**wanted, "trunk": trunk}
    if point.even:
        st.session_state["plan-note"] = EVEN
    st.rerun()
