"""Workers that this server started. A run is its own process; the page only asks the store about it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import streamlit as st

from mtz_core.runs.launch import exported as exported_file
from mtz_core.runs.launch import start_worker
from pages.ui import frame

if TYPE_CHECKING:
    from mtz_core.spec import RunSpec


@st.cache_resource(show_spinner=False)
def _workers() -> dict[str, subprocess.Popen[bytes]]:
    return {}


def start(spec: RunSpec) -> str:
    """Store a run, start its worker and return the run's identifier."""
    store = frame.store()
    record = store.create(spec)
    _workers()[record.id] = start_worker(store, record.id)
    return record.id


def resume(run_id: str) -> None:
    """Start a worker that goes on from the run's last checkpoint."""
    _workers()[run_id] = start_worker(frame.store(), run_id, resume=True)


def reap() -> None:
    """Ask after every worker: a finished process that nobody asks about stays a zombie, which looks alive."""
    workers = _workers()
    for run_id in [run_id for run_id, worker in list(workers.items()) if worker.poll() is not None]:
        workers.pop(run_id, None)


def exported(run_id: str, form: str, task: int) -> bytes:
    """Return a file of a finished run's network of one task."""
    return exported_file(frame.store(), run_id, form, task)
