"""Undoing for trial while the page waits: a process that ends when Stop, or anything else, is clicked."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from mtz_core.system.machine import step_back
from mtz_core.system.memory import run_limit
from mtz_core.system.paths import child_environment
from pages.ui import frame, jobs

PATIENCE = 1800.0
"""Seconds until it is given up; what was found until then is kept."""
TICK = 0.5


def undo(run: Any, options: Sequence[str], told: Callable[[], str] | None = None) -> None:
    """Run `python -m mtz_core harm` and draw the page anew; whatever is clicked meanwhile ends it.

    Args:
        run: of which merges are undone.
        options: of the command.
        told: says how far it has come.
    """
    command = [sys.executable, "-m", "mtz_core", "harm", run.id, "--store", str(frame.store().root), *options]
    with frame.problems(), jobs.place("harm"):
        why = _ended(command, told)
    if why is not None:
        st.error(f"The harm could not be measured. {frame.plain(why)}", icon=":material/error:")
        return
    st.rerun()


def _ended(command: Sequence[str], told: Callable[[], str] | None) -> str | None:
    """Run a command to its end and return what went wrong, `None` if nothing did; a new run of the page ends it."""
    began = time.monotonic()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Stop", key="stop-undoing", icon=":material/stop:", help="What was found so far is kept.")
        line = st.empty()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        encoding="utf-8", env=child_environment(run_limit()),
    ) as process:  # fmt: skip
        step_back(process.pid)
        try:
            with st.spinner("Undoing, and fitting the layers behind…", show_time=True):
                while process.poll() is None and time.monotonic() - began < PATIENCE:
                    time.sleep(TICK)
                    line.caption("" if told is None else told())
            said = process.communicate(timeout=TICK)[1] if process.poll() is not None else "It took too long."
        finally:
            process.kill()
    return (said.strip()[-500:] or "Its process ended without a word.") if process.returncode else None
