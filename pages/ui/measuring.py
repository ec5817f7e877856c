"""Processes that measure what sharing costs, and what they have found. A plan waits for one; the sliders do not.

As soon as networks are chosen, a quiet one measures what the program does not know already: of low priority, only while
nobody else waits in the queue, and ended when nobody looks at these networks any more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import streamlit as st

from mtz_core.budget.choice import Choice
from mtz_core.budget.plan import read_choice
from mtz_core.budget.shipped import curves_text, shipped
from mtz_core.errors import MTZError
from mtz_core.figures.text import duration_text
from mtz_core.runs import queue
from mtz_core.runs.place import VARIABLE, new_job
from mtz_core.spec import RunSpec, dump_run_spec
from mtz_core.structure.joint import JointStructure
from mtz_core.system.machine import step_back
from mtz_core.system.memory import run_limit
from mtz_core.system.paths import child_environment
from pages.ui import frame, jobs, visitor

TICK = 0.7
PATIENCE = 1.5
"""Seconds for which networks are chosen before a quiet process begins: more are chosen meanwhile, or others."""
ALONE = 20.0
"""Seconds after which a quiet process ends that no page has looked at."""


@dataclass
class Job:
    """A process that measures, and what it has written. `quiet`: nobody has asked for it."""

    key: str
    ticket: str
    owner: str | None
    folder: TemporaryDirectory[str]
    quiet: bool = False
    process: subprocess.Popen[bytes] | None = None
    began: float = field(default_factory=time.monotonic)
    looks: dict[str, float] = field(default_factory=dict)

    def start(self) -> None:
        """Start the process, which holds the job's place from now on."""
        out, err = (Path(self.folder.name) / name for name in ("out", "err"))
        environment = {**child_environment(run_limit()), VARIABLE: self.ticket, "MTZ_RUNS": str(frame.store().root)}
        with out.open("wb") as output, err.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mtz_core", "plan", str(Path(self.folder.name) / "plan.yaml"), "--json"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True, env=environment,
            )  # fmt: skip
        step_back(self.process.pid)
        self.began = time.monotonic()

    def look(self) -> None:
        """Note that this session looks at it."""
        self.looks[session()] = time.monotonic()

    def forsaken(self, but: str | None = None) -> bool:
        """Whether no session but this one has looked at it lately."""
        now = time.monotonic()
        return all(who == but or now - when > ALONE for who, when in self.looks.items())

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

    def stop(self) -> None:
        """Stop the process and give its place back; it may be started again."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        queue.leave(frame.store(), self.ticket)
        self.ticket = new_job("plan")

    def end(self) -> None:
        """Stop the process and forget what it wrote."""
        self.stop()
        self.folder.cleanup()


@st.cache_resource(show_spinner=False, max_entries=1)
def all_jobs() -> dict[str, Job]:
    """Processes that measure, by what their curves depend on: a page that was reloaded finds its own again."""
    return {}


@st.cache_resource(show_spinner=False, max_entries=1)
def measured() -> dict[str, dict[str, Any]]:
    """What was measured since the server started, by everything that it depends on."""
    return {}


@st.cache_resource(show_spinner=False, max_entries=1)
def failed() -> dict[str, str]:
    """Why quiet processes found nothing: they are not tried again."""
    return {}


def session() -> str:
    """Return a name for this visit."""
    name: str = st.session_state.setdefault("measuring-session", new_job("session"))
    return name


def found(spec: RunSpec) -> Mapping[str, Any] | None:
    """Return what is known of a specification's curves: measured here, or shipped with the program."""
    known = measured().get(curves_text(spec))
    if known is None and not os.environ.get("MTZ_DATA"):  # whose images are others
        return shipped(spec)
    return known


def known(spec: RunSpec, joint: JointStructure) -> Choice | None:
    """Return the curves of a specification if they are known."""
    data = found(spec)
    return None if data is None else read_choice(data, joint)


def what_changes(spec: RunSpec | None) -> str:
    """Return what is predicted to change, in a word."""
    data = None if spec is None else found(spec)
    given = {} if data is None else {**data.get("plan", {}), **data}
    return str(given.get("changed", "answers"))


def current() -> Job | None:
    """The process that this page waits for, if it is not over."""
    key: str | None = st.session_state.get("plan-job")
    job = None if key is None else all_jobs().get(key)
    if job is None:
        st.session_state["plan-job"] = None
    return job


def begin(spec: RunSpec, *, quiet: bool = False) -> None:
    """Let `python -m mtz_core plan` wait for its place; what nobody waited for is put away.

    Raises `LimitError` if it is more than this server allows.
    """
    access = visitor.access()
    access.check_job(spec)
    for job in [job for job in all_jobs().values() if job.process is not None and job.process.poll() is not None]:
        keep(job)
        end(job)
    folder: TemporaryDirectory[str] = TemporaryDirectory(prefix="plan-")
    (Path(folder.name) / "plan.yaml").write_text(dump_run_spec(spec), encoding="utf-8")
    key = curves_text(spec)
    st.session_state["plan-job"] = key
    all_jobs()[key] = job = Job(key, new_job("plan"), access.browser, folder, quiet)
    job.look()


def end(job: Job) -> None:
    """End a process that is wanted no more, or over."""
    all_jobs().pop(job.key, None)
    st.session_state["plan-job"] = None
    job.end()


def keep(job: Job) -> dict[str, Any] | None:
    """Keep what an ended process has found, and return it."""
    plan = next((line for line in job.lines() if "plan" in line), None)
    if plan is not None:
        measured()[job.key] = plan
    return plan


def follow(spec: RunSpec | None) -> None:
    """Measure quietly what is not known of the networks that are chosen now, and no others."""
    key = None if spec is None else curves_text(spec)
    for job in list(all_jobs().values()):
        mine = session() in job.looks and job.key != key
        if job.quiet and job.forsaken(but=session() if mine else None):
            end(job)
    if spec is None or key is None or not visitor.settings().curves:
        return
    if key in all_jobs():
        st.session_state["plan-job"] = key
        all_jobs()[key].look()
        return
    job = current()
    if job is not None and not job.quiet:
        return
    st.session_state["plan-job"] = None
    if key not in failed() and found(spec) is None:
        with suppress(MTZError):  # more than this server allows: then nobody has asked for it
            begin(spec, quiet=True)


def quieten() -> None:
    """End this page's quiet process: something that was asked for begins."""
    job = current()
    if job is not None and job.quiet and job.forsaken(but=session()):
        end(job)


def watch() -> None:
    """Say how far the quiet process of this page is, as a fragment; when it has ended the sliders know."""
    job = current()
    if job is not None and job.quiet:
        st.fragment(_watch, run_every=TICK)()


def _watch() -> None:
    job = current()
    if job is None or not job.quiet:  # another page has ended it, or has asked for it
        st.rerun()
    job.look()
    if job.process is not None and job.process.poll() is not None:
        if all_jobs().pop(job.key, None) is not None and keep(job) is None:
            failed()[job.key] = job.complaint()
        end(job)
        st.rerun()
    others = any(t.started is None and t.id != job.ticket for t in queue.waiting(frame.store()))
    if others and job.process is not None:
        job.stop()
    if job.process is not None:
        progress(job)
    elif others:
        st.caption(":material/hourglass_top: What sharing costs is measured once nobody else waits.")
    elif time.monotonic() - job.began < PATIENCE:
        st.caption(":material/hourglass_top: What sharing costs is measured in the background…")
    else:
        wait(job)


def wait(job: Job) -> None:
    """Say where a job stands in the queue, and start it once it has its place."""
    place = queue.beat(frame.store(), job.ticket)
    if place is None:  # it was not asked for yet, or nobody has looked at it for a while
        queue.ask(frame.store(), "plan", job.owner, job.ticket)
    jobs.move(now=place is None)
    if queue.beat(frame.store(), job.ticket) and all_jobs().get(job.key) is job:
        with _starting():
            if job.process is None:
                job.start()
    elif (said := jobs.where(job.ticket)) is not None:
        st.progress(0.0, said)


@st.cache_resource(show_spinner=False)
def _starting() -> threading.Lock:
    """Held while a process is started: several pages may look at one job."""
    return threading.Lock()


def progress(job: Job) -> None:
    """Draw how far a process is."""
    lines: Sequence[Mapping[str, Any]] = job.lines()
    if not lines:
        st.progress(0.0, "measuring what sharing costs: starting…")
        return
    now = lines[-1]
    done, total = int(now.get("done", 0)), max(1, int(now.get("total", 1)))
    elapsed = time.monotonic() - job.began
    left = f", about {duration_text(elapsed * (total - done) / done)} left" if done else ""
    where = frame.plain(str(now.get("group", "")))
    what = f"measuring {where}".rstrip() if where else "measuring what sharing costs"
    st.progress(done / total, f"{what}, step {min(done + 1, total)} of {total}{left}")
