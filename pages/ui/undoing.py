"""Undoing for trial while the page waits: a process that ends when Stop, or anything else, is clicked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from pages.ui import frame, jobs
from pages.ui.working import ended


def undo(run: Any, options: Sequence[str], told: Callable[[], str] | None = None) -> None:
    """Run `python -m mtz_core harm` and draw the page anew; whatever is clicked meanwhile ends it.

    Args:
        run: of which merges are undone.
        options: of the command.
        told: says how far it has come.
    """
    command = [sys.executable, "-m", "mtz_core", "harm", run.id, "--store", str(frame.store().root), *options]
    with frame.problems(), jobs.place("harm"):
        why = ended(command, "Undoing, and fitting the layers behind…", told, "What was found so far is kept.")
    if why is not None:
        st.error(f"The harm could not be measured. {frame.plain(why)}", icon=":material/error:")
        return
    st.rerun()
